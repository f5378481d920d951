"""rollout.partial: a step leaves unfinished responses to the next one. They go on from their tokens
by newer weights, survive a stop, and are trained on with the versions that sampled them."""

import json

import pytest
import torch

from rlvr.config.train import TrainRecipe
from rlvr.policy.policy import TokenRow
from rlvr.runs.checkpoint import load_checkpoint
from rlvr.runs.folder import Run
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.build import Training, build
from rlvr.training.resume import save
from rlvr.training.rows import make_rows
from rlvr.training.step import train_step
from tests.rlvr.small import steady

STEPS = 4


@pytest.fixture
def make_training(make_recipe, warm_engine, request):
    """The parts of a run whose responses take one tick to three: at some tokens they end."""

    def make(engine: str = "transformers", **rollout) -> Training:
        sizes = {"prompts_per_step": 4, "group_size": 2, "max_response_len": 40}
        sizes["stop_token_ids"] = list(range(20, 60))
        recipe: TrainRecipe = make_recipe(
            rollout={"engine": engine, "partial": True} | sizes | rollout,
            sampling={"dynamic": False},
            train={"steps": STEPS},
            track={"rollouts_per_step": 0},
        )
        start = warm_engine if engine == "vllm" else None
        training = build(recipe, recipe.model.path, start)
        request.addfinalizer(training.close)
        training.engine.syncer.sync()
        return training

    return make


def drive(training: Training, first: int, last: int) -> list[dict[str, float]]:
    return [steady(train_step(training, step).metrics) for step in range(first, last)]


@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.engine)])
def test_a_resumed_run_repeats_one_that_was_not_stopped(make_training, tmp_path, engine):
    whole = make_training(engine)
    expected = drive(whole, 0, STEPS)
    assert any(row["rollout/paused"] for row in expected), "the case has responses to pause"
    assert max(row["policy/lag_max"] for row in expected) >= 1
    first = make_training(engine)
    rows = drive(first, 0, 2)
    run = Run(tmp_path / "run", "a", next_step=2)
    run.folder.mkdir()
    run.sampler_state = first.sampler.snapshot()
    assert first.sampler.state()["paused"], "the checkpoint holds half-made responses"
    folder = save(first, run)
    second = make_training(engine)
    saved = load_checkpoint(folder, second.policy, second.optimizer)
    second.sampler.load_state(saved["sampler"])
    second.engine.syncer.sync()
    assert rows + drive(second, 2, STEPS) == expected
    for ours, theirs in zip(second.policy.trainable, whole.policy.trainable, strict=True):
        assert (ours == theirs).all()
    assert second.sampler.state() == whole.sampler.state()


def test_what_one_version_sampled_is_what_it_is_without_partial(make_training):
    partial = make_training().sampler.collect(0)
    whole = make_training(partial=False).sampler.collect(0)
    theirs = {group.problem_id: group.responses for group in whole.groups}
    known = [group for group in partial.groups if group.problem_id in theirs]
    assert known
    assert all(group.responses == theirs[group.problem_id] for group in known)


def test_rows_know_which_weights_sampled_each_of_their_tokens(make_training):
    """And every token keeps the probability that those weights gave it."""
    training = make_training()
    trained = [[p.detach().clone() for p in training.policy.trainable]]
    mixed = []
    for step in range(STEPS):
        rollouts = training.sampler.collect(step)
        batch = make_batch(rollouts.groups, training.policy, UpdateConfig.of(training.recipe))
        rows = make_rows(batch, UpdateConfig.of(training.recipe), step, entropy_on=True)
        by_tokens = {tuple(row.tokens.response_ids): row for row in rows}
        for group in rollouts.groups:
            for response in group.responses:
                if len(response.spans) > 1:
                    old = sum(n for version, n in response.spans if version != step)
                    assert by_tokens[tuple(response.token_ids)].num_stale == old
                    mixed.append((group.prompt_ids, response))
        with torch.no_grad():  # a step of training that is as large as it likes to be
            for p in training.policy.trainable:
                p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))
        trained.append([p.detach().clone() for p in training.policy.trainable])
        training.engine.syncer.sync()
    assert mixed, "the case has responses of two versions"
    for prompt, response in mixed:
        at = 0
        for version, count in response.spans:
            for p, value in zip(training.policy.trainable, trained[version], strict=True):
                p.data.copy_(value)
            scores_T = training.policy.logprobs([TokenRow(prompt, response.token_ids)], 1.0)[0]
            drawn_T = torch.tensor(response.logprobs[at : at + count])
            assert torch.allclose(scores_T[at : at + count], drawn_T, atol=1e-4)
            at += count
        assert at == len(response.token_ids)


def test_a_response_with_tokens_that_are_too_old_begins_anew(make_training):
    training = make_training(max_staleness=1)
    sampler, step = training.sampler, 0
    while not sampler.state()["paused"]:
        sampler.collect(step)
        step += 1
    state = json.loads(json.dumps(sampler.state()))
    num_begun = 0
    for group in state["paused"]:
        for begun in group["begun"].values():
            num_begun += bool(begun["token_ids"])
            begun["spans"] = [(step - 2, len(begun["token_ids"]))] * bool(begun["token_ids"])
    assert num_begun
    sampler.load_state(state)
    got = sampler.collect(step)
    assert got.metrics["rollout/stale_dropped"] == num_begun
    assert got.metrics["policy/lag_max"] <= 1
