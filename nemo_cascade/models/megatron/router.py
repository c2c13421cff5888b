"""Megatron-Core's router with losses and counts by document, and replay: packing and layout change none of them.

Megatron's own balance loss takes a whole pack for one sequence and counts padding. Its own replay keeps what is due
next in lists beside the model, which pipelines and recomputation have to be kept in step with; here a micro-batch
brings its choices along.

Shapes: T tokens of this rank, C of this context rank, E experts, K experts of a token, D documents, L layers with
experts.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_cascade.models.megatron import backend
from nemo_cascade.models.megatron.replay import Replay

# backend first: Megatron-Core assumes CUDA while it is imported.
from megatron.core.transformer.moe.router import TopKRouter  # isort: skip


class BalancedRouter(TopKRouter):  # type: ignore[misc]
    """A router that counts its experts' tokens, is trained towards balance, and replays an engine's choices.

    Attributes:
        place: which of the model's layers with experts it is in, counted from 0.
        balance_coefficient: weight of the balance loss.
        z_coefficient: weight of the z-loss.
        loss_weight: both losses are sums over tokens; their gradients are multiplied by this.
        packed: Megatron's PackedSeqParams of the micro-batch that is computed.
        load_E: tokens of each expert since they were last forgotten.
        losses_2: sums of balance and z-loss likewise.
        replayed_2: tokens whose experts were given, and of those the ones that it would have sent elsewhere, likewise.
    """

    def __init__(self, config: Any, pg_collection: Any = None, **later: Any) -> None:
        super().__init__(config=config, pg_collection=pg_collection, **later)
        self.balance_coefficient = self.z_coefficient = 0.0
        self.loss_weight = 1.0
        self.packed: Any = None
        self.place = 0
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        self.load_E = torch.zeros(self.config.num_moe_experts, dtype=torch.float64, device=backend.device())
        self.losses_2 = torch.zeros(2, dtype=torch.float64, device=backend.device())
        self.replayed_2 = torch.zeros(2, dtype=torch.float64, device=backend.device())

    def routing(self, logits: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return each token's weights of the experts and which it goes to, [T, E] both."""
        self.router_replay = self._replay(logits.shape[:-1].numel())
        probs_TE, chosen_TE = super().routing(logits, padding_mask)
        if self.training and torch.is_grad_enabled():  # not while activations are recomputed, or nothing is learnt
            probs_TE = self._learn(logits.flatten(0, -2).float(), probs_TE, chosen_TE)
        return probs_TE, chosen_TE

    def _apply_expert_bias(self, routing_map: Tensor, padding_mask: Tensor | None = None) -> None:
        """Do nothing: `load_E` counts."""

    def _learn(self, logits_TE: Tensor, probs_TE: Tensor, chosen_TE: Tensor) -> Tensor:
        """Count, and attach the losses to the weights, whose values stay as they are."""
        document_T, documents = self._documents(len(logits_TE))
        real_T1 = (document_T >= 0)[:, None]
        picked_TE = (chosen_TE & real_T1).detach()
        self.load_E += picked_TE.sum(0)
        if self.router_replay is not None:
            self.replayed_2 += self.router_replay.counts_2()
        losses = []
        if self.balance_coefficient > 0:
            losses.append(self.balance_coefficient * self._balance(logits_TE, picked_TE, document_T, documents))
            self.losses_2[0] += losses[-1].detach()
        if self.z_coefficient > 0:
            z_T1 = logits_TE.logsumexp(-1, keepdim=True).square()
            losses.append(self.z_coefficient * z_T1.masked_fill(~real_T1, 0).sum())
            self.losses_2[1] += losses[-1].detach()
        for loss in losses:
            probs_TE = _Attached.apply(probs_TE, loss, self.loss_weight)
        return probs_TE

    def _balance(self, logits_TE: Tensor, picked_TE: Tensor, document_T: Tensor, documents: int) -> Tensor:
        """Return the sum over tokens of sum_i f_i p_i, f_i the expert's share of its document's choices times E / K."""
        scores_TE = logits_TE.sigmoid() if self.score_function == "sigmoid" else logits_TE.softmax(-1)
        share_TE = scores_TE / (scores_TE.sum(-1, keepdim=True) + 1e-20)
        real_T = document_T >= 0
        counts_DE = picked_TE.new_zeros(documents, self.config.num_moe_experts, dtype=torch.float32)
        counts_DE.index_add_(0, document_T[real_T], picked_TE[real_T].float())
        if self.tp_cp_group.size() > 1:
            dist.all_reduce(counts_DE, group=self.tp_cp_group)
        frequency_DE = counts_DE / counts_DE.sum(-1, keepdim=True).clamp(min=1) * self.config.num_moe_experts
        return (frequency_DE[document_T[real_T]] * share_TE[real_T]).sum()

    def _documents(self, tokens: int) -> tuple[Tensor, int]:
        """Return the document of each token of this rank, -1 for padding, and their number."""
        document_C = self.packed.document.to(self.load_E.device)
        return self._own(document_C, tokens), len(self.packed.cu_seqlens_q) - 1

    def _replay(self, tokens: int) -> Replay | None:
        """Return what is replayed for the tokens of this rank; None: the router chooses."""
        routed_CLK = getattr(self.packed, "routed_experts", None)
        return None if routed_CLK is None else Replay(self._own(routed_CLK[:, self.place], tokens).long())

    def _own(self, values_C: Tensor, tokens: int) -> Tensor:
        """Return the values of this rank's tokens."""
        if self.config.sequence_parallel:  # ranks hold equal parts of the pack, in order
            return values_C[self.tp_group.rank() * tokens :][:tokens]
        return values_C


class _Attached(torch.autograd.Function):  # type: ignore[misc]
    """A value, and a loss that is learnt beside whatever is computed of it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, loss: Tensor, weight: float) -> Tensor:
        """Return the value."""
        ctx.save_for_backward(loss)
        ctx.weight = weight
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the value's gradient, and the loss's weight."""
        (loss,) = ctx.saved_tensors
        return gradient, torch.full_like(loss, ctx.weight), None


def routers_of(chunk: Any) -> dict[int, BalancedRouter]:
    """Return a model chunk's routers by their layer, counted from 0 over the whole model."""
    bare = chunk
    while not hasattr(bare, "decoder"):
        bare = bare.module
    return {
        layer.layer_number - 1: layer.mlp.router
        for layer in bare.decoder.layers
        if isinstance(getattr(getattr(layer, "mlp", None), "router", None), BalancedRouter)
    }


def tell_routers_of_batches(chunk: Any, expert_layers: Sequence[int]) -> None:
    """Let every layer tell its router of the micro-batch, its documents and replay, each time that it is computed.

    Args:
        chunk: of a model.
        expert_layers: the whole model's layers with experts, counted from 0.
    """
    for layer in chunk.decoder.layers:
        router = getattr(getattr(layer, "mlp", None), "router", None)
        if isinstance(router, BalancedRouter):
            router.place = expert_layers.index(layer.layer_number - 1)
            layer.register_forward_pre_hook(_tell, with_kwargs=True)


def _tell(layer: Any, _: Any, arguments: dict[str, Any]) -> None:
    layer.mlp.router.packed = arguments["packed_seq_params"]
