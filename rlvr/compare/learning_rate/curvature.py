"""The largest Hessian eigenvalue of each method at its start, on responses that were right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import RunError
from rlvr.compare.learning_rate.prior import REFERENCE
from rlvr.compare.resolve import Comparison
from rlvr.policy.packing import TokenRow
from rlvr.policy.policy import Policy, load_policy
from rlvr.runs.checkpoint import with_found_start

if TYPE_CHECKING:
    from rich.console import Console

    from rlvr.config.train import TrainRecipe
    from rlvr.data.problems import Dataset


def eigenvalues(
    comparison: Comparison, labels: Sequence[str], console: Console
) -> dict[str, float]:
    """The largest Hessian eigenvalue of every label's trainable parameters, and LoRA's as "lora".

    Kept in prior.json of the comparison's folder, so that a restart does not measure again.
    """
    path = comparison.folder / "prior.json"
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    recipes = {label: comparison.resolve(label, 0, None) for label in labels}
    if REFERENCE not in recipes:
        base = next(iter(recipes.values()))
        recipes[REFERENCE] = base.model_copy(
            update={"adapter": type(base.adapter)(method=REFERENCE)}
        )
    keys = {label: _key(recipe, comparison) for label, recipe in recipes.items()}
    rows: list[TokenRow] | None = None
    for label, recipe in recipes.items():  # written after each: one takes minutes
        if keys[label] in known:
            continue
        rows = rows or correct_rows(recipe, comparison.recipe.find.prior_rows)
        known[keys[label]] = largest_eigenvalue(recipe, rows)
        console.print(f"curvature of {label}: {known[keys[label]]:.4g}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known, indent=1))
    return {label: known[key] for label, key in keys.items()}


def _key(recipe: TrainRecipe, comparison: Comparison) -> str:
    """What the eigenvalue depends on: the model, the adapter, the number of responses."""
    adapter = recipe.adapter.model_dump(mode="json")
    model = Path(str(recipe.model.path)).name  # a warm start's folder is named after its hash
    return json.dumps([model, adapter, comparison.recipe.find.prior_rows], sort_keys=True)


def correct_rows(recipe: TrainRecipe, count: int) -> list[TokenRow]:
    """`count` responses of the untrained policy that the verifier judged correct, with prompts.

    Sampled from training problems by transformers, seeded; what the policy gets right without
    training. Raises: RunError when there are fewer after eight times as many samples.
    """
    from rewards import Verifier
    from rlvr.common.seeds import sample_seed
    from rlvr.data.chat import read_template, requires_closed_think
    from rlvr.engines.engine import Request, SamplingParams
    from rlvr.engines.stop_tokens import with_stops
    from rlvr.engines.transformers import TransformersEngine

    # the base, whatever the method: one sample serves all, so that eigenvalues can be compared
    policy = _policy(recipe, "full")
    data, prompts = _training_prompts(recipe, policy.tokenizer)
    engine, rows = TransformersEngine(policy), []
    sampling = SamplingParams(
        recipe.rollout.max_response_len,
        recipe.rollout.temperature,
        stop_token_ids=with_stops(recipe.rollout, policy.tokenizer).stop_token_ids,
    )
    reward, template = recipe.reward, read_template(recipe.data.chat_template)
    closed = requires_closed_think(reward.require_closed_think, policy.tokenizer, template)
    with Verifier(
        answer_mode=reward.answer_mode, require_closed_think=closed, num_workers=1
    ) as verifier:
        for start in range(0, 8 * count, count):
            part = range(start, min(start + count, len(prompts)))
            requests = [Request(prompts[i], sample_seed(0, "prior", i)) for i in part]
            responses = engine.generate(requests, sampling)
            texts = [policy.tokenizer.decode(r.token_ids) for r in responses]
            golds = [data.problems[i].gold for i in part]
            verdicts = verifier.verify_many(list(zip(texts, golds, strict=True)))
            rows += [
                TokenRow(request.prompt_ids, response.token_ids)
                for request, response, verdict in zip(requests, responses, verdicts, strict=True)
                if verdict.correct
            ]
            if len(rows) >= count:
                return rows[:count]
    raise RunError(
        f"only {len(rows)} correct responses in {8 * count} samples: the curvature prior needs"
        f' {count}; lower find.prior_rows or set find.prior = "none"'
    )


def largest_eigenvalue(recipe: TrainRecipe, rows: Sequence[TokenRow]) -> float:
    """The largest Hessian eigenvalue of the mean token loss on `rows` at the method's start.

    On the policy's own correct responses the supervised loss is the on-policy objective with
    reward 1 and no baseline. In float32, by half of train.tokens_per_microbatch at a time, since
    second derivatives take several times the memory of an update.
    """
    from rlvr.analysis.curvature import hessian_product, lanczos, token_losses

    policy = _policy(recipe, None)
    policy.causal_lm.set_attn_implementation("sdpa")  # padded rows, differentiable twice
    losses = token_losses(policy, rows, recipe.train.tokens_per_microbatch // 2)
    found = lanczos(hessian_product(losses, policy.trainable), policy.trainable)
    if not found.value > 0:  # so written, nan is refused too
        raise RunError(f"{recipe.adapter.method}: no positive curvature at the start")
    return found.value


def _training_prompts(recipe: TrainRecipe, tokenizer: Any) -> tuple[Dataset, list[list[int]]]:
    from rlvr.data.problems import encode_prompts, load_problems

    limit = recipe.model.max_len - recipe.rollout.max_response_len
    return encode_prompts(load_problems(recipe.data), tokenizer, recipe.data, limit)


def _policy(recipe: TrainRecipe, method: str | None) -> Policy:
    """The untrained policy in float32, with the recipe's adapter or another method."""
    recipe = with_found_start(recipe)
    model = recipe.model.model_copy(update={"dtype": "float32"})
    adapter = recipe.adapter if method is None else type(recipe.adapter)(method=method)
    assert recipe.model.path is not None, "the warm start has been made"

    def encode_rows(tokenizer: Any) -> list[list[int]]:
        return _training_prompts(recipe, tokenizer)[1][: recipe.adapter.calibration_rows]

    return load_policy(
        model, adapter, recipe.model.path, recipe.train.seed, False, encode_rows=encode_rows
    )
