"""One side of a comparison in a process of its own, which takes steps when it is told to."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimizer step took and moved.

    seconds: of the whole step. update_s: forward, backward and optimizer; generate_s, verify_s and
    sync_s: of the other parts. response_lens: tokens of each response. num_tokens: real ones of all
    rollouts, prompt and response. num_trained: those of the rollouts that the update looked at.
    padding_frac: of the update's forward passes. reward: mean over all responses.
    """

    seconds: float
    update_s: float
    generate_s: float
    verify_s: float
    sync_s: float
    response_lens: list[int]
    num_tokens: int
    num_trained: int
    padding_frac: float
    reward: float

    @property
    def update_s_per_trained_token(self) -> float:
        """Seconds of the update per token trained on: leaving rollouts out gains nothing here."""
        return self.update_s / max(self.num_trained, 1)


@dataclass(frozen=True, slots=True)
class Job:
    """A recipe, the folder of its policy, and how trl is set up for it.

    trl_passes: forward passes that trl's step is split into. trl_correction: trl corrects for the
    engine's probabilities, at the cost of scoring all responses once more.
    """

    recipe: TrainRecipe
    model_path: str
    trl_passes: int
    trl_correction: bool


class Worker:
    """A process that runs `serve(job, connection)`; it starts at once and waits for `take`.

    `serve` sends "ready", then answers each number of steps with that many Steps; None ends it.
    """

    def __init__(self, serve: Callable[[Job, Connection], None], job: Job) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(job, theirs))
        self._process.start()
        theirs.close()
        self._receive()

    def take(self, num_steps: int) -> list[Step]:
        """Runs the next steps. Raises: RuntimeError when the process has died."""
        self._connection.send(num_steps)
        return self._receive()

    def _receive(self) -> list[Step]:
        try:
            return self._connection.recv()
        except EOFError:
            raise RuntimeError("a side of the comparison has died; see its output above") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._connection.send(None)
        self._process.join(timeout=60)
        self._process.terminate()
