"""The gradients of whole updates against plain transformers in float64 and the papers' formulas.

Behaviour policy: the engine. Proximal: the trainer at the start of the step. Current: the trainer
now. The oracle below has its own table of presets and shares no code with the project.
"""

import copy
import math
from dataclasses import dataclass, replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.config.presets import PRESETS
from rlvr.policy.policy import load_policy
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.update import update
from tests.rlvr.cases import make_groups, make_recipe, model_folder

TEMPERATURE, MAX_RESPONSE_LEN, STEP = 0.8, 12, 5
LR, TIGHT_LR = 0.05, 5e-4
"""Of plain gradient descent; TIGHT_LR leaves a part of the rows inside GSPO's range."""
AGGREGATIONS = ("token_mean", "response_mean", "response_sum", "constant")
PAPERS = {
    "grpo": ("group_std", "token", "ppo", 0.2, 0.2, "response_mean", (0.04, "k3", "loss")),
    "dapo": ("group_std", "token", "ppo", 0.2, 0.28, "token_mean", None),
    "dr_grpo": ("group_mean", "token", "ppo", 0.2, 0.2, "constant", None),
    "bnpo": ("group_std", "token", "ppo", 0.2, 0.2, "token_mean", None),
    "rloo": ("leave_one_out", "product", "ppo", 0.2, 0.2, "response_mean", (0.05, "k1", "reward")),
    "reinforce_pp": ("batch", "token", "ppo", 0.2, 0.2, "token_mean", (0.01, "k1", "reward")),
    "gspo": ("group_std", "mean", "ppo", 3e-4, 4e-4, "response_mean", None),
    "gspo_token": ("group_std", "mean_token", "ppo", 3e-4, 4e-4, "response_mean", None),
    "cispo": ("group_std", "token", "cispo", 1.0, 4.0, "token_mean", None),
    "gmpo": ("group_std", "token", "geometric", 0.4, 0.4, "response_mean", None),
    "sapo": ("group_std", "token", "soft", 0, 0, "response_mean", None),
    "gpg": ("informative", "token", "none", 0, 0, "token_mean", None),
    "opo": ("length_weighted", "token", "none", 0, 0, "response_sum", None),
    "maxrl": ("over_mean", "token", "ppo", 0.2, 0.2, "token_mean", None),
    "dppo_tv": ("group_mean", "token", "tv", 0.15, 0.15, "constant", None),
    "dppo_kl": ("group_mean", "token", "kl", 0.05, 0.05, "constant", None),
}
"""Preset: advantage, level of the ratio, clip rule, its bounds, denominator, KL."""


@dataclass
class Answer:
    """A response as the oracle sees it. bad: its tokens without an engine log-probability."""

    group: int
    prompt: list[int]
    tokens: list[int]
    engine: list[float]
    reward: float
    stale: bool
    bad: frozenset[int]


def logprobs(model, answers):
    """Per answer the log-probabilities of its tokens, from one right-padded forward pass."""
    longest = max(len(a.prompt) + len(a.tokens) for a in answers)
    ids = torch.zeros(len(answers), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, a in enumerate(answers):
        line = [*a.prompt, *a.tokens]
        ids[i, : len(line)], mask[i, : len(line)] = torch.tensor(line), 1
    scores = (model(ids, attention_mask=mask).logits / TEMPERATURE).log_softmax(-1)
    return [
        scores[i, len(a.prompt) - 1 : len(a.prompt) + len(a.tokens) - 1][
            torch.arange(len(a.tokens)), torch.tensor(a.tokens)
        ]
        for i, a in enumerate(answers)
    ]


def advantages(kind, answers, rewards):
    everything = torch.tensor(rewards, dtype=torch.float64)
    found = []
    members = {a.group: [j for j, b in enumerate(answers) if b.group == a.group] for a in answers}
    informative = sum(len({rewards[j] for j in js}) > 1 for js in members.values())
    for i, a in enumerate(answers):
        mine, r = everything[members[a.group]], everything[i]
        lengths = torch.tensor([len(answers[j].tokens) for j in members[a.group]])
        others = mine.sum() - r
        found.append(
            {
                "group_std": (r - mine.mean()) / (mine.std() + 1e-4),
                "group_mean": r - mine.mean(),
                "leave_one_out": r - others / (len(mine) - 1),
                "length_weighted": r - (mine * lengths).sum() / lengths.sum(),
                "batch": (r - everything.mean()) / (everything.std() + 1e-4),
                "informative": (r - mine.mean()) * len(members) / informative,
                "over_mean": (r - mine.mean()) / mine.mean() if mine.any() else 0 * r,
            }[kind]
        )
    return found


def kl_estimate(kind, logp, ref):
    d = logp - ref
    return {"k1": d, "k2": d**2 / 2, "k3": (-d).exp() + d - 1}[kind]


def row_loss(now, proximal, engine, ref, advantage, kl, settings):
    """[tokens] loss of one response, before its weight; all its tokens count."""
    _, level, clip, low, high, _, _ = settings["paper"]
    mismatch, mismatch_level = settings["mismatch"]
    log_ratio = now - proximal
    mean = log_ratio.mean()
    r = {
        "token": log_ratio,
        "mean": mean.expand_as(now),
        "mean_token": mean.detach() + now - now.detach(),
        "product": log_ratio.sum().expand_as(now),
    }[level].exp()
    a, bounded = advantage, r.clamp(1 - low, 1 + high)
    cut = log_ratio.clamp(max=high) if a > 0 else log_ratio.clamp(min=-low)
    tau = 1.0 if a > 0 else 1.05
    p, q = (x.detach().clamp(max=-1e-6).exp() for x in (now, engine))
    divergence = {"kl": q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()}.get(
        clip, (now.detach().exp() - engine.exp()).abs()
    )
    too_far = (divergence > (high if a > 0 else low)) & ((p > q) if a > 0 else (p < q))
    within = torch.where(too_far, 0.0, r.detach() * a * now)
    gain = {
        "tv": within,
        "kl": within,
        "ppo": torch.minimum(r * a, bounded * a),
        "cispo": bounded.detach() * a * now,
        "soft": 4 / tau * torch.sigmoid(tau * (r - 1)) * a,
        "geometric": cut.mean().exp().expand_as(now) * a,
        "none": r.detach() * a * now,
    }[clip]
    q = (proximal - engine).exp()
    if mismatch_level == "sequence":
        q = (proximal - engine).sum().exp().expand_as(now)
    weight = {
        "tis": q.clamp(max=2),
        "mask": torch.where((q >= 0.5) & (q <= 2), q, 0.0),
        "none": torch.ones_like(q),
    }[mismatch]
    loss = -gain * weight
    if kl and kl[2] == "loss":
        loss = loss + kl[0] * kl_estimate(kl[1], now, ref)
    return loss


def rate(preset):
    return TIGHT_LR if preset.startswith("gspo") else LR


def oracle(answers, settings, num_updates):
    """[gradient by name] of every update, by plain gradient descent from the moved policy."""
    model, reference = (start_model(moved).double() for moved in (True, False))
    advantage_of, _, _, _, _, aggregation, kl = settings["paper"]
    with torch.no_grad():
        start, ref = logprobs(model, answers), logprobs(reference, answers)
    rewards = [a.reward for a in answers]
    if kl and kl[2] == "reward":
        rewards = [
            x - kl[0] * float(kl_estimate(kl[1], p, q).sum())
            for x, p, q in zip(rewards, start, ref, strict=True)
        ]
    values, found = advantages(advantage_of, answers, rewards), []
    for part in range(num_updates):
        chosen = [i for i, a in enumerate(answers) if a.group % num_updates == part]
        kept = {
            i: torch.tensor([t for t in range(len(start[i])) if t not in answers[i].bad])
            for i in chosen
        }
        now = logprobs(model, [answers[i] for i in chosen])
        total = 0.0
        for i, logp in zip(chosen, now, strict=True):
            if not len(kept[i]):
                continue
            engine = torch.tensor(answers[i].engine, dtype=torch.float64)[kept[i]]
            by_engine = settings["mismatch"][0] == "none" and answers[i].stale
            proximal = engine if by_engine else start[i][kept[i]]
            loss = row_loss(
                logp[kept[i]], proximal, engine, ref[i][kept[i]], values[i], kl, settings
            )
            denominator = {
                "token_mean": sum(map(len, kept.values())),
                "response_mean": len(chosen) * len(kept[i]),
                "response_sum": len(chosen),
                "constant": len(chosen) * MAX_RESPONSE_LEN,
            }[settings.get("aggregation", aggregation)]
            total = total + loss.sum() / denominator
        model.zero_grad()
        total.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
        with torch.no_grad():
            for p in model.parameters():
                p -= settings.get("lr", LR) * p.grad
    return found


def start_model(moved):
    """The policy's model as it is in its folder, or moved away from that by fixed noise."""
    model = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32)
    if moved:
        draw = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for p in model.parameters():
                p += 0.03 * torch.randn(p.shape, generator=draw)
    return model.eval()


@pytest.fixture(scope="module")
def start():
    """(policy, its weights as moved)."""
    recipe = make_recipe(algorithm={"preset": "grpo"})
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=True)
    return policy, copy.deepcopy(start_model(moved=True).state_dict())


def updates(start, groups, algorithm, num_updates, **sections):
    """([gradient by name] of every update, metrics) from the project's whole update."""
    policy, weights = start
    policy.model.load_state_dict(weights)
    recipe = make_recipe(
        algorithm=algorithm,
        optim={"updates_per_step": num_updates, "max_grad_norm": 1e9},
        rollout={"temperature": TEMPERATURE},
        **({"train": {"steps": 1, "tokens_per_microbatch": 40}} | sections),
    )
    optimizer, found = torch.optim.SGD(policy.trainable, lr=rate(algorithm["preset"])), []
    names = {p: name for name, p in policy.model.named_parameters()}
    optimizer.register_step_pre_hook(
        lambda *_: found.append(
            {name: p.grad.clone() for p, name in names.items() if p.grad is not None}
        )
    )
    batch = make_batch(groups, policy, UpdateConfig.of(recipe))
    entropy = EntropyControl(recipe.algorithm)
    return found, update(policy, optimizer, batch, UpdateConfig.of(recipe), STEP, entropy).metrics


def rollouts(age, bad_at=()):
    """Groups with engine log-probabilities some way off the policy's, some or all of them stale.

    bad_at: (group, response, token, what the engine gives for its log-probability).
    """
    stale = {"fresh": (), "stale": (0, 1, 2), "mixed": (0, 1)}[age]
    groups = [
        replace(group, policy_version=STEP - 2 if i in stale else STEP)
        for i, group in enumerate(make_groups())
    ]
    answers = [
        Answer(i, g.prompt_ids, r.token_ids, r.logprobs, x, i in stale, frozenset())
        for i, g in enumerate(groups)
        for r, x in zip(g.responses, g.rewards, strict=True)
    ]
    model = start_model(moved=True)
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        scores = [
            (x + 0.25 * torch.randn(x.shape, generator=draw)).tolist()
            for x in logprobs(model, answers)
        ]
    for i, g in enumerate(groups):
        responses = [
            replace(r, logprobs=list(scores[4 * i + j])) for j, r in enumerate(g.responses)
        ]
        groups[i] = replace(g, responses=responses)
    for i, j, t, bad in bad_at:
        groups[i].responses[j].logprobs[t] = bad
    for k, answer in enumerate(answers):
        at = (k // 4, k % 4)
        length = len(answer.tokens)
        answer.bad = frozenset(t % length for *where, t, _ in bad_at if tuple(where) == at)
        answer.engine = [0.0 if t in answer.bad else x for t, x in enumerate(scores[k])]
    return groups, answers


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        scale = sum(float(g.square().sum()) for g in theirs.values()) ** 0.5
        far = sum(
            float((ours.get(name, torch.zeros_like(g)).double() - g).square().sum())
            for name, g in theirs.items()
        )
        assert scale > 1e-5
        assert far**0.5 <= 1e-4 * scale


def test_the_oracle_knows_every_preset():
    assert PAPERS.keys() == PRESETS.keys()


@pytest.mark.parametrize("preset", PAPERS)
def test_both_updates_of_a_step_have_the_gradients_of_the_papers(preset, start):
    """Some rows fresh, some sampled by older weights."""
    groups, answers = rollouts("mixed")
    found, _ = updates(start, groups, {"preset": preset}, 2)
    settings = {"paper": PAPERS[preset], "mismatch": ("tis", "token"), "lr": rate(preset)}
    expected = oracle(answers, settings, 2)
    assert_equal(found, expected)


MISMATCHES = [("tis", "sequence"), ("mask", "token"), ("mask", "sequence"), ("none", "token")]


@pytest.mark.parametrize("num_updates", [1, 2])
@pytest.mark.parametrize("mismatch", MISMATCHES, ids="-".join)
def test_the_mismatch_weight_acts_on_stale_rows_and_in_every_update(mismatch, num_updates, start):
    groups, answers = rollouts("mixed")
    level = {} if mismatch[0] == "none" else {"mismatch_level": mismatch[1]}
    section = {"preset": "dapo", "mismatch": mismatch[0]} | level
    found, _ = updates(start, groups, section, num_updates)
    expected = oracle(answers, {"paper": PAPERS["dapo"], "mismatch": mismatch}, num_updates)
    assert_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("num_updates", [1, 2])
@pytest.mark.parametrize("age", ["fresh", "stale"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("preset", PAPERS)
def test_every_preset_aggregation_and_age_has_the_gradients_of_the_papers(
    preset, aggregation, age, num_updates, start
):
    groups, answers = rollouts(age)
    section = {"preset": preset, "aggregation": aggregation}
    found, _ = updates(start, groups, section, num_updates)
    settings = {
        "paper": PAPERS[preset],
        "mismatch": ("tis", "token"),
        "aggregation": aggregation,
        "lr": rate(preset),
    }
    assert_equal(found, oracle(answers, settings, num_updates))


BAD = [math.nan, math.inf, -math.inf, -9999.0]
BAD_AT = [(0, 0, 0), (0, 1, 5), (0, 2, 0), (1, 3, -1), (2, 1, 2), (2, 1, 3)]
"""At the start, inside, at the end, two in one response, and the only token of one."""


def check_dropped(preset, bad_at, start):
    groups, answers = rollouts("mixed", bad_at)
    found, metrics = updates(start, groups, {"preset": preset}, 2)
    settings = {"paper": PAPERS[preset], "mismatch": ("tis", "token"), "lr": rate(preset)}
    expected = oracle(answers, settings, 2)
    assert_equal(found, expected)
    assert metrics["policy/dropped_tokens"] == len(bad_at)
    assert metrics["optim/skipped"] == 0
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("preset", PAPERS)
def test_a_token_without_an_engine_logprob_leaves_the_loss_and_its_denominator(preset, start):
    """It leaves its response's sum and length too, and stays in the context of later tokens."""
    turn = list(PAPERS).index(preset)
    check_dropped(preset, [(*at, BAD[(turn + i) % 4]) for i, at in enumerate(BAD_AT)], start)


@pytest.mark.slow
@pytest.mark.parametrize("at", BAD_AT, ids=str)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("preset", PAPERS)
def test_one_token_without_an_engine_logprob_leaves_from_any_place(preset, bad, at, start):
    check_dropped(preset, [(*at, bad)], start)
