"""Whether what runs on a CPU runs on this GPU: attention, tests, a run, resume, two ranks."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.benchmarks.first_gpu.report import Report, Skip, need

ROOT = Path(__file__).parents[3]
TESTS = """
    tests/rlvr/policy/test_attention.py tests/rlvr/policy/test_logprob_head.py
    tests/rlvr/policy/test_packing.py tests/rlvr/policy/test_policy.py
""".split()
ENGINE_TESTS = "tests/rlvr/engines/test_engines.py tests/rlvr/engines/test_arrival.py".split()
TINY_METHODS = ("lora", "lora_fa", "adalora", "full")
HEADS = {"qwen2": (12, 2), "qwen3": (16, 8)}
"""Heads of queries and of keys, of size 128, as in the 1.5B and in Qwen3-0.6B."""


def machine(report: Report, _tiny: bool) -> None:
    """GPU, driver and versions, as manifest.json has them."""
    from rlvr.common.machine import gpu_facts, versions

    gpu, found = gpu_facts(), versions()
    report(gpu=gpu, versions=found)
    text = "no GPU" if gpu is None else ", ".join(f"{k} {v}" for k, v in gpu.items())
    report(headline=f"{text}; " + ", ".join(f"{k} {v}" for k, v in found.items()))


def attention(report: Report, tiny: bool) -> None:
    """Packed rows in the compute type against each row alone in float32: hidden states and
    gradients, as norms of the difference relative to the norm; buckets beside the GPU's kernel."""
    import torch

    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    rows: list[dict[str, Any]] = []
    for model_type, heads in HEADS.items():
        for kernel in ("buckets", "rows") if cuda else ("buckets",):
            errors = _attention_errors(model_type, heads, kernel == "buckets", device, dtype, tiny)
            rows.append({"model": model_type, "kernel": kernel} | errors)
            report(rows=rows)
    worst = max(max(row["hidden"], row["gradient"]) for row in rows)
    report(headline=f"largest relative error {worst:.2g} in {dtype}")
    allowed = 0.05 if cuda else 1e-4
    if not worst <= allowed:
        raise RuntimeError(f"attention: a relative error of {worst:.3g}, allowed {allowed:g}")


def _attention_errors(
    model_type: str, heads: tuple[int, int], bucketed: bool, device: str, dtype: Any, tiny: bool
) -> dict[str, float]:
    """hidden, gradient: relative errors of packed rows with shared prompts."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from rlvr.policy.attention import packed_hidden, use_packing
    from rlvr.policy.packing import TokenRow, pack

    head_dim, scale = (16, 1) if tiny else (128, 100)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=500,
        hidden_size=heads[0] * head_dim,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        head_dim=head_dim,
        max_position_embeddings=8192,
    )
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(500, (n * scale,), generator=draw).tolist() for n in (3, 5, 2, 9, 40, 16)]
    rows = [TokenRow(ids[0], ids[i]) for i in (1, 2, 3)]
    rows += [TokenRow(ids[5], ids[4]), TokenRow(ids[5], ids[2])]
    torch.manual_seed(0)
    exact = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(device)
    packed = AutoModelForCausalLM.from_config(config, dtype=dtype).to(device)
    packed.load_state_dict(exact.state_dict())
    use_packing(packed)
    alone = []
    for row in rows:
        line = torch.tensor([row.prompt_ids + row.response_ids[:-1]], device=device)
        alone.append(
            exact.base_model(input_ids=line).last_hidden_state[0, len(row.prompt_ids) - 1 :]
        )
    theirs = torch.cat(alone)
    ours = packed_hidden(packed, pack(rows, torch.device(device), bucketed))
    mix = torch.randn(theirs.shape, generator=draw).to(device)
    (theirs * mix).sum().backward()
    (ours * mix.to(dtype)).sum().backward()
    grads = [
        torch.cat([p.grad.float().flatten() for p in model.base_model.parameters()])
        for model in (packed, exact)
    ]
    return {"hidden": _apart(ours, theirs), "gradient": _apart(*grads)}


def _apart(ours: Any, theirs: Any) -> float:
    return float((ours.float() - theirs).norm() / theirs.norm())


def tests(report: Report, tiny: bool) -> None:
    """The project's own tests of what differs on a GPU."""
    need("pytest")
    files = TESTS[:1] if tiny else TESTS
    if importlib.util.find_spec("vllm") and not tiny:
        files = files + ENGINE_TESTS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tests.xml"
        words = ["-q", "-p", "no:cacheprovider", "-m", "not slow", f"--junitxml={path}"]
        subprocess.run([sys.executable, "-m", "pytest", *words, *files], check=False, cwd=ROOT)
        suite = ElementTree.parse(path).getroot()[0]
    count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    wrong = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    text = ", ".join(f"{number} {name}" for name, number in count.items())
    report(files=files, wrong=wrong, headline=text, **count)
    if wrong:
        raise RuntimeError(f"{len(wrong)} tests fail: {', '.join(wrong)}")


def recipe_file(folder: Path, **sections: dict[str, Any]) -> Path:
    """A small recipe over a tiny random policy in the folder; the engine is vLLM where it is."""
    import torch

    from rlvr.config.toml import toml_text
    from tests.rlvr import small

    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    tree = small.recipe_tree(
        small.write_policy(folder / "policy"),
        small.write_problems(folder / "problems.jsonl"),
        **{"model": {"dtype": dtype}, "run": {"dir": str(folder / "runs"), "name": "run"}}
        | sections,
    )
    path = folder / "recipe.toml"
    path.write_text(toml_text(tree))
    return path


def train(report: Report, tiny: bool) -> None:
    """Three steps, two checkpoints, from the command line."""
    from rlvr.cli import main
    from rlvr.runs.reader import read_metrics

    with tempfile.TemporaryDirectory() as folder:
        engine = "transformers" if tiny else "auto"
        path = recipe_file(Path(folder), rollout={"engine": engine})
        code, run = main(["train", str(path)]), Path(folder) / "runs" / "run"
        rows = read_metrics(run) if (run / "metrics.jsonl").is_file() else []
    report(code=code, metrics=rows)
    if code or len(rows) != 3:
        raise RuntimeError(f"rlvr train ended with {code} after {len(rows)} steps")
    last = rows[-1]
    names = ("time/step_s", "policy/kl_engine", "sync/logprob_error", "memory/peak_gib")
    report(headline=", ".join(f"{name} {last[name]:.3g}" for name in names if name in last))


def resume(report: Report, tiny: bool) -> None:
    """One update of every method, a checkpoint, a new policy from it, another update of both."""
    from rlvr.adapters import METHODS
    from rlvr.common.errors import ConfigError
    from rlvr.config.toml import validate
    from rlvr.config.train import TrainRecipe
    from tests.benchmarks.first_gpu.case import DEVICE
    from tests.rlvr import small
    from tests.rlvr.adapters.trained import make, stop_and_resume

    rows: dict[str, dict[str, Any]] = {}
    dtype = "bfloat16" if DEVICE.type == "cuda" else "float32"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        policy = small.write_policy(folder / "policy")
        problems = small.write_problems(folder / "problems.jsonl")

        def make_recipe(**sections: dict[str, Any]) -> TrainRecipe:
            return validate(small.recipe_tree(policy, problems, **sections), TrainRecipe)

        for method in TINY_METHODS if tiny else METHODS:
            start = partial(make, make_recipe, method, dtype, device=DEVICE, path=policy)
            try:
                found = stop_and_resume(start, folder / method)
                rows[method] = {"lost": found.lost, "apart": found.apart}
            except ConfigError as error:
                rows[method] = {"refused": str(error)}
            except Exception as error:  # the next method may do better
                rows[method] = {"error": f"{type(error).__name__}: {error}"}
            report(methods=rows)
    wrong = [name for name, row in rows.items() if row.get("error") or row.get("lost")]
    refused = [name for name, row in rows.items() if "refused" in row]
    apart = max((row["apart"] for row in rows.values() if "apart" in row), default=0.0)
    text = (
        f"{len(rows) - len(wrong) - len(refused)} of {len(rows)} methods resume, apart by at most"
    )
    text += f" {apart:.2g} an update later" + (
        f"; refused: {', '.join(refused)}" if refused else ""
    )
    report(headline=text)
    if wrong:
        raise RuntimeError(f"{', '.join(wrong)} do not resume: {rows[wrong[0]]}")


def ranks(report: Report, _tiny: bool) -> None:
    """Three steps of two ranks by each of accelerate's configurations."""
    import torch

    if torch.cuda.device_count() < 2:
        raise Skip(f"{torch.cuda.device_count()} GPUs, needs 2")
    rows: dict[str, int | str] = {}
    for name in ("ddp", "fsdp2", "zero2"):
        if name == "zero2" and importlib.util.find_spec("deepspeed") is None:
            rows[name] = "deepspeed is not installed"
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = recipe_file(Path(folder), rollout={"engine": "auto"})
            words = ["--config_file", f"recipes/accelerate/{name}.yaml", "--num_processes", "2"]
            launch = [sys.executable, "-m", "accelerate.commands.launch", *words]
            command = [*launch, "-m", "rlvr.cli", "train", str(path)]
            rows[name] = subprocess.run(command, cwd=ROOT, check=False).returncode
        report(codes=rows)
    report(headline=", ".join(f"{name}: {code}" for name, code in rows.items()))
    if any(rows[name] not in (0, "deepspeed is not installed") for name in rows):
        raise RuntimeError(f"exit codes: {rows}")
