"""What the pool's tests run in its workers: well-behaved calls and every kind of bad one."""

import os
import signal
import sys
import time


def echo(text: str) -> tuple[str]:
    return (text,)


def misbehave(kind: str, value: str = "") -> tuple[str, ...]:
    """Do what the kind says; the value is the answer of the calls that end well."""
    if kind == "echo":
        return (value,)
    if kind == "sleep":
        time.sleep(float(value))
        return ("slept",)
    if kind == "wait_for":
        while not os.path.exists(value):
            time.sleep(0.002)
        return ("there",)
    if kind == "big_power":  # one bytecode that never lets another thread run
        return (str((7**123456789012) % 10),)
    if kind == "memory":
        return (str(len(bytearray(1 << 40))),)
    if kind == "grow":
        blocks = []
        while True:
            blocks.append(bytearray(1 << 20))
    if kind == "depth":
        return misbehave(kind, value)
    if kind == "raise":
        raise KeyError(value)
    if kind == "exit":
        os._exit(3)
    if kind == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "write_file":
        with open(value, "w") as file:
            file.write("x")
    if kind == "environment":
        return (str("torch" in sys.modules), os.environ["OMP_NUM_THREADS"], str(os.getpid()))
    if kind == "open_files":
        return (str(len(os.listdir("/proc/self/fd"))),)
    if kind == "print":
        print(value, flush=True)
        return ("printed",)
    raise AssertionError(kind)


def warm_up_fails() -> None:
    raise ImportError("a package is missing")


def warm_up_fails_in_a_worker() -> None:
    if os.readlink("/proc/self/fd/2") == os.devnull:  # only workers have a silent stderr
        raise MemoryError
