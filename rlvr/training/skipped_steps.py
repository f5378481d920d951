"""Steps whose loss or gradient was not finite: saves their batches, and stops a run of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from rlvr.common.errors import RunError
from rlvr.common.files import write_whole
from rlvr.common.log import get_logger
from rlvr.training.batch import StepBatch

logger = get_logger(__name__)

MAX_IN_A_ROW = 3
"""Steps in a row without an update after which a run stops."""


class NotFiniteError(RunError):
    """Step after step had a loss or gradient that was not finite."""


def save_batch(run_dir: Path, step: int, batch: StepBatch) -> None:
    """Writes the step's groups, advantages and log-probabilities by reference and
    teacher to skipped/step_N.json.gz; says so if it cannot."""
    tree = {
        "groups": [group.to_tree() for group in batch.groups],
        "advantages": batch.advantages_PG,
        "references": batch.references_PGT,
        "teachers": batch.teachers_PGT,
    }
    path = run_dir / "skipped" / f"step_{step}.json.gz"
    try:
        path.parent.mkdir(exist_ok=True)
        # mtime=0: the files of a resumed run equal those of an undisturbed one
        write_whole(path, gzip.compress(json.dumps(tree).encode(), mtime=0))
    except OSError as error:
        logger.warning(f"step {step}: its batch could not be saved: {error}")
    else:
        logger.warning(f"step {step}: loss or gradient not finite; no update; see {path}")


def check_streak(in_a_row: int) -> None:
    """Raises: NotFiniteError after MAX_IN_A_ROW steps in a row without an update."""
    if in_a_row >= MAX_IN_A_ROW:
        raise NotFiniteError(
            f"loss or gradient was not finite in {in_a_row} steps in a row; lower optim.lr, look at"
            " the batches in skipped/, or compute in float32"
        )
