"""The teacher of distillation on policy: a frozen model here, or vLLM servers, scoring tokens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from rlvr.common.errors import ConfigError, RunError
from rlvr.engines.server.client import HEALTH_S, Server, ServerLost, session
from rlvr.engines.server.key import find_key
from rlvr.evaluation.targets import resolve
from rlvr.policy.attention import use_packing
from rlvr.policy.language_model import LanguageModel, load_frozen, load_tokenizer, visiting
from rlvr.policy.loading import fingerprint
from rlvr.policy.packing import TokenRow
from rlvr.policy.policy import Policy

if TYPE_CHECKING:
    from rlvr.config.train import ModelConfig, TrainRecipe

ROWS_AT_ONCE = 64
"""Responses that are sent to a teacher's servers together."""


class Teacher(Protocol):
    """What scores the sampled tokens."""

    def on_device(self) -> contextlib.AbstractContextManager[None]:
        """Keeps its weights, where this process has them, on the policy's device."""
        ...

    def micro_batches(self, rows: Sequence[TokenRow], max_tokens: int) -> list[list[int]]:
        """Indices of the rows of each call of `logprobs`."""
        ...

    def logprobs(self, rows: Sequence[TokenRow], temperature: float) -> Tensor:
        """[T] log-probabilities of the rows' response tokens, one row after another."""
        ...

    def facts(self) -> dict[str, Any]:
        """Which teacher it is, JSON-ready, for the manifest."""
        ...


@dataclass(frozen=True)
class LocalTeacher:
    """A frozen model in the compute type, on every rank; between steps it waits in CPU memory.

    path: its folder or hub id. device: the policy's.
    """

    model: LanguageModel
    path: str
    device: torch.device

    def on_device(self) -> contextlib.AbstractContextManager[None]:
        return visiting(self.model.model, self.device)

    def micro_batches(self, rows: Sequence[TokenRow], max_tokens: int) -> list[list[int]]:
        return self.model.micro_batches(rows, max_tokens)

    @torch.no_grad()
    def logprobs(self, rows: Sequence[TokenRow], temperature: float) -> Tensor:
        return self.model.logprobs(rows, temperature)[0]

    def facts(self) -> dict[str, Any]:
        return {"path": self.path, "weights": fingerprint(self.path)}


@dataclass(frozen=True)
class ServerTeacher:
    """vLLM servers of one model, whose prompt log-probabilities are the scores.

    key: of their API, or None. served: the model's folder or hub id, as they give it.
    """

    urls: Sequence[str]
    key: str | None
    served: str

    def on_device(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def micro_batches(self, rows: Sequence[TokenRow], max_tokens: int) -> list[list[int]]:
        # max_tokens bounds a forward pass on this GPU, and none is made here
        indices = list(range(len(rows)))
        return [indices[i : i + ROWS_AT_ONCE] for i in range(0, len(rows), ROWS_AT_ONCE)]

    def logprobs(self, rows: Sequence[TokenRow], temperature: float) -> Tensor:
        """At temperature 1, see `rlvr.config.rules`. Raises: RunError for a server that is lost."""
        try:
            return torch.tensor(asyncio.run(self._scores(rows)))
        except ServerLost as error:
            raise RunError(
                f"teacher.servers: one of {', '.join(self.urls)} is lost ({error}); start it again"
                " and resume the run"
            ) from error

    async def _scores(self, rows: Sequence[TokenRow]) -> list[float]:
        async with session(self.key) as http:
            servers = await asyncio.gather(*(_meet(url, http) for url in self.urls))
            # asked at every step: one may have been started again with another model
            for server, model in servers:
                if model != self.served:
                    raise RunError(
                        f"teacher.servers: {server.url} serves {model}, at the start"
                        f" {self.served}; start that again and resume the run"
                    )
            scores = await asyncio.gather(
                *(
                    servers[i % len(servers)][0].score([*row.prompt_ids, *row.response_ids])
                    for i, row in enumerate(rows)
                )
            )
        # the first token of a sequence has no score
        return [
            x
            for row, score in zip(rows, scores, strict=True)
            for x in score[len(row.prompt_ids) - 1 :]
        ]

    def facts(self) -> dict[str, Any]:
        return {"servers": list(self.urls), "model": self.served}


async def _meet(url: str, http: Any) -> tuple[Server, str]:
    """(the server, ready to score; folder or hub id of its model). Raises: as `Server.call`."""
    server = Server(url, http)
    try:
        await server.open()
        cards = (await server.call("GET", "/v1/models", timeout_s=HEALTH_S))["data"]
    # the client is the rollouts' too, and names their setting
    except ConfigError as error:  # an API key that it refuses
        raise ConfigError(str(error).replace("rollout.servers", "teacher.servers")) from error
    # requests ask for the base, whatever adapters it serves beside it
    server.model = server.base
    base = next(card for card in cards if card["id"] == server.base)
    # the id may be a --served-model-name; root is the folder or hub id behind it
    return server, base.get("root") or server.base


def meet_servers(recipe: TrainRecipe) -> str:
    """The folder or hub id of the model that all of teacher.servers serve.

    Raises: ConfigError for one that does not answer, that serves another, or too short rows.
    """
    urls, max_len = recipe.teacher.servers, recipe.model.max_len

    async def look() -> list[tuple[Server, str]]:
        async with session(find_key(Path(recipe.run.dir))) as http:
            return await asyncio.gather(*(_meet(url, http) for url in urls))

    try:
        found = asyncio.run(look())
    except ServerLost as error:
        raise ConfigError(
            f"teacher.servers: one of {', '.join(urls)} does not answer ({error}); start it with"
            " rlvr serve RECIPE.toml --model.path TEACHER, or vllm serve"
        ) from error
    _, first = found[0]
    for server, model in found:
        if model != first:
            raise ConfigError(
                f"teacher.servers: {urls[0]} serves {first} and {server.url} {model}; there is one"
                " teacher, let all of them serve it"
            )
        # a server generates at least one token after what it scores
        if server.max_len <= max_len:
            raise ConfigError(
                f"model.max_len = {max_len}: {server.url} takes {server.max_len} tokens, and"
                f" scoring needs one more than a row has; start it with --max-model-len"
                f" {max_len + 1}, or lower model.max_len"
            )
    return first


def check_vocabulary(key: str, teacher: str, ours: Any, theirs: Any) -> None:
    """Refuses a teacher for which an id is another token than for the policy.

    key: the setting that names it. teacher: its folder or hub id. ours, theirs: tokenizers.
    Raises: ConfigError.
    """
    mine, other = (
        {i: token for token, i in tokenizer.get_vocab().items()} for tokenizer in (ours, theirs)
    )
    for i in sorted(mine.keys() | other.keys()):
        if mine.get(i) != other.get(i):
            raise ConfigError(
                f"{key}: the tokenizer of {teacher} is another: token {i} is {other.get(i)!r}, for"
                f" the policy {mine.get(i)!r}; take a teacher with the policy's tokenizer"
            )


def load_teacher(recipe: TrainRecipe, policy: Policy) -> Teacher | None:
    """The recipe's teacher, or None without one; its weights wait in CPU memory.

    Raises: ConfigError for one that cannot be loaded, does not answer, or has another vocabulary.
    """
    if not recipe.teacher.is_given:
        return None
    if recipe.teacher.path is None:
        served = meet_servers(recipe)
        tokenizer = _tokenizer_of(recipe.model, served)
        check_vocabulary("teacher.servers", served, policy.tokenizer, tokenizer)
        return ServerTeacher(recipe.teacher.servers, find_key(Path(recipe.run.dir)), served)
    return _load_local(recipe.model, recipe.teacher.path, policy)


def _tokenizer_of(model: ModelConfig, served: str) -> Any:
    try:
        return load_tokenizer(_at(model, served), served)
    except ConfigError as error:
        raise ConfigError(
            f"teacher.servers: the tokenizer of {served}, which they serve, cannot be read here and"
            " compared with the policy's; let them serve a folder or hub id that this machine can"
            " reach"
        ) from error


def _at(model: ModelConfig, path: str) -> ModelConfig:
    """The policy's settings for another model."""
    # a revision is a commit of the policy's own repository
    return model.model_copy(update={"path": path, "revision": None, "sft_recipe": None})


def _load_local(config: ModelConfig, path: str, policy: Policy) -> LocalTeacher:
    """The model in a folder, or an adapter's on its base."""
    base, (target,) = resolve(path, [])
    adapter = Path(target.folder) if target.folder else None
    try:
        # first, since it takes no memory
        check_vocabulary(
            f'teacher.path = "{path}"', path, policy.tokenizer, load_tokenizer(config, base)
        )
        model = load_frozen(_at(config, base), base, adapter, policy.device)
    except ConfigError as error:
        # what loads it names the policy's setting
        raise ConfigError(str(error).replace("model.path", "teacher.path", 1)) from error
    use_packing(model.causal_lm)
    # equal tokenizers, other sizes: Qwen2.5 has 151,936 rows up to 3B and 152,064 from 7B on
    sizes = [one.causal_lm.config.get_text_config().vocab_size for one in (policy, model)]
    if sizes[1] < sizes[0]:
        raise ConfigError(
            f'teacher.path = "{path}": knows {sizes[1]} token ids, of which the policy may sample'
            f" {sizes[0]}; take a teacher whose embedding is not smaller"
        )
    nn.Module.to(model.model, "cpu")
    if policy.device.type == "cuda":
        torch.cuda.empty_cache()  # vLLM, which loads next, counts memory that torch only caches
    return LocalTeacher(model, path, policy.device)


def check_same_teacher(recipe: TrainRecipe, recorded: dict[str, Any] | None) -> None:
    """Raises: ConfigError where the weights are not those with which the run began. recorded: the
    manifest's facts of its teacher."""
    path, then = recipe.teacher.path, (recorded or {}).get("weights")
    now = fingerprint(path)
    # a hub id and servers have no fingerprint
    if then is not None and now is not None and then != now:
        raise ConfigError(
            f'teacher.path = "{path}": its weights have changed since the run began ({now}, was'
            f" {then}); put the old ones back, or start a new run"
        )
