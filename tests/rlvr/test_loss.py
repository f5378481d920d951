"""The loss against a slow reference that loops over rows and tokens, hand tables, invariances."""

import math
import random

import pytest
import torch

from rlvr.config import AlgorithmConfig
from rlvr.loss import TokenBatch, kl_penalty, mismatch_weights, policy_loss, row_weights
from rlvr.presets import PRESETS
from rlvr.recipe import ConfigError
from rlvr.surrogate import Rows, surrogate
from tests.rlvr.cases import make_recipe

LENGTHS = [1, 4, 7, 2, 5]


def rows_of_numbers(seed=0, lengths=LENGTHS):
    """(log-probabilities, engine's, reference's, advantages) row by row, as plain lists."""
    draw = random.Random(seed)
    logp = [[draw.uniform(-3, -0.1) for _ in range(n)] for n in lengths]
    engine = [[x + draw.gauss(0, 0.4) for x in row] for row in logp]
    ref = [[x + draw.gauss(0, 0.5) for x in row] for row in logp]
    return logp, engine, ref, [draw.choice([-1.3, -0.4, 0.7, 1.1]) for _ in lengths]


def make_batch(numbers, chosen, weights, on_policy, entropy_weight=0.0):
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
        rows=Rows.of(torch.tensor([len(logp[i]) for i in chosen])),
        entropy_weight=entropy_weight,
    )
    return joined(logp).requires_grad_(), batch


def loss_and_gradient(numbers, config, on_policy, split=None, lengths=LENGTHS):
    """Loss summed over the micro-batches in `split`, and the gradient by row."""
    everything = list(range(len(lengths)))
    weights = row_weights(lengths, config.aggregation, max_response_len=10)
    total, gradients = 0.0, {}
    for chosen in split or [everything]:
        logp_T, batch = make_batch(numbers, chosen, weights, on_policy)
        loss, _ = policy_loss(logp_T, torch.zeros_like(logp_T), batch, config)
        loss.backward()
        total += float(loss.detach())
        pieces = logp_T.grad.split([lengths[i] for i in chosen])
        gradients |= {i: piece.tolist() for i, piece in zip(chosen, pieces, strict=True)}
    return total, [x for i in everything for x in gradients[i]]


def slow_loss(logp, old, engine, ref, advantage, config, on_policy):
    """The same loss from the papers' formulas, one row at a time; logp: list of 0-d tensors."""
    total, num_tokens = 0.0, sum(map(len, logp))
    for i, row in enumerate(logp):
        n, a = len(row), advantage[i]
        log_ratio = [x - o for x, o in zip(row, old[i], strict=True)]
        mean = sum(log_ratio) / n
        level = {
            "token": log_ratio,
            "sequence": [mean] * n,
            "sequence_token": [mean.detach() + x - x.detach() for x in row],
            "trajectory": [sum(log_ratio)] * n,
        }[config.ratio]
        high, low = config.clip_high, config.clip_low
        cut = [lr.clamp(max=high) if a > 0 else lr.clamp(min=-low) for lr in log_ratio]
        geometric = torch.exp(sum(cut) / n) * a
        quotients = [math.exp(float(x) - e) for x, e in zip(row, engine[i], strict=True)]
        if config.mismatch_level == "sequence":
            quotients = [math.prod(quotients)] * n
        for t in range(n):
            r = torch.exp(level[t])
            bounded = torch.clamp(r, 1 - low, 1 + high)
            match config.clip:
                case "ppo":
                    gain = torch.minimum(r * a, bounded * a)
                    if config.clip_delta is not None and a < 0:
                        gain = gain.clamp(min=config.clip_delta * a)
                case "cispo":
                    gain = bounded.detach() * a * row[t]
                case "soft":
                    tau = config.soft_tau_pos if a > 0 else config.soft_tau_neg
                    gain = 4 / tau / (1 + torch.exp(-tau * (r - 1))) * a
                case "geometric":
                    gain = geometric
                case "none":
                    gain = r.detach() * a * row[t]
            q, cap = quotients[t], config.mismatch_cap
            weight = {
                "none": 1.0,
                "tis": min(q, cap),
                "mask": q if 1 / cap <= q <= cap else 0.0,
            }[config.mismatch]
            loss = -gain * (weight if on_policy[i] else 1.0)
            if config.kl_beta and config.kl_in == "loss":
                d = row[t] - ref[i][t]
                kl = {"k1": d, "k2": d**2 / 2, "k3": torch.exp(-d) + d - 1}[config.kl_estimator]
                loss = loss + config.kl_beta * kl * (
                    torch.exp(log_ratio[t]) if config.kl_unbiased else 1
                )
            total = (
                total
                + loss
                / {
                    "token_mean": num_tokens,
                    "response_mean": n * len(logp),
                    "response_sum": len(logp),
                    "constant": 10 * len(logp),
                }[config.aggregation]
            )
    return total


VARIANTS = [
    *({"preset": name} for name in PRESETS),
    {"preset": "dapo", "clip_delta": 1.4},
    {"preset": "grpo", "kl_estimator": "k1"},
    {"preset": "grpo", "kl_estimator": "k2"},
    {"preset": "grpo", "kl_unbiased": True},
    {"preset": "dapo", "mismatch": "none"},
    {"preset": "dapo", "mismatch": "mask", "mismatch_cap": 1.3},
    {"preset": "dapo", "mismatch": "tis", "mismatch_level": "sequence"},
    {"preset": "dapo", "mismatch": "mask", "mismatch_level": "sequence"},
    {"preset": "gspo", "clip_low": 0.1, "clip_high": 0.1, "aggregation": "token_mean"},
    {"preset": "cispo", "ratio": "sequence", "aggregation": "constant"},
]


def title(variant):
    return "-".join(str(value) for value in variant.values())


@pytest.mark.parametrize("on_policy", [True, False], ids=["on_policy", "off_policy"])
@pytest.mark.parametrize("variant", VARIANTS, ids=title)
def test_loss_and_gradient_equal_the_slow_reference(variant, on_policy):
    config = AlgorithmConfig(**variant)
    logp, engine, ref, advantage = numbers = rows_of_numbers()
    leaves = [
        [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in row] for row in logp
    ]
    old = logp if on_policy else engine
    slow = slow_loss(leaves, old, engine, ref, advantage, config, [on_policy] * 5)
    slow.backward()
    fast, gradient = loss_and_gradient(numbers, config, [on_policy] * 5)
    assert fast == pytest.approx(float(slow.detach()), abs=1e-12)
    assert gradient == pytest.approx([float(x.grad) for row in leaves for x in row], abs=1e-12)


@pytest.mark.parametrize("variant", VARIANTS, ids=title)
def test_any_split_into_micro_batches_gives_the_same_loss_and_gradient(variant):
    config, numbers = AlgorithmConfig(**variant), rows_of_numbers()
    on_policy = [True, False, True, False, True]
    whole = loss_and_gradient(numbers, config, on_policy)
    split = loss_and_gradient(numbers, config, on_policy, [[3, 0], [2], [4, 1]])
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
]


@pytest.mark.parametrize(("clip", "old", "new", "advantage", "gain", "slope"), ONE_TOKEN)
def test_one_token_by_hand(clip, old, new, advantage, gain, slope):
    delta = 3.0 if clip == "ppo" else None
    config = AlgorithmConfig(clip=clip, clip_low=0.2, clip_high=0.28, clip_delta=delta)
    logp_T = torch.tensor([math.log(new)], dtype=torch.float64, requires_grad=True)
    old_T = torch.tensor([math.log(old)], dtype=torch.float64)
    a_T = torch.tensor([advantage], dtype=torch.float64)
    gain_T, clipped_T = surrogate(logp_T, old_T, a_T, Rows.of(torch.tensor([1])), config)
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


@pytest.mark.parametrize(
    ("estimator", "unbiased"), [("k1", True), ("k2", False), ("k3", True)], ids=str
)
def test_the_expected_gradient_of_the_kl_term_is_the_gradient_of_the_kl(estimator, unbiased):
    """Over a whole vocabulary, every token weighted by its own probability; k2 needs no factor."""
    scores = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.0, 0.4, -0.2, 1.0], dtype=torch.float64).log_softmax(0)
    logp = scores.log_softmax(0)
    exact = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), scores, retain_graph=True)
    config = AlgorithmConfig(
        kl_beta=1.0, kl_estimator=estimator, kl_unbiased=unbiased, mismatch="none"
    )
    weight = logp.detach().exp()
    zeros = torch.zeros_like(weight)
    batch = TokenBatch(
        logp.detach(), reference, zeros, weight, zeros == 0, Rows.of(torch.tensor([1] * 4))
    )
    loss, _ = policy_loss(logp, zeros, batch, config)
    torch.testing.assert_close(torch.autograd.grad(loss, scores)[0], exact[0])


def test_mismatch_weights_by_hand():
    logp = torch.log(torch.tensor([0.5, 0.5, 0.5, 0.5]))
    engine = torch.log(torch.tensor([0.4, 0.2, 1.25, 0.2]))
    ones = torch.ones(4)
    on_policy = torch.tensor([True, True, True, False])
    batch = TokenBatch(engine, None, ones, ones, on_policy, Rows.of(torch.tensor([1, 2, 1])))

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
    ({"reference": "ema"}, 'algorithm.reference = "ema"'),
    ({"entropy_coef": 2.0, "entropy_target": 0.3}, "algorithm.entropy_coef = 2.0"),
]


@pytest.mark.parametrize(("section", "message"), REFUSED)
def test_parts_that_do_not_fit_are_refused_in_one_line(section, message):
    with pytest.raises(ConfigError) as error:
        make_recipe(algorithm=section)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_part_given_beside_a_preset_wins():
    config = AlgorithmConfig.model_validate({"preset": "gspo", "advantage": "group_mean"})
    assert (config.advantage, config.ratio, config.clip_low) == ("group_mean", "sequence", 3e-4)
