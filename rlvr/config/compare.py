"""Settings of a comparison recipe. Imports no torch."""

from typing import Annotated, Any, Literal

from pydantic import Field

from rlvr.config.base import Section

# no slash and no dot at the start: a name cannot lead out of its folder
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""What folders are named after."""

Tree = dict[str, dict[str, Any]]
"""Settings of `rlvr train` by section, as in its recipes."""


UNITS = ("steps", "tokens", "seconds", "flops")
"""What a budget may be counted in."""


class CompareConfig(Section):
    """What is compared, and where it goes."""

    name: Name
    """Name of the comparison's folder."""
    base: str
    """Recipe of `rlvr train` that every run starts from; a relative path starts at this recipe."""
    dir: str = "runs"
    """Parent folder."""
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    """train.seed of the runs of every method: the same data order and generation seeds."""
    match: Literal["none", "parameters"] = "none"
    """parameters: refuse methods whose numbers of trainable parameters differ by more than 10%."""
    allow_unmatched: bool = False
    """Run a comparison that is not fair; every output then says in what."""


class BudgetConfig(Section):
    """What every run may use; exactly one of the four. A run ends with the step that reaches it."""

    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps."""
    tokens: float | None = Field(default=None, gt=0)
    """Tokens sampled for training."""
    seconds: float | None = Field(default=None, gt=0)
    """Seconds in steps, without start and evaluations."""
    flops: float | None = Field(default=None, gt=0)
    """Floating-point operations of sampling and update, estimated from parameters and tokens."""
    max_steps: int = Field(default=100_000, ge=1)
    """Bound on the steps where the budget is not in steps."""

    @property
    def unit(self) -> str:
        return next(unit for unit in UNITS if getattr(self, unit))

    @property
    def amount(self) -> float:
        return getattr(self, self.unit)


class MethodConfig(Section):
    """One competitor; its label is the table's name."""

    method: str | None = None
    """adapter.method; None takes the label."""
    # no number as a default: it would be another method's
    lr: float | Literal["find"] = "find"
    """Its own peak learning rate, or "find" to look for it first."""
    reference_lr: float | None = Field(default=None, gt=0, le=1)
    """Centre of the grid when its rate is searched; None takes find.prior's."""
    rank: int | None = Field(default=None, ge=1)
    """adapter.rank; None takes the base recipe's where the method has one."""
    seeds: tuple[int, ...] | None = None
    """Other seeds than compare.seeds (not fair)."""
    settings: Tree = Field(default_factory=dict)
    """Further settings of this method alone, by section of `rlvr train`."""


class RulesConfig(Section):
    """When a short run has diverged and ends."""

    max_kl: float = Field(default=1.0, gt=0)
    """"kl": policy/kl_ref above this (nats per token), where it is logged."""
    max_kl_step: float = Field(default=0.3, gt=0)
    """"kl": policy/kl_engine above this (nats per token): the policy moves too far in one step."""
    min_reward_frac: float = Field(default=0.5, ge=0, lt=1)
    """"reward": mean reward of 3 steps below this fraction of that of the first 3."""
    max_grad_norm_ratio: float = Field(default=100.0, gt=1)
    """"grad_norm": above this multiple of the median of the first 3 steps, or not finite."""


class FindConfig(Section):
    """How learning rates are found."""

    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    """train.seed of the short runs: all rates with the first, then, as long as the vertex is not
    known to `precision`, the rates around the best with the next."""
    # one step of the grid, 10^(1/4)
    precision: float = Field(default=1.778, gt=1)
    """The search ends when the interval of the vertex reaches no further than this factor."""
    steps: int | None = Field(default=None, ge=2)
    """Steps of a short run; None takes budget.steps."""
    signal: Literal["reward", "accuracy"] = "reward"
    """What a short run is judged by: reward, the mean over its last steps, and nothing is
    evaluated; or accuracy, held out, after it."""
    last_frac: float = Field(default=0.5, gt=0, le=1)
    """signal = "reward": fraction of the steps, the last ones, that the mean is over."""
    # fewer than 3 have no parabola
    num_points: int = Field(default=5, ge=3)
    """Rates tried at first, a factor of 10^(1/4) = 1.778 apart."""
    max_points: int = Field(default=9, ge=3)
    """Rates tried at most, when the best one lies near the end of the grid."""
    prior: Literal["curvature", "none"] = "curvature"
    """Where the grid of a method without a reference_lr is centred: LoRA's rate times its largest
    Hessian eigenvalue over the method's; or at find.reference_lr."""
    prior_power: float = Field(default=1.0, gt=0, le=2)
    """Power of the ratio of eigenvalues in the prior; 1 is the published rule."""
    prior_rows: int = Field(default=64, ge=8)
    """Sampled responses that the eigenvalues are taken on."""
    reference_lr: float = Field(default=1e-4, gt=0, le=1)
    """Centre of LoRA's own grid."""
    min_r2: float = Field(default=0.5, ge=0, lt=1)
    """A parabola that explains less of the variance between rates is not believed."""
    rules: RulesConfig = RulesConfig()


class DenseConfig(Section):
    """A dense sweep over a fixed grid for every method, to judge the finder by."""

    min_lr: float = Field(default=3e-5, gt=0, le=1)
    """Smallest rate, rounded to the grid."""
    max_lr: float = Field(default=3e-2, gt=0, le=1)
    """Largest rate, rounded to the grid."""
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    """train.seed of the runs at every rate."""


class PruneConfig(Section):
    """Successive halving: after each rung only the best methods continue."""

    rungs: tuple[int, ...] = Field(min_length=1)
    """Steps after which methods are compared, ascending."""
    keep: float = Field(default=0.5, gt=0, lt=1)
    """Fraction of methods that continue, rounded up."""


class ExecutorConfig(Section):
    """Where the runs go."""

    kind: Literal["local", "shared", "ray", "slurm"] = "local"
    """This machine; this process, with several runs on one base and one vLLM; an existing Ray
    cluster; a Slurm job array."""
    runs_per_engine: int = Field(default=4, ge=2)
    """shared: runs at a time."""
    parallel: int = Field(default=1, ge=1)
    """local: runs at a time, each in a process with its share of GPUs or cores; slurm: array tasks
    at a time."""
    gpus_per_run: float = Field(default=1.0, ge=0)
    """ray, slurm: GPUs of one run; 0 on CPU."""
    cpus_per_run: int = Field(default=8, ge=1)
    """ray, slurm: CPU cores of one run, for engine, verifier and trainer; where it is not given and
    gpus_per_run = 0, one."""
    max_retries: int = Field(default=3, ge=0)
    """ray: times that a run is started again after its worker was lost."""
    sbatch_options: tuple[str, ...] = ()
    """slurm: further options, such as "--partition=gpu", "--time=08:00:00"."""

    @property
    def cpus(self) -> int:
        """CPU cores of one run."""
        is_meant = self.gpus_per_run > 0 or "cpus_per_run" in self.model_fields_set
        return self.cpus_per_run if is_meant else 1


class CompareRecipe(Section):
    """A complete recipe for `rlvr compare` and `rlvr lr-find`."""

    compare: CompareConfig
    methods: dict[Name, MethodConfig] = Field(min_length=1)
    budget: BudgetConfig
    settings: Tree = Field(default_factory=dict)
    """Settings of `rlvr train` that all runs share, over those of the base recipe."""
    find: FindConfig = FindConfig()
    dense: DenseConfig = DenseConfig()
    prune: PruneConfig | None = None
    executor: ExecutorConfig = ExecutorConfig()

    @property
    def wants_find(self) -> bool:
        return any(m.lr == "find" for m in self.methods.values())
