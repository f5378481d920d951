"""The short form of the fuzzer: the same properties on fewer examples."""

from rewards import Verifier
from tests.rewards.fuzz import run_properties


def test_the_properties_hold_on_some_random_text():
    with Verifier() as verifier:
        run_properties(verifier, 40, repeatable=True)
        assert verifier.stats().deaths == 0
