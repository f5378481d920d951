"""What streaming costs and gives, with the real vLLM and the quickstart's policy.

Throughput: `LLM.generate` against our own loop of decoding steps on the same requests, A, B, A, B.
Overlap: rollouts with a slow pair to verify per group, against generation alone plus
verification alone. Needs two idle cores. Run: python -m tests.benchmarks.rollout [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rewards import Gold, Verifier
from rlvr.common.seeds import sample_seed
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.config.warm_start import WarmStartRecipe
from rlvr.distributed.world import World
from rlvr.engines import vllm_local, vllm_requests
from rlvr.engines.engine import Request, SamplingParams
from rlvr.sampling.group_stream import GroupRequest, GroupStream
from rlvr.sampling.rollouts import Group
from rlvr.warm_start.warm_start import run_warm_start

RECIPES = Path(__file__).parents[2] / "recipes"
GROUPS, GROUP_SIZE = 32, 8
WAVES = 4
"""Overlap needs groups that finish early: so many times the requests that vLLM runs at once."""


def make_engine() -> tuple[vllm_local.VllmEngine, list[GroupRequest]]:
    """The quickstart's engine, and groups wanted of its problems."""
    from transformers import AutoTokenizer

    from rlvr.data.problems import encode_prompts, load_problems

    recipe = load_recipe(RECIPES / "quickstart.toml", [], TrainRecipe)
    path = str(run_warm_start(load_recipe(RECIPES / "quickstart_sft.toml", [], WarmStartRecipe)))
    tokenizer = AutoTokenizer.from_pretrained(path)
    data, prompts = encode_prompts(load_problems(recipe.data), tokenizer, recipe.data, 160)
    asked = [
        GroupRequest(
            i, data.problems[i], prompts[i], [sample_seed(0, i, k) for k in range(GROUP_SIZE)]
        )
        for i in range(WAVES * GROUPS)
    ]
    return vllm_local.VllmEngine(recipe.model, recipe.rollout, path, None), asked


def library_generate(
    engine: vllm_local.VllmEngine, requests: Sequence[Request], sampling: SamplingParams
) -> None:
    """The same requests through vLLM's own loop, its outputs made into responses."""
    outputs = engine._llm.generate(
        [{"prompt_token_ids": request.prompt_ids} for request in requests],
        [vllm_requests.vllm_params(sampling, request) for request in requests],
        use_tqdm=False,
    )
    for output in outputs:
        vllm_requests.response_of(output.outputs[0])


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def throughput(engine: vllm_local.VllmEngine, asked: Sequence[GroupRequest], repeats: int) -> dict:
    """Median seconds of both, and the median of their ratio pair by pair."""
    requests = [Request(one.prompt_ids, seed) for one in asked for seed in one.seeds]
    sampling = SamplingParams(96)
    engine.generate(requests, sampling)
    pairs = [
        (
            seconds(lambda: library_generate(engine, requests, sampling)),
            seconds(lambda: engine.generate(requests, sampling)),
        )
        for _ in range(repeats)
    ]
    library_s, ours_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(library / ours for library, ours in pairs)
    return {"case": "throughput", "library_s": library_s, "ours_s": ours_s, "speed_ratio": ratio}


def slow_pair(number: int) -> tuple[str, Gold]:
    """A response and a gold that differ from every other and need a numeric proof."""
    gold = Gold.parse(rf"\sum_{{k=1}}^{{{number}}} k^{{-2}}")
    return rf"\boxed{{\sum_{{k=1}}^{{{number}}} \frac{{1}}{{k^2}}}}", gold


def overlap(engine: vllm_local.VllmEngine, asked: Sequence[GroupRequest], num_slow: int) -> dict:
    """Seconds of a round whose first `num_slow` groups have a slow pair, and of its parts alone."""
    requests = [Request(one.prompt_ids, seed) for one in asked for seed in one.seeds]
    sampling = SamplingParams(160)

    def judged_by(verifier: Verifier, first: int) -> Callable[..., Group]:
        def judge(one: GroupRequest, responses: list) -> Group:
            if one.index < num_slow:
                verifier.verify_many([slow_pair(first + one.index)])
            return Group(one.problem.id, [], responses, [0.0], ["correct"], 0)

        return judge

    with Verifier(num_workers=1, timeout_s=10) as verifier:
        verifier.verify_many([slow_pair(10)])
        generate_s = seconds(lambda: engine.generate(requests, sampling))
        verify_s = seconds(lambda: [verifier.verify(*slow_pair(100 + i)) for i in range(num_slow)])
        judge = judged_by(verifier, 100 + num_slow)

        def together() -> None:
            stream = GroupStream(
                engine,
                sampling,
                judge,
                lambda: None,
                policy_version=0,
                num_threads=1,
                world=World.alone(),
            )
            with stream:
                stream.add(asked, [1.0] * len(asked))
                while stream.num_running:
                    stream.advance()

        both_s = seconds(together)
    longer = max(generate_s, verify_s)
    return {
        "case": "overlap",
        "generate_s": generate_s,
        "verify_s": verify_s,
        "together_s": both_s,
        "over_longer": both_s / longer,
        "over_sum": both_s / (generate_s + verify_s),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints both results and writes them to --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--slow", type=int, default=12, help="groups with a slow pair")
    args = parser.parse_args(argv)
    engine, asked = make_engine()
    results = [throughput(engine, asked[:GROUPS], args.repeats), overlap(engine, asked, args.slow)]
    engine.close()
    for result in results:
        print("  ".join(f"{k} {v:.3f}" if k != "case" else v for k, v in result.items()))
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"results": results}, file, indent=1)


if __name__ == "__main__":
    main()
