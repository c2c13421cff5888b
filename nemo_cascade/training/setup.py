"""What goes into a policy worker and what comes out of a step; import-light, for the driver's side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nemo_cascade.config.model import ModelConfig, OptimizerConfig, ParallelConfig, PrecisionConfig
from nemo_cascade.config.stages.policy_loss import PolicyLossConfig
from nemo_cascade.errors import ConfigError

WhichModel = Literal["policy", "rounded_anew", "reference"]
"""What `logprobs` scores with."""


@dataclass(frozen=True)
class TrainerSetup:
    """What a stage wants of the policy.

    Attributes:
        hf_path: HF folder of the weights to start from (config, safetensors, tokenizer).
        model: layer implementation, vocabulary padding.
        parallel: layout; its size is the number of ranks.
        precision: number formats.
        optimizer: AdamW and schedule.
        total_steps: the stage's optimizer steps.
        seq_length: longest pack, tokens.
        seed: of Megatron's random states.
        objective: supervised fine-tuning, policy gradient, or preference (a reward model: scalar head, drawn from
            `seed` where `hf_path` is a language model's).
        loss: the policy-gradient loss; only and always with objective `policy`.
        temperature: of the sampling distribution, where log-probabilities are the policy's.
        reference_hf_path: HF folder of a frozen second model for `logprobs(which="reference")`.
    """

    hf_path: str
    model: ModelConfig
    parallel: ParallelConfig
    precision: PrecisionConfig
    optimizer: OptimizerConfig
    total_steps: int
    seq_length: int
    seed: int
    objective: Literal["sft", "policy", "preference"]
    loss: PolicyLossConfig | None = None
    temperature: float = 1.0
    reference_hf_path: str | None = None

    def check(self) -> None:
        """Refuse a set-up that contradicts itself.

        Raises:
            ConfigError: listing every contradiction.
        """
        problems = []
        if (self.objective == "policy") != (self.loss is not None):
            problems.append(f"objective {self.objective!r} {'needs' if self.loss is None else 'takes no'} loss")
        if self.temperature <= 0:
            problems.append(f"temperature {self.temperature} can't score log-probabilities; it must be above 0")
        if self.objective != "policy" and self.temperature != 1.0:
            problems.append(f"temperature {self.temperature} has no meaning with objective {self.objective!r}")
        if self.objective == "preference" and self.reference_hf_path is not None:
            problems.append("objective 'preference' has no reference model")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimizer step did; the same on every rank.

    Attributes:
        step: from 0.
        loss: per unit (trained token, response, or pair) of the global batch.
        grad_norm: global L2 norm before clipping.
        lr: learning rate used; 0 where the step was skipped.
        tokens: trained tokens of the global batch.
        skipped: loss or gradient was not finite, so nothing was updated.
        metrics: means and maxima over the global batch.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    skipped: bool
    metrics: dict[str, float] = field(default_factory=dict)
