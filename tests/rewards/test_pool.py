"""The worker pool under real faults: overruns, signals, memory, threads, forks, dead parents."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.waiting import HANG_S, wait_until

ROOT = Path(__file__).parents[2]
TASKS = Path(__file__).parent


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def test_outcomes_keep_the_order_of_the_calls(make_pool):
    texts = [f"text {number}\n\u2212 \x00 \ud800" for number in range(500)]
    outcomes = make_pool("pool_tasks:echo").map([(text,) for text in texts])
    assert [outcome.values for outcome in outcomes] == [[text] for text in texts]


def test_an_overrun_is_killed_and_the_rest_of_its_batch_is_answered(make_pool):
    pool = make_pool(num_workers=1, timeout_s=1.0)
    pool.map([("echo", "warm")])
    calls = [("echo", "a"), ("big_power", ""), ("echo", "b"), ("sleep", "60"), ("echo", "c")]
    outcomes = pool.map(calls)
    assert statuses(outcomes) == ["done", "timeout", "done", "timeout", "done"]
    assert pool.events["kills"] == 2


def test_a_deadline_counts_from_dispatch_and_not_from_submission(make_pool):
    pool = make_pool(num_workers=1, timeout_s=2.0)
    assert statuses(pool.map([("sleep", "0.6")] * 4)) == ["done"] * 4


def test_a_call_after_a_kill_is_answered_by_a_fork_of_the_warm_template(make_pool):
    """A fork takes milliseconds, a new interpreter with its imports seconds."""
    pool = make_pool(num_workers=1, timeout_s=1.0)
    pool.map([("echo", "warm")])
    template = pool.template_pid()
    pool.map([("sleep", "600")])
    assert pool.map([("echo", "next")])[0].values == ["next"]
    assert (pool.events["kills"], pool.events["template_starts"]) == (1, 1)
    assert pool.template_pid() == template


def test_a_spare_takes_over_from_a_killed_worker_and_never_works_beside_it(make_pool):
    pool = make_pool(num_workers=1, num_spares=1, timeout_s=60.0)
    pool.map([("echo", "warm")])
    assert wait_until(lambda: len(pool.worker_pids()) == 2)
    calls = [("sleep", "0.05"), ("environment",)] * 4
    assert len({outcome.values[2] for outcome in pool.map(calls)[1::2]}) == 1
    for pid in pool.worker_pids():
        others = {*pool.worker_pids()} - {pid}
        os.kill(pid, signal.SIGKILL)
        assert pool.map([("environment",)])[0].values[2] in map(str, others)
        assert wait_until(lambda: len(pool.worker_pids()) == 2)


@pytest.mark.parametrize(
    ("kind", "status"),
    [("memory", "memory"), ("grow", "memory"), ("depth", "depth"), ("raise", "error")],
)
def test_a_failure_inside_a_call_is_a_status(make_pool, kind, status):
    pool = make_pool(num_workers=1, timeout_s=5.0, memory_mib=64)
    outcomes = pool.map([(kind, ""), ("echo", "next")])
    assert statuses(outcomes) == [status, "done"]


def test_a_worker_that_hit_its_memory_budget_is_replaced(make_pool):
    pool = make_pool(num_workers=1, timeout_s=5.0, memory_mib=64)
    pool.map([("echo", "warm")])
    (before,) = pool.worker_pids()
    pool.map([("grow", ""), ("echo", "next")])
    assert pool.worker_pids() != [before]
    assert wait_until(lambda: not is_alive(before))
    assert pool.events["recycled"] == 1


@pytest.mark.parametrize("kind", ["exit", "segfault"])
def test_a_call_that_kills_its_worker_twice_has_died_and_harms_no_other(make_pool, kind):
    pool = make_pool(num_workers=1)
    outcomes = pool.map([("echo", "a"), (kind, ""), ("echo", "b")])
    assert statuses(outcomes) == ["done", "died", "done"]
    assert pool.events["deaths"] == 2


def test_killing_a_worker_from_outside_loses_no_call(make_pool):
    pool = make_pool(num_workers=2, timeout_s=5.0)
    pool.map([("echo", "warm")] * 2)
    killer = threading.Timer(0.1, lambda: [os.kill(p, signal.SIGKILL) for p in pool.worker_pids()])
    killer.start()
    assert statuses(pool.map([("sleep", "0.05")] * 40)) == ["done"] * 40
    assert pool.events["deaths"] >= 1


def test_killing_the_template_loses_no_call_and_leaves_no_old_worker(make_pool):
    pool = make_pool(num_workers=2, timeout_s=5.0)
    pool.map([("echo", "warm")] * 2)
    wait_until(lambda: len(pool.worker_pids()) == 2)
    old = [pool.template_pid(), *pool.worker_pids()]
    killer = threading.Timer(0.1, os.kill, (pool.template_pid(), signal.SIGKILL))
    killer.start()
    assert statuses(pool.map([("sleep", "0.05")] * 40)) == ["done"] * 40
    assert wait_until(lambda: not any(map(is_alive, old)))
    assert pool.events["template_starts"] == 2


def test_a_stopped_worker_times_out_and_is_replaced(make_pool):
    pool = make_pool(num_workers=1, timeout_s=1.0)
    pool.map([("echo", "warm")])
    (stopped,) = pool.worker_pids()
    os.kill(stopped, signal.SIGSTOP)
    assert statuses(pool.map([("echo", "a"), ("echo", "b")])) == ["timeout", "done"]
    assert wait_until(lambda: not is_alive(stopped))


def test_workers_are_recycled_by_number_of_calls_and_by_age(make_pool):
    by_number = make_pool(num_workers=1, max_calls=10)
    pids = {by_number.map([("environment",)])[0].values[2] for _ in range(40)}
    assert len(pids) == 4
    by_age = make_pool(num_workers=1, max_age_s=0.0)
    pids = {by_age.map([("environment",)])[0].values[2] for _ in range(3)}
    assert len(pids) == 3


def test_a_worker_has_one_thread_of_linear_algebra_no_torch_and_no_stray_files(make_pool):
    pool = make_pool(num_workers=1)
    has_torch, num_threads, _ = pool.map([("environment",)])[0].values
    assert (has_torch, num_threads) == ("False", "1")
    num_files = [int(pool.map([("open_files",)])[0].values[0]) for _ in range(3)]
    assert max(num_files) <= 6  # three standard ones, /dev/null, its socket, the listing itself


def test_a_worker_cannot_write_a_file_and_prints_nothing(make_pool, tmp_path, capfd):
    pool = make_pool(num_workers=1)
    assert statuses(pool.map([("write_file", str(tmp_path / "pwned"))])) == ["error"]
    assert statuses(pool.map([("print", "noise")])) == ["done"]
    assert (tmp_path / "pwned").stat().st_size == 0
    assert capfd.readouterr() == ("", "")


def test_many_threads_share_a_pool(make_pool):
    pool = make_pool(num_workers=2, timeout_s=1.0)
    results = {}

    def ask(name):
        calls = [("echo", f"{name}-{n}") for n in range(50)]
        calls.insert(25, ("sleep", "600"))
        results[name] = pool.map(calls)

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, outcomes in results.items():
        assert outcomes[25].status == "timeout"
        texts = [outcome.values[0] for outcome in outcomes if outcome.status == "done"]
        assert texts == [f"{name}-{n}" for n in range(50)]


def test_a_small_job_does_not_wait_for_the_end_of_a_large_one(make_pool, tmp_path):
    """The large one's first half holds the worker, its last call ends after the small one's."""
    pool = make_pool(num_workers=1, timeout_s=HANG_S)
    pool.map([("echo", "warm")])
    first, last = tmp_path / "first", tmp_path / "last"
    ends = []

    def ask(name, calls):
        pool.map(calls)
        ends.append(name)

    calls = [("wait_for", str(first)), *[("echo", "x")] * 58, ("wait_for", str(last))]
    large = threading.Thread(target=ask, args=("large", calls))
    large.start()
    assert wait_until(lambda: len(pool._jobs) == 1)
    small = threading.Thread(target=ask, args=("small", [("echo", "small")]))
    small.start()
    assert wait_until(lambda: len(pool._jobs) + len(pool._inbox) == 2)
    first.touch()
    small.join(HANG_S)
    last.touch()
    large.join()
    assert ends == ["small", "large"]


def test_waiting_for_workers_leaves_other_threads_running(make_pool, tmp_path):
    """The call ends with a file that only another thread writes; a held lock would end it never."""
    pool = make_pool(num_workers=2, timeout_s=HANG_S)
    pool.map([("echo", "warm")])
    outcomes = []
    calls = [("wait_for", str(tmp_path / "written"))] * 4
    asking = threading.Thread(target=lambda: outcomes.extend(pool.map(calls)))
    asking.start()
    assert wait_until(lambda: any(worker.tasks for worker in pool._workers))
    (tmp_path / "written").touch()
    asking.join()
    assert statuses(outcomes) == ["done"] * 4


def test_closing_ends_every_process_and_later_calls_are_refused(make_pool):
    pool = make_pool(num_workers=2, timeout_s=60.0)
    pool.map([("echo", "warm")] * 2)
    errors = []

    def ask():
        try:
            pool.map([("sleep", "60")])
        except RuntimeError as error:
            errors.append(str(error))

    waiting = threading.Thread(target=ask)
    waiting.start()
    assert wait_until(lambda: any(worker.tasks for worker in pool._workers))
    pids = [pool.template_pid(), *pool.worker_pids()]
    pool.close()
    pool.close()
    waiting.join(HANG_S)
    assert errors == ["the pool is closed"]
    assert wait_until(lambda: not any(map(is_alive, pids)))
    with pytest.raises(RuntimeError, match="closed"):
        pool.map([("echo", "late")])


def test_a_template_that_cannot_start_is_an_error_and_not_a_verdict(make_pool, capfd):
    pool = make_pool(warm_up="pool_tasks:warm_up_fails")
    with pytest.raises(RuntimeError, match="before its first worker, 3 times in a row"):
        pool.map([("echo", "x")])
    assert "a package is missing" in capfd.readouterr().err


def test_workers_that_cannot_start_are_an_error_and_not_a_hang(make_pool):
    pool = make_pool(warm_up="pool_tasks:warm_up_fails_in_a_worker")
    with pytest.raises(RuntimeError, match="workers die before their first call"):
        pool.map([("echo", "x")])


def test_killing_every_idle_worker_at_once_blames_no_call(make_pool):
    pool = make_pool(num_workers=3)
    for _ in range(10):
        pool.map([("echo", "x")] * 3)
        assert wait_until(lambda: len(pool.worker_pids()) == 3)
        for pid in pool.worker_pids():
            os.kill(pid, signal.SIGKILL)
        assert statuses(pool.map([("echo", "x")] * 6)) == ["done"] * 6


PARENT = textwrap.dedent(
    """
    import os, signal, sys, threading, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
    sys.path.insert(0, {tasks!r})
    from rewards.pool.pool import Pool, PoolSettings
    pool = Pool(PoolSettings("pool_tasks:misbehave", num_workers=2, timeout_s=60.0))
    pool.map([("echo", "x")] * 2)
    {before}
    threading.Thread(target=pool.map, args=([("big_power", "")] * 2,), daemon=True).start()
    time.sleep(0.2)
    print(os.getpid(), pool.template_pid(), *pool.worker_pids(), flush=True)
    time.sleep(60)
    """
)


def start_parent(before="", **popen):
    program = PARENT.format(tasks=str(TASKS), before=before)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment, **popen
    )


@pytest.mark.parametrize(
    "before",
    ["", "child = os.fork()\nif child == 0: time.sleep(3600)"],
    ids=["alone", "beside a fork that holds its sockets"],
)
def test_a_trainer_killed_by_sigkill_leaves_no_process_of_the_pool(before):
    with start_parent(before, start_new_session=True) as parent:
        try:
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(pids) == 5
            assert all(map(is_alive, pids))
            os.kill(pids[0], signal.SIGKILL)
            assert wait_until(lambda: not any(map(is_alive, pids)), 60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)  # the fork


def test_a_stall_of_the_whole_machine_is_charged_to_no_call():
    program = textwrap.dedent(
        f"""
        import os, sys
        sys.path.insert(0, {str(TASKS)!r})
        from rewards.pool.pool import Pool, PoolSettings
        settings = PoolSettings(
            "pool_tasks:misbehave", num_workers=1, num_spares=0, timeout_s=1.5
        )
        pool = Pool(settings)
        pool.map([("echo", "warm")])
        print(os.getpid(), *pool.worker_pids(), flush=True)
        print(pool.map([("sleep", "0.6")])[0].status)
        """
    )
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        time.sleep(0.1)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2.5)
        for pid in pids:  # the trainer wakes up first and must not kill the worker for it
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.1)
        assert parent.stdout.read().strip() == "done"


def test_an_interrupt_in_the_terminal_reaches_the_trainer_only():
    with start_parent(start_new_session=True, stderr=subprocess.PIPE) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        os.killpg(parent.pid, signal.SIGINT)
        messages = parent.stderr.read()
        assert messages.count("KeyboardInterrupt") == 1
        assert wait_until(lambda: not any(map(is_alive, pids)))


def test_a_pool_works_in_a_process_without_standard_files():
    program = textwrap.dedent(
        f"""
        import os, sys
        report = os.dup(1)
        for fd in (0, 1, 2): os.close(fd)
        sys.path.insert(0, {str(TASKS)!r})
        from rewards.pool.pool import Pool, PoolSettings
        pool = Pool(PoolSettings("pool_tasks:echo"))
        os.write(report, pool.map([("fine",)])[0].values[0].encode())
        """
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=environment, timeout=HANG_S
    )
    assert done.stdout == b"fine"
