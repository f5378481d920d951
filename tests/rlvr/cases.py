"""Groups of made-up responses, and a random policy so small and so sharp that errors show."""

import atexit
import functools
import random
import shutil
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from rlvr.config.toml import validate
from rlvr.config.train import TrainRecipe
from rlvr.engines.engine import Response
from rlvr.sampling.rollouts import Group

VOCAB_SIZE, END, PAD = 24, 1, 0


@functools.cache
def model_folder() -> Path:
    """Folder of a two-layer Qwen2 with wide random weights, so that its probabilities differ."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    words = {"<pad>": PAD, "<end>": END} | {f"w{i}": i for i in range(2, VOCAB_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>"
    ).save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        initializer_range=0.3,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def make_recipe(**sections) -> TrainRecipe:
    """A recipe that trains this policy whole; keyword arguments add keys to sections."""
    tree = {
        "model": {"path": str(model_folder()), "dtype": "float32", "max_len": 64},
        "data": {"path": "none.jsonl"},
        "optim": {"lr": 1e-3},
        "train": {"steps": 1},
        "rollout": {"prompts_per_step": 3, "group_size": 4, "max_response_len": 12},
        "adapter": {"method": "full"},
    }
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | values
    return validate(tree, TrainRecipe)


def make_groups() -> list[Group]:
    """Three groups of four responses of 1 to 12 tokens with made-up engine log-probabilities."""
    draw = random.Random(7)

    def response(length: int) -> Response:
        ids = [draw.randrange(2, VOCAB_SIZE) for _ in range(length)]
        truncated = length == 12
        return Response(
            ids if truncated else [*ids[:-1], END],
            [draw.uniform(-4.0, -1.5) for _ in ids],
            truncated,
        )

    rewards = [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, -0.5, 0.25], [0.0, 0.0, 0.0, 1.0]]
    lengths = [[3, 12, 1, 7], [5, 4, 12, 2], [9, 6, 8, 3]]
    return [
        Group(
            f"p{p}",
            [draw.randrange(2, VOCAB_SIZE) for _ in range(p + 2)],
            [response(n) for n in lengths[p]],
            rewards[p],
            ["correct" if r > 0.5 else "wrong" for r in rewards[p]],
            policy_version=0,
        )
        for p in range(3)
    ]
