"""Whether a chat template leaves <think> open decides what a response has to close."""

import pytest
from transformers import AddedToken, AutoTokenizer

from rlvr.data.chat import ends_in_think, requires_closed_think

TURN = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"
OPENS = TURN + "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
CLOSES = TURN + "{% if add_generation_prompt %}<|assistant|><think>\n\n</think>\n\n{% endif %}"


@pytest.fixture
def tokenizer(tiny_policy):
    return AutoTokenizer.from_pretrained(tiny_policy)


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [("a<think>\n", True), ("a<think>", True), ("<think></think>", False), ("think", False)],
)
def test_a_prompt_ends_inside_thinking_or_not(prompt, opened):
    assert ends_in_think(prompt) == opened


@pytest.mark.parametrize(
    ("template", "closed"),
    [(OPENS, True), (CLOSES, False), (TURN, False), (None, False), ("{% raise %}", False)],
    ids=["opened", "closed", "no tag", "the tokenizer's own", "broken"],
)
def test_the_template_decides_where_nobody_else_does(tokenizer, template, closed):
    assert requires_closed_think(None, tokenizer, template) == closed
    for wanted in (True, False):
        assert requires_closed_think(wanted, tokenizer, template) == wanted


def test_the_template_of_the_tokenizer_counts_as_one_from_a_file(tokenizer):
    tokenizer.chat_template = OPENS
    assert requires_closed_think(None, tokenizer, None)


def test_a_tag_that_decoding_drops_cannot_be_required(tokenizer):
    tokenizer.add_tokens([AddedToken("</think>", special=False)])
    assert requires_closed_think(None, tokenizer, OPENS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["</think>"]})
    assert not requires_closed_think(None, tokenizer, OPENS)
