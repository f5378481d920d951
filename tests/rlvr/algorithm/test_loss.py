"""The loss against a slow reference that loops over rows and tokens, hand tables, invariances."""

import math
import random
from dataclasses import replace

import pytest
import torch

from rlvr.algorithm.loss import TokenBatch, kl_penalty, mismatch_weights, policy_loss, row_weights
from rlvr.algorithm.surrogate import RowLayout, surrogate
from rlvr.common.errors import ConfigError
from rlvr.config.algorithm import AlgorithmConfig
from rlvr.config.presets import PRESETS
from tests.rlvr.cases import make_recipe

LENGTHS = [1, 4, 7, 2, 5]


def rows_of_numbers(seed=0, lengths=LENGTHS):
    """(log-probabilities, engine's, reference's, advantages) row by row, as plain lists."""
    draw = random.Random(seed)
    logp = [[draw.uniform(-3, -0.1) for _ in range(n)] for n in lengths]
    engine = [[x + draw.gauss(0, 0.4) for x in row] for row in logp]
    ref = [[x + draw.gauss(0, 0.5) for x in row] for row in logp]
    return logp, engine, ref, [draw.choice([-1.3, -0.4, 0.7, 1.1]) for _ in lengths]


def proximal_of(numbers, seed=1):
    """The trainer's log-probabilities at the start of the step, row by row."""
    draw = random.Random(seed)
    return [[x + draw.gauss(0, 0.3) for x in row] for row in numbers[0]]


def make_batch(numbers, chosen, weights, on_policy, entropy_weight=0.0, proximal=None, stale=None):
    """(leaf log-probabilities, TokenBatch) of the chosen rows in float64."""
    logp, engine, ref, advantage = numbers

    def joined(rows):
        return torch.tensor([x for i in chosen for x in rows[i]], dtype=torch.float64)

    def spread(values):
        return [value for i in chosen for value in [values[i]] * len(logp[i])]

    batch = TokenBatch(
        engine_T=joined(engine),
        ref_T=joined(ref),
        advantage_T=torch.tensor(spread(advantage), dtype=torch.float64),
        weight_T=torch.tensor(spread(weights), dtype=torch.float64),
        on_policy_T=torch.tensor(spread(on_policy)),
        layout=RowLayout.of(torch.tensor([len(logp[i]) for i in chosen])),
        entropy_weight=entropy_weight,
        proximal_T=None if proximal is None else joined(proximal),
        stale_T=None if stale is None else torch.tensor(spread(stale)),
    )
    return joined(logp).requires_grad_(), batch


def loss_and_gradient(numbers, config, on_policy, split=None, lengths=LENGTHS, **rows):
    """Loss summed over the micro-batches in `split`, and the gradient by row."""
    everything = list(range(len(lengths)))
    weights = row_weights(lengths, config.aggregation, max_response_len=10)
    total, gradients = 0.0, {}
    for chosen in split or [everything]:
        logp_T, batch = make_batch(numbers, chosen, weights, on_policy, **rows)
        loss, _ = policy_loss(logp_T, torch.zeros_like(logp_T), batch, config)
        loss.backward()
        total += float(loss.detach())
        pieces = logp_T.grad.split([lengths[i] for i in chosen])
        gradients |= {i: piece.tolist() for i, piece in zip(chosen, pieces, strict=True)}
    return total, [x for i in everything for x in gradients[i]]


def slow_gain(t, row, log_ratio, engine, a, config):
    """What the clip rule makes of token t of a row; engine: the row's, by the engine."""
    n, mean = len(row), sum(log_ratio) / len(row)
    level = {
        "token": log_ratio,
        "sequence": [mean] * n,
        "sequence_token": [mean.detach() + x - x.detach() for x in row],
        "trajectory": [sum(log_ratio)] * n,
    }[config.ratio]
    high, low, r = config.clip_high, config.clip_low, torch.exp(level[t])
    bounded = torch.clamp(r, 1 - low, 1 + high)
    match config.clip:
        case "ppo":
            gain = torch.minimum(r * a, bounded * a)
            lowest = None if config.clip_delta is None or a >= 0 else config.clip_delta * a
            return gain if lowest is None else gain.clamp(min=lowest)
        case "cispo":
            return bounded.detach() * a * row[t]
        case "soft":
            tau = config.soft_tau_pos if a > 0 else config.soft_tau_neg
            return 4 / tau / (1 + torch.exp(-tau * (r - 1))) * a
        case "geometric":
            cut = [lr.clamp(max=high) if a > 0 else lr.clamp(min=-low) for lr in log_ratio]
            return torch.exp(sum(cut) / n) * a
        case "none":
            return r.detach() * a * row[t]
    now, then = math.exp(float(row[t].detach())), math.exp(engine[t])
    distance = abs(now - then)
    if config.clip == "binary_kl":
        now, then = (min(x, math.exp(-1e-6)) for x in (now, then))
        others = (1 - then) * math.log((1 - then) / (1 - now))
        distance = then * math.log(then / now) + others
    away = (now > then) if a > 0 else (now < then)
    cut_off = away and distance > (high if a > 0 else low)
    return 0 * row[t] if cut_off else r.detach() * a * row[t]


def slow_mismatch(t, row, old, engine, a, config):
    """The factor of token t: mismatch weight and masks. old: the row's, by the proximal policy."""
    n, between = len(row), [o - e for o, e in zip(old, engine, strict=True)]
    q, cap = math.exp(between[t]), config.mismatch_cap
    if config.mismatch_level == "sequence":
        q = math.prod(map(math.exp, between))
    factor = {
        "none": 1.0,
        "tis": min(q, cap),
        "mask": q if 1 / cap <= q <= cap else 0.0,
    }[config.mismatch]
    if config.geometric_mask is not None:
        low_mean, high_mean = config.geometric_mask
        factor *= low_mean <= math.exp(sum(between) / n) <= high_mean
    if config.off_policy_mask is not None and a < 0:
        drift = sum(e - float(x.detach()) for e, x in zip(engine, row, strict=True)) / n
        factor *= drift <= config.off_policy_mask
    return factor


def slow_kl(x, sampled, ref, config):
    """The KL term of a token; sampled: by the policy that sampled it."""
    d, moved = x - ref, torch.exp(x - sampled)
    kl = {"k1": d, "k2": d**2 / 2, "k3": torch.exp(-d) + d - 1}[config.kl_estimator]
    if config.kl_estimator == "k2":
        return kl * moved.detach()
    return kl * moved if config.kl_unbiased else kl


def slow_loss(logp, old, engine, ref, advantage, config, stale):
    """The same loss from the papers' formulas, one row at a time; logp: list of 0-d tensors.

    old: by the proximal policy. stale: per row, whether an older policy sampled it.
    """
    total, num_tokens = 0.0, sum(map(len, logp))
    for i, row in enumerate(logp):
        log_ratio = [x - o for x, o in zip(row, old[i], strict=True)]
        denominator = {
            "token_mean": num_tokens,
            "response_mean": len(row) * len(logp),
            "response_sum": len(logp),
            "constant": 10 * len(logp),
        }[config.aggregation]
        for t in range(len(row)):
            gain = slow_gain(t, row, log_ratio, engine[i], advantage[i], config)
            loss = -gain * slow_mismatch(t, row, old[i], engine[i], advantage[i], config)
            if config.kl_beta and config.kl_in == "loss":
                sampled = engine[i][t] if stale[i] else old[i][t]
                loss = loss + config.kl_beta * slow_kl(row[t], sampled, ref[i][t], config)
            total = total + loss / denominator
    return total


VARIANTS = [
    *({"preset": name} for name in PRESETS),
    {"preset": "dapo", "clip_delta": 1.4},
    {"preset": "dapo", "geometric_mask": (0.9, 1.1)},
    {"preset": "grpo", "off_policy_mask": 0.01},
    {"preset": "gspo", "geometric_mask": (0.8, 1.3), "off_policy_mask": 0.01},
    {"preset": "grpo", "kl_estimator": "k1"},
    {"preset": "grpo", "kl_estimator": "k2"},
    {"preset": "grpo", "kl_unbiased": True},
    {"preset": "dapo", "mismatch": "none"},
    {"preset": "dapo", "mismatch": "mask", "mismatch_cap": 1.3},
    {"preset": "dapo", "mismatch": "tis", "mismatch_level": "sequence"},
    {"preset": "dapo", "mismatch": "mask", "mismatch_level": "sequence"},
    {"preset": "gspo", "clip_low": 0.1, "clip_high": 0.1, "aggregation": "token_mean"},
    {"preset": "cispo", "ratio": "sequence", "aggregation": "constant"},
    {"preset": "dapo", "clip": "binary_tv", "clip_low": 0.01, "clip_high": 0.02},
    {"preset": "dapo", "clip": "binary_kl", "clip_low": 0.01, "clip_high": 0.005},
]


def title(variant):
    return "-".join(str(value) for value in variant.values())


KINDS = ["first_update", "later_update", "first_update_stale", "later_update_stale", "two_policies"]
"""Which weights train a row: those of the step's start or moved ones; whether these or older ones
sampled it; two_policies: the engine's probabilities are the proximal ones."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS, ids=title)
def test_loss_and_gradient_equal_the_slow_reference(variant, kind):
    config = AlgorithmConfig(**variant)
    # these have rows of either sign on either side of the mask
    seed = 3 if "off_policy_mask" in variant else 0
    logp, engine, ref, advantage = numbers = rows_of_numbers(seed)
    leaves = [
        [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in row] for row in logp
    ]
    first, stale = kind.startswith("first"), [kind.endswith("stale")] * 5
    proximal = proximal_of(numbers)
    old = logp if first else engine if kind == "two_policies" else proximal
    slow = slow_loss(leaves, old, engine, ref, advantage, config, stale)
    slow.backward()
    given = {} if kind == "two_policies" else {"proximal": proximal, "stale": stale}
    fast, gradient = loss_and_gradient(numbers, config, [first] * 5, **given)
    assert fast == pytest.approx(float(slow.detach()), abs=1e-12)
    assert gradient == pytest.approx([float(x.grad) for row in leaves for x in row], abs=1e-12)


@pytest.mark.parametrize("variant", VARIANTS, ids=title)
def test_any_split_into_micro_batches_gives_the_same_loss_and_gradient(variant):
    config, numbers = AlgorithmConfig(**variant), rows_of_numbers()
    on_policy = [True, False, True, False, True]
    rows = {"proximal": proximal_of(numbers), "stale": [True, True, False, False, False]}
    whole = loss_and_gradient(numbers, config, on_policy, **rows)
    split = loss_and_gradient(numbers, config, on_policy, [[3, 0], [2], [4, 1]], **rows)
    assert split[0] == pytest.approx(whole[0], abs=1e-12)
    assert split[1] == pytest.approx(whole[1], abs=1e-12)


ONE_TOKEN = [
    # clip, old probability, new probability, advantage, gain, gradient of the gain to log pi
    ("ppo", 0.5, 0.55, 1.0, 1.1, 1.1),
    ("ppo", 0.5, 0.7, 1.0, 1.28, 0.0),
    ("ppo", 0.5, 0.3, 1.0, 0.6, 0.6),
    ("ppo", 0.5, 0.3, -1.0, -0.8, 0.0),
    ("ppo", 0.5, 0.7, -1.0, -1.4, -1.4),
    ("ppo", 0.1, 0.9, -1.0, -3.0, 0.0),  # dual clip at 3
    ("cispo", 0.5, 0.7, 1.0, 1.28 * math.log(0.7), 1.28),
    ("cispo", 0.5, 0.3, -1.0, -0.8 * math.log(0.3), -0.8),
    ("soft", 0.5, 0.5, 1.0, 2.0, 1.0),
    ("soft", 0.5, 0.5, -1.0, -2 / 1.05, -1.0),
    ("geometric", 0.5, 0.9, 1.0, math.exp(0.28), 0.0),
    ("geometric", 0.5, 0.55, -1.0, -1.1, -1.1),
    ("none", 0.5, 0.7, 1.0, 1.4 * math.log(0.7), 1.4),
    # a ratio of 100 from 1e-5 to 1e-3 moves little, one of 0.8 from 0.99 much
    ("binary_tv", 1e-5, 1e-3, 1.0, 100 * math.log(1e-3), 100.0),
    ("binary_tv", 0.99, 0.75, -1.0, 0.0, 0.0),
    ("binary_tv", 0.99, 0.75, 1.0, 0.75 / 0.99 * math.log(0.75), 0.75 / 0.99),
    ("binary_tv", 0.5, 0.79, 1.0, 0.0, 0.0),
    ("binary_kl", 0.5, 0.9, 1.0, 0.0, 0.0),  # 0.51 nats
    ("binary_kl", 0.5, 0.8, 1.0, 1.6 * math.log(0.8), 1.6),  # 0.22 nats
    ("binary_kl", 0.5, 0.2, -1.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("clip", "old", "new", "advantage", "gain", "slope"), ONE_TOKEN)
def test_one_token_by_hand(clip, old, new, advantage, gain, slope):
    delta = 3.0 if clip == "ppo" else None
    config = AlgorithmConfig(clip=clip, clip_low=0.2, clip_high=0.28, clip_delta=delta)
    logp_T = torch.tensor([math.log(new)], dtype=torch.float64, requires_grad=True)
    old_T = torch.tensor([math.log(old)], dtype=torch.float64)
    a_T = torch.tensor([advantage], dtype=torch.float64)
    gain_T, clipped_T = surrogate(logp_T, old_T, a_T, RowLayout.of(torch.tensor([1])), config)
    gain_T.sum().backward()
    assert float(gain_T.detach()) == pytest.approx(gain)
    assert float(logp_T.grad) == pytest.approx(slope)
    if clip in ("ppo", "geometric"):
        assert bool(clipped_T) == (slope == 0.0)


def test_weights_of_each_aggregation_by_hand():
    assert row_weights([2, 3, 0], "token_mean", 10) == [1 / 5] * 3
    assert row_weights([2, 4], "response_mean", 10) == [1 / 4, 1 / 8]
    assert row_weights([2, 4], "response_sum", 10) == [1 / 2, 1 / 2]
    assert row_weights([2, 4], "constant", 10) == [1 / 20, 1 / 20]


def test_kl_estimators_by_hand():
    logp, ref = torch.tensor([math.log(0.4)]), torch.tensor([math.log(0.2)])
    assert float(kl_penalty(logp, ref, "k1")) == pytest.approx(math.log(2))
    assert float(kl_penalty(logp, ref, "k2")) == pytest.approx(math.log(2) ** 2 / 2)
    assert float(kl_penalty(logp, ref, "k3")) == pytest.approx(0.5 + math.log(2) - 1)


def categoricals():
    """(scores of the policy with a gradient, log-probabilities of five tokens: policy, proximal,
    engine, reference), all of them different."""
    draw = torch.Generator().manual_seed(4)
    scores = torch.randn(5, dtype=torch.float64, generator=draw).requires_grad_()
    others = [torch.randn(5, dtype=torch.float64, generator=draw).log_softmax(0) for _ in range(3)]
    return scores, [scores.log_softmax(0), *others]


def expected_loss(logp, sampled, batch, config):
    """The expectation of the loss of one token drawn from `sampled`, by enumeration."""
    loss, _ = policy_loss(logp, torch.zeros_like(logp), batch(sampled.exp().detach()), config)
    return loss


DRAWN_FROM = ["itself", "proximal", "older_weights", "older_weights_and_moved"]


@pytest.mark.parametrize("drawn_from", DRAWN_FROM)
@pytest.mark.parametrize(
    ("estimator", "unbiased"), [("k1", True), ("k2", False), ("k3", True)], ids=str
)
def test_the_expected_gradient_of_the_kl_term_is_the_gradient_of_the_kl(
    estimator, unbiased, drawn_from
):
    """Over a whole vocabulary, each token weighted by the probability that it is drawn."""
    scores, (logp, proximal, engine, reference) = categoricals()
    exact = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), scores, retain_graph=True)
    config = AlgorithmConfig(kl_beta=1.0, kl_estimator=estimator, kl_unbiased=unbiased)
    first, stale = drawn_from in ("itself", "older_weights"), drawn_from.startswith("older")
    sampled = engine if stale else logp.detach() if first else proximal
    zeros = torch.zeros_like(engine)
    rows = RowLayout.of(torch.tensor([1] * 5))

    def batch(probs):
        flags = (zeros == 0) & first, (zeros == 0) & stale
        return TokenBatch(
            engine, reference, zeros, probs, flags[0], rows, proximal_T=proximal, stale_T=flags[1]
        )

    loss = expected_loss(logp, sampled, batch, config)
    torch.testing.assert_close(torch.autograd.grad(loss, scores)[0], exact[0])


@pytest.mark.parametrize("first", [True, False], ids=["first_update", "later_update"])
def test_ratio_and_mismatch_weight_together_give_the_policy_gradient_of_any_engine(first):
    """With no clip and a cap that nothing reaches, tokens drawn from the engine."""
    scores, (logp, proximal, engine, _) = categoricals()
    rewards = torch.tensor([0.3, -1.0, 2.0, 0.1, 0.7], dtype=torch.float64)
    exact = torch.autograd.grad((logp.exp() * rewards).sum(), scores, retain_graph=True)[0]
    config = AlgorithmConfig(clip="none", mismatch="tis", mismatch_cap=1e6)
    rows = RowLayout.of(torch.tensor([1] * 5))

    def batch(probs):
        same = torch.full((5,), first)
        return TokenBatch(engine, None, rewards, probs, same, rows, proximal_T=proximal)

    loss = expected_loss(logp, engine, batch, config)
    torch.testing.assert_close(torch.autograd.grad(-loss, scores)[0], exact)


ABSURD = [0.0, -50.0, -900.0, 40.0, 600.0]


@pytest.mark.parametrize("variant", VARIANTS, ids=title)
@pytest.mark.parametrize("absurd", ABSURD)
def test_no_finite_engine_logprob_makes_loss_or_gradient_infinite(variant, absurd):
    config = AlgorithmConfig(**variant)
    numbers = rows_of_numbers()
    for row in numbers[1]:
        row[-1] = absurd
    for on_policy in (True, False):
        weights = row_weights(LENGTHS, config.aggregation, 10)
        logp_T, batch = make_batch(numbers, range(5), weights, [on_policy] * 5)
        logp_T = logp_T.detach().float().requires_grad_()
        loss, sums = policy_loss(logp_T, torch.zeros_like(logp_T), in_float32(batch), config)
        loss.backward()
        assert all(value.isfinite() for value in (loss, *sums.values()))
        assert logp_T.grad.isfinite().all()


def in_float32(batch):
    tensors = {
        name: value.float()
        for name, value in vars(batch).items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    return replace(batch, **tensors)


def test_mismatch_weights_by_hand():
    logp = torch.log(torch.tensor([0.5, 0.5, 0.5, 0.5]))
    engine = torch.log(torch.tensor([0.4, 0.2, 1.25, 0.2]))
    ones = torch.ones(4)
    on_policy = torch.tensor([True, True, True, False])
    batch = TokenBatch(engine, None, ones, ones, on_policy, RowLayout.of(torch.tensor([1, 2, 1])))

    def weights(**settings):
        return mismatch_weights(logp, batch, AlgorithmConfig(**settings)).tolist()

    assert weights(mismatch="tis") == pytest.approx([1.25, 2.0, 0.4, 1.0])
    assert weights(mismatch="mask") == pytest.approx([1.25, 0.0, 0.0, 1.0])
    assert weights(mismatch="mask", mismatch_level="sequence") == pytest.approx([1.25, 1, 1, 1])
    assert weights(mismatch="none") == [1.0] * 4


def test_the_entropy_bonus_is_subtracted_with_its_weight():
    numbers, config = rows_of_numbers(), AlgorithmConfig()
    weights = row_weights(LENGTHS, config.aggregation, 10)
    logp_T, plain = make_batch(numbers, range(5), weights, [True] * 5)
    _, bonus = make_batch(numbers, range(5), weights, [True] * 5, entropy_weight=0.25)
    entropy_T = torch.full_like(logp_T, 2.0)
    without, with_bonus = (policy_loss(logp_T, entropy_T, b, config)[0] for b in (plain, bonus))
    assert float(without - with_bonus) == pytest.approx(0.25 * 2.0 * sum(LENGTHS))


REFUSED = [
    ({"preset": "gmpo", "ratio": "sequence"}, 'algorithm.ratio = "sequence"'),
    ({"preset": "cispo", "clip_delta": 6.0}, "algorithm.clip_delta = 6.0"),
    ({"clip_delta": 1.2}, "must lie above 1 + clip_high = 1.28"),
    ({"preset": "grpo", "kl_estimator": "k1", "kl_unbiased": False}, "algorithm.kl_unbiased"),
    ({"preset": "rloo", "kl_unbiased": True}, "algorithm.kl_unbiased = true"),
    ({"preset": "grpo", "kl_estimator": "k2", "kl_unbiased": True}, "algorithm.kl_unbiased = true"),
    ({"reference": "ema"}, 'algorithm.reference = "ema"'),
    ({"entropy_coef": 2.0, "entropy_target": 0.3}, "algorithm.entropy_coef = 2.0"),
    ({"advantage": "pass_at_k", "pass_k": 4}, "algorithm.pass_k = 4: a group of"),
    ({"cov": "kl"}, 'algorithm.cov = "kl": in the first update'),
    ({"cov": "clip", "cov_range": (5, 1)}, "[5.0, 1.0] is no range"),
    ({"preset": "maxrl", "kl_beta": 0.1, "kl_in": "reward"}, 'algorithm.advantage = "over_mean"'),
]


@pytest.mark.parametrize(("section", "message"), REFUSED)
def test_parts_that_do_not_fit_are_refused_in_one_line(section, message):
    with pytest.raises(ConfigError) as error:
        make_recipe(algorithm=section)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "reward",
    [
        {"incorrect": -1.0},
        {"correct": 2.0},
        {"length_weight": 0.1},
        {"overlong": "penalty", "overlong_cache_len": 4},
        {"normalise": True},
    ],
    ids=str,
)
def test_over_mean_takes_rewards_of_0_and_1_only(reward):
    make_recipe(algorithm={"preset": "maxrl"})
    with pytest.raises(ConfigError, match="over_mean"):
        make_recipe(algorithm={"preset": "maxrl"}, reward=reward)


def test_a_part_given_beside_a_preset_wins():
    config = AlgorithmConfig.model_validate({"preset": "gspo", "advantage": "group_mean"})
    assert (config.advantage, config.ratio, config.clip_low) == ("group_mean", "sequence", 3e-4)
