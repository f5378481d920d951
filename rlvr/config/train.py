"""Every setting of a recipe: frozen pydantic models, one per section. Imports no torch."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rlvr.common.own_code import is_own, is_reader
from rlvr.config.adapter import AdapterConfig
from rlvr.config.algorithm import AlgorithmConfig, TeacherConfig
from rlvr.config.base import Section
from rlvr.config.data import DataConfig
from rlvr.config.presets import fill_dynamic
from rlvr.config.reward import RewardConfig
from rlvr.config.rollout import RolloutConfig, SamplingConfig
from rlvr.config.stages import StageConfig, overlaid

# at 1 AdamW's bias correction would divide by 0
Beta = Annotated[float, Field(ge=0, lt=1)]


class ModelConfig(Section):
    """The policy that training starts from."""

    path: str | None = None
    """Folder or hub id of a transformers causal language model; exactly one of path and
    sft_recipe."""
    sft_recipe: str | None = None
    """Recipe of `rlvr sft` whose (cached) result is the policy; a relative path starts at this
    recipe."""
    revision: str | None = None
    """Hub revision (commit, tag or branch) of `path`."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Compute type of trainer and engine. With adapter.method = "full" the master weights are
    float32."""
    max_len: int = Field(default=4096, ge=16)
    """Context in tokens: prompt plus response."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you have read that code."""


class OptimConfig(Section):
    """The optimizer and its schedule."""

    name: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = "adamw"
    """AdamW with float32 state, 8-bit state, or state that moves to CPU memory when the GPU's is
    short; all but the first through bitsandbytes."""
    lr: float = Field(gt=0, le=1)
    """Peak learning rate. A recipe may give a table by method, { lora = 1e-5, full = 1e-6 }: no
    method is trained at another's."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's decay rates."""
    eps: float = Field(default=1e-8, gt=0)
    """AdamW's epsilon."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "constant"
    """Shape after the warm-up; linear and cosine end at 0; wsd is constant, then linear to 0."""
    decay_frac: float = Field(default=0.2, gt=0, le=1)
    """schedule = "wsd": fraction of all steps, at the end, over which the rate falls."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up from 0."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Global gradient norm at which gradients are clipped."""
    updates_per_step: int = Field(default=1, ge=1)
    """Optimizer steps per rollout batch; above 1 the trainer first scores what the later ones train
    on, for their ratios."""


class TrainConfig(Section):
    """Length, seed and cost of the run."""

    steps: int = Field(ge=1)
    """Optimizer steps (rollout batches)."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything: data order, every sample, initialisation."""
    tokens_per_microbatch: int = Field(default=16384, ge=1)
    """Tokens in one forward pass: responses, and the prompt of a group once; padding too where the
    model's rows cannot be packed."""
    activation_checkpointing: int = Field(default=0, ge=0)
    """Recompute the activations of every n-th layer in the backward pass: less memory, with 1
    (every layer) about a third more time; 0 keeps all of them."""
    compile: bool = False
    """Compile the decoder layers with torch.compile: minutes at the start, then faster on a GPU."""
    checkpoint_every: int = Field(default=50, ge=0)
    """Steps between checkpoints; 0 writes only the last and those that evaluate best so far."""
    checkpoint_minutes: float = Field(default=0, ge=0)
    """Minutes after which a checkpoint is written at the end of a step although none is due by
    steps; 0: by steps alone. It bounds what is lost where a scheduler kills a run before the
    checkpoint that its signal asks for is written."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints kept."""
    replay: str | None = None
    """Run folder with rollouts kept by track.save_all_rollouts: trained on instead of new ones, one
    file a step, without an engine; nothing is evaluated."""
    rollouts_only: bool = False
    """Generate and score the rollouts of every step, train on none; nothing is evaluated."""
    profile_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Steps, from 1 on, whose update and sync are written as a trace of torch's profiler to
    profile/ in the run folder, by every process."""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads of the trainer; None takes all cores of the process (CPU only)."""


HELD_OUT = "heldout"
"""The name under which the problems of eval.path are scored."""


class EvalConfig(Section):
    """Held-out accuracy, before, during and after training."""

    path: str | None = None
    """As data.path; None evaluates nothing."""
    name: str | None = None
    """As data.name."""
    split: str | None = None
    """As data.split, but None takes "test" (generated data: "heldout")."""
    problem_field: str | None = None
    """As data.problem_field; None takes that."""
    answer_field: str | None = None
    """As data.answer_field; None takes that."""
    answer_after: str | None = None
    """As data.answer_after; None takes that, "" takes the whole field."""
    limit: int | None = Field(default=None, ge=1)
    """As data.limit; of every benchmark too, the first so many problems are sampled."""
    levels: tuple[int, ...] | None = None
    """As data.levels."""
    benchmarks: tuple[str, ...] = ()
    """Benchmarks of `rlvr eval` to score besides `path`, prompted as the training problems are."""
    samples: int = Field(default=1, ge=1)
    """Responses per problem."""
    samples_by_set: dict[str, Annotated[int, Field(ge=1)]] | None = None
    """Responses per problem of single sets instead, such as { aime24 = 32, heldout = 4 }; heldout
    is `path`."""
    max_len: int | None = Field(default=None, ge=1)
    """Longest response in tokens; None takes rollout.max_response_len."""
    temperature: float = Field(default=1.0, ge=0, le=10)
    """Sampling temperature; 0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus mass."""
    every: int = Field(default=0, ge=0)
    """Steps between evaluations during training; 0: only before and after."""
    best_metric: str = "accuracy"
    """What picks the best checkpoint: accuracy, accuracy_mean (over all sets), or <set>/<metric>,
    such as aime24/pass@k or heldout/maj@k."""

    @property
    def sets(self) -> list[str]:
        """Names of what is evaluated, the main set first."""
        benchmarks = [spec.partition("=")[0] for spec in self.benchmarks]
        return [*([HELD_OUT] if self.path else []), *benchmarks]

    def samples_of(self, name: str) -> int:
        """Responses per problem of a set."""
        return (self.samples_by_set or {}).get(name, self.samples)


class TrackConfig(Section):
    """Where numbers go besides metrics.jsonl."""

    to: tuple[Literal["wandb", "tensorboard", "trackio", "mlflow"], ...] = ("wandb",)
    """Trackers, any number of them; docs/tracking.md says where each keeps its runs."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto logs online when an API key is configured and offline otherwise; never prompts."""
    project: str = "rlvr"
    """Project of W&B and Trackio, experiment of MLflow."""
    rollouts_per_step: int = Field(default=16, ge=0)
    """Rollouts of each step written to rollouts/step_N.jsonl.gz and shown in W&B's table."""
    save_all_rollouts: bool = False
    """Keep all groups that a step trains on, with tokens and log-probabilities, in
    groups/step_N.jsonl.gz: what train.replay takes."""


class RunConfig(Section):
    """The run folder."""

    dir: str = "runs"
    """Parent folder."""
    # no slash and no dot at the start: a name cannot lead out of run.dir
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Folder name; None takes the recipe's name, the method, the seed and the time."""


def lr_of_method(tree: Any) -> Any:
    """The recipe as nested dicts, a table of learning rates replaced by the method's own rate.

    Raises: ValueError where the table has none for the method.
    """
    optim = tree.get("optim") if isinstance(tree, dict) else None
    if not isinstance(optim, dict) or not isinstance(optim.get("lr"), dict):
        return tree
    # adapter.method's own default: nothing is validated yet
    adapter = tree.get("adapter", {})
    method = adapter.get("method", "lora") if isinstance(adapter, dict) else None
    if not isinstance(method, str):
        return tree  # the section's own error says what is wrong with it
    if method not in optim["lr"]:
        raise ValueError(
            f"optim.lr: the recipe has rates for {', '.join(optim['lr'])}, not for {method};"
            " find one and pass --optim.lr VALUE"
        )
    return tree | {"optim": optim | {"lr": optim["lr"][method]}}


class TrainRecipe(Section):
    """A complete recipe for `rlvr train`; `rlvr.config.rules` says what may stand together."""

    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    rollout: RolloutConfig = RolloutConfig()
    sampling: SamplingConfig = SamplingConfig()
    reward: RewardConfig = RewardConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    teacher: TeacherConfig = TeacherConfig()
    adapter: AdapterConfig = AdapterConfig()
    eval: EvalConfig = EvalConfig()
    track: TrackConfig = TrackConfig()
    run: RunConfig = RunConfig()
    stage: tuple[StageConfig, ...] = ()
    """Settings that change on the way, see docs/stages.md."""

    def in_stage(self, number: int) -> "TrainRecipe":
        """The recipe with the changes of the first so many stages, and no stages of its own.

        Raises: ValidationError for values out of range.
        """
        if not self.stage:
            return self
        # only what was given: a default written out could count as a setting that is ignored
        tree = self.model_dump(mode="json", exclude_unset=True)
        return TrainRecipe.model_validate(overlaid(tree, self.stage[:number]))

    @property
    def eval_len(self) -> int:
        """Longest response of an evaluation, in tokens."""
        return self.eval.max_len or self.rollout.max_response_len

    @model_validator(mode="before")
    @classmethod
    def _lr_of_method(cls, tree: Any) -> Any:
        return lr_of_method(tree)

    @model_validator(mode="before")
    @classmethod
    def _dynamic_of_preset(cls, tree: Any) -> Any:
        return fill_dynamic(tree)


CALLED_WITH = {
    "algorithm.advantage": ("rewards", "lengths"),
    "algorithm.ratio": ("log_ratio_T", "layout"),
    "algorithm.clip": ("inputs", "config"),
    "data.path": (),
    "eval.path": (),
}
"""Settings that take such a function, and what it is called with; reward.extra stands apart."""


def own_functions(recipe: TrainRecipe) -> dict[str, str]:
    """The import path of every such setting, by its key."""
    found = {f"reward.extra.{one.label}": one.function for one in recipe.reward.extra}
    for key in CALLED_WITH:
        section, _, name = key.partition(".")
        value = getattr(getattr(recipe, section), name)
        if is_reader(value) if name == "path" else is_own(value):
            found[key] = value
    readers = {f"data.source.{i}.path": one.path for i, one in enumerate(recipe.data.source)}
    return found | {key: path for key, path in readers.items() if is_reader(path)}


def called_with(key: str) -> tuple[str, ...] | None:
    """What the function that this setting names is called with; None for one of reward.extra."""
    return () if key.startswith("data.source.") else CALLED_WITH.get(key)
