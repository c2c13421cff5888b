"""What vLLM computes in plain PyTorch on a CPU, in place of kernels that repack weights, and of layers that it lacks.

vLLM's CPU build repacks the weights of linear layers and of experts, so that new ones have nowhere to go: written into
packed memory they are no error, but other numbers. Plain layers make a hand-over exact. Experts without a gate, and so
NemotronH's, it refuses on a CPU altogether.

Shapes: T tokens, H hidden, E experts, K experts of a token, F width of an expert.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import vllm._custom_ops as custom_ops
from torch import Tensor
from vllm.model_executor.layers import utils as layer_dispatch
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.experts import cpu_moe
from vllm.model_executor.models import nemotron_h
from vllm.model_executor.models.utils import extract_layer_index


def install() -> None:
    """Put the plain layers in place; before vLLM builds a model."""
    custom_ops._supports_onednn = False
    vars(custom_ops).pop(
        "causal_conv1d_weight_pack", None
    )  # where it is missing, convolutions stay as they are in bf16
    layer_dispatch.check_cpu_sgl_kernel = lambda *_: False
    cpu_moe.X86CPUUnquantizedExperts._supports_current_device = staticmethod(lambda: False)
    plain = cpu_moe.CPUUnquantizedExperts
    plain.process_weights_after_loading = _leave_as_they_are
    plain.is_supported_config = staticmethod(lambda *_: (True, None))
    plain.apply = _gated_experts
    nemotron_h.NemotronHMoE = SquaredReluExperts


def mixture(x_TH: Tensor, chosen_TK: Tensor, weight_TK: Tensor, expert: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Return the weighted sum of the chosen experts' outputs, [T, H] in float32.

    Args:
        x_TH: input.
        chosen_TK: experts of each token.
        weight_TK: their weights, float32.
        expert: computes one expert on some of the tokens.
    """
    y_TH = torch.zeros(x_TH.shape, dtype=torch.float32)
    for number in chosen_TK.unique().tolist():
        token, place = (chosen_TK == number).nonzero(as_tuple=True)
        y_TH.index_add_(0, token, expert(number, x_TH[token]).float() * weight_TK[token, place, None])
    return y_TH


def _leave_as_they_are(self: Any, layer: torch.nn.Module) -> None:
    """Do nothing to an expert layer's weights once they are loaded."""


def _gated_experts(
    self: Any,
    output: Tensor,
    hidden_states: Tensor,
    w1: Tensor,
    w2: Tensor,
    topk_weights: Tensor,
    topk_ids: Tensor,
    activation: MoEActivation,
    *_: Any,
    **__: Any,
) -> None:
    """Write the mixture of SwiGLU experts into `output`; w1 is [E, 2F, H], gate above up, w2 [E, H, F]."""
    assert activation is MoEActivation.SILU, "the only gated activation of a family that is read"

    def expert(number: int, x_TH: Tensor) -> Tensor:
        gate_TF, up_TF = F.linear(x_TH, w1[number]).chunk(2, -1)
        return F.linear(F.silu(gate_TF) * up_TF, w2[number])

    output.copy_(mixture(hidden_states, topk_ids, topk_weights, expert))


class SquaredReluExperts(torch.nn.Module):
    """NemotronH's mixture of experts: sigmoid router with bias, experts of two matrices, a shared expert.

    Its parameters are named as in HF's files, so vLLM's loader fills them by name.

    Attributes:
        layer_id: of the model's layers, counted from 0.
        capture_fn: is told which experts each token goes to, [T, K], as vLLM's own routers tell it.
    """

    capture_fn: Callable[[Tensor], None] | None

    def __init__(self, config: Any, quant_config: Any = None, parallel_config: Any = None, prefix: str = "") -> None:
        super().__init__()
        self.layer_id, self.capture_fn = extract_layer_index(prefix), None
        self.chosen, self.scaling = config.num_experts_per_tok, config.routed_scaling_factor
        # vLLM's model asks for these.
        self.n_routed_experts = self.n_logical_experts = self.n_physical_experts = config.n_routed_experts
        self.n_local_physical_experts, self.n_redundant_experts = config.n_routed_experts, 0
        self.n_shared_experts = config.n_shared_experts
        self.gate = torch.nn.Linear(config.hidden_size, config.n_routed_experts, bias=False)
        self.gate.e_score_correction_bias = torch.nn.Parameter(
            torch.zeros(config.n_routed_experts, dtype=torch.float32)
        )
        self.experts = torch.nn.ModuleList(
            _SquaredRelu(config.hidden_size, config.moe_intermediate_size) for _ in range(config.n_routed_experts)
        )
        self.shared_experts = _SquaredRelu(config.hidden_size, config.moe_shared_expert_intermediate_size)

    def forward(self, x_TH: Tensor) -> Tensor:
        """Return [T, H]."""
        score_TE = F.linear(x_TH.float(), self.gate.weight.float()).sigmoid()
        bias_E = self.gate.get_parameter("e_score_correction_bias")
        chosen_TK = (score_TE + bias_E).topk(self.chosen, -1).indices
        if self.capture_fn is not None:
            self.capture_fn(chosen_TK)
        weight_TK = score_TE.gather(-1, chosen_TK)
        weight_TK = weight_TK / (weight_TK.sum(-1, keepdim=True) + 1e-20) * self.scaling
        routed_TH = mixture(x_TH, chosen_TK, weight_TK, lambda number, own: self.experts[number](own))
        return routed_TH.to(x_TH.dtype) + self.shared_experts(x_TH)


class _SquaredRelu(torch.nn.Module):
    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.up_proj = torch.nn.Linear(hidden, width, bias=False)
        self.down_proj = torch.nn.Linear(width, hidden, bias=False)

    def forward(self, x_TH: Tensor) -> Tensor:
        """Return [T, H]."""
        y_TH: Tensor = self.down_proj(F.relu(self.up_proj(x_TH)).square())
        return y_TH
