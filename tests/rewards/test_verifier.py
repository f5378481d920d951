"""The Verifier: its contract, its counts, and what it costs to import."""

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rewards import Gold, Reason, Verdict, Verifier
from rewards.counters import Counters, quantile
from rewards.pool.process import Outcome
from rewards.verifier import ruling_of
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[2]
SLOW = (r"\boxed{\sin^2 x + \cos^2 x + \tan y}", r"1+\frac{\sin y}{\cos y}")


@pytest.fixture(scope="module")
def verifier():
    with Verifier() as verifier:
        yield verifier


def test_a_verdict_says_what_was_found_and_why(verifier):
    verdict = verifier.verify(r"So $x = \frac{1}{2}$, that is $\boxed{0.5}$.", Gold.parse("1/2"))
    assert isinstance(verdict, Verdict)
    assert verdict.correct
    assert verdict.reason is Reason.CORRECT
    assert verdict.answer == "0.5"
    assert verdict.stage
    assert verdict.ms >= 0


def test_verdicts_keep_the_order_of_the_pairs_fast_and_slow_mixed(verifier):
    pairs = []
    for number in range(60):
        pairs.append((rf"\boxed{{{number}}}", "30"))
        pairs.append((rf"\boxed{{\sin^2 x + \cos^2 x + {number}}}", "31"))
    expected = [number == 30 for number in range(60) for _ in range(2)]
    assert [verdict.correct for verdict in verifier.verify_many(pairs)] == expected


def test_a_gold_may_be_parsed_or_a_string_and_pairs_may_come_from_a_generator(verifier):
    pairs = ((r"\boxed{7}", gold) for gold in (Gold.parse("7"), "7", "$7$", r"\boxed{7}"))
    assert all(verdict.correct for verdict in verifier.verify_many(pairs))
    assert verifier.verify_many([]) == []


@pytest.mark.parametrize("gold", ["", "   ", r"\frac{1}{", "$$"])
def test_a_string_that_is_no_gold_gives_gold_invalid(verifier, gold):
    verdict = verifier.verify(r"\boxed{5}", gold)
    assert (verdict.correct, verdict.reason) == (False, Reason.GOLD_INVALID)


@pytest.mark.parametrize(
    ("mode", "response"),
    [
        ("boxed", r"Hence $\boxed{12}$."),
        ("answer_line", "Hence.\nThe answer is 12."),
        ("hash", "Hence.\n#### 12"),
        ("last_number", "Hence it must be 12"),
    ],
)
def test_each_answer_mode_reads_its_own_form_and_no_other(mode, response):
    with Verifier(answer_mode=mode) as verifier:
        assert verifier.verify(response, "12").correct
        empty = verifier.verify("Hence it is clear.", "12")
        assert (empty.reason, empty.answer) == (Reason.NO_ANSWER, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"answer_mode": "box"}, "choose one of boxed"), ({"timeout_s": 0}, "set it to 1.0")],
)
def test_a_setting_that_cannot_work_is_refused_with_a_remedy(settings, message):
    with pytest.raises(ValueError, match=message):
        Verifier(**settings)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome("done", ["wrong", "probe"], 1.0), Reason.WRONG),
        (Outcome("timeout", [], 1000.0), Reason.TIMEOUT),
        (Outcome("died", [], 1.0), Reason.WORKER_DIED),
        (Outcome("error", ["KeyError"], 1.0), Reason.WORKER_DIED),
        (Outcome("memory", [], 1.0), Reason.TOO_LARGE),
        (Outcome("depth", [], 1.0), Reason.TOO_LARGE),
    ],
)
def test_a_failure_of_ours_is_never_wrong(outcome, reason):
    assert ruling_of(outcome).reason is reason


def test_equal_answers_to_equal_golds_are_judged_once(verifier):
    verifier.verify_many([SLOW])
    verdicts = verifier.verify_many([SLOW] * 400)
    assert len({(verdict.correct, verdict.reason, verdict.stage) for verdict in verdicts}) == 1
    assert len(verdicts) == 400


def test_threads_may_share_a_verifier(verifier):
    results = {}

    def ask(name):
        pairs = [(rf"\boxed{{{n}+\sin^2 x+\cos^2 x}}", str(name + 1)) for n in range(20)]
        results[name] = [verdict.correct for verdict in verifier.verify_many(pairs)]

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {name: [n == name for n in range(20)] for name in range(8)}


def verify_in_child(verifier, queue):
    queue.put(verifier.verify(*SLOW).correct)


def test_a_forked_child_gets_its_own_workers(verifier):
    expected = verifier.verify(*SLOW).correct
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=verify_in_child, args=(verifier, queue))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert queue.get() == expected
    assert verifier.verify(*SLOW).correct == expected


def test_stats_count_reasons_and_stages_and_start_again_after_a_reset(verifier):
    verifier.stats(reset=True)
    verifier.verify_many([(r"\boxed{1}", "1"), (r"\boxed{2}", "1"), ("none", "1"), ("", "")])
    stats = verifier.stats(reset=True)
    assert stats.reasons == {"correct": 1, "wrong": 1, "no_answer": 1, "gold_invalid": 1}
    assert sum(stats.stages.values()) == stats.num_verdicts == 4
    assert 0 < stats.p50_ms <= stats.p99_ms
    assert (stats.failure_frac, stats.kills, stats.deaths) == (0.0, 0, 0)
    assert verifier.stats().num_verdicts == 0


def test_the_failure_fraction_counts_timeouts_and_dead_workers_only():
    counters = Counters()
    for reason, number in [("timeout", 2), ("worker_died", 1), ("too_large", 5), ("wrong", 2)]:
        counters.add([Verdict(False, Reason(reason), "x", "pool", 1.0)] * number)
    counters.add([Verdict(False, Reason.GOLD_INVALID, None, "gold", 1.0)] * 50)
    from collections import Counter

    assert counters.snapshot(Counter()).failure_frac == pytest.approx(0.3)


def test_counters_lose_nothing_between_threads():
    from collections import Counter

    counters = Counters()
    verdict = Verdict(True, Reason.CORRECT, "x", "number", 1.0)
    threads = [
        threading.Thread(target=lambda: [counters.add([verdict]) for _ in range(20_000)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.snapshot(Counter()).num_verdicts == 80_000


@pytest.mark.parametrize(
    ("values", "fraction", "expected"),
    [
        ([], 0.5, 0.0),
        ([3.0], 0.99, 3.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.5, 3.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
    ],
)
def test_a_quantile_by_hand(values, fraction, expected):
    assert quantile(values, fraction) == expected


def test_a_closed_verifier_refuses(verifier):
    with Verifier() as other:
        pass
    other.close()
    with pytest.raises(RuntimeError, match="closed"):
        other.verify(r"\boxed{1}", "1")


def test_a_forgotten_verifier_takes_its_processes_with_it(tmp_path):
    program = (
        "from rewards import Verifier; import gc, time\n"
        "v = Verifier(); v.verify(r'\\boxed{1+\\sin^2 x}', '2'); pid = v._pool.template_pid()\n"
        "del v; gc.collect()\n"
        "import os\n"
        "while os.path.exists(f'/proc/{pid}'): time.sleep(0.01)\n"
        "print('gone')"
    )
    assert run_python(program) == "gone"


def run_python(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        timeout=HANG_S,
        check=True,
    )
    return done.stdout.strip()


def test_importing_rewards_brings_neither_torch_nor_sympy():
    program = (
        "import sys, rewards; rewards.Verifier; rewards.Gold; rewards.Verdict; rewards.Reason\n"
        "print({'torch', 'sympy', 'mpmath', 'math_verify', 'numpy'} & set(sys.modules) or 'none')"
    )
    assert run_python(program) == "none"


def test_judging_in_process_brings_no_sympy_either():
    program = (
        "import sys; from rewards import Verifier\n"
        "pairs = [(r'\\boxed{\\frac{2}{4}}', '1/2'), (r'\\boxed{x+1}', '1+x')]\n"
        "with Verifier() as verifier: verifier.verify_many(pairs)\n"
        "print({'torch', 'sympy', 'mpmath', 'math_verify'} & set(sys.modules) or 'none')"
    )
    assert run_python(program) == "none"


def test_the_import_brings_few_modules():
    program = (
        "import sys; before = {*sys.modules}\n"
        "from rewards import Gold, Reason, Verdict, Verifier\n"
        "print(len({*sys.modules} - before))"
    )
    assert int(run_python(program)) < 90  # about 60, in about 30 ms; sympy alone has 600
