"""Rounds with the real engine and the real verifier: nothing but the tokens decides, and
verification costs no time of its own."""

import random
import time

import pytest

from rewards import Gold, Verifier
from rlvr.data import encode_prompts, load_problems
from rlvr.groups import Group
from rlvr.policy import load_policy
from rlvr.rollout.engine import Request, Sampling, sample_seed
from rlvr.rollout.transformers import BATCH_ROWS, TransformersEngine
from rlvr.streaming import Asked, run_round

SAMPLING = Sampling(max_len=24)


@pytest.fixture(scope="module")
def policy(make_recipe):
    recipe = make_recipe()
    return load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)


@pytest.fixture(scope="module")
def ask(make_recipe, policy):
    recipe = make_recipe()
    data, prompts = encode_prompts(load_problems(recipe.data), policy.tokenizer, recipe.data, 100)

    def some(count: int, size: int) -> list[Asked]:
        return [
            Asked(i, data.problems[i], prompts[i], [sample_seed(0, i, k) for k in range(size)])
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
    sampling, threads = Sampling(max_len=32), {"num_threads": 4}
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


def test_generation_and_slow_verification_together_take_about_the_longer_of_the_two(policy, ask):
    """Each group gets a pair that needs longer than the verifier's deadline: 0.25 s of real time,
    on however many cores."""
    engine, asked, sampling = TransformersEngine(policy), ask(12, 16), Sampling(max_len=32)
    requests = [Request(a.prompt_ids, seed) for a in asked for seed in a.seeds]
    engine.generate(requests[:4], sampling)
    start = time.perf_counter()
    engine.generate(requests, sampling)
    generate_s, verify_ms = time.perf_counter() - start, []
    with Verifier(num_workers=1, timeout_s=0.25) as verifier:
        verifier.verify(r"\boxed{\sin(2x)}", Gold.parse(r"2\sin(x)\cos(x)"))

        def judge(one, responses):
            n = 100 + one.index
            gold = Gold.parse(rf"\sum_{{k=1}}^{{{n}}} k^{{-2}}")
            verdict = verifier.verify(rf"\boxed{{\sum_{{k=1}}^{{{n}}} \frac{{1}}{{k^2}}}}", gold)
            verify_ms.append(verdict.ms)
            return Group(one.problem.id, [], responses, [0.0], [str(verdict.reason)], 0)

        start = time.perf_counter()
        run_round(asked, engine, sampling, judge, do_nothing, num_threads=1)
        both_s = time.perf_counter() - start
    short, long = sorted((generate_s, sum(verify_ms) / 1e3))
    assert short > 0.2, "both take real time"
    assert both_s < long + 0.6 * short, (generate_s, sum(verify_ms) / 1e3, both_s)
