"""What a first run on a GPU asks, in order of value. Imports no torch: the parent reads this."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One question, answered by a process of its own.

    work: module:function below this package, called with (report, tiny). limit_s: seconds after
    which it is killed, by what an H100 should need. options: further arguments of the function, by
    name. all_gpus: it sees all GPUs, the others the first alone.
    """

    name: str
    question: str
    work: str
    limit_s: float
    options: tuple[tuple[str, str], ...] = ()
    all_gpus: bool = False


def _update(name: str, question: str, limit_s: float, **options: str) -> Part:
    return Part(name, question, "update:run", limit_s, tuple(options.items()))


PARTS = (
    Part("machine", "which GPU, driver and libraries", "checks:machine", 60, (), True),
    Part("attention", "attention over packed rows is exact on this GPU", "checks:attention", 60),
    Part("tests", "the policy's and the engine's own tests pass", "checks:tests", 120),
    Part("train", "`rlvr train` takes three steps", "checks:train", 90),
    Part(
        "probe_adapter", "engine against trainer at step 0, LoRA as adapter: rounding, arrival,"
        " speed", "engine:probe", 150, (("method", "lora"),),
    ),
    Part(
        "probe_merged", "the same with merged weights", "engine:probe", 150, (("method", "dora"),),
    ),
    Part("resume", "every method goes on from its checkpoint", "checks:resume", 150),
    _update("update_lora", "tokens/s and MFU of the update, LoRA, 1.5B", 90, method="lora"),
    _update("update_lora_trl", "the same rows in trl", 120, method="lora", side="trl"),
    _update("update_full", "the update in full", 90, method="full"),
    _update("update_full_trl", "the same rows in trl", 120, method="full", side="trl"),
    _update("qwen3_0.6b_16k", "beside a published 13,342 tokens/s, MFU 10.9%", 60, case="0.6b_16k"),
    _update("qwen3_0.6b_65k", "beside a published 9,967 tokens/s, MFU 25.2%", 60, case="0.6b_65k"),
    _update("qwen3_4b_16k", "beside a published 6,229 tokens/s, MFU 21.7%", 90, case="4b_16k"),
    _update("qwen3_4b_65k", "beside a published 4,164 tokens/s, MFU 37.4%", 120, case="4b_65k"),
    Part("switch", "memory after lora, dora and full in one process", "engine:switch", 240),
    _update("update_lora_compiled", "what torch.compile brings", 150, compiled="1"),
    Part("ranks", "ddp, fsdp2, zero2 take three steps on two GPUs", "checks:ranks", 240, (), True),
)  # fmt: skip

PLANTED = (
    Part("fails", "a part that fails", "planted:fails", 60),
    Part("hangs", "a part that never ends, and what it has started", "planted:hangs", 6),
)
"""For the test of the script; run only by name."""
