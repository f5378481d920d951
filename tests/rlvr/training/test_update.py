"""What the update computes and what it leaves alone."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rlvr.adapters.optimizers import build_optimizer
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.common.errors import ConfigError
from rlvr.policy.flops import ModelDims, Work
from rlvr.policy.packing import TokenRow
from rlvr.policy.policy import load_policy
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.preflight import check
from rlvr.training.rows import make_rows, micro_batches
from rlvr.training.update import accumulate, update
from rlvr.training.update_stats import SUMS
from tests.rlvr.cases import make_groups, make_recipe

LORA = {"method": "lora", "rank": 4}


def load(**sections):
    recipe = make_recipe(**({"algorithm": {"preset": "dapo"}} | sections))
    return recipe, load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, False)


def gradients(recipe, policy, max_tokens=40):
    """Gradient by name of one step on the made-up groups, in micro-batches."""
    with torch.no_grad():  # adapters start at zero, where half of the gradients vanish
        for i, p in enumerate(policy.trainable):
            p.normal_(std=0.2, generator=torch.Generator().manual_seed(i))
    config = UpdateConfig.of(recipe)
    rows = make_rows(make_batch(make_groups(), policy, config), config, step=0)
    sums = dict.fromkeys(SUMS, 0.0)
    policy.model.zero_grad()
    for part in micro_batches(policy, rows, max_tokens):
        accumulate(policy, part, config, 0.0, sums)
    return {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}


def run(recipe, policy, groups):
    optimizer = build_optimizer(policy.trainable, recipe.optim)
    batch = make_batch(groups, policy, UpdateConfig.of(recipe))
    control = EntropyControl(recipe.algorithm)
    return update(policy, optimizer, batch, UpdateConfig.of(recipe), 0, control)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("adapter", [LORA, {"method": "full"}], ids=["lora", "full"])
def test_the_gradient_does_not_depend_on_the_split_into_micro_batches(adapter):
    recipe, policy = load(adapter=adapter)
    whole = gradients(recipe, policy, 10_000)
    for max_tokens in (1, 17, 40):
        assert_same(gradients(recipe, policy, max_tokens), whole)


def test_frozen_weights_get_no_gradient():
    recipe, policy = load(adapter=LORA)
    names = gradients(recipe, policy).keys()
    assert names == {n for n, p in policy.model.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in names)


def test_groups_without_an_advantage_are_never_forwarded():
    recipe, policy = load()
    seen = []
    embeddings = policy.causal_lm.get_input_embeddings()
    embeddings.register_forward_pre_hook(lambda _module, args: seen.append(args[0].numel()))
    first, second, third = make_groups()
    run(recipe, policy, [first, replace(second, rewards=[1.0] * 4), third])
    expected = sum(
        len(group.prompt_ids) + sum(len(r.token_ids) - 1 for r in group.responses)
        for group in (first, third)
    )
    assert sum(seen) == expected


def test_the_operations_of_an_update_are_those_that_torch_counts_while_it_runs():
    recipe, policy = load(train={"tokens_per_microbatch": 10_000})  # one line: prompts once
    with FlopCounterMode(display=False) as counter:
        stats = run(recipe, policy, make_groups())
    rows = [TokenRow(g.prompt_ids, r.token_ids) for g in make_groups() for r in g.responses]
    work, dims = Work.of(rows), ModelDims.of(policy.causal_lm.config)
    # torch has no count for the CPU's attention kernel and for products added in place ...
    attention = 12 * dims.num_layers * dims.query_width * work.pairs
    head_gradient = 2 * dims.head_weights * work.responses
    # ... and counts what an update need not do: a trained head's logits again, positions' angles
    again, angles = 2 * dims.head_weights * work.responses, work.tokens * 8
    assert counter.get_total_flops() == stats.flops - attention - head_gradient + again + angles


@pytest.mark.parametrize("num_updates", [1, 2, 3])
def test_only_rows_of_later_updates_are_scored_first_and_in_the_micro_batches_that_train_them(
    num_updates,
):
    """In 16 bits a token's probability depends on what stands beside it."""
    recipe, policy = load(
        optim={"updates_per_step": num_updates}, train={"tokens_per_microbatch": 25}
    )
    lines = []
    embeddings = policy.causal_lm.get_input_embeddings()
    embeddings.register_forward_pre_hook(lambda _module, args: lines.append(args[0].tolist()))
    run(recipe, policy, make_groups())
    trained = num_lines(num_updates)
    num_later = sum(trained[1:])
    assert len(lines) == num_later + sum(trained)
    assert lines[:num_later] == lines[num_later + trained[0] :]


def num_lines(num_updates):
    """Forward passes of each update: the groups dealt out in turn, in lines of 25 tokens."""
    found = []
    for part in range(num_updates):
        num, room = 0, 0
        for group in make_groups()[part::num_updates]:
            for i, response in enumerate(group.responses):
                prompt = len(group.prompt_ids)
                need = len(response.token_ids) + (prompt if i == 0 else 0)
                if need > room:
                    num, room, need = num + 1, 25, len(response.token_ids) + prompt
                room -= need
        found.append(num)
    return found


@pytest.mark.parametrize(("every", "calls"), [(0, [1, 1]), (1, [2, 2]), (2, [2, 1])])
def test_checkpointing_recomputes_every_nth_layer_and_changes_no_gradient(every, calls):
    recipe, policy = load(adapter=LORA, train={"activation_checkpointing": every})
    plain = gradients(recipe, policy, 10_000)
    policy.set_checkpointing(recipe.train.activation_checkpointing)
    counts = [0, 0]

    def count(i):
        def hook(*_):
            counts[i] += 1

        return hook

    for i, layer in enumerate(policy.causal_lm.base_model.layers):
        layer.input_layernorm.register_forward_hook(count(i))
    assert_same(gradients(recipe, policy, 10_000), plain)
    assert counts == calls


def test_checkpointing_is_a_number_of_layers_and_true_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"activation_checkpointing = True: .* write 1 for true"):
        make_recipe(train={"activation_checkpointing": True})


def test_the_metrics_are_those_of_all_micro_batches_together():
    whole, split = (
        run(*load(train={"tokens_per_microbatch": n}), make_groups()) for n in (10_000, 30)
    )
    ours, theirs = whole.metrics, split.metrics
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"train/padding_frac"}:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name
    num_tokens = sum(
        len(g.prompt_ids) + len(r.token_ids) for g in make_groups() for r in g.responses
    )
    assert whole.num_tokens == split.num_tokens == num_tokens


def test_compiling_a_quantised_policy_is_refused():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    recipe = make_recipe(train={"compile": True}, adapter={"method": "qlora"})
    with pytest.raises(ConfigError, match=r"train\.compile = true: .* 4-bit base of qlora"):
        check(recipe)


def test_compiling_a_policy_that_generates_its_own_rollouts_is_refused():
    recipe = make_recipe(train={"compile": True}, rollout={"engine": "transformers"})
    with pytest.raises(ConfigError, match=r"train\.compile = true: .* set it to false"):
        check(recipe)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("adapter", [LORA, {"method": "full"}], ids=["lora", "full"])
def test_compiled_layers_give_the_same_gradient_at_any_length(adapter, every):
    recipe, policy = load(adapter=adapter)
    policy.set_checkpointing(every)
    plain = {n: gradients(recipe, policy, n) for n in (17, 30, 40, 10_000)}
    policy.compile_layers()
    torch._dynamo.reset()
    assert_same(gradients(recipe, policy, 17), plain[17])
    gradients(recipe, policy, 30)
    with torch.compiler.set_stance("fail_on_recompile"):
        for max_tokens, expected in plain.items():
            assert_same(gradients(recipe, policy, max_tokens), expected)
