"""Packed causal attention with torch's SDPA, and norms: the layers used where Transformer Engine is not.

Shapes: T packed tokens, S sequence, B batch, N query heads, K key/value heads, D head width.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

from nemo_cascade.models.megatron import backend  # before anything of megatron
from nemo_cascade.models.megatron.context import attend_over_context, attend_to_all, row
from nemo_cascade.models.megatron.packing import padding_pays


class RMSNorm(torch.nn.Module):
    """Root-mean-square norm (arXiv 1910.07467) that says whether its gradient is summed over TP ranks.

    Args:
        config: Megatron TransformerConfig.
        hidden_size: width of the last dimension.
        eps: added to the mean square; None takes the config's.
    """

    def __init__(self, config: Any, hidden_size: int, eps: float | None = None, **_: Any) -> None:
        super().__init__()
        self.hidden_size, self.eps = hidden_size, config.layernorm_epsilon if eps is None else eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=backend.device()))
        # Megatron all-reduces the gradients of parameters marked so: each TP rank sees other tokens.
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the last dimension; any leading shape."""
        return F.rms_norm(x, (self.hidden_size,), self.weight, self.eps)


class ZeroCentredLayerNorm(torch.nn.Module):
    """Layer norm with a bias whose weight is stored less one, as Megatron's layernorm_zero_centered_gamma has it.

    Its arguments are those of `RMSNorm`.
    """

    def __init__(self, config: Any, hidden_size: int, eps: float | None = None, **_: Any) -> None:
        super().__init__()
        self.hidden_size, self.eps = hidden_size, config.layernorm_epsilon if eps is None else eps
        self.weight, self.bias = (
            torch.nn.Parameter(torch.zeros(hidden_size, dtype=config.params_dtype, device=backend.device()))
            for _ in range(2)
        )
        self.weight.sequence_parallel = self.bias.sequence_parallel = config.sequence_parallel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the last dimension; any leading shape."""
        return F.layer_norm(x, (self.hidden_size,), self.weight + 1, self.bias, self.eps)


class PackedAttention(torch.nn.Module):
    """Core attention for Megatron's `SelfAttention`: causal, within each document only.

    The documents of a pack never meet in one score matrix, so nothing has to be masked and nothing can leak.
    """

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
        **_: Any,
    ) -> None:
        super().__init__()
        assert not attention_dropout, "attention dropout is refused with the config"
        self.context = pg_collection.cp if pg_collection is not None else None
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        self.current_max_attn_logits = None  # Megatron reads it when it clips query-key products

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        attn_mask_type: Any = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: Any = None,
        **_: Any,
    ) -> torch.Tensor:
        """Attend.

        Args:
            query: [T, N, D] packed (of T, this rank's share under context parallelism), or [S, B, N, D].
            key: [T, K, D], or [S, B, K, D].
            value: as key.
            attention_mask: ignored, the mask is causal by construction.
            attn_mask_type: ignored.
            attention_bias: must be None.
            packed_seq_params: document boundaries of a packed micro-batch; None for [S, B, ...].

        Returns:
            [T, N*D], or [S, B, N*D].
        """
        assert attention_bias is None
        if packed_seq_params is None or packed_seq_params.qkv_format != "thd":
            query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
            return sdpa(query, key, value, self.scale).permute(2, 0, 1, 3).flatten(2)
        if query.is_meta:
            return _FlashShaped.apply(query, key, value).flatten(1)
        boundaries = host_boundaries(packed_seq_params)
        if self.context is not None and self.context.size() > 1:
            return attend_over_context(query, key, value, boundaries, self.scale, self.context).flatten(1)
        if packed_seq_params.borrowed is not None:
            return attend_borrowing(query, key, value, boundaries, packed_seq_params.borrowed, self.scale).flatten(1)
        attend = attend_padded if padding_pays(boundaries) else attend_each
        return attend(query, key, value, boundaries, self.scale).flatten(1)


def host_boundaries(packed_seq_params: Any) -> tuple[int, ...]:
    """Return cu_seqlens as host integers; copied from the device once per micro-batch, not once per layer."""
    boundaries: tuple[int, ...] | None = getattr(packed_seq_params, "host_boundaries", None)
    if boundaries is None:
        boundaries = tuple(packed_seq_params.cu_seqlens_q.tolist())
        packed_seq_params.host_boundaries = boundaries
    return boundaries


def attend_each(
    q_TND: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor, boundaries: Sequence[int], scale: float
) -> torch.Tensor:
    """Attend within each document by an SDPA call of its own; [T, N, D]."""
    outputs = [
        sdpa(row(q_TND[a:b]), row(k_TKD[a:b]), row(v_TKD[a:b]), scale)[0].transpose(0, 1)
        for a, b in pairwise(boundaries)
        if b > a
    ]
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def attend_borrowing(
    q_TND: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    boundaries: Sequence[int],
    borrowed: Sequence[int],
    scale: float,
) -> torch.Tensor:
    """Attend within each document and to the first tokens that it borrows (arXiv 2410.20305); [T, N, D]."""
    outputs, lender = [], 0
    for (begin, end), shared in zip(pairwise(boundaries), borrowed, strict=True):
        lender = lender if shared else begin
        seen = [
            torch.cat([x[lender : lender + shared], x[begin:end]]) if shared else x[begin:end] for x in (k_TKD, v_TKD)
        ]
        outputs.append(attend_to_all(row(q_TND[begin:end]), row(seen[0]), row(seen[1]), scale))
    return torch.cat(outputs)


def attend_padded(
    q_TND: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor, boundaries: Sequence[int], scale: float
) -> torch.Tensor:
    """Attend within each document as rows of one right-padded batch (causal: padding is never seen); [T, N, D]."""
    lengths = [b - a for a, b in pairwise(boundaries)]
    rows, longest = len(lengths), max(lengths)
    index = torch.cat([torch.arange(n) + row * longest for row, n in enumerate(lengths)]).to(q_TND.device)

    def pad(x: torch.Tensor) -> torch.Tensor:
        padded = x.new_zeros(rows * longest, *x.shape[1:]).index_copy(0, index, x)
        return padded.view(rows, longest, *x.shape[1:]).transpose(1, 2)

    output = sdpa(pad(q_TND), pad(k_TKD), pad(v_TKD), scale).transpose(1, 2)
    return output.reshape(rows * longest, *q_TND.shape[1:]).index_select(0, index)


def sdpa(q_BNSD: torch.Tensor, k_BKSD: torch.Tensor, v_BKSD: torch.Tensor, scale: float) -> torch.Tensor:
    """Attend causally with grouped key/value heads; [B, N, S, D]."""
    grouped = q_BNSD.shape[1] != k_BKSD.shape[1]
    return F.scaled_dot_product_attention(q_BNSD, k_BKSD, v_BKSD, is_causal=True, scale=scale, enable_gqa=grouped)


class _FlashShaped(torch.autograd.Function):
    """Stand-in on meta tensors that saves what a flash kernel saves, not SDPA-math's S x S matrices."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the output's shape."""
        output = torch.empty_like(query)
        log_sum_exp = torch.empty(query.shape[:2], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, output, log_sum_exp)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return tensors of the gradients' shapes."""
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors[:3])
