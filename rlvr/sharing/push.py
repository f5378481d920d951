"""`rlvr push RUN REPO_ID`: uploads a run's best checkpoint to the Hugging Face hub."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlvr.common.errors import ConfigError, RunError, first_line
from rlvr.runs.reader import RunData, read_run
from rlvr.sharing.card import is_hub_id, model_card, shared_recipe

Files = Mapping[str, Path | bytes]
"""What is uploaded, by its path in the repository."""
ADAPTER, POLICY = "adapter_config.json", "rlvr_policy.json"


def main(words: Sequence[str]) -> int:
    """Uploads, or says what would be; the exit code. Raises: ConfigError, RunError."""
    parser = argparse.ArgumentParser(
        prog="rlvr push", description="Uploads a run's best checkpoint, with a model card."
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("repo_id", help="USER/NAME or ORGANISATION/NAME on the hub")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to write to (main)")
    parser.add_argument(
        "--base", metavar="HUB_ID", help="the trained model's id, where the run read a local folder"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the files and the card; ask no network"
    )
    args = parser.parse_args(words)
    files = collect(args.run, args.repo_id, args.base)
    if args.dry_run:
        card = files["README.md"]
        assert isinstance(card, bytes)
        print(_listing(files, args.repo_id), card.decode(), sep="\n\n", end="")
    else:
        print(upload(files, args.repo_id, args.private, args.revision))
    return 0


def collect(run_dir: Path, repo_id: str, base: str | None = None) -> Files:
    """Everything that belongs to the run's best checkpoint: its files without the trainer's state,
    the card, the recipe. Raises: ConfigError."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(f"{repo_id!r}: {error}") from None
    # the hub's own check lets a name without its owner pass
    if "/" not in repo_id:
        raise ConfigError(f"{repo_id!r}: whose repository is missing; write USER/{repo_id}")
    run = _finished(run_dir)
    checkpoint = _checkpoint(run, run_dir)
    is_adapter = (checkpoint / ADAPTER).is_file()
    base = _base(run, checkpoint, is_adapter, base)
    step = int(checkpoint.name.removeprefix("step_"))
    files: dict[str, Path | bytes] = {
        str(path.relative_to(checkpoint)): path
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and "trainer_state" not in path.relative_to(checkpoint).parts
    }
    if is_adapter:
        tree = json.loads((checkpoint / ADAPTER).read_text()) | {"base_model_name_or_path": base}
        files[ADAPTER] = json.dumps(tree, indent=2).encode()
    if POLICY in files:  # not in a checkpoint from before there was one
        # what others need to go on from it; the base of full weights is not read
        tree = json.loads((checkpoint / POLICY).read_text()) | {"base": base or ""}
        files[POLICY] = json.dumps(tree, indent=1).encode()
    # peft writes a card of its own, without anything about the training
    files["README.md"] = model_card(run, step, repo_id, base, is_adapter).encode()
    files["recipe.toml"] = shared_recipe(run, base).encode()
    return files


def _finished(run_dir: Path) -> RunData:
    """The run. Raises: ConfigError where it is none of `rlvr train`, or has not ended."""
    run = read_run(run_dir)
    if "rollout" not in run.config:
        raise ConfigError(
            f"{run_dir}: not a run of rlvr train; give the folder with its config.toml"
        )
    if run.summary is None:
        raise ConfigError(
            f"{run_dir}: the run has not ended (no summary.json); end it with rlvr train --resume"
            f" {run_dir}"
        )
    return run


def _checkpoint(run: RunData, run_dir: Path) -> Path:
    """The best one, as the summary names it. Raises: ConfigError where it is not there or not as it
    was written."""
    # it imports torch, which the command line's help need not wait for
    from rlvr.runs.checkpoint import damage

    checkpoint = run_dir / str((run.summary or {}).get("best_checkpoint"))
    # an empty name would be the run folder itself
    if not checkpoint.is_dir() or checkpoint == run_dir:
        raise ConfigError(
            f"{run_dir}: its best checkpoint ({checkpoint.name}) is not in the folder; copy the"
            " folder with its checkpoints/"
        )
    harm = damage(checkpoint)
    if harm is not None:
        raise ConfigError(
            f"{checkpoint}: is not as it was written ({harm}); copy it again from where the run"
            " trained"
        )
    return checkpoint


def _base(run: RunData, checkpoint: Path, is_adapter: bool, given: str | None) -> str | None:
    """The hub id of the model that was trained; None for full weights of a model without one.

    Raises: ConfigError for an adapter whose base nobody else has.
    """
    if given is not None:
        if not is_hub_id(given):
            raise ConfigError(f"--base {given}: not an id on the hub; write USER/NAME")
        return given
    name = run.manifest.get("model")
    if is_adapter:
        name = json.loads((checkpoint / ADAPTER).read_text()).get("base_model_name_or_path")
    # models/base has the form of an id and may be a folder here
    if isinstance(name, str) and is_hub_id(name) and not Path(name).exists():
        return name
    if is_adapter:
        raise ConfigError(
            f"{checkpoint}: adapts the model in {name}, which nobody else has; say with --base"
            " USER/NAME where it is on the hub"
        )
    return None


def _listing(files: Files, repo_id: str) -> str:
    """The files with their sizes."""
    sizes = {n: f.stat().st_size if isinstance(f, Path) else len(f) for n, f in files.items()}
    lines = [f"{size:>15,}  {name}" for name, size in sizes.items()]
    return "\n".join([f"To {repo_id} (bytes):", *lines, f"{sum(sizes.values()):>15,}  in all"])


def upload(files: Files, repo_id: str, private: bool, revision: str | None) -> str:
    """One commit with all files; its address. Raises: ConfigError, RunError."""
    import httpx
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    if get_token() is None:
        raise ConfigError("rlvr push: no token; hf auth login, or set HF_TOKEN")
    try:
        return _commit(files, repo_id, private, revision)
    # it is a ValueError, which the last clause would take for the network's
    except ConfigError:
        raise
    except HfHubHTTPError as error:
        reason = first_line(error)
        if error.response.status_code in (401, 403):
            raise ConfigError(
                f"{repo_id}: the token may not write there ({reason}); take one with write access"
            ) from None
        raise RunError(f"{repo_id}: {reason}; try again") from None
    # what httpx and the client's upload threads raise; a client that is offline is an OSError
    except (OSError, RuntimeError, ValueError, httpx.HTTPError) as error:
        raise RunError(f"{repo_id}: {error}; try again") from None


def _commit(files: Files, repo_id: str, private: bool, revision: str | None) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    # None, not False: an organisation may make what is new private by default
    api.create_repo(repo_id, private=private or None, exist_ok=True)
    # one that was there before keeps who may read it
    if private and not api.repo_info(repo_id).private:
        raise ConfigError(f"{repo_id}: is public; leave --private out, or take another name")
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    commit = api.create_commit(
        repo_id,
        [CommitOperationAdd(name, file) for name, file in files.items()],
        commit_message="Upload a checkpoint with rlvr push",
        revision=revision,
    )
    return str(commit.commit_url)
