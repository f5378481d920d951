"""Findings about the engine: what makes its responses slow."""

from __future__ import annotations

from rlvr.report.diagnosis.finding import Finding
from rlvr.runs.reader import RunData

LAST = 10
"""Steps at the end that count."""
FEW = 0.02
"""Fraction of responses whose second computation costs nothing worth mention."""


def full_cache(run: RunData) -> Finding | None:
    """Responses that vLLM puts back and computes again, for want of memory for their keys and
    values."""
    put_back = run.values("rollout/preemptions")[-LAST:]
    preemptions, responses = sum(put_back), sum(run.values("rollout/responses")[-LAST:])
    if preemptions <= FEW * responses:
        return None
    if run.setting("rollout.engine") == "vllm_server":
        more = (
            "rollout.kv_cache_gib on a CPU, rlvr serve RECIPE -- --gpu-memory-utilization on a GPU,"
            " and start the servers again"
        )
    elif run.manifest.get("device") == "cpu":
        more = "rollout.kv_cache_gib"
    else:
        more = "rollout.gpu_memory_utilization"
    return Finding(
        "full_cache",
        "warning",
        "vLLM's cache is full, and responses are computed twice",
        (
            f"in the last {len(put_back)} steps {preemptions:.0f} of {responses:.0f} responses were"
            " put back (rollout/preemptions)",
        ),
        (f"raise {more}", "or lower rollout.max_num_seqs, so that fewer run at a time"),
    )


RULES = (full_cache,)
