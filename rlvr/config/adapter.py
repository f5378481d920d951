"""Settings of the adapter: one block for all methods, then one block per method that has more.

Imports no torch.
"""

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from rlvr.config.base import Section

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraPlusConfig(Section):
    # 2^4 is what the paper recommends (2402.12354)
    lr_ratio: float = Field(default=16.0, ge=1)
    """Learning rate of B divided by that of A."""


class PissaConfig(Section):
    niter: int = Field(default=0, ge=0, le=64)
    """Subspace iterations of a fast SVD; 0 decomposes exactly."""


class GeoraConfig(Section):
    # 0.2 is the paper's
    fraction: float = Field(default=0.2, gt=0, le=1)
    """Share of a weight's entries, the smallest, that each of the two masks takes."""


class InitAbConfig(Section):
    magnitude: float = Field(default=1.0, gt=0)
    """A and B are uniform within +-magnitude / sqrt(fan_in)."""


class EvaConfig(Section):
    # 1, not peft's 2: every module keeps rank r, as under all other methods
    rho: float = Field(default=1.0, ge=1)
    """Largest rank of a module divided by r; 1 gives every module rank r."""
    whiten: bool = False
    """Whiten the inputs before their SVD."""


class CordaConfig(Section):
    mode: Literal["ipm", "kpm"] = "ipm"
    """Largest (instruction-previewed) or smallest (knowledge-preserved) triples."""


class LoraGaConfig(Section):
    direction: Literal["ArBr", "A2rBr", "ArB2r", "random"] = "ArB2r"
    """Which of the gradient's first 2 r singular vectors A and B take."""
    scale: Literal["stable", "weight_svd", "gd_scale", "unit"] = "stable"
    """What both orthonormal factors are multiplied by: outputs^(1/4) / sqrt(stable_gamma); the mean
    of sqrt(s / scaling) over W's first r singular values s; 1 / scaling; or 1."""
    # the authors' setting, as are the direction and the scale
    stable_gamma: int = Field(default=16, ge=1)
    """Gamma of the stable scale."""


class AdaloraConfig(Section):
    init_rank: int | None = Field(default=None, ge=1)
    """Triples per module at the start; None takes 1.5 times adapter.rank, the final average."""
    warmup_updates: int | None = Field(default=None, ge=0)
    """Updates before the first triple goes; None takes a tenth of the run."""
    final_updates: int | None = Field(default=None, ge=0)
    """Updates at the end with fixed ranks; None takes a fifth of the run."""
    every_updates: int = Field(default=1, ge=1)
    """Updates between two allocations."""
    # 0.85, 0.85 and 0.5 are peft's defaults
    beta1: float = Field(default=0.85, gt=0, lt=1)
    """Decay of the average importance."""
    beta2: float = Field(default=0.85, gt=0, lt=1)
    """Decay of the average uncertainty."""
    orthogonality: float = Field(default=0.5, ge=0)
    """Weight of the penalty that keeps A and B orthonormal."""


class VeraConfig(Section):
    d_initial: float = Field(default=0.1, gt=0)
    """Start of the inner vector."""


class TinyloraConfig(Section):
    # peft's default, as is no tying
    vector_len: int = Field(default=64, ge=1)
    """Trained numbers per vector."""
    tying: float = Field(default=0.0, ge=0, le=1)
    """Share of the modules that use one vector together; 0: each its own, 1: one for all."""


class FourierftConfig(Section):
    # 1000 and 150 are peft's defaults
    num_frequencies: int = Field(default=1000, ge=1)
    """Spectral entries per module."""
    scale: float = Field(default=150.0, gt=0)
    """Factor of the update."""


class LokrConfig(Section):
    factor: int | None = Field(default=None, ge=1)
    """Size of the small Kronecker factor, a divisor of every target module's inputs and outputs;
    None makes both nearly square."""
    decompose_both: bool = False
    """Low-rank factors for the small factor too."""


class OftConfig(Section):
    # peft's default
    block_size: int = Field(default=32, ge=2)
    """Size of the rotated blocks; has to divide the inputs of every target module."""


class BoftConfig(Section):
    block_size: int = Field(default=4, ge=2)
    """Size of the rotated blocks; has to divide the inputs of every target module."""
    num_factors: int = Field(default=1, ge=1)
    """Butterfly factors; more than 1 need the CUDA toolkit."""


class CompacterConfig(Section):
    n: int = Field(default=4, ge=1)
    """Kronecker terms; has to divide the hidden size and adapter.rank."""


class PromptConfig(Section):
    num_tokens: int = Field(default=20, ge=1)
    """Virtual positions before every sequence."""


class QloraConfig(Section):
    quant_type: Literal["nf4", "fp4"] = "nf4"
    """4-bit type of the base."""
    double_quant: bool = True
    """Quantise the scales too."""


class LoftqConfig(Section):
    iterations: int = Field(default=1, ge=1)
    """Rounds of quantising and decomposing."""


class GaloreConfig(Section):
    # 200 and 0.25 are the paper's (2403.03507)
    every_updates: int = Field(default=200, ge=1)
    """Updates between two new projections."""
    scale: float = Field(default=0.25, gt=0)
    """Factor of the projected step."""


class ApolloConfig(Section):
    every_updates: int = Field(default=200, ge=1)
    """Updates between two new projections."""
    scale: float = Field(default=1.0, gt=0)
    """Factor of the scaled step."""


class AdapterConfig(Section):
    """What is trained. The same modules for every method. A setting that the method would ignore
    is an error."""

    method: str = "lora"
    """A name that `rlvr adapters` lists."""
    rank: int | None = Field(default=None, ge=1)
    """Rank r; None takes 32 for methods that have one (tinylora 2, galore and apollo 128)."""
    alpha: float | None = Field(default=None, gt=0)
    """Scaling numerator; None takes 2 r (randlora 20 r)."""
    scaling: Literal["rank", "sqrt_rank"] = "rank"
    """The update is scaled by alpha / r or alpha / sqrt(r)."""
    target_modules: tuple[str, ...] = Field(default=ALL_LINEAR, min_length=1)
    """Names of the adapted linear modules."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input; must be 0 in RL, since engine and trainer would differ."""
    seed: int | None = Field(default=None, ge=0)
    """Seed of the adapter's initialisation; None takes train.seed."""
    match: str | None = Field(default=None, pattern=r"^params:\d+(\.\d+)?[KMB]?$")
    """"params:36.9M" takes the rank whose number of trainable parameters comes nearest."""
    calibration_rows: int = Field(default=64, ge=1)
    """Training problems that a data-driven initialisation looks at."""
    start_from: str | None = None
    """Folder of a run, a checkpoint or an adapter of the same method, settings and base that
    training goes on from, in place of the method's own start; a run stands for its best checkpoint.
    Its weights are taken, not its optimizer. The policy at step 0, algorithm.reference's "initial",
    is then the saved one."""
    lora_plus: LoraPlusConfig = LoraPlusConfig()
    pissa: PissaConfig = PissaConfig()
    geora: GeoraConfig = GeoraConfig()
    init_ab: InitAbConfig = InitAbConfig()
    eva: EvaConfig = EvaConfig()
    corda: CordaConfig = CordaConfig()
    lora_ga: LoraGaConfig = LoraGaConfig()
    adalora: AdaloraConfig = AdaloraConfig()
    vera: VeraConfig = VeraConfig()
    tinylora: TinyloraConfig = TinyloraConfig()
    fourierft: FourierftConfig = FourierftConfig()
    lokr: LokrConfig = LokrConfig()
    oft: OftConfig = OftConfig()
    boft: BoftConfig = BoftConfig()
    compacter: CompacterConfig = CompacterConfig()
    prompt: PromptConfig = PromptConfig()
    qlora: QloraConfig = QloraConfig()
    loftq: LoftqConfig = LoftqConfig()
    galore: GaloreConfig = GaloreConfig()
    apollo: ApolloConfig = ApolloConfig()

    @field_validator("target_modules", mode="before")
    @classmethod
    def _list_of_names(cls, value: Any) -> Any:
        """Raises: ValueError for a text, as peft has it with "all-linear"."""
        if isinstance(value, str):
            names = ", ".join(f'"{name}"' for name in ALL_LINEAR)
            raise ValueError(f"takes a list of modules' names; every linear one is [{names}]")
        return value

    @model_serializer(mode="wrap")
    def _only_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The method and what was given: the rest would be refused when read back."""
        return {k: v for k, v in handler(self).items() if k in self.model_fields_set | {"method"}}
