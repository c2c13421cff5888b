"""Megatron's optimizer, taken apart just enough that the step can look at the gradient before it is applied."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from nemo_cascade.config.model import OptimizerConfig, ParallelConfig, PrecisionConfig
from nemo_cascade.models.megatron import backend
from nemo_cascade.training.schedule import learning_rate

# backend first: Megatron-Core assumes CUDA while it is imported.
from megatron.core.optimizer import get_megatron_optimizer  # isort: skip
from megatron.core.optimizer import USING_PYTORCH_OPTIMIZER  # isort: skip
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig  # isort: skip
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32  # isort: skip

# Megatron's optimizer looks at .grad of its fp32 shards, which are views, and calls collectives by their old names.
warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)


class PolicyOptimizer:
    """AdamW over fp32 main parameters, sharded over data-parallel ranks where the layout says so.

    Weight decay spares everything one-dimensional (norms, biases): Megatron groups those with `wd_mult` 0, but leaves
    it to its scheduler to apply that; here `apply` does.

    Args:
        chunks: the DDP-wrapped model chunks of this rank.
        config: Adam, schedule, clipping.
        total_steps: the stage's number of optimizer steps.
    """

    def __init__(
        self,
        chunks: Sequence[torch.nn.Module],
        config: OptimizerConfig,
        parallel: ParallelConfig,
        precision: PrecisionConfig,
        total_steps: int,
    ) -> None:
        self.config, self.total_steps = config, total_steps
        half = precision.dtype == "bf16"
        self.megatron: Any = get_megatron_optimizer(
            MegatronOptimizerConfig(
                optimizer="adam",
                lr=config.lr,
                min_lr=config.min_lr,
                weight_decay=config.weight_decay,
                adam_beta1=config.adam_beta1,
                adam_beta2=config.adam_beta2,
                adam_eps=config.adam_eps,
                clip_grad=config.clip_grad,
                bf16=half,
                params_dtype=torch.bfloat16 if half else torch.float32,
                use_distributed_optimizer=parallel.use_distributed_optimizer,
            ),
            list(chunks),
            use_gloo_process_groups=False,
        )
        if USING_PYTORCH_OPTIMIZER:
            from nemo_cascade.models.megatron.fixes import fill_adam_state

            fill_adam_state(self.megatron)

    @property
    def parts(self) -> list[Any]:
        """The optimizers behind Megatron's chain: one for dense, one for expert parameters."""
        return list(getattr(self.megatron, "chained_optimizers", [self.megatron]))

    def zero_grad(self) -> None:
        """Forget the last step's gradients of the main parameters."""
        self.megatron.zero_grad()

    def prepare(self) -> float:
        """Copy the reduced gradients to the main parameters and return their global norm before clipping."""
        self.megatron.prepare_grads()
        return float(self.megatron.get_grad_norm())

    def apply(self, step: int, grad_norm: float) -> float:
        """Clip, update the main parameters and spread the new weights over the data-parallel ranks.

        Args:
            step: optimizer step from 0; decides the learning rate.
            grad_norm: what `prepare` returned.

        Returns:
            The learning rate that was used.
        """
        lr = learning_rate(self.config, step, self.total_steps)
        for group in self.megatron.param_groups:
            group["lr"] = lr * group["lr_mult"]
            group["weight_decay"] = self.config.weight_decay * group["wd_mult"]
        for part in self.parts:
            parameters = part.get_parameters()
            if parameters and self.config.clip_grad > 0:
                clip_grad_by_total_norm_fp32(parameters, self.config.clip_grad, grad_norm)
        applied = self.megatron.step_with_ready_grads()
        assert applied, "Megatron refused a step whose gradient was finite"
        backend.synchronize()
        return lr
