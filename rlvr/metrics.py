"""The names of all metrics, with their units: one table, used by the log, W&B and the report."""

import json
from pathlib import Path
from typing import Any

from rewards import Reason

METRICS: dict[str, str] = {
    "reward/mean": "mean shaped reward of all responses sampled in the step",
    **{f"reward/{r}_frac": f"fraction of those responses judged {r}" for r in map(str, Reason)},
    "verify/failure_frac": "fraction of verdicts that are failures of ours (timeout, worker_died)",
    "verify/kills": "verifier workers killed at their deadline",
    "verify/p50_ms": "median time of a verdict (ms)",
    "verify/p99_ms": "99th percentile of the time of a verdict (ms)",
    "rollout/responses": "responses asked for",
    "rollout/response_len_mean": "mean response length (tokens)",
    "rollout/truncated_frac": "fraction of responses cut at max_response_len",
    "rollout/tokens_per_s": "tokens generated per second of generation",
    "rollout/aborted_frac": "fraction of responses asked for that went with an aborted group",
    "rollout/staleness_mean": "mean age of the responses trained on (steps since their weights)",
    "rollout/stale_dropped": "responses dropped because they were older than max_staleness",
    "sampler/refills": "rounds of prompts beyond the first",
    "sampler/informative_frac": "fraction of sampled groups whose rewards differ",
    "sampler/rollouts_per_informative_group": "responses asked for per informative group",
    "sampler/problems_used_frac": "fraction of all problems with a group trained on so far",
    "sampler/problem_used_max": "groups trained on so far of the problem with the most",
    "policy/loss": "loss of the step; near 0 on-policy, since advantages sum to 0 in a group",
    "policy/entropy": "mean entropy of trained tokens (nats)",
    "policy/entropy_coef": "coefficient of the entropy bonus in the next step",
    "policy/kl_ref": "mean KL to the reference policy, k3 (nats per token)",
    "policy/kl_engine": "mean KL from engine to trainer on the sampled tokens, k3 (nats per token)",
    "policy/ratio_max": "largest trainer / engine probability of a sampled token",
    "policy/clip_frac": "fraction of trained tokens whose ratio is clipped",
    "optim/lr": "learning rate",
    "optim/skipped": "updates left out: their loss or gradient was not finite",
    "optim/grad_norm": "gradient norm before clipping, mean over the step's updates",
    "time/rollout_s": "seconds generating; in async mode mostly during the step before",
    "time/verify_s": "seconds that verification took beyond generation",
    "time/train_s": "seconds in the update",
    "time/wait_s": "seconds between the update and the next step's rollouts (async)",
    "time/sync_s": "seconds in the weight sync and its check",
    "time/step_s": "seconds of the whole step",
    "train/tokens_per_s": "real tokens (prompt and response) trained per second of update",
    "train/padding_frac": "fraction of attention's positions that are padding; packed rows have no"
    " padding elsewhere",
    "memory/peak_gib": "peak memory so far: of the GPU, or resident on CPU (GiB)",
    "sync/bytes": "bytes handed to the engine",
    "sync/logprob_error": "largest engine / trainer difference on the probe (nats)",
    "eval/accuracy": "held-out accuracy: avg@k of eval.path, or of the first of eval.benchmarks",
}
"""Name to meaning."""

EVAL_METRICS: dict[str, str] = {
    "avg@k": "mean over problems of the fraction of right responses",
    "pass@k": "fraction of problems with a right response among k",
    "maj@k": "fraction of problems whose most frequent answer is right",
    "format_rate": "fraction of responses with an answer where it is looked for",
    "truncated_frac": "fraction of responses cut at the limit",
    "response_len_mean": "mean response length (tokens)",
}
"""Metrics of a problem set; the log names them eval/<set>/<metric>."""


def is_known(name: str) -> bool:
    """Whether a name may stand in the log."""
    start, _, metric = name.rpartition("/")
    return name in METRICS or (start.startswith("eval/") and metric in EVAL_METRICS)


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl of a run, one object per step, in order; none where there is no file.

    A half-written or damaged line is left out. The last line of a step wins, as after a resume.
    """
    path = run_dir / "metrics.jsonl"
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]
