"""The engine that speaks to vLLM servers: plain `vllm serve` processes, here or on other nodes."""

from __future__ import annotations

import asyncio
import ipaddress
import queue
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from rlvr.common.errors import RunError
from rlvr.distributed.world import World
from rlvr.engines.engine import CacheLoad, Engine, Request, Response, SamplingParams, Session
from rlvr.engines.server.client import Server, ServerLost, examine, session
from rlvr.engines.server.dispatch import Dispatch
from rlvr.engines.server.key import find_key
from rlvr.engines.server.pool import Handover, Pool
from rlvr.engines.weights.fingerprint import Piece
from rlvr.engines.weights.sync import stop_tolerance
from rlvr.policy.language_model import compute_type

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.adapters.base import Sync
    from rlvr.config.train import ModelConfig, RolloutConfig

STEP_S = 0.2
"""Longest time between two yields of the stream: callers look at signals in between."""
SHARD_BYTES = 2**32
"""Weights are written in files of about this size."""

R = TypeVar("R")


def check_servers(model: ModelConfig, rollout: RolloutConfig, run_dir: Path, mode: str) -> None:
    """Refuses servers that answer already and cannot serve the recipe. Raises: ConfigError."""

    async def look() -> None:
        async with session(find_key(run_dir)) as http:
            for url in rollout.servers:
                try:
                    await examine(Server(url, http), model.max_len, mode, rollout.partial)
                except ServerLost:
                    continue  # it may still be starting: the engine waits for it

    asyncio.run(look())


class ServerEngine(Engine):
    """The servers of rollout.servers as one engine. An event loop in its own thread speaks to them.

    What a request gives depends on its seed, so it may go to any server, and again to another when
    one is lost. Which of two requests finishes first depends on the clock.
    """

    name = "vllm_server"

    def __init__(
        self,
        model: ModelConfig,
        rollout: RolloutConfig,
        run_dir: Path,
        path: str,
        mode: Sync,
        world: World = World.alone(),
    ) -> None:
        """Waits for the servers. run_dir: the runs' folder. path: the policy's folder or hub id.

        Raises: ConfigError for a server that cannot serve the recipe, RunError when none answers.
        """
        # each server is given weights by one rank
        mine = rollout.servers[world.rank :: world.size]
        rollout = rollout.model_copy(update={"servers": mine})
        folder = exchange_folder(mine, run_dir)
        self._folder = tempfile.TemporaryDirectory(prefix=".sync-", dir=folder)
        self._tag, self._num_handovers = secrets.token_hex(4), 0
        self._loop = asyncio.new_event_loop()
        # daemon: without `close` the loop would keep the process alive
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._pool: Pool | None = None
        try:
            # set before it connects, so that `close` ends its connections after an error
            self._pool = self._run(_make_pool(model, rollout, run_dir, path, mode))
            self._run(self._pool.connect())
        except BaseException:
            self.close()
            raise

    def _run(self, work: Coroutine[Any, Any, R]) -> R:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # an interrupt ends the work too
            future.cancel()
            raise

    @property
    def _servers(self) -> Pool:
        if self._pool is None:
            raise RunError("the engine was closed")
        return self._pool

    def open(self, sampling: SamplingParams) -> ServerSession:
        return ServerSession(self._servers, self._run, sampling)

    def score(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        return self._run(self._servers.score(sequences))

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> int:
        partial = self._new_folder()
        num_bytes = write_weights(weights, partial)
        self._hand_over(partial, is_adapter=False)
        return num_bytes

    def load_adapter(self, folder: Path) -> int:
        partial = self._new_folder()
        # a copy: the sync deletes its folder, and servers that come back read ours
        shutil.copytree(folder, partial, dirs_exist_ok=True)
        self._hand_over(partial, is_adapter=True)
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    def read_back(self, names: Sequence[str]) -> dict[str, list[Piece]]:
        return self._run(self._servers.read_back(names))

    def _new_folder(self) -> Path:
        self._num_handovers += 1
        path = Path(self._folder.name).absolute() / f"{self._num_handovers}.partial"
        path.mkdir()
        return path

    def _hand_over(self, partial: Path, is_adapter: bool) -> None:
        """Every version has a folder and name of its own: vLLM's caches go by them. The newest
        folder stays for servers that come back."""
        folder = partial.rename(partial.with_suffix(""))
        adapter = f"rlvr-{self._tag}-{folder.name}" if is_adapter else ""
        self._run(self._servers.hand_over(Handover(str(folder), adapter)))
        for older in folder.parent.iterdir():
            if older != folder:
                shutil.rmtree(older)

    def close(self) -> None:
        """Leaves the servers running, without this run's adapter."""
        if self._loop.is_closed():
            return
        if self._pool is not None:
            self._run(self._pool.close())
            self._pool = None
        # a plain stop does not wake a loop that waits in another thread
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._folder.cleanup()


class ServerSession(Session):
    """Responses under way on the servers, each asked for by a coroutine of the engine's loop."""

    by_clock = True

    def __init__(
        self, pool: Pool, run: Callable[[Coroutine[Any, Any, Any]], Any], sampling: SamplingParams
    ) -> None:
        """run: runs a coroutine in the engine's loop and waits for its result."""
        self._out: queue.SimpleQueue[tuple[int, Response]] = queue.SimpleQueue()
        self._dispatch, self._run = Dispatch(pool, sampling, self._out.put), run
        self._serving: asyncio.Task[None] = run(_start(self._dispatch.serve()))
        self._num_running = 0

    @property
    def num_running(self) -> int:
        return self._num_running

    def add(self, requests: Sequence[Request]) -> None:
        self._run(self._dispatch.add(requests))
        self._num_running += len(requests)

    def step(self) -> list[tuple[int, Response]]:
        finished = _drain(self._out)
        if not finished and self._serving.done():
            # it has ended by an error, which this raises
            self._serving.result()
        self._num_running -= len(finished)
        return finished

    def pause(self) -> tuple[list[tuple[int, Response]], list[tuple[int, Response]]]:
        paused = self._run(self._dispatch.pause())
        self._run(_wait(self._serving))
        self._num_running = 0
        return _drain_now(self._out), sorted(paused.items())

    def close(self) -> None:
        self._run(_end(self._serving))

    def cache_load(self) -> CacheLoad | None:
        self._run(self._dispatch.look())
        return self._dispatch.meter.load


async def _make_pool(
    model: ModelConfig, rollout: RolloutConfig, run_dir: Path, path: str, mode: Sync
) -> Pool:
    """Made inside the event loop, which aiohttp's session binds to."""
    base, http = _base_path(path, model.revision), session(find_key(run_dir))
    tolerance = stop_tolerance(rollout, compute_type(model))
    return Pool(rollout, model.max_len, mode, base, http, tolerance)


def _base_path(path: str, revision: str | None) -> str:
    """What vLLM reloads the base from: a folder, or a hub id at its newest revision."""
    if Path(path).is_dir():
        return str(Path(path).absolute())
    if revision is None:
        return path
    from huggingface_hub import snapshot_download

    return snapshot_download(path, revision=revision, local_files_only=True)  # the policy's own


async def _start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.create_task(work)


async def _wait(task: asyncio.Task[None]) -> None:
    """Waits for the task's end. Raises: as the task."""
    await task


async def _end(task: asyncio.Task[None]) -> None:
    """Cancels a task and waits for its end."""
    task.cancel()
    await asyncio.wait([task])


def _drain(out: queue.SimpleQueue[tuple[int, Response]]) -> list[tuple[int, Response]]:
    """All that is there, after waiting a little for the first."""
    try:
        return [out.get(timeout=STEP_S), *_drain_now(out)]
    except queue.Empty:
        return []


def _drain_now(out: queue.SimpleQueue[tuple[int, Response]]) -> list[tuple[int, Response]]:
    found = []
    with suppress(queue.Empty):
        while True:
            found.append(out.get_nowait())
    return found


def exchange_folder(servers: Sequence[str], run_dir: Path) -> Path | None:
    """Where trainer and servers both see files: memory where all are on this machine, else the
    runs' folder, which the nodes have to share; None is the system's folder for such files."""
    if not all(is_loopback(urlsplit(url).hostname or "") for url in servers):
        run_dir.mkdir(parents=True, exist_ok=True)
        return run_dir
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def write_weights(weights: Iterable[tuple[str, Tensor]], folder: Path) -> int:
    """Writes safetensors files that vLLM loads; the number of bytes of the weights."""
    from safetensors.torch import save_file

    shard: dict[str, Tensor] = {}
    num_bytes = shard_bytes = num_files = 0

    def flush() -> None:
        nonlocal shard, shard_bytes, num_files
        save_file(shard, folder / f"model-{num_files:05d}.safetensors")
        shard, shard_bytes, num_files = {}, 0, num_files + 1

    for name, value in weights:
        # safetensors refuses tensors that are not contiguous
        shard[name] = value.detach().cpu().contiguous()
        size = value.numel() * value.element_size()
        num_bytes, shard_bytes = num_bytes + size, shard_bytes + size
        if shard_bytes >= SHARD_BYTES:
            flush()
    if shard:
        flush()
    return num_bytes
