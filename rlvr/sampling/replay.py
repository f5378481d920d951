"""Rollouts kept whole (track.save_all_rollouts), and trained on again (train.replay).

groups/step_N.jsonl.gz has the metrics of sampling in its first line and then a group per line, as
checkpoints have them: tokens, their log-probabilities by the engine, who sampled them, rewards and
verdicts. Numbers are written so that they read back as the same bits.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import ConfigError, RunError
from rlvr.common.files import write_lines
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.engines.engine import Engine, SamplingParams, Session
from rlvr.sampling.rollouts import StepRollouts, age_metrics
from rlvr.sampling.trace import Trace

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from rlvr.engines.weights.fingerprint import Piece

OF_THE_ENGINE = ("time/", "sync/", "rollout/tokens_per_s", "rollout/preemptions", "rollout/cache_")
"""Prefixes of the metrics that measure generation and sync, not the rollouts."""


def groups_path(run_dir: Path, step: int) -> Path:
    """The file with all groups of the step; steps count from 1."""
    return run_dir / "groups" / f"step_{step}.jsonl.gz"


def write_groups(run_dir: Path, step: int, rollouts: StepRollouts) -> None:
    """groups/step_N.jsonl.gz: everything that the step trains on."""
    tree = rollouts.to_tree()
    write_lines(groups_path(run_dir, step), [{"metrics": tree["metrics"]}, *tree["groups"]])


def read_groups(run_dir: Path, step: int) -> StepRollouts:
    """What `write_groups` kept of the step. Raises: RunError where the file is damaged."""
    path = groups_path(run_dir, step)
    try:
        first, *groups = map(json.loads, gzip.decompress(path.read_bytes()).splitlines())
        return StepRollouts.from_tree({"metrics": first["metrics"], "groups": groups})
    # gzip raises EOFError for a file cut off, OSError or zlib.error for wrong bytes
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise RunError(f"train.replay: {path} cannot be read ({error}); fetch it again") from error


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of the tokens and their ids: what a rollout's numbers mean."""
    # sorted: get_vocab promises no order
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()


def check_replay(recipe: TrainRecipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises: ConfigError where train.replay is no run whose rollouts this recipe can train on."""
    folder = Path(str(recipe.train.replay))
    setting = f"train.replay = {str(folder)!r}"
    if not (folder / "manifest.json").is_file():
        raise ConfigError(f"{setting}: not a run folder (no manifest.json); give that of a run")
    num_steps = recipe.train.steps
    missing = [n for n in range(1, num_steps + 1) if not groups_path(folder, n).is_file()]
    if missing == list(range(1, num_steps + 1)):
        raise ConfigError(
            f"{setting}: has no rollouts to train on; the run has to be made with"
            " track.save_all_rollouts = true"
        )
    if missing:
        raise ConfigError(
            f"{setting}: lacks the rollouts of step {missing[0]}, and train.steps = {num_steps};"
            f" set it to {missing[0] - 1} or less"
        )
    facts = json.loads((folder / "manifest.json").read_text())
    found = tokenizer_sha256(tokenizer)
    if facts.get("tokenizer_sha256") != found:
        raise ConfigError(
            f"{setting}: its tokens are those of another tokenizer ({facts.get('model')}); set"
            " model.path to a model that has the same"
        )
    # the trainer divides its logits by it, and the ratio compares both
    then = load_recipe(folder / "config.toml", [], TrainRecipe).rollout.temperature
    if then != recipe.rollout.temperature:
        raise ConfigError(
            f"rollout.temperature = {recipe.rollout.temperature}: the log-probabilities of"
            f" {setting} are at {then}; set it to that"
        )


class NoState:
    """The sampler's part of a checkpoint: nothing, as the step says which file is next."""

    def wait(self, seconds: float) -> None:
        """Nothing is under way."""

    def to_tree(self) -> dict[str, Any]:
        return {}


class Replay:
    """In place of a run's `Sampler`: gives the rollouts of another run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.trace = Trace()
        self.weight_metrics: dict[str, float] = {}

    def collect(self, step: int) -> StepRollouts:
        """The groups that the other run trained on after `step` steps. Raises: RunError."""
        start = time.perf_counter()
        # files count steps from 1
        kept = read_groups(self._folder, step + 1)
        metrics = {k: v for k, v in kept.metrics.items() if not k.startswith(OF_THE_ENGINE)}
        # anew: rollouts_only dates its groups back to version 0 after their metrics are formed
        metrics |= age_metrics(kept.groups, step)
        metrics |= {"time/rollout_s": time.perf_counter() - start, "time/verify_s": 0.0}
        return StepRollouts(kept.groups, metrics)

    def collect_ahead(self, step: int) -> None:
        """Nothing: files are there at once."""

    def wait_for_next(self) -> None:
        """Nothing to wait for."""

    def drain(self) -> None:
        """Nothing under way."""

    def close(self) -> None:
        """Nothing to end."""

    def snapshot(self) -> NoState:
        return NoState()

    def load_state(self, tree: dict[str, Any]) -> None:
        """Nothing: see NoState."""

    def problem_uses(self) -> dict[str, int]:
        """Not counted."""
        return {}


class NothingSent:
    """The result of a sync without an engine."""

    def metrics(self) -> dict[str, float]:
        return {}


class NoEngine(Engine):
    """In place of a run's engine and its syncer: generates nothing, takes no weights."""

    name = mode = "none"
    # no sync_bytes in the manifest
    num_bytes = None

    @property
    def syncer(self) -> NoEngine:
        return self

    def sync(self, num_steps: int = 0) -> NothingSent:
        return NothingSent()

    def prove(self) -> None:
        """Nothing was handed over."""

    def open(self, sampling: SamplingParams) -> Session:
        raise AssertionError("a replay generates nothing")

    def score(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        raise AssertionError("a replay scores by the trainer alone")

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> int:
        return 0

    def load_adapter(self, folder: Path) -> int:
        return 0

    def read_back(self, names: Sequence[str]) -> Mapping[str, Sequence[Piece]]:
        return {}

    def close(self) -> None:
        """Nothing to end."""
