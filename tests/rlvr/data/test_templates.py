"""The ways of real chat templates, each with the prompt ids that the model was trained with.

The templates are our own, written after what those of the families do.
"""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GenerationConfig, PreTrainedTokenizerFast

from rewards import Gold
from rlvr.config.train import DataConfig
from rlvr.data.chat import ends_in_think, prompt_ids, refusal, requires_closed_think, turn_end
from rlvr.data.problems import Dataset, Problem, encode_prompts
from rlvr.data.sft_examples import encode_example, make_chat
from rlvr.engines.stop_tokens import ends_of, missing_end

SPECIAL = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<turn>", "<end>", "<|eot|>"]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
USER = [{"role": "user", "content": "2+2?"}]
WITH_SYSTEM = [{"role": "system", "content": "Be brief."}, *USER]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen 2 and 3, SmolLM2."""
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    + CHATML
)
"""Qwen 2.5, SmolLM2: a system message where none is given."""
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
"""Gemma 2: refuses the system role and begins with the token of the beginning."""
NO_GENERATION_PROMPT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Mistral: the end of the user's turn is all there is before a response."""
THINKS = CHATML.removesuffix("{% endif %}") + "<think>\n{% endif %}"
"""DeepSeek-R1's distillations and QwQ: the response begins inside its thinking."""


@pytest.fixture
def make():
    """A tokenizer of bytes; its post-processor puts <s> before every text, as Llama's does."""

    def build(**tokens: str | None) -> PreTrainedTokenizerFast:
        vocabulary = {token: i for i, token in enumerate([*SPECIAL, *BYTES])}
        inner = Tokenizer(models.BPE(vocabulary, []))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        inner.add_special_tokens(SPECIAL)
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
        )
        given = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"} | tokens
        given = {name: token for name, token in given.items() if token is not None}
        return PreTrainedTokenizerFast(tokenizer_object=inner, **given)

    return build


def ids_of(text: str) -> list[int]:
    """Token ids of a text, by hand: special tokens as one, all else byte by byte."""
    byte_ids = {"\n": "Ċ", " ": "Ġ"}
    ids, rest = [], text
    while rest:
        token = next((one for one in SPECIAL if rest.startswith(one)), rest[0])
        rest = rest[len(token) :]
        ids.append([*SPECIAL, *BYTES].index(byte_ids.get(token, token)))
    return ids


PROMPTS = {
    "chatml": (CHATML, USER, "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"),
    "a system message by default": (
        DEFAULT_SYSTEM,
        USER,
        "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "one of its own replaces it": (
        DEFAULT_SYSTEM,
        WITH_SYSTEM,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "one BOS, the template's": (NO_SYSTEM, USER, "<s><turn>user\n2+2?<end>\n<turn>model\n"),
    "no generation prompt": (NO_GENERATION_PROMPT, USER, "<s>[INST] 2+2? [/INST]"),
    "opens thinking": (
        THINKS,
        USER,
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n<think>\n",
    ),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_the_prompt_is_what_the_template_writes_and_nothing_else(make, case):
    template, messages, text = PROMPTS[case]
    assert make()("x")["input_ids"][0] == 0, "the tokenizer alone would put a BOS before it"
    assert prompt_ids(make(), template, messages) == ids_of(text)
    tokenizer = make(chat_template=template)
    assert prompt_ids(tokenizer, None, messages) == ids_of(text)


@pytest.mark.parametrize("tokens", [{"pad_token": None}, {"pad_token": "</s>"}], ids=str)
def test_a_pad_token_that_is_missing_or_the_end_changes_no_prompt(make, tokens):
    assert prompt_ids(make(**tokens), CHATML, USER) == ids_of(PROMPTS["chatml"][2])
    assert ends_of(GenerationConfig(eos_token_id=1), make(**tokens)) == {1}


@pytest.mark.parametrize("case", [name for name in PROMPTS if name != "opens thinking"])
def test_a_supervised_example_begins_with_the_prompt_of_training(make, case):
    template, messages, text = PROMPTS[case]
    tokenizer = make(chat_template=template)
    answered = [*messages, {"role": "assistant", "content": "4"}]
    found = encode_example(answered, make_chat(tokenizer))["input_ids"]
    end = SPECIAL[turn_end(tokenizer, None) or 0]
    assert found[: len(ids_of(text))] == ids_of(text)
    assert found[-1] == SPECIAL.index(end)
    assert found.count(0) == text.count("<s>"), "no second BOS"


def test_a_system_role_that_the_template_refuses_is_said_with_the_remedy(make):
    with pytest.raises(ValueError, match="System role not supported") as refused:
        prompt_ids(make(), NO_SYSTEM, WITH_SYSTEM)
    assert "write data.system_prompt into data.prompt_template" in refusal(str(refused.value), True)
    data = Dataset((Problem("p", tuple(WITH_SYSTEM), "4", Gold.parse("4")),), "", "", 0)
    config = DataConfig(path="x.jsonl", system_prompt="Be brief.")
    with pytest.raises(ValueError, match=r"problem p: .*System role.* data\.prompt_template"):
        encode_prompts(data, make(chat_template=NO_SYSTEM), config, 99)


def test_thinking_that_the_prompt_opens_has_to_be_closed(make):
    assert ends_in_think(make().decode(prompt_ids(make(), THINKS, USER)))
    assert requires_closed_think(None, make(), THINKS)
    assert not requires_closed_think(None, make(), CHATML)


@pytest.mark.parametrize(
    ("template", "end", "ends", "missing"),
    [
        (CHATML, "<|im_end|>", 1, "<|im_end|>"),
        (CHATML, "<|im_end|>", [1, 4], None),
        (NO_SYSTEM, "<end>", [1, 6], None),
        (NO_SYSTEM, "<end>", 1, "<end>"),
        (NO_GENERATION_PROMPT, "</s>", 1, None),
    ],
)
def test_of_two_end_tokens_the_one_behind_a_turn_has_to_end_responses(
    make, template, end, ends, missing
):
    settings = GenerationConfig(eos_token_id=ends)
    assert turn_end(make(), template) == SPECIAL.index(end)
    assert missing_end(settings, make(), template, ()) == missing
