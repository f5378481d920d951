"""Updates read from disk against those of the live model."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr.analysis.stream import Weights, find_base, find_checkpoint, updates
from rlvr.common.errors import ConfigError
from rlvr.policy.packing import TokenRow
from tests.rlvr import plain

SETTINGS = [
    {"method": "lora", "rank": 4, "alpha": 12.0},
    {"method": "lora", "rank": 4, "scaling": "sqrt_rank"},
    {"method": "rslora", "rank": 4},
    {"method": "dora", "rank": 4},
    {"method": "pissa", "rank": 4},
    {"method": "ia3"},
    {"method": "ln_tuning"},
    {"method": "full"},
]


@pytest.mark.parametrize("adapter", SETTINGS, ids=lambda a: "-".join(map(str, a.values())))
def test_the_base_plus_the_updates_on_disk_is_the_live_model(make_checkpoint, tiny_policy, adapter):
    """Judged by the logits of a plain model with the updates added, and of the live one."""
    policy, folder = make_checkpoint(**adapter)
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, attn_implementation="eager")
    rows = [TokenRow([9 + i, 30], [7 * j % 300 + 8 + i for j in range(9)]) for i in range(3)]
    start = plain.token_logprobs(model, rows)
    weights = model.state_dict()
    for update in updates(folder, tiny_policy):
        assert torch.equal(update.before, weights[update.name]), update.name
        assert update.delta().any(), update.name
        weights[update.name].add_(update.delta())
    expected = plain.token_logprobs(policy.model, rows)
    assert float((expected - start).abs().max()) > 1e-3
    assert float((plain.token_logprobs(model, rows) - expected).abs().max()) < 1e-5


def test_a_lora_comes_as_factors_and_without_a_model(make_checkpoint, tiny_policy, monkeypatch):
    import transformers

    _, folder = make_checkpoint(method="lora", rank=4)
    monkeypatch.delattr(transformers, "AutoModelForCausalLM")
    found = list(updates(folder, tiny_policy, layers=[1]))
    assert len(found) == 7
    assert all(u.factors is not None and len(u.factors[0]) == 4 for u in found)
    assert {u.layer for u in found} == {1}


def test_layers_restrict_a_whole_model_too(make_checkpoint, tiny_policy):
    _, folder = make_checkpoint(method="full")
    found = list(updates(folder, tiny_policy, layers=[0, 2]))
    assert {u.layer for u in found} == {0, 2}
    assert sum(u.is_matrix for u in found) == 14


def test_sharded_folders_are_read(make_checkpoint, tiny_policy, tmp_path):
    policy, folder = make_checkpoint(method="full")
    policy.causal_lm.save_pretrained(tmp_path, max_shard_size="500KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    whole = {u.name: u.delta() for u in updates(folder, tiny_policy)}
    sharded = {u.name: u.delta() for u in updates(tmp_path, tiny_policy)}
    assert whole.keys() == sharded.keys()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)


def test_the_base_is_found_in_the_adapter_and_can_be_given(make_checkpoint, tiny_policy):
    _, folder = make_checkpoint(method="lora", rank=4)
    assert find_base(folder, None) == tiny_policy
    assert find_base(folder, str(folder)) == folder


def test_what_cannot_be_analysed_says_why(make_checkpoint, tiny_policy, tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        find_checkpoint(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="neither"):
        Weights(tmp_path)
    _, full = make_checkpoint(method="full")
    with pytest.raises(ConfigError, match="--base"):
        find_base(full, None)
    with pytest.raises(ConfigError, match="neither a folder here"):
        find_base(full, "nobody/nothing")
    for method in ("houlsby", "prompt_tuning"):
        _, folder = make_checkpoint(method=method)
        with pytest.raises(ConfigError, match=r"no change of weights|changes no weight"):
            list(updates(folder, tiny_policy))


def test_a_base_of_another_shape_is_refused(make_checkpoint, tiny_policy, tmp_path):
    from transformers import AutoTokenizer

    from rlvr.warm_start import tiny_model as tiny

    other = tmp_path / "other"
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    tiny.build_model(
        tokenizer, seed=0, hidden_size=64, num_heads=2, num_kv_heads=1
    ).save_pretrained(other)
    for adapter in ({"method": "lora", "rank": 4}, {"method": "full"}):
        _, folder = make_checkpoint(**adapter)
        with pytest.raises(ConfigError, match="--base"):
            list(updates(Path(folder), other))
