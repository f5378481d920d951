"""Environment for every test: threads that do not spin, W&B offline, no hub, Ctrl-C as usual.

`--fast` runs the tests of FAST that are marked neither slow nor engine nor process. `-n 2` runs
whole files in two processes, those of LONG first.
"""

import os
import signal
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

# a shell starts what it puts in the background with SIGINT ignored, and every child inherits that
signal.signal(signal.SIGINT, signal.default_int_handler)

# by default an example that takes 200 ms fails, as on a busy machine any may
settings.register_profile("no clocks", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clocks")

FAST = """
    test_* eval/* rewards/*
    rlvr/algorithm/* rlvr/common/* rlvr/config/* rlvr/data/* rlvr/report/*
    rlvr/adapters/test_docs* rlvr/analysis/test_diversity* rlvr/analysis/test_entanglement*
    rlvr/compare/test_fit* rlvr/compare/test_rules* rlvr/compare/test_statistics*
    rlvr/compare/test_text* rlvr/evaluation/test_plan*
    rlvr/policy/test_packing* rlvr/runs/test_run_folder* rlvr/sampling/test_problem_selection*
    rlvr/sampling/test_reward* rlvr/training/test_batch* rlvr/training/test_preflight*
""".split()
SLOWER = """
    test_growth* eval/test_cli* eval/test_contamination* eval/test_intervals*
    rewards/test_cli* rewards/test_docs* rewards/test_fuzz* rewards/test_growth*
    rewards/test_hostile* rewards/test_pool* rewards/test_verifier* rewards/test_integrations*
    rlvr/algorithm/test_trl_oracle* rlvr/common/test_checkout* rlvr/common/test_cpu*
    rlvr/report/test_browser*
""".split()
"""Files, from tests/ on. The other folders load models or start engines, as soon as imported."""
LONG = """
    training/test_train compare/test_runs evaluation/test_cli adapters/test_exact
    training/test_faults engines/test_vllm_server distributed/test_ranks training/test_async
    training/test_running analysis/test_hessian sft/test_finetune plan/test_plan
    compare/test_search training/test_evaluate engines/test_engines training/test_family_runs
    engines/test_tied
    training/test_own_code sampling/test_extra
""".split()
"""Files of tests/rlvr that take 10 s and more, the longest first."""
NUM_THREADS = len(os.sched_getaffinity(0))
"""Of torch, at the start of every test: what a run takes that names no number."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="no engine, no process: about a minute")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves a slower file unread: reading all of them takes 20 s of imports."""
    if not config.getoption("--fast") or not collection_path.name.startswith("test_"):
        return None
    name = collection_path.relative_to(Path(__file__).parent).as_posix()
    is_fast = any(fnmatch(name, one) for one in FAST)
    return not is_fast or any(fnmatch(name, one) for one in SLOWER) or None


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast") and not config.option.markexpr:
        config.option.markexpr = "not slow and not engine and not process"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole files, since fixtures of a module are expensive; in the order of collection."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In two processes, long files come first: one that began last would keep a process waiting."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _place(item.path))


def _place(path: Path) -> int:
    """Where a file stands in LONG, or after all of it."""
    name = "/".join(path.with_suffix("").parts[-2:])
    return LONG.index(name) if name in LONG else len(LONG)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Takes back the number of threads that a test before has set, in the whole process: results
    of two numbers differ in the last bits."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(NUM_THREADS)


STARTED: list[str] = []


@pytest.fixture(autouse=True)
def starts_no_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """Under --fast, fails a test that starts a process, so that the tier stays what it is."""
    STARTED.clear()
    yield
    if request.config.getoption("--fast"):
        assert not STARTED, "it starts a process: mark it @pytest.mark.process"


def _note(event: str, _args: object) -> None:
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
        STARTED.append(event)


sys.addaudithook(_note)
