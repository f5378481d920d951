"""What runs outside the trainer: the template process that forks workers, and a worker's loop.

The template is a fresh interpreter (never a fork of the trainer). It imports the heavy packages
once, then forks a worker in milliseconds whenever the trainer sends it a socket. A worker reads
lines, each a JSON list of calls (lists of strings), and answers every call with one JSON line as
soon as it is done. Nothing is unpickled on either side.
"""

import ctypes
import gc
import json
import math
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from importlib import import_module

from rewards.pool.process import SPAWN, PoolSettings

PARENT_CHECK_S = 1.0
"""The template looks this often whether the trainer still lives, if no end of file tells it."""

PR_SET_PDEATHSIG = 1
CPU_GRACE_S = 2


def resolve(name: str) -> Callable:
    """Return the function that "module:function" names."""
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


def template_main(settings_json: str, trainer_pid: int) -> None:
    """Serve fork requests on file descriptor 0 until the trainer closes it or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm and torchrun send it to every process
    while os.open(os.devnull, os.O_RDWR) <= 2:  # else a received socket could become "stderr"
        pass
    settings = PoolSettings(**json.loads(settings_json))
    control = socket.socket(fileno=0)
    target = resolve(settings.target)
    if settings.warm_up is not None:
        resolve(settings.warm_up)(*settings.warm_up_words)
    gc.collect()
    gc.freeze()  # forked workers then leave the template's pages shared
    template_pid = os.getpid()
    replaced: set[int] = set()
    while os.getppid() == trainer_pid:
        replaced = {pid for pid in replaced if not is_reaped(pid)}
        if not select.select([control], [], [], PARENT_CHECK_S)[0]:
            continue
        message, fds, _, _ = socket.recv_fds(control, SPAWN.size, 1)
        if not message:
            return
        if os.fork() == 0:
            run_worker(fds[0], target, settings, template_pid)
        os.close(fds[0])
        replaced |= {pid for pid in SPAWN.unpack(message) if pid}


def is_reaped(pid: int) -> bool:
    """Say whether a killed worker is gone; one of an earlier template is not ours to wait for."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def run_worker(fd: int, target: Callable, settings: PoolSettings, template_pid: int) -> None:
    """Live a forked worker's whole life; never returns."""
    try:
        die_with(template_pid)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):  # 0 is the template's control socket: let go of it
            os.dup2(null, standard)
        if null > 2:
            os.close(null)
        limit_resources(settings.memory_mib)
        if settings.warm_up is not None:
            resolve(settings.warm_up)(*settings.warm_up_words)
        serve(socket.socket(fileno=fd), target, settings)
    finally:
        os._exit(0)


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies, however that happens (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)


def limit_resources(memory_mib: int) -> None:
    """Bound the address space, forbid core dumps and growing files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + (memory_mib << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def peak_mib() -> float:
    """Peak resident memory of this process in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def serve(sock: socket.socket, target: Callable, settings: PoolSettings) -> None:
    """Answer calls until the trainer closes the socket.

    The first line sent is [pid]. Each answer is [status, retire, *strings]; retire asks for a fresh
    worker because this one has grown by more than half of its memory budget.
    """
    sock.sendall(b"[%d]\n" % os.getpid())
    cpu_s = math.ceil(settings.timeout_s) + CPU_GRACE_S
    retire_mib = peak_mib() + settings.memory_mib / 2
    for line in sock.makefile("rb"):
        for call in json.loads(line.decode("utf-8", "surrogatepass")):
            # If the trainer is stopped or gone, the kernel still ends a call that never returns.
            soft = int(time.process_time()) + cpu_s
            resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
            status, values = run_call(target, call)
            retire = status == "memory" or peak_mib() > retire_mib
            sock.sendall(json.dumps([status, retire, *values]).encode() + b"\n")


def run_call(target: Callable, call: list[str]) -> tuple[str, list[str]]:
    """Return the call's status and strings; a failure of the target is a status, no exception.

    done: what the target returned. memory: the budget was hit. depth: recursion was too deep.
    error: the target raised; the value names the exception.
    """
    try:
        return "done", [str(value) for value in target(*call)]
    except MemoryError:
        return "memory", []
    except RecursionError:
        return "depth", []
    except Exception as error:  # the boundary: whatever a parser of foreign text may raise
        return "error", [type(error).__name__]
