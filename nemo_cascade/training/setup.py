"""What goes into a policy worker and what comes out of a step, for the driver's side."""

from dataclasses import dataclass, field
from typing import Literal

from nemo_cascade.config.model import ModelConfig, OptimizerConfig, ParallelConfig, PrecisionConfig
from nemo_cascade.config.router import RouterConfig
from nemo_cascade.losses.objective import Objective

WhichModel = Literal["policy", "rounded_anew", "reference"]
"""What `logprobs` scores with."""


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained.

    Attributes:
        objective: what for.
        optimizer: AdamW and schedule.
        total_steps: the stage's optimizer steps.
        router: how routers of experts are treated, where the model has any.
    """

    objective: Objective
    optimizer: OptimizerConfig
    total_steps: int
    router: RouterConfig = field(default_factory=RouterConfig)


@dataclass(frozen=True, slots=True)
class TrainerSetup:
    """What a stage wants of the policy.

    Attributes:
        hf_path: HF folder of the weights to start from (config, safetensors, tokenizer).
        model: layer implementation, vocabulary padding.
        parallel: layout; its size is the number of ranks.
        precision: number formats.
        seq_length: longest pack, tokens.
        seed: of Megatron's random states, and of a reward model's head where `hf_path` is a language model's.
        training: None: it isn't trained, it only serves its weights.
    """

    hf_path: str
    model: ModelConfig
    parallel: ParallelConfig
    precision: PrecisionConfig
    seq_length: int
    seed: int
    training: Training | None

    @property
    def temperature(self) -> float:
        """Temperature that log-probabilities are computed at: the policy's own, else 1."""
        return 1.0 if self.training is None else self.training.objective.logit_temperature()

    @property
    def reference_hf_path(self) -> str | None:
        """HF folder of a frozen second model that scores labels, if there is one."""
        return None if self.training is None else self.training.objective.reference_folder()

    @property
    def teacher_hf_path(self) -> str | None:
        """HF folder of a frozen second model whose logits are learned, if there is one."""
        return None if self.training is None else self.training.objective.teacher_folder()


@dataclass(frozen=True, slots=True)
class FrozenSetup:
    """Models that are never trained and score what others said.

    Attributes:
        hf_paths: HF folder of each; all of them are held at once.
        model: layer implementation, vocabulary padding.
        parallel: layout; its size is the number of ranks.
        precision: number formats.
        seq_length: longest pack, tokens.
        temperature: that log-probabilities are computed at.
    """

    hf_paths: tuple[str, ...]
    model: ModelConfig
    parallel: ParallelConfig
    precision: PrecisionConfig
    seq_length: int
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimizer step did; the same on every rank, but for its memory.

    Attributes:
        step: from 0.
        loss: per unit (trained token, response, or pair) of the global batch.
        grad_norm: global L2 norm before clipping.
        lr: learning rate used; 0 where the step was skipped.
        tokens: trained tokens of the global batch.
        skipped: loss or gradient was not finite, so nothing was updated.
        metrics: means and maxima over the global batch.
        expert_load: of a mixture of experts, by layer and expert: its tokens in shares of an equal one.
        memory_bytes: the most that a rank has held so far: allocated on a GPU, resident on a CPU; 0 where unknown.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    skipped: bool
    metrics: dict[str, float] = field(default_factory=dict)
    expert_load: dict[str, float] = field(default_factory=dict)
    memory_bytes: int = field(default=0, compare=False)
