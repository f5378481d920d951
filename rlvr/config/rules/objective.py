"""What the parts of reward, advantage and loss demand of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlvr.config.train import TrainRecipe


def _of_algorithm(recipe: TrainRecipe) -> Iterator[str]:
    config = recipe.algorithm
    if config.clip == "geometric" and config.ratio != "token":
        yield (
            f'algorithm.ratio = "{config.ratio}": clip = "geometric" takes the mean over the'
            ' response itself; set algorithm.ratio = "token"'
        )
    if config.clip_delta is not None and config.clip_delta <= 1 + config.clip_high:
        yield (
            f"algorithm.clip_delta = {config.clip_delta}: must lie above 1 + clip_high ="
            f" {1 + config.clip_high:g}; 3 is usual"
        )
    if config.entropy_target is not None and config.entropy_coef > config.entropy_coef_max:
        yield (
            f"algorithm.entropy_coef = {config.entropy_coef}: above entropy_coef_max ="
            f" {config.entropy_coef_max}; lower it or raise that"
        )


def _of_reference(recipe: TrainRecipe) -> Iterator[str]:
    config = recipe.algorithm
    if config.kl_in == "loss" and config.kl_estimator == "k1" and not config.kl_unbiased:
        yield (
            "algorithm.kl_unbiased = false: k1 in the loss has a gradient of 0 on average; set"
            ' it to true, kl_estimator to "k2" or "k3", or kl_in to "reward"'
        )
    if config.kl_in == "loss" and config.kl_estimator == "k2" and config.kl_unbiased:
        yield (
            "algorithm.kl_unbiased = true: k2 has the KL's gradient without the factor and with"
            ' it another; remove it or set kl_estimator to "k1" or "k3"'
        )
    if config.reference != "initial" and recipe.adapter.method != "full":
        yield (
            f'algorithm.reference = "{config.reference}": moves with adapter.method = "full" alone;'
            ' set it to "initial", or the method to "full"'
        )


def _of_estimator(recipe: TrainRecipe) -> Iterator[str]:
    algorithm, reward = recipe.algorithm, recipe.reward
    shaped = reward.format_weight or reward.length_weight or reward.repetition_weight
    plain = (reward.correct, reward.incorrect) == (1, 0) and not (shaped or reward.extra)
    in_reward = algorithm.kl_beta and algorithm.kl_in == "reward"
    is_binary = plain and not in_reward and reward.overlong != "penalty" and not reward.normalise
    if algorithm.advantage == "over_mean" and not is_binary:
        yield (
            'algorithm.advantage = "over_mean": divides by the mean reward, which has to be the'
            " share of right responses: reward.correct = 1, incorrect = 0, no other part of the"
            ' reward, no KL in it; remove those, or set the advantage to "group_mean"'
        )
    if algorithm.advantage == "pass_at_k" and algorithm.pass_k >= recipe.rollout.group_size:
        yield (
            f"algorithm.pass_k = {algorithm.pass_k}: a group of rollout.group_size ="
            f" {recipe.rollout.group_size} has one such set at most, and no advantages; lower the"
            " first or raise that"
        )
    if algorithm.cov == "kl" and recipe.optim.updates_per_step == 1:
        yield (
            'algorithm.cov = "kl": in the first update of a step no token has drifted, and there'
            ' is no second; set optim.updates_per_step to 2 or more, or cov to "clip"'
        )


def _of_teacher(recipe: TrainRecipe) -> Iterator[str]:
    teacher, algorithm = recipe.teacher, recipe.algorithm
    if not teacher.is_given:
        if algorithm.advantage == "none":
            yield (
                'algorithm.advantage = "none": trains nothing without a teacher; give teacher.path'
                ' or teacher.servers, or set it to "group_std"'
            )
        return
    if teacher.path is not None and teacher.servers:
        yield "teacher.path: give one of teacher.path and teacher.servers, not both; remove one"
    for url in sorted(set(teacher.servers) & set(recipe.rollout.servers)):
        yield (
            f"teacher.servers: {url} is among rollout.servers and takes the policy's weights; start"
            " another with rlvr serve"
        )
    if algorithm.ratio in ("sequence", "trajectory"):
        yield (
            f'algorithm.ratio = "{algorithm.ratio}": one ratio for a whole response, and a'
            ' teacher\'s advantage is of a token; set it to "token" or "sequence_token"'
        )
    if algorithm.clip == "geometric":
        yield (
            'algorithm.clip = "geometric": one gain for a whole response, and a teacher\'s'
            ' advantage is of a token; set it to "ppo"'
        )
    if algorithm.advantage == "none" and algorithm.kl_beta and algorithm.kl_in == "reward":
        yield (
            'algorithm.kl_in = "reward": would be ignored with algorithm.advantage = "none"; set it'
            ' to "loss", or algorithm.kl_beta to 0'
        )
    if teacher.servers and recipe.rollout.temperature != 1:
        yield (
            f"rollout.temperature = {recipe.rollout.temperature:g}: vLLM scores prompts at"
            " temperature 1 only; set it to 1, or take teacher.path instead of teacher.servers"
        )


def truncates(recipe: TrainRecipe) -> bool:
    rollout = recipe.rollout
    return rollout.top_p < 1 or rollout.top_k > 0 or rollout.min_p > 0


def _of_truncated_sampling(recipe: TrainRecipe) -> Iterator[str]:
    if not truncates(recipe):
        return
    if recipe.algorithm.mismatch != "none":
        yield (
            f'algorithm.mismatch = "{recipe.algorithm.mismatch}": biased when sampling is'
            " truncated (rollout.top_p, top_k or min_p); sample from the full distribution or"
            ' set it to "none"'
        )
    for name in ("geometric_mask", "off_policy_mask"):
        if getattr(recipe.algorithm, name) is not None:
            yield (
                f"algorithm.{name}: compares with the engine's probabilities, which truncated"
                " sampling (rollout.top_p, top_k or min_p) renormalises; sample from the full"
                " distribution or remove it"
            )


def trains_on_older(recipe: TrainRecipe) -> bool:
    """Whether a step may train on responses of an earlier step's weights."""
    rollout = recipe.rollout
    may_keep = rollout.mode == "async" or rollout.partial or recipe.sampling.dynamic
    return recipe.rollout.max_staleness > 0 and may_keep


def _of_behaviour(recipe: TrainRecipe) -> Iterator[str]:
    algorithm, dtype = recipe.algorithm, recipe.model.dtype
    # a token's ratio carries the rounding once; over a response of 1,000 tokens it adds up
    by_engine = algorithm.mismatch == "none" and trains_on_older(recipe)
    if by_engine and algorithm.ratio != "token" and dtype != "float32":
        yield (
            f'algorithm.mismatch = "none": algorithm.ratio = "{algorithm.ratio}" would add up the'
            f" {dtype} rounding of the engine over each response of older weights; set it to"
            ' "tis", or rollout.max_staleness to 0 with rollout.mode = "sync"'
        )


def _of_reward(recipe: TrainRecipe) -> Iterator[str]:
    reward, longest = recipe.reward, recipe.rollout.max_response_len
    if reward.correct <= reward.incorrect:
        yield (
            f"reward.correct = {reward.correct}: must be above reward.incorrect ="
            f" {reward.incorrect}; a correct answer has to pay"
        )
    labels = [one.label for one in reward.extra]
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        yield f"reward.extra.name: two are called {label}; give one of them another name"
    if reward.overlong == "penalty" and not 0 < reward.overlong_cache_len <= longest:
        yield (
            f"reward.overlong_cache_len = {reward.overlong_cache_len}: must lie in"
            f" 1..rollout.max_response_len = {longest} for the soft"
            " penalty; DAPO takes a fifth of it"
        )


OBJECTIVE_RULES: tuple[Callable[[TrainRecipe], Iterator[str]], ...] = (
    _of_algorithm,
    _of_reference,
    _of_estimator,
    _of_teacher,
    _of_truncated_sampling,
    _of_behaviour,
    _of_reward,
)
