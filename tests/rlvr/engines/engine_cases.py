"""Requests and an updated policy for tests of engines."""

from dataclasses import replace

import torch

from rlvr.common.seeds import sample_seed
from rlvr.engines.engine import Request, SamplingParams
from rlvr.policy.policy import TokenRow, load_policy
from tests.rlvr import plain

PROMPTS = [[7 * i % 300 + 8 for i in range(n)] for n in (5, 9, 40, 70)]
"""Two fill blocks of vLLM's cache, which their groups share, and two fill none."""
SAMPLING = SamplingParams(max_len=24)
LONG = SamplingParams(max_len=88)
"""With the longest prompt it fits the small policy's 160 tokens."""


def requests(count: int) -> list[Request]:
    return [Request(PROMPTS[i % 4], sample_seed(0, i)) for i in range(count)]


def adapted_policy(recipe, steps: int = 3):
    """The recipe's policy after a few real updates."""
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    optimizer = torch.optim.AdamW(policy.trainable, lr=1e-2)
    for _ in range(steps):
        policy.logprobs([TokenRow(p, p[::-1]) for p in PROMPTS], 1.0)[0].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return policy


@torch.no_grad()
def sampled_error(policy, engine, sampling: SamplingParams = SAMPLING) -> float:
    """Largest difference between the log-probabilities that the engine reports, the trainer's, and
    those of the model's own logits."""
    responses = engine.generate(requests(8), sampling)
    rows = [
        TokenRow(r.prompt_ids, o.token_ids) for r, o in zip(requests(8), responses, strict=True)
    ]
    ours = policy.logprobs(rows, sampling.temperature)[0]
    theirs = torch.tensor([p for o in responses for p in o.logprobs])
    expected = plain.token_logprobs(policy.model, rows, sampling.temperature)
    return float(max((ours - expected).abs().max(), (theirs - expected).abs().max()))


def assert_ends_at_a_stop_token(engine) -> None:
    """A token that the engine draws by itself, named as a stop, ends the responses at its first
    place, as an end of the model's own would, and changes nothing before it."""
    free = engine.generate(requests(12), SAMPLING)
    stop = next(r.token_ids[5] for r in free if r.token_ids.index(r.token_ids[5]) == 5)
    stopped = engine.generate(requests(12), replace(SAMPLING, stop_token_ids=(stop,)))
    num_stopped = 0
    for before, after in zip(free, stopped, strict=True):
        length = len(before.token_ids)
        if stop in before.token_ids:
            length, num_stopped = before.token_ids.index(stop) + 1, num_stopped + 1
            assert after.token_ids[-1] == stop
        assert after.token_ids == before.token_ids[:length]
        assert after.truncated == (before.truncated and stop not in before.token_ids)
        assert len(after.logprobs) == length
        assert max(abs(a - b) for a, b in zip(after.logprobs, before.logprobs, strict=False)) < 1e-5
    assert num_stopped
    assert engine.generate(requests(12), SAMPLING) == free, "the next call stops there no more"


def assert_pauses_and_goes_on(engine, sampling: SamplingParams, num_steps: int) -> None:
    """Requests that join later give what they give alone; what is cut off is the beginning of it;
    and what goes on from there has the probability of one whole response."""
    asked = requests(64)
    alone = engine.generate(asked, sampling)
    session = engine.open(sampling)
    session.add(asked[:32])
    done = dict(pair for _ in range(num_steps) for pair in session.step())
    session.add(asked[32:])
    done |= dict(session.step())
    ended, paused = session.pause()
    done |= dict(ended)
    paused = dict(paused)
    assert session.num_running == 0
    assert sorted([*done, *paused]) == list(range(64))
    assert any(response.token_ids for response in paused.values()), "the case cuts something off"
    for number, response in done.items():
        assert response.token_ids == alone[number].token_ids
    for number, begun in paused.items():
        count = len(begun.token_ids)
        assert count < len(alone[number].token_ids)
        assert begun.token_ids == alone[number].token_ids[:count]
        assert len(begun.logprobs) == count
    again = [
        replace(asked[number], seed=number, begun_ids=begun.token_ids)
        for number, begun in paused.items()
    ]
    later = engine.generate(again, sampling)
    for request, response in zip(again, later, strict=True):
        total = len(request.begun_ids) + len(response.token_ids)
        assert total == sampling.max_len if response.truncated else total <= sampling.max_len
        scores = engine.score([[*request.prompt_ids, *request.begun_ids, *response.token_ids]])[0]
        wanted = scores[-len(response.token_ids) :]
        assert max(abs(a - b) for a, b in zip(wanted, response.logprobs, strict=True)) < 1e-4
