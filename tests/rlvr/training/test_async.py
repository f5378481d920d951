"""Rollouts one step ahead with the real vLLM: they overlap, they age, and they survive a stop."""

import signal
import threading
import time

import pytest
import torch

import rlvr.training.resume
import rlvr.training.step
from rlvr.cli import main
from rlvr.common.signals import Stopped, never_stop
from rlvr.engines.engine import EngineLost
from rlvr.runs.checkpoint import load_checkpoint
from rlvr.runs.folder import Run
from rlvr.training.build import Training, build
from rlvr.training.resume import checkpoint_and_stop, save
from rlvr.training.step import train_step
from tests.rlvr.sessions import WatchedSession, watched
from tests.rlvr.small import steady, steady_metrics
from tests.waiting import HANG_S


@pytest.fixture
def make_training(make_recipe, warm_engine, request):
    """The parts of a run on the shared engine, which starts from the base policy."""

    def make(
        method: str = "lora", safe_point=never_stop, num_threads=None, dynamic=True, **rollout
    ) -> Training:
        recipe = make_recipe(
            rollout={"engine": "vllm", "mode": "async"} | rollout,
            train={"steps": 5, "num_threads": num_threads},
            track={"rollouts_per_step": 0},
            sampling={"dynamic": dynamic},
        )
        if method == "full":
            adapter = type(recipe.adapter)(method="full")
            recipe = recipe.model_copy(update={"adapter": adapter})
        training = build(recipe, recipe.model.path, warm_engine, safe_point=safe_point)
        request.addfinalizer(training.close)
        training.sampler.weight_metrics = training.engine.syncer.sync().metrics()
        return training

    return make


def drive(training: Training, run: Run):
    """(metrics of every step, the sampler's state to save), until a safe point raises Stopped."""
    run.folder.mkdir(exist_ok=True)
    rows = []
    while run.next_step < training.recipe.train.steps:
        state = training.sampler.snapshot()
        try:
            metrics = train_step(training, run.next_step).metrics
        except Stopped:
            state.wait(HANG_S)
            training.sampler.close()
            return rows, state
        rows.append(steady(metrics))
        run.next_step += 1
    training.sampler.drain()
    return rows, training.sampler.snapshot()


@pytest.mark.engine
@pytest.mark.parametrize(
    ("method", "rollout"),
    [
        ("lora", {}),
        ("full", {}),
        ("lora", {"steps_ahead": 3}),
        ("lora", {"steps_ahead": 2, "sync": "adapter"}),
        ("full", {"steps_ahead": 2, "partial": True}),
    ],
)
def test_a_run_stopped_with_rollouts_in_flight_resumes_bit_for_bit(
    make_training, method, rollout, tmp_path
):
    whole = make_training(method, **rollout)
    expected, end = drive(whole, Run(tmp_path / "whole", "a"))
    run = Run(tmp_path / "stopped", "b")

    def stop_in_the_third_update() -> None:
        if run.next_step == 2:
            raise Stopped(signal.SIGTERM)

    first = make_training(method, stop_in_the_third_update, **rollout)
    rows, state = drive(first, run)
    assert len(rows) == 2
    ahead = state.to_tree()["ahead"]
    assert all(one["groups"] for one in ahead)
    assert len(ahead) == rollout.get("steps_ahead", 1), "all groups in flight are in the checkpoint"
    run.sampler_state = state
    folder = save(first, run)
    second = make_training(method, **rollout)
    saved = load_checkpoint(folder, second.policy, second.optimizer)
    second.sampler.load_state(saved["sampler"])
    second.sampler.weight_metrics = second.engine.syncer.sync().metrics()
    later, again = drive(second, Run(run.folder, "b", saved["step"]))
    assert rows + later == expected
    assert again.to_tree() == end.to_tree()
    for ours, theirs in zip(second.policy.trainable, whole.policy.trainable, strict=True):
        assert (ours == theirs).all()


@pytest.mark.engine
def test_the_number_of_threads_of_a_recipe_holds_in_both_threads(make_training):
    """vLLM on CPU dies where a thread's number changes within a decoding step."""
    training = make_training(num_threads=1)
    engine = training.engine.engine
    for step in range(2):
        assert torch.get_num_threads() == 1
        train_step(training, step)
    assert training.engine.engine is engine, "it did not die"


@pytest.mark.engine
def test_generation_of_the_next_step_starts_before_the_update_ends(make_training, monkeypatch):
    # with dynamic sampling a step may have enough groups left over, and generate nothing
    training, events, begun = make_training(dynamic=False), [], threading.Event()
    engine, update = training.engine, rlvr.training.step.update
    open_session, sync = engine.open, engine.syncer.sync

    def watched(name, function):
        def call(*args):
            events.append(f"{name} starts")
            result = function(*args)
            if name == "update":  # the thread that generates may get no core before
                begun.wait(HANG_S)
            events.append(f"{name} ends")
            return result

        return call

    class Generation(WatchedSession):
        def step(self):
            finished = super().step()
            if not self.num_running:
                events.append("generation ends")
            return finished

    def start(number: int) -> None:
        if number == 0:
            events.append("generation starts")
            begun.set()

    monkeypatch.setattr(engine, "open", lambda sampling: Generation(open_session(sampling), start))
    monkeypatch.setattr(rlvr.training.step, "update", watched("update", update))
    monkeypatch.setattr(engine.syncer, "sync", watched("sync", sync))
    train_step(training, 0)
    begun.clear()
    events.clear()
    train_step(training, 1)
    names = [*events]
    assert names.index("generation starts") < names.index("update ends")
    last = len(names) - 1 - names[::-1].index("generation ends")
    assert last < names.index("sync starts"), "the engine is idle when its weights change"


@pytest.mark.engine
def test_groups_that_take_long_after_a_signal_are_dropped_and_sampled_anew(
    make_training, monkeypatch, tmp_path
):
    expected = make_training(mode="sync")
    train_step(expected, 0)
    run = Run(tmp_path, "a")

    def stop_after_the_update() -> None:
        if run.pending is not None:
            raise Stopped(signal.SIGTERM)

    training = make_training(safe_point=stop_after_the_update)

    def wait_ahead(_number: int) -> None:
        time.sleep(0 if threading.current_thread() is threading.main_thread() else 0.5)

    monkeypatch.setattr(rlvr.training.resume, "COLLECTION_GRACE_S", 0.5)
    with monkeypatch.context() as slowly:
        slowly.setattr(training.engine, "open", watched(training.engine.open, wait_ahead))
        with pytest.raises(Stopped):
            train_step(training, 0, run.update_done)
        checkpoint_and_stop(training, run, lambda _text: None)
    assert run.next_step == 1, "it has trained"
    assert training.sampler.state() == expected.sampler.state(), "as if nothing had been collected"
    run.pending = None
    training.engine.syncer.sync()
    assert train_step(training, 1).metrics["rollout/staleness_mean"] == 0


@pytest.mark.engine
def test_weights_behind_three_collections_are_three_steps_old_when_they_train(
    make_training, tmp_path
):
    # left-over groups would be older still
    training = make_training(steps_ahead=3, max_staleness=3)
    rows, _ = drive(training, Run(tmp_path / "run", "a"))
    assert [row["policy/lag_max"] for row in rows] == [0, 1, 2, 3, 3]
    assert [row["policy/lag_mean"] for row in rows] == [0, 1, 2, 3, 3]


@pytest.mark.engine
def test_after_an_engine_died_steps_ahead_are_collected_by_the_newest_weights(
    make_training, monkeypatch, tmp_path
):
    training, begun = make_training(dynamic=False, steps_ahead=2, max_staleness=2), []
    open_session = training.engine.open

    def die(number: int) -> None:
        if number == 0:
            begun.append(number)
        if len(begun) == 3:  # the second that was begun ahead
            raise EngineLost("killed")

    monkeypatch.setattr(training.engine, "open", watched(open_session, die))
    rows, _ = drive(training, Run(tmp_path / "run", "a"))
    assert [row["policy/lag_max"] for row in rows] == [0, 1, 0, 1, 2]
    training.engine.prove()


@pytest.mark.engine
def test_no_response_is_trained_on_beyond_its_age(make_training, tmp_path):
    ages, dropped = [], 0.0
    for limit in (1, 4):
        training = make_training(max_staleness=limit)
        rows, _ = drive(training, Run(tmp_path / str(limit), "a"))
        assert rows[0]["rollout/staleness_mean"] == 0
        ages.append(max(row["rollout/staleness_mean"] for row in rows))
        dropped = dropped or sum(row["rollout/stale_dropped"] for row in rows)
    assert ages[0] == 1, "collected one step ahead, and nothing left over from before"
    assert dropped > 0
    assert ages[1] > 1, "this run has groups left over, so the first one's limit did something"


@pytest.mark.parametrize("engine_name", ["transformers", "auto"])
def test_async_is_refused_where_engine_and_trainer_share_the_model(
    write_recipe, capsys, engine_name
):
    recipe = write_recipe(rollout={"engine": engine_name, "mode": "async"})
    if engine_name == "auto":  # a method that vLLM cannot serve
        text = recipe.read_text().replace('method = "lora"', 'method = "prompt_tuning"')
        recipe.write_text(text.replace("rank = 4\n", ""))
    assert main(["train", str(recipe)]) == 2
    assert 'set it to "sync"' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize(("method", "ahead"), [("lora", 1), ("full", 1), ("lora", 2)])
def test_the_command_stopped_by_a_signal_resumes_bit_for_bit(
    write_recipe, rlvr_command, tmp_path, method, ahead
):
    import os

    from tests.rlvr.training.test_train import start, wait_for_step

    runs = []
    for name in ("whole", "stopped"):
        recipe = write_recipe(
            rollout={"engine": "vllm", "mode": "async", "steps_ahead": ahead},
            train={"steps": 6, "checkpoint_every": 2},
            run={"name": name},
        )
        if method == "full":
            text = recipe.read_text().replace('method = "lora"', 'method = "full"')
            recipe.write_text(text.replace("rank = 4\n", ""))
        run = tmp_path / "runs" / name
        runs.append(run)
        if name == "whole":
            assert rlvr_command("train", recipe).returncode == 0
            continue
        process = start(recipe)
        wait_for_step(run, 2)
        os.kill(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=HANG_S)
        assert process.returncode == 128 + signal.SIGTERM, output
        assert rlvr_command("train", "--resume", run).returncode == 0
    assert steady_metrics(runs[0]) == steady_metrics(runs[1])
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    files = [run / "checkpoints" / "step_6" / name for run in runs]
    assert files[0].read_bytes() == files[1].read_bytes()
