import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.data.word_problems import Mistakes, generate, worked_solution
from rlvr.warm_start.tiny_model import ASSISTANT, END, USER, build_model, build_tokenizer


@pytest.fixture(scope="module")
def texts():
    rows = generate("sft", 1500, seed=0)
    rng = random.Random(0)
    return [row["problem"] for row in rows] + [
        worked_solution(row, rng, Mistakes(0.3, 0.1, 0.1)) for row in rows
    ]


@pytest.fixture(scope="module")
def tokenizer(texts):
    return build_tokenizer(texts)


def test_the_texts_of_the_task_survive_a_round_trip_and_are_short(texts, tokenizer):
    lengths = []
    for text in texts:
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        lengths.append(len(tokens))
    assert sum(lengths) / len(lengths) < 45


def test_any_other_text_survives_a_round_trip(tokenizer):
    for text in (
        "Übung: 3 € für ½ Liter 😀",
        "a\tb\r\n  c",
        "$x^{2}$ costs $1,234.50",
        "\\boxed{-7}",
    ):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_numbers_are_written_digit_by_digit(tokenizer):
    assert tokenizer.tokenize("173+42=215") == list("173+42=215")


def test_the_chat_template_opens_the_answer_and_closes_it_with_the_end_token(tokenizer):
    messages = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == f"{USER}1+1?{ASSISTANT}"
    assert whole == f"{prompt}2{END}"
    assert tokenizer.encode(END) == [tokenizer.eos_token_id]
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id}) == 2


def test_the_same_texts_give_the_same_tokenizer(texts, tokenizer):
    assert build_tokenizer(texts).get_vocab() == tokenizer.get_vocab()


def test_the_seed_fixes_the_model_and_the_head_is_not_the_embedding(tokenizer):
    model, again, other = (build_model(tokenizer, seed=seed) for seed in (1, 1, 2))
    weights, same, different = (m.state_dict()["lm_head.weight"] for m in (model, again, other))
    assert weights.equal(same)
    assert not weights.equal(different)
    assert not weights.equal(model.state_dict()["model.embed_tokens.weight"])
    assert model.num_parameters() < 1_000_000
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_the_saved_folder_loads_the_same_model_and_tokenizer_with_the_auto_classes(
    texts, tokenizer, tmp_path
):
    model = build_model(tokenizer, seed=0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(texts[:300])["input_ids"] == tokenizer(texts[:300])["input_ids"]
    messages = [{"role": "user", "content": texts[0]}]
    prompts = [
        t.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        for t in (tokenizer, again)
    ]
    assert prompts[0] == prompts[1]
    assert again(prompts)["input_ids"] == tokenizer(prompts)["input_ids"]
    assert (again.eos_token, again.pad_token) == (END, tokenizer.pad_token)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([tokenizer.encode(texts[0])])
    assert torch.equal(loaded(ids).logits, model(ids).logits)
