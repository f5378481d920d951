"""Rollouts one step ahead with the real vLLM: they overlap, they age, and they survive a stop."""

import signal
import threading
import time

import pytest

import rlvr.common.signals
import rlvr.training.loop
from rewards import Verifier
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.cli import main
from rlvr.common.signals import Stopped
from rlvr.config.train import AdapterConfig
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.engines.vllm_local import VllmEngine
from rlvr.engines.weights.sync import Syncer, choose_mode
from rlvr.policy.policy import load_policy
from rlvr.runs.checkpoint import load_checkpoint
from rlvr.sampling.sampler import Sampler
from rlvr.training.build import Session
from rlvr.training.loop import Run, one_step
from rlvr.training.resume import save
from tests.rlvr.small import steady, steady_metrics
from tests.waiting import HANG_S


@pytest.fixture(scope="module")
def engine(make_recipe):
    recipe = make_recipe(rollout={"engine": "vllm"})
    engine = VllmEngine(recipe.model, recipe.rollout, recipe.model.path, max_lora_rank=None)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def verifier():
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        yield verifier


@pytest.fixture
def make_session(make_recipe, engine, verifier):
    """A session on the shared engine, which starts from the base policy."""

    def make(method: str = "lora", **rollout) -> Session:
        recipe = make_recipe(
            rollout={"engine": "vllm", "mode": "async"} | rollout,
            train={"steps": 5},
            track={"rollouts_per_step": 0},
        )
        path = recipe.model.path
        whole = load_policy(recipe.model, AdapterConfig(method="full"), path, 0, False)
        engine.load_weights(whole.engine_weights())
        if method == "full":
            recipe = recipe.model_copy(update={"adapter": AdapterConfig(method="full")})
        policy = load_policy(recipe.model, recipe.adapter, path, 0, keep_reference=False)
        problems = load_problems(recipe.data)
        data, prompts = encode_prompts(problems, policy.tokenizer, recipe.data, 100)
        session = Session(
            recipe,
            policy,
            policy.method.optimizer(policy.model, policy.adapter, recipe.optim),
            EntropyControl(recipe.algorithm),
            engine,
            Syncer(recipe.rollout, policy, engine, choose_mode(recipe.rollout, policy), prompts),
            verifier,
            Sampler(recipe, data.problems, prompts, policy.tokenizer.decode),
            data,
            None,
        )
        session.syncer.sync()
        return session

    return make


def drive(session: Session, run: Run, stop_in_update_of: int | None = None):
    """(metrics of every step, the sampler's state to save), as the command's loop does it."""

    def safe_point() -> None:
        if run.next_step == stop_in_update_of:
            raise Stopped(signal.SIGTERM)

    run.folder.mkdir(exist_ok=True)
    rows = []
    while run.next_step < session.recipe.train.steps:
        state = session.sampler.state()
        try:
            metrics = one_step(session, run, safe_point)
        except Stopped:
            return rows, state
        rows.append(steady(metrics))
        run.next_step += 1
    return rows, session.sampler.state()


@pytest.mark.engine
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_stopped_with_rollouts_in_flight_resumes_bit_for_bit(make_session, method, tmp_path):
    whole = make_session(method)
    expected, end = drive(whole, Run(tmp_path / "whole", "a"))
    first, run = make_session(method), Run(tmp_path / "stopped", "b")
    rows, state = drive(first, run, stop_in_update_of=2)
    assert len(rows) == 2
    assert state["ahead"]["groups"], "the groups of the stopped step are in the checkpoint"
    run.boundary, run.unlogged = state, None
    folder = save(first, run)
    second = make_session(method)
    saved = load_checkpoint(folder, second.policy, second.optimizer)
    second.sampler.load_state(saved["sampler"])
    second.syncer.sync()
    later, again = drive(second, Run(run.folder, "b", saved["step"]))
    assert rows + later == expected
    assert again == end
    for ours, theirs in zip(second.policy.trainable, whole.policy.trainable, strict=True):
        assert (ours == theirs).all()


@pytest.mark.engine
def test_generation_of_the_next_step_starts_before_the_update_ends(
    make_session, engine, monkeypatch, tmp_path
):
    session, events, begun = make_session(), [], threading.Event()
    stream, update, sync = engine.stream, rlvr.training.loop.update, session.syncer.sync

    def watched(name, function):
        def call(*args):
            events.append(f"{name} starts")
            result = function(*args)
            if name == "update":  # the thread that generates may get no core before
                begun.wait(HANG_S)
            events.append(f"{name} ends")
            return result

        return call

    def watched_stream(*args):
        events.append("generation starts")
        begun.set()
        yield from stream(*args)
        events.append("generation ends")

    monkeypatch.setattr(engine, "stream", watched_stream)
    monkeypatch.setattr(rlvr.training.loop, "update", watched("update", update))
    monkeypatch.setattr(session.syncer, "sync", watched("sync", sync))
    run = Run(tmp_path, "a", 0)
    one_step(session, run, lambda: None)
    run.next_step = 1
    begun.clear()
    events.clear()
    one_step(session, run, lambda: None)
    names = [*events]
    assert names.index("generation starts") < names.index("update ends")
    last = len(names) - 1 - names[::-1].index("generation ends")
    assert last < names.index("sync starts"), "the engine is idle when its weights change"


@pytest.mark.engine
def test_groups_that_take_long_after_a_signal_are_dropped_and_sampled_anew(
    make_session, engine, monkeypatch, tmp_path
):
    expected = make_session(mode="sync")
    one_step(expected, Run(tmp_path, "b"), lambda: None)
    session, run, stream = make_session(), Run(tmp_path, "a"), engine.stream

    def slow_ahead(*args):
        for finished in stream(*args):
            time.sleep(0 if threading.current_thread() is threading.main_thread() else 0.5)
            yield finished

    def safe_point() -> None:
        if run.unlogged is not None:
            raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(rlvr.common.signals, "GRACE_S", 0.5)
    with monkeypatch.context() as slowly:
        slowly.setattr(engine, "stream", slow_ahead)
        with pytest.raises(Stopped):
            one_step(session, run, safe_point)
    assert run.unlogged["step"] == 1, "it has trained"
    assert session.sampler.state() == expected.sampler.state(), "as if nothing had been collected"
    run.next_step, run.unlogged = 1, None
    session.syncer.sync()
    assert one_step(session, run, lambda: None)["rollout/staleness_mean"] == 0


@pytest.mark.engine
def test_no_response_is_trained_on_beyond_its_age(make_session, tmp_path):
    ages, dropped = [], 0.0
    for limit in (1, 4):
        session = make_session(max_staleness=limit)
        rows, _ = drive(session, Run(tmp_path / str(limit), "a"))
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
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_command_stopped_by_a_signal_resumes_bit_for_bit(
    write_recipe, rlvr_command, tmp_path, method
):
    import os

    from tests.rlvr.training.test_train import start, wait_for_step

    runs = []
    for name in ("whole", "stopped"):
        recipe = write_recipe(
            rollout={"engine": "vllm", "mode": "async"},
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
