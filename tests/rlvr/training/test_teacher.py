"""Distillation on policy: gradients, refusals, resume, ranks' shares, and a teacher on a server."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rlvr.adapters import METHODS
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.algorithm.loss import TokenBatch, policy_loss
from rlvr.algorithm.surrogate import RowLayout
from rlvr.common.errors import ConfigError, RunError
from rlvr.config.algorithm import AlgorithmConfig
from rlvr.config.toml import dump_toml, load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.policy.policy import load_policy
from rlvr.training import loop as train
from rlvr.training.batch import UpdateConfig, make_batch, score_by_teacher
from rlvr.training.preflight import check_reachable
from rlvr.training.rows import make_rows
from rlvr.training.teacher import ServerTeacher, check_vocabulary, load_teacher
from rlvr.training.update import update
from tests.rlvr.adapters.trained import drawn_group, make
from tests.rlvr.algorithm.test_loss import categoricals
from tests.rlvr.cases import make_groups, make_recipe, model_folder
from tests.rlvr.engines.serving import KEY, ServerProcess, free_port
from tests.rlvr.small import steady_metrics
from tests.rlvr.training.test_three_policies import (
    LR,
    PAPERS,
    STEP,
    TEMPERATURE,
    advantages,
    assert_equal,
    logprobs,
    rollouts,
    start_model,
)

QUIET = Console(quiet=True)


def save_teacher(folder: Path, std: float = 0.05, source: Path | None = None) -> Path:
    """A model of the policy's tokenizer with weights some way off; std: of the noise."""
    source = source or model_folder()
    model, draw = AutoModelForCausalLM.from_pretrained(source), torch.Generator().manual_seed(11)
    with torch.no_grad():
        for p in model.parameters():
            p += std * torch.randn(p.shape, generator=draw)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory) -> Path:
    return save_teacher(tmp_path_factory.mktemp("teacher"))


DRAWN = ["by_itself", "by_the_engine", "in_a_later_update", "in_a_later_update_by_the_engine"]


@pytest.mark.parametrize("rewarded", [False, True])
@pytest.mark.parametrize("drawn", DRAWN)
def test_the_expected_gradient_is_that_of_the_reverse_kl(drawn, rewarded):
    """Over a whole vocabulary, each token weighted by the probability that it is drawn."""
    scores, (logp, proximal, engine, teacher) = categoricals()
    first, by_engine = not drawn.startswith("in_a_later"), drawn.endswith("engine")
    rewards = torch.tensor([0.3, -1.0, 2.0, 0.1, 0.7], dtype=torch.float64) * rewarded
    probs = logp.exp()
    objective = (probs * rewards).sum() - 0.7 * (probs * (logp - teacher)).sum()
    exact = torch.autograd.grad(objective, scores, retain_graph=True)[0]
    start = logp.detach() if first else proximal
    sampled = engine if by_engine else start
    batch = TokenBatch(
        sampled,
        None,
        rewards,
        sampled.exp(),
        torch.full((5,), first),
        RowLayout.of(torch.tensor([1] * 5)),
        proximal_T=proximal,
        teacher_T=teacher,
        teacher_weight=0.7,
    )
    config = AlgorithmConfig(clip="none", mismatch="tis", mismatch_cap=1e6)
    loss, sums = policy_loss(logp, torch.zeros_like(logp), batch, config)
    torch.testing.assert_close(torch.autograd.grad(-loss, scores)[0], exact)
    assert float(sums["kl_teacher"]) == pytest.approx(float((logp - teacher).sum().detach()))


def settings(teacher: Path, num_updates: int = 1, weight: float = 0.5, **algorithm) -> TrainRecipe:
    return make_recipe(
        algorithm={"preset": "dapo"} | algorithm,
        teacher={"path": str(teacher), "weight": weight},
        optim={"updates_per_step": num_updates, "max_grad_norm": 1e9},
        rollout={"temperature": TEMPERATURE},
        train={"steps": 1, "tokens_per_microbatch": 40},
    )


def updates(recipe, groups):
    """([gradient by name] of every update, metrics) of the project, from moved weights."""
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    policy.model.load_state_dict(start_model(moved=True).state_dict())
    optimizer, found = torch.optim.SGD(policy.trainable, lr=LR), []
    named = dict(policy.model.named_parameters())
    optimizer.register_step_pre_hook(
        lambda *_: found.append({n: p.grad.clone() for n, p in named.items() if p.grad is not None})
    )
    config, teacher = UpdateConfig.of(recipe), load_teacher(recipe, policy)
    batch = make_batch(groups, policy, config, teacher)
    entropy = EntropyControl(recipe.algorithm)
    return found, update(policy, optimizer, batch, config, STEP, entropy).metrics


def oracle(answers, recipe, paper):
    """The same by plain transformers in float64. paper: a row of PAPERS with a token's ratio."""
    advantage_of, _, clip, low, high, aggregation, _ = paper
    model = start_model(moved=True).double()
    teacher = AutoModelForCausalLM.from_pretrained(recipe.teacher.path).double().eval()
    with torch.no_grad():
        start, taught = logprobs(model, answers), logprobs(teacher, answers)
    values = [0.0] * len(answers)
    if recipe.algorithm.advantage != "none":
        values = advantages(advantage_of, answers, [a.reward for a in answers])
    found, num_updates, seen = [], recipe.optim.updates_per_step, []
    for part in range(num_updates):
        chosen = [i for i, a in enumerate(answers) if a.group % num_updates == part]
        sizes, total = [len(start[i]) for i in chosen], 0.0
        for i, now in zip(chosen, logprobs(model, [answers[i] for i in chosen]), strict=True):
            gap = taught[i] - now.detach()
            seen += (-gap).tolist()
            a, r = values[i] + recipe.teacher.weight * gap, (now - start[i]).exp()
            bounded = r.clamp(1 - low, 1 + high)
            gain = {
                "ppo": torch.minimum(r * a, bounded * a),
                "cispo": bounded.detach() * a * now,
            }[clip]
            engine = torch.tensor(answers[i].engine, dtype=torch.float64)
            weighed = gain * (start[i] - engine).exp().clamp(max=2)
            denominator = {
                "token_mean": sum(sizes),
                "response_mean": len(chosen) * len(now),
            }[aggregation]
            total = total - weighed.sum() / denominator
        model.zero_grad()
        total.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
        with torch.no_grad():
            for p in model.parameters():
                p -= LR * p.grad
    return found, sum(seen) / len(seen)


CASES = {"dapo": {}, "cispo": {"preset": "cispo"}, "alone": {"advantage": "none"}}


@pytest.mark.parametrize("num_updates", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_whole_updates_have_the_gradients_of_two_plain_models(case, num_updates, teacher_folder):
    groups, answers = rollouts("mixed")
    recipe = settings(teacher_folder, num_updates, **CASES[case])
    found, metrics = updates(recipe, groups)
    paper = PAPERS["cispo" if case == "cispo" else "dapo"]
    expected, kl = oracle(answers, recipe, paper)
    assert_equal(found, expected)
    assert metrics["policy/kl_teacher"] == pytest.approx(kl, rel=1e-4)


def test_a_policy_that_is_its_teacher_has_nothing_to_learn(tmp_path):
    start_model(moved=True).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(model_folder()).save_pretrained(tmp_path)
    groups, _ = rollouts("fresh")
    ((gradient,), metrics) = updates(settings(tmp_path, advantage="none"), groups)
    assert max(float(g.abs().max()) for g in gradient.values()) < 1e-6
    assert metrics["policy/kl_teacher"] == pytest.approx(0, abs=1e-6)


def test_groups_whose_rewards_are_all_equal_train_under_a_teacher(teacher_folder):
    groups = [replace(group, rewards=[1.0] * 4) for group in make_groups()]
    recipe = settings(teacher_folder)
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    config = UpdateConfig.of(recipe)
    batch = make_batch(groups, policy, config, load_teacher(recipe, policy))
    assert len(make_rows(batch, config, 0)) == 12
    assert len(make_rows(replace(batch, teachers_PGT=None), config, 0)) == 0


def test_covariances_are_taken_with_the_advantage_of_the_token(teacher_folder):
    """With equal rewards those of the responses are 0 and no token would be chosen by them."""
    groups = [replace(group, rewards=[1.0] * 4) for group in make_groups()]
    recipe = settings(teacher_folder, cov="clip", cov_frac=0.2, cov_range=(0.01, 50.0))
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    config = UpdateConfig.of(recipe)
    batch = make_batch(groups, policy, config, load_teacher(recipe, policy))
    rows = make_rows(batch, config, 0)
    assert sum(int((~row.selected.kept).sum()) for row in rows) > 0


REFUSED = [
    ({"algorithm": {"advantage": "none"}}, r'advantage = "none": trains nothing without a teacher'),
    ({"teacher": {"weight": 2.0}}, r"teacher\.weight = 2\.0: would be ignored without teacher\.pa"),
    ({"teacher": {"path": "a", "servers": ["http://h:1"]}}, r"teacher\.path: give one of"),
    ({"teacher": {"path": "a"}, "algorithm": {"preset": "gspo"}}, r'ratio = "sequence": one ratio'),
    ({"teacher": {"path": "a"}, "algorithm": {"preset": "rloo"}}, r'ratio = "trajectory": one ra'),
    ({"teacher": {"path": "a"}, "algorithm": {"preset": "gmpo"}}, r'clip = "geometric": one gain'),
    ({"teacher": {"path": "a", "weight": 0}}, r"teacher\.weight = 0"),
    ({"teacher": {"path": "a", "kind": "forward_kl"}}, r"teacher\.kind"),
    (
        {"teacher": {"servers": ["http://h:1"]}, "rollout": {"temperature": 0.8}},
        r"rollout\.temperature = 0\.8: vLLM scores prompts at temperature 1",
    ),
    (
        {
            "teacher": {"servers": ["http://h:1"]},
            "rollout": {"engine": "vllm_server", "servers": ["http://h:1"]},
        },
        r"teacher\.servers: http://h:1 is among rollout\.servers",
    ),
    (
        {
            "teacher": {"path": "a"},
            "algorithm": {"advantage": "none", "kl_beta": 0.1, "kl_in": "reward"},
        },
        r'algorithm\.kl_in = "reward": would be ignored',
    ),
    (
        {
            "teacher": {"path": "a"},
            "algorithm": {"advantage": "none"},
            "sampling": {"dynamic": True},
        },
        r"sampling\.dynamic = true: drops the groups",
    ),
]


@pytest.mark.parametrize(("sections", "message"), REFUSED)
def test_a_recipe_that_cannot_distil_is_refused(sections, message):
    with pytest.raises(ConfigError, match=message):
        make_recipe(**sections)


def test_a_recipe_without_a_teacher_has_none_and_one_alone_keeps_every_group(teacher_folder):
    assert not make_recipe().teacher.is_given
    assert not settings(teacher_folder, advantage="none").sampling.dynamic
    make_recipe(teacher={"path": "a"}, algorithm={"preset": "gspo_token"})


def test_another_token_at_one_id_or_one_token_more_is_refused():
    words = AutoTokenizer.from_pretrained(model_folder())
    check_vocabulary("teacher.path", "x", words, AutoTokenizer.from_pretrained(model_folder()))
    tree = json.loads((model_folder() / "tokenizer.json").read_text())
    vocab = tree["model"]["vocab"]
    vocab["w5"], vocab["w6"] = vocab["w6"], vocab["w5"]
    from tokenizers import Tokenizer

    swapped = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(tree)))
    message = r"teacher\.path: the tokenizer of x is another: token 5 is 'w6', for the policy 'w5'"
    with pytest.raises(ConfigError, match=message):
        check_vocabulary("teacher.path", "x", words, swapped)
    more = AutoTokenizer.from_pretrained(model_folder())
    more.add_tokens(["<tool>"])
    new = more.convert_tokens_to_ids("<tool>")
    with pytest.raises(ConfigError, match=rf"token {new} is '<tool>', for the policy None"):
        check_vocabulary("teacher.path", "x", words, more)


@pytest.mark.parametrize(("size", "refused"), [(16, True), (40, False)])
def test_a_larger_embedding_is_padding_and_a_smaller_one_is_refused(size, refused, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(model_folder())
    model.resize_token_embeddings(size)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(model_folder()).save_pretrained(tmp_path)
    recipe = settings(tmp_path)
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    if not refused:
        assert load_teacher(recipe, policy) is not None
        return
    with pytest.raises(ConfigError, match="knows 16 token ids, of which the policy may sample 24"):
        load_teacher(recipe, policy)


def test_a_teacher_that_is_not_there_is_refused_by_its_own_setting():
    recipe = settings(Path("/nowhere/at/all"))
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    with pytest.raises(ConfigError, match=r"^teacher\.path = '/nowhere/at/all': no model can be"):
        load_teacher(recipe, policy)


def test_a_server_that_does_not_answer_is_refused():
    recipe = make_recipe(teacher={"servers": [f"http://127.0.0.1:{free_port()}"]})
    with pytest.raises(ConfigError, match=r"teacher\.servers: .* does not answer .*; start it"):
        check_reachable(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_an_update_by_a_teacher_alone(
    method, make_recipe, tiny_policy, tmp_path
):
    folder = save_teacher(tmp_path, 0.1, tiny_policy)
    trained = make(make_recipe, method)
    teacher = trained.recipe.teacher.model_copy(update={"path": str(folder)})
    algorithm = trained.recipe.algorithm.model_copy(update={"advantage": "none"})
    recipe = trained.recipe.model_copy(update={"teacher": teacher, "algorithm": algorithm})
    policy, config = trained.policy, UpdateConfig.of(recipe)
    before = [p.detach().clone() for p in policy.trainable]
    groups = [drawn_group(policy, 0, i) for i in range(2)]
    batch = make_batch(groups, policy, config, load_teacher(recipe, policy))
    entropy = EntropyControl(recipe.algorithm)
    metrics = update(policy, trained.optimizer, batch, config, 0, entropy).metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["policy/kl_teacher"] != 0
    assert any(not torch.equal(p, old) for p, old in zip(policy.trainable, before, strict=True))


@pytest.mark.slow
def test_an_adapters_folder_is_a_teacher_on_its_base(make_recipe, tiny_policy, tmp_path):
    trained = make(make_recipe, "lora")
    trained.train(2)
    trained.policy.save(tmp_path)
    path = {"path": str(tmp_path)}
    recipe = trained.recipe.model_copy(
        update={"teacher": trained.recipe.teacher.model_copy(update=path)}
    )
    config, groups = UpdateConfig.of(recipe), [drawn_group(trained.policy, 0, 0)]
    teacher = load_teacher(recipe, trained.policy)
    ((scores, *_),) = score_by_teacher(groups, trained.policy, config, teacher)
    assert scores == pytest.approx(groups[0].responses[0].logprobs, abs=1e-5)


@pytest.mark.slow
def test_a_resumed_run_repeats_the_whole_one_and_another_teacher_is_refused(
    write_recipe, tiny_policy, tmp_path
):
    folder = save_teacher(tmp_path / "teacher", 0.1, tiny_policy)
    path = write_recipe(
        teacher={"path": str(folder)},
        algorithm={"advantage": "none"},
        train={"steps": 3, "checkpoint_every": 1, "keep_checkpoints": 3},
    )
    whole = train.train(load_recipe(path, [], TrainRecipe), path, QUIET)
    facts = json.loads((whole / "manifest.json").read_text())["teacher"]
    assert (facts["path"], len(facts["weights"])) == (str(folder), 16)
    assert not list((whole / "checkpoints").rglob("teacher*"))
    again = shutil.copytree(whole, tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / "step_3")
    train.resume(again, QUIET)
    assert steady_metrics(again) == steady_metrics(whole)
    assert all(row["policy/kl_teacher"] for row in steady_metrics(whole))
    ours, theirs = (
        load_file(run / "checkpoints" / "step_3" / "adapter_model.safetensors")
        for run in (again, whole)
    )
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    save_teacher(folder, 0.2, tiny_policy)
    shutil.rmtree(again / "checkpoints" / "step_3")
    with pytest.raises(ConfigError, match=r"its weights have changed since the run began"):
        train.resume(again, QUIET)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.process
def test_a_teacher_behind_rlvr_serve_scores_as_the_local_one(
    make_recipe, tiny_policy, tmp_path, monkeypatch
):
    monkeypatch.setenv("RLVR_API_KEY", KEY)
    folder = save_teacher(tmp_path / "teacher", 0.1, tiny_policy)
    served = tmp_path / "served.toml"
    served.write_text(
        dump_toml(make_recipe(model={"path": str(folder)}, rollout={"engine": "auto"}))
    )
    server = ServerProcess(served, tmp_path / "log", VLLM_SERVER_DEV_MODE="1")
    server.start()
    try:
        server.wait()
        local = make_recipe(model={"max_len": 128}, teacher={"path": str(folder)})
        remote = make_recipe(model={"max_len": 128}, teacher={"servers": [server.url]})
        check_reachable(remote)
        too_long = make_recipe(teacher={"servers": [server.url]})
        with pytest.raises(
            ConfigError, match=r"max_len = 160: .* start it with --max-model-len 16"
        ):
            check_reachable(too_long)
        trained = make(make_recipe, "lora")
        groups = [drawn_group(trained.policy, 0, i) for i in range(2)]
        found = []
        for recipe in (local, remote):
            teacher = load_teacher(recipe, trained.policy)
            found.append(make_batch(groups, trained.policy, UpdateConfig.of(recipe), teacher))
        assert isinstance(teacher, ServerTeacher)
        assert teacher.facts() == {"servers": [server.url], "model": str(folder)}
        ours, theirs = (torch.tensor(_flat(batch.teachers_PGT)) for batch in found)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
        with pytest.raises(ConfigError, match="is another: token"):
            load_teacher(remote, load_policy_of_words())
    finally:
        server.kill()
    with pytest.raises(RunError, match=r"teacher\.servers: one of .* is lost"):
        make_batch(groups, trained.policy, UpdateConfig.of(remote), teacher)


def _flat(scores_PGT):
    return [x for of_G in scores_PGT for of_T in of_G for x in of_T]


def load_policy_of_words():
    """A policy of another tokenizer."""
    recipe = settings(model_folder())
    return load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
