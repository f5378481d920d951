"""Sampling groups on a CPU by the block size of vLLM's cache: a group's responses share what whole
blocks of their prompt hold, so short prompts want short blocks.

SVAMP's problems in groups of 8 as the recipe samples them, an engine for each size, in turn; the
cache is empty before each. Run: python -m tests.benchmarks.prompt_blocks MODEL [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence

from rlvr.common.seeds import sample_seed
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.engines.engine import CPU_BLOCK, Request, SamplingParams
from rlvr.engines.vllm_local import VllmEngine
from rlvr.policy.language_model import load_tokenizer
from tests.benchmarks.runs import RECIPES

VLLMS_OWN = 128
"""The block that vLLM takes on a CPU where none is given."""


def requests_of(recipe: TrainRecipe, num_groups: int) -> list[Request]:
    """The group_size responses to each of the first problems."""
    tokenizer = load_tokenizer(recipe.model, str(recipe.model.path))
    problems = load_problems(recipe.data)
    prompts = encode_prompts(problems, tokenizer, recipe.data, recipe.model.max_len)[1]
    return [
        Request(prompts[i], sample_seed(0, i, k))
        for i in range(num_groups)
        for k in range(recipe.rollout.group_size)
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints seconds of both sizes, the median of their ratio, and whether all tokens are equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--groups", type=int, default=20)
    args = parser.parse_args(argv)
    words = [f"--model.path={args.model}"]
    recipe = load_recipe(RECIPES / "smollm2_135m_svamp.toml", words, TrainRecipe)
    rollout, asked = recipe.rollout, requests_of(recipe, args.groups)
    sampling = SamplingParams(rollout.max_response_len, rollout.temperature)
    engines = {
        size: VllmEngine(
            recipe.model,
            rollout.model_copy(update={"engine_args": {"block_size": size}}),
            args.model,
            max_lora_rank=None,
        )
        for size in (CPU_BLOCK, VLLMS_OWN)
    }
    seconds: dict[int, list[float]] = {size: [] for size in engines}
    tokens = []
    for _ in range(args.repeats):
        for size, engine in engines.items():
            engine.drop_adapter()  # forgets the prompts
            start = time.perf_counter()
            responses = engine.generate(asked, sampling)
            seconds[size].append(time.perf_counter() - start)
            tokens.append([response.token_ids for response in responses])
    ratios = [ours / theirs for ours, theirs in zip(*seconds.values(), strict=True)]
    result = {
        "prompt_tokens": statistics.mean(len(request.prompt_ids) for request in asked),
        "response_tokens": statistics.mean(map(len, tokens[0])),
        "seconds": {size: statistics.median(column) for size, column in seconds.items()},
        "time_ratio": statistics.median(ratios),
        "time_ratios": ratios,
        "equal_tokens": all(each == tokens[0] for each in tokens),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)
    for engine in engines.values():
        engine.close()


if __name__ == "__main__":
    main()
