"""Targets, shards and seeds."""

import json

import pytest

from eval.benchmarks import load_benchmark
from rlvr.common.errors import ConfigError
from rlvr.engines.engine import SamplingParams
from rlvr.evaluation.plan import SamplingJob, SamplingPlan, request, wanted_keys
from rlvr.evaluation.targets import Target, resolve
from rlvr.policy.loading import fingerprint


def adapter(folder, **settings):
    folder.mkdir(parents=True)
    known = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "owner/base"}
    (folder / "adapter_config.json").write_text(json.dumps(known | settings))
    return str(folder)


def plan(keys, names=("a",)):
    jobs = tuple(
        SamplingJob(Target(n, None, "base"), tuple(keys), tuple(request([1], 0, k) for k in keys))
        for n in names
    )
    return SamplingPlan("m", None, False, "vllm", "float32", 64, SamplingParams(8), 0.9, 8, jobs)


def test_a_checkpoint_folder_names_its_base_and_is_named_after_its_run(tmp_path):
    folder = adapter(tmp_path / "runs" / "mine" / "checkpoints" / "step_3")
    assert resolve(folder, []) == ("owner/base", [Target("mine-step_3", folder, "lora", 8)])


def test_adapters_are_served_by_what_they_are(tmp_path):
    folders = [
        adapter(tmp_path / "plain"),
        adapter(tmp_path / "dora", use_dora=True),
        adapter(tmp_path / "pissa", init_lora_weights="pissa"),
        adapter(tmp_path / "ia3", peft_type="IA3"),
        adapter(tmp_path / "prefix", peft_type="PREFIX_TUNING"),
        adapter(tmp_path / "other" / "plain"),
    ]
    base, targets = resolve("owner/base", [*folders, "none"])
    assert base == "owner/base"
    assert [t.kind for t in targets] == "lora merged merged merged live lora base".split()
    assert [t.name for t in targets] == "plain dora pissa ia3 prefix plain-2 base".split()


def test_an_adapter_whose_base_is_gone_says_what_to_do(tmp_path):
    folder = adapter(tmp_path / "a", base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="give the base with --model"):
        resolve(folder, [])


def test_other_weights_in_the_same_folder_have_another_fingerprint(tmp_path):
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(bytes(10_000_000))
    before = fingerprint(str(tmp_path))
    assert before == fingerprint(str(tmp_path))
    changed = bytearray(10_000_000)
    changed[-1] = 1
    weights.write_bytes(changed)
    assert fingerprint(str(tmp_path)) != before


def test_shards_share_out_every_request_once_and_what_is_there_is_left_out():
    keys = [("b", str(p), i) for p in range(5) for i in range(3)]
    whole = plan(keys, names=("a", "b"))
    parts = [whole.shard(rank, 4) for rank in range(4)]
    for job in range(2):
        assert sorted(k for part in parts for k in part.jobs[job].keys) == keys
    left = whole.without([set(keys[:4]), set(keys)])
    assert [len(job.keys) for job in left.jobs] == [11, 0]
    assert left.jobs[0].requests == whole.jobs[0].requests[4:]


def test_a_samples_seed_does_not_depend_on_what_else_is_asked(tmp_path):
    path = tmp_path / "few.jsonl"
    rows = [{"id": f"q{i}", "problem": f"What is {i}?", "answer": str(i)} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_benchmark(f"few={path}")
    few, many = wanted_keys(loaded, 2, 2), wanted_keys(loaded, 5, None)
    assert set(few) < set(many)
    assert len(many) == 20
    seeds = {key: request([1], 7, key).seed for key in many}
    assert len(set(seeds.values())) == 20
    assert all(request([9], 7, key).seed == seeds[key] for key in few)
