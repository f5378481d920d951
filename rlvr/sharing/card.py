"""The model card of a checkpoint, from the manifest and the evaluations of its run."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from eval.intervals import paired_difference
from rlvr.config.needs import drop
from rlvr.config.toml import toml_text
from rlvr.data.absolute_paths import PATH_SETTINGS
from rlvr.runs.reader import RunData

PRIVATE = ("run", "track", "rollout.servers", "rollout.server_wait_s")
"""What a recipe says of the machines of its author, and nothing that was computed depends on."""


def model_card(run: RunData, step: int, repo_id: str, base: str | None, is_adapter: bool) -> str:
    """README.md of the checkpoint after `step` steps: metadata and Markdown.

    base: hub id of the model that was trained, None where it has none.
    """
    from huggingface_hub import ModelCardData

    source = str(run.setting("data.path"))
    relation = "adapter" if is_adapter else "finetune"
    data = ModelCardData(
        base_model=base,
        base_model_relation=relation if base is not None else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["rlvr", "reinforcement-learning", "math", str(run.manifest.get("method"))],
        datasets=[source] if is_hub_id(source) else None,
    )
    parts = (
        f"---\n{data.to_yaml()}\n---\n\n# {repo_id.rpartition('/')[2]}",
        _what(run, step, base, is_adapter),
        f"## Use\n\n{_use(repo_id, base, is_adapter)}",
        f"## Held-out accuracy\n\n{_results(run, step)}",
        f"## Contamination\n\n{_contamination(run.manifest.get('contamination'))}",
        f"## How it was trained\n\n{_training(run)}",
        f"## Reproduce\n\n{_reproduce(run, repo_id, base, is_adapter)}",
    )
    return "\n\n".join(parts) + "\n"


def shared_recipe(run: RunData, base: str | None) -> str:
    """The run's resolved recipe as TOML, without what names its author's machines: paths are file
    names, `base` stands where a folder was."""
    tree = copy.deepcopy(run.config)
    for key in PRIVATE:
        drop(tree, key)
    for part in (tree, *tree.get("stage", [])):
        for section, name in PATH_SETTINGS:
            if name in part.get(section, {}):
                part[section][name] = shorten(part[section][name])
    if base is not None:
        drop(tree, "model.sft_recipe")
        tree["model"]["path"] = base
    return toml_text(tree)


def shorten(value: Any) -> Any:
    """A setting that may name files, with every absolute path in it cut to its last component."""
    if isinstance(value, Mapping):
        return {key: shorten(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shorten(inner) for inner in value]
    return re.sub(r"^([\w.-]+=)?/.*/", r"\1", value) if isinstance(value, str) else value


def is_hub_id(name: str) -> bool:
    """Whether a path of a recipe can be that of a model or a dataset on the hub."""
    is_file = name.endswith((".jsonl", ".json", ".csv", ".parquet", ".gz"))
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not is_file


def _what(run: RunData, step: int, base: str | None, is_adapter: bool) -> str:
    facts = run.manifest
    paper = f" ({facts['paper']})" if facts.get("paper") else ""
    trained = "" if base is None else f" of [{base}](https://huggingface.co/{base})"
    preset = run.setting("algorithm.preset")
    kind = "An adapter" if is_adapter else "All weights"
    share = facts.get("trainable_frac")
    count = facts.get("trainable_parameters")
    numbers = f" {count:,} parameters are trained, {share:.2%} of all." if count and share else ""
    steps = f"{step} step{'s' if step != 1 else ''}"
    return (
        f"{kind}{trained}, trained by reinforcement learning with verifiable rewards: method"
        f" {facts.get('method')}{paper}, algorithm {preset}, {steps}.{numbers}"
    )


def _use(repo_id: str, base: str | None, is_adapter: bool) -> str:
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    if is_adapter:
        lines[:1] = ["from peft import PeftModel", lines[0]]
        lines += [
            f'model = AutoModelForCausalLM.from_pretrained("{base}")',
            f'model = PeftModel.from_pretrained(model, "{repo_id}")',
        ]
    else:
        lines += [f'model = AutoModelForCausalLM.from_pretrained("{repo_id}")']
    lines += [f'tokenizer = AutoTokenizer.from_pretrained("{repo_id}")']
    return "\n".join(["```python", *lines, "```"])


def _results(run: RunData, step: int) -> str:
    """A table of all sets, before and at the step, with 95% intervals over problems."""
    before, after = run.evals.get(0), run.evals.get(step)
    if before is None or after is None:
        return "This checkpoint was not evaluated by its run."
    lines = ["| set | problems | before | this checkpoint | difference |", "|---|---|---|---|---|"]
    starts, ends = _sets(before), _sets(after)
    for name, (label, interval, fractions) in ends.items():
        start = starts.get(name)
        if start is None:
            continue
        change = paired_difference(start[2], fractions)
        difference = f"{change.value:+.3f} [{change.lo:+.3f}, {change.hi:+.3f}]"
        lines += [f"| {label} | {len(fractions)} | {start[1]} | {interval} | {difference} |"]
    lines += ["", "Intervals are 95%, over problems; differences are paired."]
    scored = [number for number in run.evals if number > 0]
    if len(scored) > 1:
        lines += [
            f"{len(scored)} steps were evaluated on these problems and the best of their"
            f" checkpoints by {run.setting('eval.best_metric', 'accuracy')} is shared: its"
            " accuracy is too high by that choice."
        ]
    return "\n".join(lines)


def _sets(tree: Mapping[str, Any]) -> dict[str, tuple[str, str, list[float]]]:
    """By set: its name with k, avg@k with its interval, the fraction right of each problem."""
    benchmarks = tree.get("results", {}).get("benchmarks", {})
    if not tree.get("sets") or not benchmarks:  # evaluations from before these were kept
        a = tree["accuracy"]
        return {"heldout": ("heldout", _interval(a["value"], a["lo"], a["hi"]), tree["fractions"])}
    found = {}
    for name, fractions in tree["sets"].items():
        result = benchmarks[name]
        score = result["avg@k"]
        text = _interval(score["value"], *score["ci95"])
        found[name] = (f"{name}, avg@{result['k']}", text, fractions)
    return found


def _interval(value: float, lo: float, hi: float) -> str:
    return f"{value:.3f} [{lo:.3f}, {hi:.3f}]"


def _contamination(found: Mapping[str, Any] | None) -> str:
    """What was found when the run began."""
    if found is None:
        return (
            "Not looked for: the training problems are generated, or no evaluation problems were at"
            " hand when the run began."
        )
    text = (
        f"{found['contaminated_rows']} of {found['train_rows']} training problems repeat evaluation"
        " problems (equal texts, or 90% of the 10-grams, or 60% with an equal answer)."
    )
    rows = [
        f"| {one['benchmark']} | {one['problems']} | {one['exact']} | {one['near']} |"
        for one in found["benchmarks"]
    ]
    if not rows:
        return text
    head = ["| set | problems | exactly in the training data | nearly |", "|---|---|---|---|"]
    return "\n".join([text, "", *head, *rows])


def _training(run: RunData) -> str:
    facts, data = run.manifest, run.manifest.get("data", {})
    gpu = facts.get("gpu")
    machine = f"{gpu['count']} x {gpu['name']}" if gpu else str(facts.get("device", "unknown"))
    rows = {
        "data": shorten(str(run.setting("data.path"))),
        "problems": data.get("num_problems"),
        "sha256 of the problems": data.get("sha256"),
        "steps of the run": (run.summary or {}).get("steps"),
        "prompts and responses per step": f"{run.setting('rollout.prompts_per_step')} x"
        f" {run.setting('rollout.group_size')}",
        "longest response": f"{run.setting('rollout.max_response_len')} tokens",
        "learning rate": run.setting("optim.lr"),
        "seed": facts.get("seed"),
        "compute type": facts.get("compute_dtype"),
        "engine": facts.get("engine"),
        "device": machine,
        "versions": ", ".join(_versions(facts.get("versions", {}))),
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines])


def _versions(found: Mapping[str, str]) -> Iterator[str]:
    wanted = ("rlvr", "torch", "transformers", "peft", "vllm")
    return (f"{name} {found[name]}" for name in wanted if name in found)


def _reproduce(run: RunData, repo_id: str, base: str | None, is_adapter: bool) -> str:
    commit = run.manifest.get("git_commit")
    lines = ["```", f"rlvr train recipe.toml{f'   # rlvr at commit {commit}' if commit else ''}"]
    names = ",".join(str(one).partition("=")[0] for one in run.setting("eval.benchmarks", []))
    if names:
        model = f"{base} --adapter FOLDER" if is_adapter else repo_id
        lines += [f"rlvr eval --model {model} --benchmarks {names} --out DIR"]
    text = "`recipe.toml` beside this card has every setting; paths in it are file names."
    where = " FOLDER: this repository, downloaded." if names and is_adapter else ""
    return "\n".join([text + where, "", *lines, "```"])
