"""Rounds with the real engine and the real verifier: nothing but the tokens decides, and
verification costs no time of its own."""

import random
import threading
import time

import pytest

from rewards import Verifier
from rlvr.common.seeds import sample_seed
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.engines.engine import Request, SamplingParams
from rlvr.engines.transformers import BATCH_ROWS, TransformersEngine
from rlvr.policy.policy import load_policy
from rlvr.sampling.rollout_round import GroupRequest, run_round
from rlvr.sampling.rollouts import Group
from tests.waiting import HANG_S

SAMPLING = SamplingParams(max_len=24)


@pytest.fixture(scope="module")
def policy(make_recipe):
    recipe = make_recipe()
    return load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)


@pytest.fixture(scope="module")
def ask(make_recipe, policy):
    recipe = make_recipe()
    data, prompts = encode_prompts(load_problems(recipe.data), policy.tokenizer, recipe.data, 100)

    def some(count: int, size: int) -> list[GroupRequest]:
        return [
            GroupRequest(
                i, data.problems[i], prompts[i], [sample_seed(0, i, k) for k in range(size)]
            )
            for i in range(count)
        ]

    return some


def judge_with(verifier, policy, largest_delay_s: float = 0.0):
    """Real verdicts, after a random wait that stands for a busy machine."""
    delays = random.Random(1)

    def judge(one, responses):
        time.sleep(delays.uniform(0, largest_delay_s))
        texts = [policy.tokenizer.decode(r.token_ids) for r in responses]
        verdicts = verifier.verify_many([(text, one.problem.gold) for text in texts])
        rewards = [float(verdict.correct) for verdict in verdicts]
        reasons = [str(verdict.reason) for verdict in verdicts]
        return Group(one.problem.id, one.prompt_ids, responses, rewards, reasons, 0)

    return judge


def do_nothing() -> None:
    pass


def test_groups_come_back_in_the_order_asked_however_long_verdicts_take(policy, ask):
    engine, asked = TransformersEngine(policy), ask(6, 4)
    plain = engine.generate([Request(a.prompt_ids, s) for a in asked for s in a.seeds], SAMPLING)
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        judge = judge_with(verifier, policy, 0.05)
        done = run_round(asked, engine, SAMPLING, judge, do_nothing, num_threads=3)
    assert [group.problem_id for group in done.groups] == [a.problem.id for a in asked]
    assert [r for group in done.groups for r in group.responses] == plain


def whole_groups_by_step(asked, engine, sampling) -> list[list[int]]:
    """Per decoding step that completes groups, all groups complete by then."""
    requests = [Request(a.prompt_ids, seed) for a in asked for seed in a.seeds]
    size, left, whole, history = len(asked[0].seeds), [len(a.seeds) for a in asked], [], []
    for finished in engine.stream(requests, sampling):
        for place, _ in finished:
            left[place // size] -= 1
            if left[place // size] == 0:
                whole.append(place // size)
        if whole and (not history or len(whole) > len(history[-1])):
            history.append(sorted(whole))
    return history


def test_stragglers_are_aborted_at_the_step_that_the_tokens_fix(policy, ask):
    engine, asked = TransformersEngine(policy), ask(3 * BATCH_ROWS // 8, 8)
    sampling, threads = SamplingParams(max_len=32), {"num_threads": 4}
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        judge = judge_with(verifier, policy)
        every = run_round(asked, engine, sampling, judge, do_nothing, **threads).groups
        informative = {i for i, group in enumerate(every) if group.informative}
        history = whole_groups_by_step(asked, engine, sampling)
        for wanted, delay_s in ((1, 0.0), (2, 0.05)):
            expected = next(whole for whole in history if len(informative & {*whole}) >= wanted)
            assert len(expected) < len(asked), "the case has stragglers"
            judge = judge_with(verifier, policy, delay_s)
            done = run_round(
                asked, engine, sampling, judge, do_nothing, num_enough=wanted, **threads
            )
            assert [i for i, group in enumerate(done.groups) if group] == expected
            assert [done.groups[i] for i in expected] == [every[i] for i in expected]


def test_a_stop_ends_the_round_at_the_next_decoding_step(policy, ask):
    engine, calls = TransformersEngine(policy), []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with Verifier(num_workers=1) as verifier, pytest.raises(KeyboardInterrupt):
        run_round(ask(2, 4), engine, SAMPLING, judge_with(verifier, policy), stop, num_threads=1)
    assert len(calls) == 3


def test_generation_goes_on_while_responses_are_judged_and_judging_does_not_wait_for_its_end(
    policy, ask
):
    """The engine keeps its last response back until a group is judged, and the first verdict waits
    for another response: one after the other, neither would ever come."""
    engine, asked, sampling = TransformersEngine(policy), ask(12, 16), SamplingParams(max_len=32)
    judged, generated = threading.Event(), threading.Event()
    met = []

    class Held:
        """The engine, which gives its responses one by one."""

        cache_load = None

        def stream(self, requests, sampling):
            *finished, last = [one for part in engine.stream(requests, sampling) for one in part]
            for one in finished:
                if judging.is_set():
                    generated.set()
                yield [one]
            met.append(judged.wait(HANG_S))
            yield [last]

    judging = threading.Event()

    def judge(one, responses):
        judging.set()
        met.append(generated.wait(HANG_S))
        judged.set()
        return Group(one.problem.id, [], responses, [0.0], ["wrong"], 0)

    done = run_round(asked, Held(), sampling, judge, do_nothing, num_threads=1)
    assert all(done.groups)
    assert met == [True] * 13
