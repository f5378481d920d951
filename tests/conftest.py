"""Environment for every test: threads that do not spin, W&B offline, no hub, Ctrl-C as usual.

`--fast` runs the tests of FAST that are marked neither slow nor engine nor process.
"""

import os
import signal
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

# a shell starts what it puts in the background with SIGINT ignored, and every child inherits that
signal.signal(signal.SIGINT, signal.default_int_handler)

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
