"""What `rlvr eval` costs over a plain `LLM.generate` call on the same requests, on vLLM.

    python tests/benchmarks/eval_overhead.py MODEL [--problems 64] [--samples 8] [--json FILE]

One engine, generated word problems. Alternating: the plain call with texts as vLLM decodes them,
and the command's own way (streaming, decoding, the log on disk, progress), the prefix cache emptied
before each. Scoring the responses is timed by itself. Medians; overhead_frac is their ratio less 1.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.benchmarks import load_benchmark
from eval.generations import GenerationLog, read_generations
from eval.score import score
from rewards import Verifier
from rlvr.data.word_problems import generate
from rlvr.engines.engine import SamplingParams
from rlvr.evaluation.plan import PromptStyle, SamplingJob, SamplingPlan, request, wanted_keys
from rlvr.evaluation.serving import TargetServer
from rlvr.evaluation.targets import Target
from rlvr.evaluation.workers import keep


def make_plan(model: str, folder: Path, args: argparse.Namespace) -> tuple[SamplingPlan, Any]:
    """The plan of one evaluation of generated problems, and the problems."""
    from transformers import AutoTokenizer

    rows = generate("heldout", args.problems, seed=0)
    lines = (
        json.dumps({"id": f"w{i}", "problem": r["problem"], "answer": str(r["answer"])})
        for i, r in enumerate(rows)
    )
    (folder / "words.jsonl").write_text("\n".join(lines))
    loaded = load_benchmark(str(folder / "words.jsonl"))
    style = PromptStyle(template="{problem}")
    prompts = style.encode(loaded, loaded.questions, AutoTokenizer.from_pretrained(model))
    by_id = {q.id: ids for q, ids in zip(loaded.questions, prompts, strict=True)}
    keys = tuple(wanted_keys(loaded, args.samples, None))
    requests = tuple(request(by_id[key[1]], 0, key) for key in keys)
    job = SamplingJob(Target("model", None, "base"), keys, requests)
    sampling = SamplingParams(args.max_tokens, logprobs=False)
    return SamplingPlan(
        model, None, False, "vllm", "float32", 256, sampling, 0.9, 256, (job,)
    ), loaded


def plain(llm: Any, plan: SamplingPlan) -> int:
    """LLM.generate on the plan's requests; the number of tokens."""
    from vllm import SamplingParams

    requests = plan.jobs[0].requests
    params = [
        SamplingParams(temperature=1.0, max_tokens=plan.sampling.max_len, seed=r.seed)
        for r in requests
    ]
    prompts = [{"prompt_token_ids": r.prompt_ids} for r in requests]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    texts = [output.outputs[0].text for output in outputs]
    assert len(texts) == len(requests)
    return sum(len(output.outputs[0].token_ids) for output in outputs)


def ours(server: TargetServer, plan: SamplingPlan, path: Path) -> int:
    """The command's sampling into a fresh log; the number of tokens."""
    log = GenerationLog(path, {})
    tokens = 0

    def counted():
        nonlocal tokens
        for generation in server.sample(plan.jobs[0]):
            tokens += generation.response_len or 0
            yield 0, generation

    keep(counted(), plan, [log])
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a small policy, such as the quickstart's")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    times: dict[str, list[float]] = {"plain": [], "ours": [], "scoring": []}
    with tempfile.TemporaryDirectory() as name, Verifier() as verifier:
        folder = Path(name)
        plan, loaded = make_plan(args.model, folder, args)
        server = TargetServer(plan)
        few = replace(plan.jobs[0], keys=plan.jobs[0].keys[:4], requests=plan.jobs[0].requests[:4])
        list(server.sample(few))
        llm: Any = server._vllm._llm  # pyright: ignore[reportOptionalMemberAccess]
        tokens = set()
        for i in range(-1, args.repeats):
            path = folder / f"log{i}.jsonl.gz"
            for side in ("plain", "ours") if i % 2 else ("ours", "plain"):
                llm.reset_prefix_cache()
                start = time.perf_counter()
                run = (
                    (lambda: plain(llm, plan))
                    if side == "plain"
                    else (lambda path=path: ours(server, plan, path))
                )
                tokens.add(run())
                if i >= 0:
                    times[side].append(time.perf_counter() - start)
            start = time.perf_counter()
            score(read_generations(path), verifier, benchmarks=[loaded], out=folder / "scored")
            if i >= 0:
                times["scoring"].append(time.perf_counter() - start)
        server.close()
    medians = {side: statistics.median(values) for side, values in times.items()}
    figures = {
        "requests": plan.num_requests,
        "tokens": sorted(tokens),
        **{f"{side}_s": round(value, 3) for side, value in medians.items()},
        "overhead_frac": round(medians["ours"] / medians["plain"] - 1, 4),
        "seconds": {side: [round(v, 3) for v in values] for side, values in times.items()},
    }
    print(json.dumps(figures))
    if args.json:
        Path(args.json).write_text(json.dumps({"results": [figures]}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
