"""Several runs at a time in this process, on one frozen base and one vLLM.

Runs take turns at everything but generation, where all whose adapters vLLM serves decode in the
same steps; the others generate one after the other. Each has its own adapter, optimizer, sampler,
seeds and folder, and is the run that it would be alone.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from rlvr.adapters import get_method
from rlvr.adapters.export import VLLM_RANKS, max_lora_rank
from rlvr.adapters.targets import servable_weights
from rlvr.common.signals import Stopped, StopRequest
from rlvr.common.turns import Turns
from rlvr.compare.execution.execute import execute_logged
from rlvr.compare.execution.sharing import check_same_engine, sync_mode
from rlvr.compare.execution.task import Executor, RunOutcome, RunTask, lost
from rlvr.engines.vllm_local import VllmEngine
from rlvr.engines.vllm_shared import SharedVllm, VllmShare
from rlvr.policy.language_model import load_base
from rlvr.policy.shared_base import sharing_bases
from rlvr.training.build import refuse_experts

if TYPE_CHECKING:
    from rich.console import Console

    from rlvr.adapters.base import Sync
    from rlvr.config.compare import ExecutorConfig
    from rlvr.config.train import TrainRecipe
    from rlvr.policy.policy import Policy


class SharedEngine:
    """The one vLLM of the runs in this process, started by the first that needs it."""

    def __init__(self, num_runs: int) -> None:
        self._num_runs = num_runs
        self._vllm: SharedVllm | None = None
        self._rank: int | None = None
        self.turns: Turns[float] = Turns(self._step)

    def expect(self, tasks: Sequence[RunTask]) -> None:
        """Makes room for the ranks that these runs' recipes say. No run is under way."""
        served = [task.recipe for task in tasks if sync_mode(task.recipe) == "adapter"]
        ranks = [get_method(one.adapter).served_rank(one.adapter) for one in served]
        # vLLM's max_lora_rank has to be one of these
        fitting = [limit for limit in VLLM_RANKS if limit >= max(ranks, default=1)]
        # a rank beyond all of them is refused where the run is made
        if ranks and fitting and fitting[0] > (self._rank or 0):
            self.close()
            self._rank = fitting[0]

    def share(self, number: int) -> StartShare:
        """Gives the runs of one place, from 1, their part of the engine."""
        return StartShare(self, number)

    def start(self, recipe: TrainRecipe, policy: Policy, number: int, mode: Sync) -> VllmShare:
        """The part of a run. Raises: ConfigError where vLLM does not take the adapter."""
        refuse_experts(policy, mode)
        if (
            mode == "adapter"
        ):  # adapter.match is resolved where the model is, which `expect` has not
            self._rank = max(self._rank or 0, max_lora_rank(policy.model))
        if self._vllm is None:
            self.turns.join()  # until all runs of the start have said what rank they need
        # the first run to get here starts it for all
        if self._vllm is None or self._vllm.engine.lost:
            self.close()
            engine = VllmEngine(
                recipe.model,
                recipe.rollout,
                policy.path,
                self._rank,
                seed=recipe.train.seed,
                num_adapters=self._num_runs,
            )
            base = dict(servable_weights(load_base(recipe.model, policy.path)[0]))
            self._vllm = SharedVllm(engine, self.turns.join, base)
        return VllmShare(self._vllm, number, alone=mode == "merged")

    def _step(self) -> float:
        # the runs have only waited for each other
        if self._vllm is None or self._vllm.engine.is_idle:
            return 0.0
        return self._vllm.engine.step()

    def close(self) -> None:
        """Ends the engine, if there is one."""
        if self._vllm is not None:
            self._vllm.engine.close()
        self._vllm = None


class StartShare:
    """A `StartEngine` for the runs of one place."""

    def __init__(self, shared: SharedEngine, number: int) -> None:
        self._shared, self._number = shared, number

    def __call__(
        self, recipe: TrainRecipe, policy: Policy, use_vllm: bool, mode: Sync
    ) -> VllmShare:
        return self._shared.start(recipe, policy, self._number, mode)


@contextlib.contextmanager
def open_shared(config: ExecutorConfig, folder: Path, console: Console) -> Iterator[Executor]:
    """`config.runs_per_engine` places whose runs share this process's engine and base."""
    with contextlib.closing(SharedEngine(config.runs_per_engine)) as shared, sharing_bases():

        def run(tasks: Sequence[RunTask]) -> list[RunOutcome]:
            check_same_engine([task.recipe for task in tasks])
            shared.expect(tasks)
            with StopRequest() as stop, live_lines(console) as lines:
                outcomes = run_together(tasks, config.runs_per_engine, shared, folder, lines)
                # by now every run has finished, or ended at a safe point
                stop.check()
            return [outcomes[task.folder] for task in tasks]

        yield run


def run_together(
    tasks: Sequence[RunTask],
    num_places: int,
    shared: SharedEngine,
    folder: Path,
    lines: Progress,
) -> dict[Path, RunOutcome]:
    """The outcome of every task that no signal stopped; a place takes one task after another."""
    left, outcomes = deque(tasks), dict[Path, RunOutcome]()

    def fill(place: int) -> None:
        while left:
            # without a lock: only the thread whose turn it is runs
            task = left.popleft()
            line = add_line(lines, task)
            try:
                outcomes[task.folder] = _execute(task, shared.share(place), folder, lines, line)
            except Stopped:
                # no outcome: the next start goes on with this run
                return
            except BaseException as error:  # a place that breaks must not take the others with it
                outcomes[task.folder] = lost(task, f"{type(error).__name__}: {error}")

    places = range(1, min(num_places, len(tasks)) + 1)
    # a default binds the place now: a plain lambda would read the loop's last one
    shared.turns.run([lambda place=place: fill(place) for place in places])
    return outcomes


def _execute(
    task: RunTask, start: StartShare, folder: Path, lines: Progress, line: TaskID
) -> RunOutcome:
    outcome = execute_logged(task, start, folder, partial(show_step, lines, line))
    lines.update(line, reward=outcome.status)
    return outcome


def add_line(lines: Progress, task: RunTask) -> TaskID:
    """A line for the run."""
    name = f"{task.label} lr {task.lr:.4g} seed {task.seed}"
    return lines.add_task(name, total=task.recipe.train.steps, reward="")


def show_step(lines: Progress, line: TaskID, step: int, metrics: dict[str, float]) -> None:
    """The run has finished so many steps."""
    reward = metrics.get("reward/mean")
    text = "" if reward is None else f"reward {reward:.3f}"
    lines.update(line, completed=step, reward=text)


def live_lines(console: Console) -> Progress:
    """A line for each run; nothing where nobody watches."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[reward]}"),
        console=console,
        disable=not console.is_terminal,
    )
