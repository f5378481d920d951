"""Examples to tokens: which of them carry loss, checked by hand, and what is refused."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from rlvr.common.errors import ConfigError
from rlvr.config.sft import ExamplesConfig, FinetuneRecipe
from rlvr.config.toml import validate
from rlvr.config.train import DataConfig
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.data.sft_examples import IGNORED, encode_example, load_examples, make_chat

THINKING = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>"
    "{{ m.content.split('</think>')[-1] }}<|end|>{% else %}<|user|>{{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.fixture(scope="module")
def tokenizer(tiny_policy):
    return AutoTokenizer.from_pretrained(tiny_policy)


@pytest.fixture
def write_rows(tmp_path):
    """Rows to a file of the suffix's kind; gives its path."""

    def write(rows: list[dict], suffix: str = ".jsonl") -> str:
        import datasets

        path = tmp_path / f"rows{suffix}"
        if suffix == ".parquet":
            datasets.Dataset.from_list(rows).to_parquet(path)
        elif suffix == ".json":
            path.write_text(json.dumps(rows))
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def trained_text(tokenizer, row) -> str:
    """The tokens with loss, as text."""
    assert len(row["input_ids"]) == len(row["labels"])
    kept = [label for label in row["labels"] if label != IGNORED]
    both = zip(row["input_ids"], row["labels"], strict=True)
    assert all(label in (IGNORED, token) for token, label in both)
    return tokenizer.decode(kept)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_the_loss_falls_on_the_response_and_its_end_only(tokenizer, write_rows, suffix):
    path = write_rows([{"q": {"text": "2+3?"}, "a": "5 apples"}, {"q": {"text": "1?"}, "a": "1"}],
                      suffix)  # fmt: skip
    config = ExamplesConfig(path=path, prompt_field="q.text", response_field="a")
    first, second = load_examples(config, tokenizer, 64, seed=0).rows
    assert tokenizer.decode(first["input_ids"]) == "<|user|>2+3?<|assistant|>5 apples<|end|>"
    assert trained_text(tokenizer, first) == "5 apples<|end|>"
    assert trained_text(tokenizer, second) == "1<|end|>"
    whole = config.model_copy(update={"loss": "all"})
    row = load_examples(whole, tokenizer, 64, seed=0).rows[0]
    assert row["labels"] == row["input_ids"] == first["input_ids"]


def test_the_response_template_adds_the_rows_answer(tokenizer, write_rows):
    config = ExamplesConfig(
        path=write_rows([{"q": "2+3?", "a": "it is {answer} {response}", "gold": "5"}]),
        prompt_field="q",
        response_field="a",
        response_template="{response}\n\\boxed{{answer}}",
        answer_field="gold",
    )
    row = load_examples(config, tokenizer, 64, seed=0).rows[0]
    assert trained_text(tokenizer, row) == "it is {answer} {response}\n\\boxed{5}<|end|>"


def test_every_assistant_turn_of_a_conversation_is_trained(tokenizer, write_rows):
    messages = [
        turn("user", "a?"), turn("assistant", "b"), turn("user", "c?"), turn("assistant", "d e"),
    ]  # fmt: skip
    config = ExamplesConfig(path=write_rows([{"talk": messages}]), messages_field="talk")
    row = load_examples(config, tokenizer, 64, seed=0).rows[0]
    text = "<|user|>a?<|assistant|>b<|end|><|user|>c?<|assistant|>d e<|end|>"
    assert tokenizer.decode(row["input_ids"]) == text
    assert trained_text(tokenizer, row) == "b<|end|>d e<|end|>"


def test_earlier_turns_of_a_prompt_are_context(tokenizer, write_rows):
    prompt = [turn("user", "a?"), turn("assistant", "b"), turn("user", "c?")]
    path = write_rows([{"prompt": prompt, "response": "d"}])
    config = ExamplesConfig(
        path=path, prompt_field="prompt", response_field="response", system_prompt="s"
    )
    row = load_examples(config, tokenizer, 64, seed=0).rows[0]
    assert trained_text(tokenizer, row) == "d<|end|>"
    assert tokenizer.decode(row["input_ids"]).startswith("<|user|>s<|user|>a?")


def test_the_prompt_has_the_tokens_that_training_will_show(tokenizer, write_rows):
    path = write_rows([{"problem": "Tom has 3 figs.", "answer": "3", "solution": "3"}])
    shared = {"path": path, "prompt_template": "{problem}\nThink.", "system_prompt": "Be brief."}
    fields = {"prompt_field": "problem", "response_field": "solution"}
    row = load_examples(ExamplesConfig(**shared, **fields), tokenizer, 99, seed=0).rows[0]
    data = DataConfig(**shared)
    prompts = encode_prompts(load_problems(data), tokenizer, data, 99)[1]
    num_prompt = row["labels"].count(IGNORED)
    assert row["input_ids"][:num_prompt] == prompts[0]


def test_a_think_tag_that_the_template_opens_is_not_repeated(tokenizer, tmp_path):
    template = tmp_path / "thinking.jinja"
    template.write_text(THINKING)
    chat = make_chat(tokenizer, str(template))
    assert tokenizer.decode([chat.end_id]) == "<|end|>"
    row = encode_example([turn("user", "a?"), turn("assistant", "<think>\nb</think>c")], chat)
    text = "<|user|>a?<|assistant|><think>\nb</think>c<|end|>"
    assert tokenizer.decode(row["input_ids"]) == text
    assert trained_text(tokenizer, row) == "b</think>c<|end|>"
    longer = [turn("user", "a"), turn("assistant", "<think>b</think>c")] * 2
    with pytest.raises(ValueError, match="changes earlier turns"):
        encode_example(longer, chat)


def test_generated_examples_are_solved_problems(tokenizer):
    config = ExamplesConfig(path="generated:word_problems", limit=5)
    examples = load_examples(config, tokenizer, 256, seed=0)
    assert len(examples.rows) == 5
    assert all("\\boxed{" in trained_text(tokenizer, row) for row in examples.rows)


BAD = [
    ({"prompt": "a", "response": " "}, "response is empty"),
    ({"prompt": "", "response": "b"}, "prompt is empty"),
    ({"prompt": "a", "answer": "b"}, r"data.response_field = 'response': no such field; .* answer"),
    ({"prompt": "a", "response": "b " * 99}, "tokens, model.max_len is 64"),
    ({"prompt": [{"role": "user"}], "response": "b"}, "not a list of messages"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_bad_row_is_named_or_skipped_and_counted(tokenizer, write_rows, row, message):
    path = write_rows([{"prompt": "a", "response": "b"}, row])
    config = ExamplesConfig(path=path, prompt_field="prompt", response_field="response")
    with pytest.raises(ConfigError, match=f"row 2: .*{message}"):
        load_examples(config, tokenizer, 64, seed=0)
    lenient = config.model_copy(update={"on_bad_row": "skip"})
    examples = load_examples(lenient, tokenizer, 64, seed=0)
    assert (len(examples.rows), examples.num_skipped) == (1, 1)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([turn("user", "a")], "last message has to be the assistant's"),
        ([turn("user", "a"), turn("assistant", "")], "empty assistant turn"),
        ([], "empty or not a list"),
    ],
)
def test_a_conversation_without_an_answer_is_refused(tokenizer, write_rows, messages, message):
    path = write_rows([{"messages": [turn("user", "a"), turn("assistant", "b")]},
                       {"messages": messages}])  # fmt: skip
    config = ExamplesConfig(path=path, messages_field="messages")
    with pytest.raises(ConfigError, match=f"row 2: .*{message}"):
        load_examples(config, tokenizer, 64, seed=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt_field": "a", "response_field": "b", "messages_field": "c"}, "one format only"),
        ({"messages_field": "c", "response_field": "b"}, "one format only"),
        ({"prompt_field": "a"}, "give data.prompt_field and data.response_field, or"),
        ({}, "give data.prompt_field and data.response_field, or"),
        ({"messages_field": "c", "system_prompt": "s"}, "would be ignored with"),
        ({"path": "generated:word_problems", "prompt_field": "a"}, "would be ignored"),
        (
            {"prompt_field": "a", "response_field": "b", "response_template": "x"},
            "lacks {response}",
        ),
        ({"prompt_field": "a", "response_field": "b", "answer_field": "c"}, "belong together"),
        (
            {"prompt_field": "a", "response_field": "b", "response_template": "{response}{answer}"},
            "belong together",
        ),
    ],
)
def test_one_format_has_to_be_named(given, message):
    tree = {
        "model": {"path": "m"},
        "data": {"path": "x.jsonl"} | given,
        "optim": {"lr": 1e-3},
        "train": {"batch_size": 8},
    }
    with pytest.raises(ConfigError, match=message):
        validate(tree, FinetuneRecipe)
