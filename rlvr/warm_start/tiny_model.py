"""A tiny Qwen2-architecture policy and its tokenizer, made from nothing: no hub, no download."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    f"{ASSISTANT}{{{{ message['content'] }}}}{END}"
    "{% else %}"
    f"{USER}{{{{ message['content'] }}}}"
    "{% endif %}{% endfor %}"
    f"{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
)


def build_tokenizer(
    texts: Iterable[str], vocab_size: int = 512, context_len: int = 512
) -> "Qwen2Tokenizer":
    """A byte-level BPE tokenizer whose merges come from `texts`; any text survives a round trip.

    vocab_size: most tokens, merges and special tokens included. context_len: in tokens. Text is
    split as Qwen2's tokenizer splits it (numbers digit by digit).
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    # AutoTokenizer loads the folder of a Qwen2 model with that class, whatever the file says
    rules = Qwen2Tokenizer().backend_tokenizer
    bpe = Tokenizer(models.BPE())
    bpe.normalizer, bpe.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, USER, ASSISTANT],
        # every byte is a token from the start, so that no text is out of the vocabulary
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    learned: dict[str, Any] = json.loads(bpe.to_str())["model"]
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    return Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=merges,
        unk_token=END,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=context_len,
        # generation continues the end of each row
        padding_side="left",
    )


def build_model(
    tokenizer: "Qwen2Tokenizer",
    *,
    seed: int,
    hidden_size: int = 128,
    num_layers: int = 3,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    intermediate_size: int = 384,
    context_len: int = 512,
) -> "Qwen2ForCausalLM":
    """A freshly initialised Qwen2 model in float32 with an untied head; `seed` fixes its weights.

    Sizes count units, context_len tokens. hidden_size / num_heads, the width of a head, has to be
    32, 64, 80, 96, 112 or 128 for vLLM's CPU backend.
    """
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    vocab = tokenizer.get_vocab()
    end, pad = vocab[END], vocab[PAD]
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=context_len,
        tie_word_embeddings=False,
        initializer_range=hidden_size**-0.5 / 2,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):  # the caller's random stream does not move
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad, do_sample=True)
    return model
