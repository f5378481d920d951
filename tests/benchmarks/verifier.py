"""Accuracy, speed and safety of the verifier beside its peers, measured in the same run.

    python tests/benchmarks/verifier.py [--json FILE] [--cases FILE] [--quick] [--stages]

Speeds are medians of rounds in which the verifiers take turns, all processes on one core.
Real golds are read from RLVR_DATA, else ../shared/data.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from rewards import Gold, Verifier
from rewards.pool.pool import Pool, PoolSettings
from tests.benchmarks import verifier_inputs as inputs
from tests.benchmarks.verifier_inputs import Pair
from tests.benchmarks.verifier_peers import PEERS
from tests.benchmarks.verifier_stages import print_stages
from tests.rewards.hostile import hostile_pairs
from tests.rewards.payloads import PAYLOADS

STRICT = ("integer", "decimal", "fraction", "hack")
PEER_DEADLINE_S = 10.0
Judge = Callable[[Sequence[Pair]], list[bool]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--cases", type=Path, default=inputs.CASES, help="labelled pairs, JSONL")
    parser.add_argument("--quick", action="store_true", help="a few seconds: smaller samples")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stages", action="store_true", help="only: which stage of ours pays")
    options = parser.parse_args()
    if options.stages:
        print_stages()
        return
    scale = 0.05 if options.quick else 1.0
    rows = [*accuracy(options.cases), *golds(scale), *speeds(options.rounds, scale)]
    rows += [*hostility(options.cases, scale), *faults(), imports()]
    report = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
        "results": rows,
    }
    print_table(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def row(measure: str, goal: str, **values: object) -> dict:
    print(f"{measure}: {values}", file=sys.stderr, flush=True)
    return {"measure": measure, "goal": goal, **values}


def judge_with(verifier: Verifier) -> Judge:
    golds: dict[str, Gold | str] = {}

    def parsed(text: str) -> Gold | str:
        if text not in golds:
            try:
                golds[text] = Gold.parse(text)
            except ValueError:
                golds[text] = text
        return golds[text]

    def judge(pairs: Sequence[Pair]) -> list[bool]:
        verdicts = verifier.verify_many([(pair.response, parsed(pair.gold)) for pair in pairs])
        return [verdict.correct for verdict in verdicts]

    return judge


def judge_with_peer(name: str) -> Judge:
    return lambda pairs: [PEERS[name](pair.response, pair.gold) for pair in pairs]


def everyone(verifier: Verifier) -> dict[str, Judge]:
    return {"rlvr": judge_with(verifier), **{name: judge_with_peer(name) for name in PEERS}}


def accuracy(path: Path) -> Iterator[dict]:
    if not path.exists():
        print(f"no labelled cases at {path}: accuracy left out", file=sys.stderr)
        return
    pairs = [pair for pair in inputs.cases(path) if pair.category != "dos"]
    right, refused, paid, strict = {}, {}, {}, {}
    with Verifier() as verifier:
        for name, judge in everyone(verifier).items():
            found = judge(pairs)
            both = list(zip(pairs, found, strict=True))
            right[name] = percent(sum(p.label == f for p, f in both), len(pairs))
            num_true = sum(pair.label for pair in pairs)
            refused[name] = percent(sum(p.label and not f for p, f in both), num_true)
            paid[name] = percent(sum(f and not p.label for p, f in both), len(pairs) - num_true)
            strict[name] = sum(f and not p.label and p.category in STRICT for p, f in both)
    yield row(f"labelled pairs right, % of {len(pairs)} (all but dos)", ">= 97", **right)
    yield row("true refused, %", "<= 4", **refused)
    yield row("false paid, %", "<= 0.7", **paid)
    yield row("false paid among integers, decimals, fractions, hacks", "0", **strict)


def percent(part: int, whole: int) -> float:
    return round(100 * part / max(1, whole), 2)


def golds(scale: float) -> Iterator[dict]:
    files = inputs.data_files()
    with Verifier() as verifier:
        judges = everyone(verifier)
        if files:
            share: dict[str, float] = {}
            num_refused = 0
            for name, judge in judges.items():
                most = int((10**9 if name == "rlvr" else 200) * scale) + 1
                pairs = [pair for path in files for pair in inputs.echoes(path)[:most]]
                if name == "rlvr":
                    num_refused = sum(not parses(pair.gold) for pair in pairs)
                    pairs = [pair for pair in pairs if parses(pair.gold)]
                    num_golds = len(pairs)
                share[name] = percent(sum(judge(pairs)), len(pairs))
            yield row(
                f"gold echoed back, % (all {num_golds}, and {num_refused} refused when loaded; "
                "200 per file for the peers)",
                ">= 99.9",
                **share,
            )
        number = int(20_000 * scale)
        paid = {
            name: f"{sum(judge(pairs))} of {len(pairs)}"
            for name, judge in judges.items()
            for pairs in [
                inputs.changed_numbers(number if name == "rlvr" else number // 20, seed=1)
            ]
        }
        yield row("number golds changed to another number: paid", "0", **paid)


def parses(gold: str) -> bool:
    try:
        Gold.parse(gold)
    except ValueError:
        return False
    return True


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and what it starts, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def speeds(num_rounds: int, scale: float) -> Iterator[dict]:
    """Median speed of each verifier on each kind of pair, the verifiers taking turns."""
    kinds: list[tuple[str, list[Pair], int, str, str]] = [
        ("short numeric pairs per s", inputs.short_numbers(20_000), 400, "per_s", ">= 100,000"),
        ("64k-character response, ms", inputs.long_responses(200), 20, "ms", "<= 0.05"),
        ("tuple, mean ms", inputs.tuples(400), 40, "ms", "<= 2"),
        ("polynomial, mean ms", inputs.polynomials(400), 40, "ms", "<= 3"),
    ]
    if inputs.data_files():
        mixed = inputs.solution_texts()
        kinds.insert(1, ("mixed solution texts per s", mixed, 150, "per_s", ">= 10,000"))
    with one_core(), Verifier() as verifier:
        judges = everyone(verifier)
        for measure, pairs, peer_number, unit, goal in kinds:
            samples = {
                name: pairs[: max(10, int(scale * (len(pairs) if name == "rlvr" else peer_number)))]
                for name in judges
            }
            seconds = {name: [] for name in judges}
            for name, judge in judges.items():
                judge(samples[name][:10])
            if measure.startswith(("tuple", "polynomial", "mixed", "short")):
                judges["rlvr"](samples["rlvr"])  # golds are parsed when data loads, not per pair
            for _ in range(num_rounds):
                for name, judge in judges.items():
                    start = time.perf_counter()
                    judge(samples[name])
                    seconds[name].append((time.perf_counter() - start) / len(samples[name]))
            medians = {name: statistics.median(times) for name, times in seconds.items()}
            yield row(measure, goal, **{n: in_unit(median, unit) for n, median in medians.items()})


def in_unit(seconds: float, unit: str) -> float:
    return round(1 / seconds) if unit == "per_s" else round(seconds * 1e3, 4)


def hostility(cases: Path, scale: float) -> Iterator[dict]:
    """Hangs, longest time and payments on hostile pairs; peers run where they can be killed."""
    pairs = hostile_pairs()
    if cases.exists():
        hostile = [pair for pair in inputs.cases(cases) if pair.category == "dos"]
        pairs += [(pair.response, pair.gold) for pair in hostile if not pair.label]
    with Verifier() as verifier:
        verifier.verify(r"\boxed{x}", "y")
        verifier.verify_many(pairs[:1])
        verifier.stats(reset=True)
        times, num_paid = [], 0
        for response, gold in pairs:
            start = time.perf_counter()
            num_paid += verifier.verify(response, gold).correct
            times.append(time.perf_counter() - start)
        stats = verifier.stats()
    killed = percent(stats.kills, len(pairs))
    found = {"rlvr": f"0 hangs, {max(times):.2f} s, {num_paid} paid, {killed}% killed"}
    step = max(1, int(4 / scale))
    for name, target in (("trl", "call_trl"), ("math-verify", "call_math_verify")):
        found[name] = hostile_peer(target, pairs[::step])
    yield row(
        f"{len(pairs)} hostile pairs (every {step}th for the peers, killed after "
        f"{PEER_DEADLINE_S:.0f} s): hangs, longest, paid",
        "0 hangs, <= 1.1 s, 0 paid, <= 5% killed",
        **found,
    )
    yield row("longest gap in another thread's heartbeat, ms", "<= 50", rlvr=heartbeat(pairs))
    yield row(f"{3 * len(PAYLOADS)} code payloads: executed", "0", rlvr=executed())


def hostile_peer(target: str, pairs: Sequence[tuple[str, str]]) -> str:
    pool = Pool(
        PoolSettings(f"tests.benchmarks.verifier_peers:{target}", timeout_s=PEER_DEADLINE_S)
    )
    outcomes = pool.map([(response, gold) for response, gold in pairs])
    pool.close()
    num_hangs = sum(outcome.status in ("timeout", "died") for outcome in outcomes)
    num_paid = sum(outcome.values == ["True"] for outcome in outcomes)
    longest_s = max(outcome.ms for outcome in outcomes) / 1e3
    return f"{num_hangs} of {len(pairs)} hung, {longest_s:.1f} s, {num_paid} paid"


def heartbeat(pairs: Sequence[tuple[str, str]]) -> float:
    with Verifier() as verifier:
        verifier.verify_many(pairs[:5])
        asking = threading.Thread(target=verifier.verify_many, args=(pairs,))
        asking.start()
        longest, last = 0.0, time.perf_counter()
        while asking.is_alive():
            time.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
    return round(longest * 1e3, 1)


def executed() -> int:
    """Files that payloads left behind, in answers, beside answers and in golds."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            with Verifier() as verifier:
                for wrap in (r"\boxed{%s}", r"\boxed{\text{%s}}"):
                    verifier.verify_many([(wrap % payload, "7") for payload in PAYLOADS])
                verifier.verify_many([(r"\boxed{5}", payload) for payload in PAYLOADS])
        finally:
            os.chdir(here)
        return len(list(Path(folder).iterdir()))


def faults() -> Iterator[dict]:
    """Time to the next answer of a pool with one worker, after that worker was killed."""
    settings = PoolSettings(
        "tests.rewards.pool_tasks:misbehave",
        "rewards.judging.in_worker:warm_up",  # processes as large as the verifier's own
        num_workers=1,
        timeout_s=0.2,
    )
    pool = Pool(settings)
    pool.map([("echo", "warm")])

    def kill_from_outside() -> None:
        os.kill(pool.worker_pids()[0], signal.SIGKILL)

    def overrun() -> None:
        pool.map([("sleep", "9")])

    medians = {}
    for kill in (kill_from_outside, overrun):
        waits = []
        for _ in range(15):
            time.sleep(0.2)
            kill()
            start = time.perf_counter()
            pool.map([("echo", "next")])
            waits.append(time.perf_counter() - start)
        medians[kill] = f"{statistics.median(waits) * 1e3:.1f}"
    pool.close()
    found = f"{medians[overrun]} / {medians[kill_from_outside]}"
    yield row("worker killed for overrunning / from outside: next answer, ms", "<= 10", rlvr=found)


IMPORTS = {
    "rlvr": "from rewards import Gold, Reason, Verdict, Verifier",
    "trl": "from trl.rewards import accuracy_reward",
    "math-verify": "from math_verify import parse, verify",
}


def imports() -> dict:
    """Median time of the import in a fresh interpreter, bytecode cached."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
        for name, line in IMPORTS.items():
            program = (
                f"import time; s = time.perf_counter(); {line}; print(time.perf_counter() - s)"
            )
            times = [
                float(subprocess.check_output([sys.executable, "-c", program], env=environment))
                for _ in range(6)
            ]
            found[name] = round(statistics.median(times[1:]) * 1e3, 1)
    return row("trainer-side import, ms", "<= 30", **found)


def print_table(report: dict) -> None:
    names = ["rlvr", *PEERS]
    print(f"{report['date']}, {report['machine']}\n")
    print(f"| measure | goal | {' | '.join(names)} |")
    print("|---" * (2 + len(names)) + "|")
    for result in report["results"]:
        cells = [str(result.get(name, "-")) for name in names]
        print(f"| {result['measure']} | {result['goal']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
