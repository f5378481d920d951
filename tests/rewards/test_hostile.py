"""Hostile answers: no hang, no crash, no payment, nothing executed."""

import resource

import pytest

from rewards import Reason, Verifier
from tests.rewards.hostile import hostile_pairs
from tests.rewards.payloads import PAYLOADS


@pytest.fixture(scope="module")
def verifier():
    with Verifier() as verifier:
        yield verifier


def test_the_tables_are_large_enough():
    assert len(set(hostile_pairs())) >= 200 + len(PAYLOADS)
    assert len(set(PAYLOADS)) >= 60


def test_no_hostile_pair_is_paid_hangs_or_breaks_the_verifier(verifier):
    pairs = hostile_pairs()
    verifier.verify_many(pairs[:1])
    verifier.stats(reset=True)
    verdicts = verifier.verify_many(pairs)
    paid = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.correct]
    assert paid == []
    assert [verdict for verdict in verdicts if verdict.stage.startswith("error:")] == []
    assert [verdict for verdict in verdicts if verdict.reason is Reason.WORKER_DIED] == []
    assert verifier.stats().kills <= 0.05 * len(pairs)


def test_no_payload_is_executed(verifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Verifier() as here:  # its workers run in this folder
        for wrap in (r"The answer is $\boxed{%s}$.", r"\[\boxed{\text{%s}}\]", r"\boxed{5}%s"):
            verdicts = here.verify_many([(wrap % payload, "7") for payload in PAYLOADS])
            assert not any(verdict.correct for verdict in verdicts)
            assert here.stats().deaths == 0
        here.verify_many([(r"\boxed{5}", payload) for payload in PAYLOADS])
        assert here.stats().deaths == 0
    assert list(tmp_path.iterdir()) == []


def test_hostile_pairs_do_not_grow_the_process(verifier):
    pairs = [pair for pair in hostile_pairs() if len(pair[0]) < 5000][::2]
    verifier.verify_many(pairs)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        verifier.verify_many(pairs)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024
