"""Streams of groups with the real engine and the real verifier: nothing but the tokens decides, and
verification costs no time of its own."""

import json
import random
import threading
import time

import pytest
import torch

from rewards import Verifier
from rlvr.common.seeds import sample_seed
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.distributed.world import World
from rlvr.engines.engine import Request, SamplingParams
from rlvr.engines.transformers import TransformersEngine
from rlvr.policy.policy import TokenRow, load_policy
from rlvr.sampling.group_stream import TICK, GroupRequest, GroupStream
from rlvr.sampling.rollouts import Group
from rlvr.sampling.trace import Trace
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


def stream_of(engine, judge, safe_point=do_nothing, sampling=SAMPLING, **options):
    given = {"policy_version": 0, "num_threads": 1, "world": World.alone()} | options
    return GroupStream(engine, sampling, judge, safe_point, **given)


def all_groups(stream, asked) -> list[Group]:
    """One group per request, in order."""
    stream.add(asked, [1.0] * len(asked))
    done = {}
    while stream.num_running:
        done |= {number: group for number, _, group in stream.advance()}
    return [done[number] for number in range(len(asked))]


def test_groups_come_back_in_the_order_asked_however_long_verdicts_take(policy, ask):
    engine, asked = TransformersEngine(policy), ask(6, 4)
    plain = engine.generate([Request(a.prompt_ids, s) for a in asked for s in a.seeds], SAMPLING)
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        judge = judge_with(verifier, policy, 0.05)
        with stream_of(engine, judge, num_threads=3) as stream:
            groups = all_groups(stream, asked)
    assert [group.problem_id for group in groups] == [a.problem.id for a in asked]
    assert [r for group in groups for r in group.responses] == plain


def test_what_a_tick_hands_out_depends_on_the_tokens_alone(policy, ask):
    """However long verdicts take, and in the order asked."""
    engine, asked = TransformersEngine(policy), ask(60, 1)
    requests = [Request(one.prompt_ids, seed) for one in asked for seed in one.seeds]
    lengths = [len(response.token_ids) for response in engine.generate(requests, SAMPLING)]
    expected = [[i for i, n in enumerate(lengths) if (n - 1) // TICK == tick] for tick in (0, 1)]
    assert all(expected), "the case has responses that end in both ticks"
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        for delay_s in (0.0, 0.05):
            judge = judge_with(verifier, policy, delay_s)
            with stream_of(engine, judge, num_threads=4) as stream:
                stream.add(asked, [1.0] * len(asked))
                ticks = [[number for number, _, _ in stream.advance()] for _ in range(2)]
            assert ticks == expected


def test_groups_that_join_later_give_what_they_give_alone(policy, ask):
    engine, asked = TransformersEngine(policy), ask(5, 4)
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        judge = judge_with(verifier, policy)
        with stream_of(engine, judge) as stream:
            alone = all_groups(stream, asked)
        with stream_of(engine, judge) as stream:
            stream.add(asked[:2], [1.0, 1.0])
            done = {number: group for number, _, group in stream.advance()}
            stream.add(asked[2:], [1.0] * 3)
            while stream.num_running:
                done |= {number: group for number, _, group in stream.advance()}
    for i, group in enumerate(alone):
        for ours, theirs in zip(done[i].responses, group.responses, strict=True):
            assert ours.token_ids == theirs.token_ids
            # another batch, so other rounding in the last bits
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)


def test_a_paused_group_goes_on_from_its_tokens_and_remembers_who_sampled_them(policy, ask):
    engine, asked = TransformersEngine(policy), ask(60, 1)
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        judge = judge_with(verifier, policy)
        with stream_of(engine, judge) as stream:
            whole = all_groups(stream, asked)
        with stream_of(engine, judge, ends_early=True) as stream:
            stream.add(asked, [1.0] * len(asked))
            ended = {number: group for number, _, group in stream.advance()}
            left = [i for i in range(len(asked)) if i not in ended]
            paused = stream.pause()
        assert left
        assert ended
        assert [one.index for one in paused] == left
        assert all(ended[i] == whole[i] for i in ended), "what ended is as without the pause"
        trees = json.loads(json.dumps([one.to_tree() for one in paused]))
        problems, prompts = zip(*((one.problem, one.prompt_ids) for one in asked), strict=True)
        again = [GroupRequest.from_tree(tree, problems, prompts) for tree in trees]
        assert again == paused, "as a checkpoint keeps them"
        with stream_of(engine, judge, policy_version=1) as stream:
            groups = all_groups(stream, again)
    for one, i, group in zip(again, left, groups, strict=True):
        for place, response in enumerate(group.responses):
            before = whole[i].responses[place]
            begun = one.ended.get(place) or one.begun[place]
            count = len(begun.token_ids)
            assert response.token_ids[:count] == begun.token_ids == before.token_ids[:count]
            assert response.logprobs[:count] == begun.logprobs == before.logprobs[:count]
            more = len(response.token_ids) - count
            assert response.spans == [(0, count)] * bool(count) + [(1, more)] * bool(more)
            assert len(response.token_ids) <= SAMPLING.max_len
            assert response.truncated == (
                len(response.token_ids) == SAMPLING.max_len
                and response.token_ids[-1] not in engine._ends
            )
            # what it went on with has the probability of one whole response
            rows = [TokenRow(asked[i].prompt_ids, response.token_ids)]
            once_T = policy.logprobs(rows, 1.0)[0]
            assert torch.allclose(once_T, torch.tensor(response.logprobs), atol=1e-4)


def rows_of(taken) -> list[dict]:
    return [dict(zip(taken["columns"], row, strict=True)) for row in taken["rows"]]


def test_a_trace_says_when_each_response_ran(policy, ask):
    engine, asked, trace = TransformersEngine(policy), ask(40, 2), Trace()
    plain = engine.generate([Request(a.prompt_ids, s) for a in asked for s in a.seeds], SAMPLING)
    alone = [len(response.token_ids) for response in plain]
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        judge = judge_with(verifier, policy)
        with stream_of(engine, judge, ends_early=True, trace=trace) as stream:
            stream.add(asked[:30], [1.0] * 30)
            stream.advance()
            with trace.phase("update"):
                pass
            first = trace.take(0.0)
            stream.add(asked[30:], [1.0] * 10)
            stream.pause()
    second = trace.take(0.0)
    ((name, *span),) = first["phases"]
    assert name == "update"
    assert span == sorted(span)
    assert span[1] <= first["seconds"]
    assert second["phases"] == []
    assert [step for _, step in first["ticks"]] == [TICK]
    ended, left = rows_of(first), rows_of(second)
    assert len(ended) == 60, "what is still running is there too"
    for row, length in zip(ended, alone, strict=False):
        assert (row["begin_step"], row["begun_len"]) == (0, 0)
        assert row["end_step"] == (length if length <= TICK else None)
        assert row["state"] == ("ended" if length <= TICK else "running")
        assert row["begin_s"] <= (row["end_s"] or first["seconds"]) <= first["seconds"]
    running = [row for row in ended if row["state"] == "running"]
    assert running
    went_on = left[: len(running)]
    assert [(r["group"], r["place"]) for r in went_on] == [
        (r["group"], r["place"]) for r in running
    ]
    assert {(r["state"], r["end_step"], r["new_len"]) for r in went_on} == {("paused", TICK, TICK)}
    assert [r["begin_s"] for r in went_on] == [r["begin_s"] for r in running]
    joined = left[len(running) :]
    assert {r["group"] for r in joined} == set(range(30, 40))
    assert {r["begin_step"] for r in joined} == {TICK}
    assert trace.take(0.0)["rows"] == []


def test_a_trace_tells_what_goes_on_and_what_is_given_up(policy, ask):
    engine, asked, trace = TransformersEngine(policy), ask(20, 1), Trace()
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        judge = judge_with(verifier, policy)
        with stream_of(engine, judge, ends_early=True) as stream:
            stream.add(asked, [1.0] * 20)
            stream.advance()
            paused = stream.pause()
        begun = [len(one.begun[0].token_ids) for one in paused if one.begun]
        assert begun
        with stream_of(engine, judge, trace=trace, policy_version=1) as stream:
            stream.add(paused, [1.0] * len(paused))
            with pytest.raises(ZeroDivisionError), stream:
                raise ZeroDivisionError
    rows = rows_of(trace.take(0.0))
    assert [row["begun_len"] for row in rows] == begun
    assert {row["state"] for row in rows} == {"aborted"}


def test_a_stop_ends_generation_at_the_next_decoding_step(policy, ask):
    engine, calls = TransformersEngine(policy), []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with Verifier(num_workers=1) as verifier, pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with stream_of(engine, judge_with(verifier, policy), stop) as stream:
            all_groups(stream, ask(2, 4))
    assert len(calls) == 3


def test_generation_goes_on_while_responses_are_judged_and_judging_does_not_wait_for_its_end(
    policy, ask
):
    """The engine keeps its last response back until a group is judged, and the first verdict waits
    for another response: one after the other, neither would ever come."""
    engine, asked, sampling = TransformersEngine(policy), ask(12, 16), SamplingParams(max_len=32)
    judged, generated = threading.Event(), threading.Event()
    met = []

    class OneByOne:
        """The engine's session, which gives all its responses in one tick, one by one."""

        by_clock = True

        def __init__(self):
            self._inner, self._left = engine.open(sampling), None

        @property
        def num_running(self):
            return self._inner.num_running if self._left is None else len(self._left)

        def add(self, requests):
            self._inner.add(requests)

        def step(self):
            if self._left is None:
                self._left = []
                while self._inner.num_running:
                    self._left += self._inner.step()
            if judging.is_set():
                generated.set()
            if len(self._left) == 1:
                met.append(judged.wait(HANG_S))
            return [self._left.pop(0)]

        def close(self):
            self._inner.close()

    class Held:
        def open(self, sampling):
            return OneByOne()

    judging = threading.Event()

    def judge(one, responses):
        judging.set()
        met.append(generated.wait(HANG_S))
        judged.set()
        return Group(one.problem.id, [], responses, [0.0], ["wrong"], 0)

    with stream_of(Held(), judge, sampling=sampling) as stream:
        assert len(all_groups(stream, asked)) == 12
    assert met == [True] * 13
