"""The reward function in trl's own GRPOTrainer, the metric in lighteval's own pipeline."""

import pickle
import sys

import pytest

from rewards.lighteval import average, verified_avg_at_n
from rewards.trl import MathReward
from rewards.verifier import Verifier


@pytest.fixture(scope="module")
def reward():
    reward = MathReward(gold_column="answer")
    yield reward
    reward.close()


def test_rewards_of_texts_and_of_conversations(reward):
    golds = ["4", "4", r"\frac{1}{2}", ""]
    texts = [r"\boxed{4}", r"\boxed{5}", r"so $\boxed{0.5}$", r"\boxed{4}"]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    expected = [1.0, 0.0, 1.0, None]
    assert reward(completions=texts, answer=golds) == expected
    assert reward(completions=chats, answer=golds, prompts=chats, trainer_state=None) == expected


def test_a_missing_gold_column_is_named(reward):
    with pytest.raises(ValueError, match=r"gold_column = 'answer'.*it has solution"):
        reward(completions=["x"], solution=["4"])


def test_reasons_are_logged(reward):
    columns, metrics = {}, {}
    texts = [r"\boxed{4}", "none"]
    reward(texts, log_extra=columns.__setitem__, log_metric=metrics.__setitem__, answer=["4", "4"])
    assert columns == {"reason": ["correct", "no_answer"], "answer": ["4", ""]}
    assert metrics["verifier/correct_frac"] == metrics["verifier/no_answer_frac"] == 0.5
    assert sum(metrics.values()) == 1.0


def test_it_can_be_pickled_after_use_and_used_again_after_closing(reward):
    reward(completions=[r"\boxed{4}"], answer=["4"])
    copy = pickle.loads(pickle.dumps(reward))
    assert copy(completions=[r"\boxed{4}"], answer=["4"]) == [1.0]
    copy.close()
    assert copy(completions=[r"\boxed{4}"], answer=["4"]) == [1.0]
    copy.close()


@pytest.mark.slow
def test_trl_trains_a_step_with_it(tmp_path):
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    letters = [*"0123456789+=?\\{}bdeox ", "<pad>", "<eos>", "<unk>"]
    words = Tokenizer(models.WordLevel({c: n for n, c in enumerate(letters)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    policy = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(letters),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    rows = [{"prompt": f"{n}+{n}=?", "answer": str(2 * n)} for n in range(4)]
    reward = MathReward(gold_column="answer", answer_mode="last_number")
    trainer = GRPOTrainer(
        policy,
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=8,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    reward.close()
    logged = trainer.state.log_history[0]
    assert "rewards/math_reward/mean" in logged
    reasons = [value for name, value in logged.items() if name.startswith("verifier/")]
    assert len(reasons) == 10
    assert sum(reasons) == pytest.approx(1.0)


def test_an_average_over_samples_takes_any_of_the_golds():
    responses = [r"\boxed{4}", r"\boxed{5}", r"\boxed{6}", "none"]
    with Verifier() as verifier:
        assert average(verifier, ["4"], responses, 4) == 0.25
        assert average(verifier, ["4", "5"], responses, 4) == 0.5
        assert average(verifier, ["4"], responses, 1) == 1.0
        with pytest.raises(ValueError, match="only 4 responses"):
            average(verifier, ["4"], responses, 8)
        with pytest.raises(ValueError, match="cannot be understood"):
            average(verifier, [""], responses, 4)


def test_lighteval_computes_and_aggregates_the_metric():
    pytest.importorskip("lighteval", reason="lighteval needs an environment of its own")
    from lighteval.metrics import apply_metric
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc

    metric = verified_avg_at_n(n=2)
    docs = [Doc(query="2+2", choices=["4"], gold_index=0), Doc("1/2", [r"\frac12"], 0)]
    texts = [[r"\boxed{4}", r"\boxed{5}"], [r"<think>\boxed{3}</think>\boxed{0.5}", r"\boxed{1/2}"]]
    responses = [ModelResponse(text=text) for text in texts]
    scores = apply_metric(responses=responses, docs=docs, metrics=[metric])
    assert scores == [{"verified_avg@2": 0.5}, {"verified_avg@2": 1.0}]
    aggregate = metric.get_corpus_aggregations()["verified_avg@2"]
    assert aggregate([score["verified_avg@2"] for score in scores]) == 0.75


def test_without_lighteval_the_error_says_how_to_get_it(monkeypatch):
    for name in ("lighteval", "lighteval.metrics.metrics_sample"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install lighteval, in an environment of its own"):
        verified_avg_at_n()
