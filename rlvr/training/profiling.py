"""Traces of single steps by torch's profiler, for train.profile_steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from rlvr.common.log import get_logger

logger = get_logger(__name__)


@contextmanager
def profiled(folder: Path, step: int, rank: int) -> Iterator[None]:
    """The block in profile/step_N.rank_R.json.gz, in Chrome's trace format, which Perfetto opens.

    A block that raises leaves no trace, and a disk that cannot take one does not stop the run.
    """
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recorded:
        yield
    path = folder / "profile" / f"step_{step}.rank_{rank}.json.gz"
    # torch packs what ends in .gz; a file of the trace's own name is always a whole one
    partial = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(exist_ok=True)
        recorded.export_chrome_trace(str(partial))
        partial.rename(path)
    except (OSError, RuntimeError) as error:  # a full disk comes as either
        with suppress(OSError):
            partial.unlink()
        logger.warning(f"{path} is missing: {error}")
