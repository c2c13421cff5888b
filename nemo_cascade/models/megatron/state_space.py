"""Mamba-2 in plain PyTorch, in place of the CUDA kernels that Megatron-Core's mixer calls where there is a GPU.

The state space (arXiv 2405.21060, section 6): with a_t = exp(dt_t A),

    h_t = a_t h_(t-1) + dt_t B_t x_t        y_t = C_t h_t + D x_t

computed in chunks: within one, as a masked product like attention's; between them, by the state. Every chunk lies in
one document, and the first of a document starts from a state of zero, so no sum ever runs over a border.

Shapes: L packed tokens, K chunks, Q tokens of a chunk, H heads, P channels of a head, G groups, N state, W kernel.
"""

import importlib.util
import sys
import types
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 64  # the fastest of 32 to 256 on a CPU core


def scan(
    x_LHP: Tensor, dt_LH: Tensor, A_H: Tensor, B_LGN: Tensor, C_LGN: Tensor, D_H: Tensor, lengths: Sequence[int]
) -> Tensor:
    """Run the state space over packed documents.

    Args:
        x_LHP: input.
        dt_LH: time steps, above 0.
        A_H: below 0.
        B_LGN: into the state; a group's heads share it.
        C_LGN: out of the state.
        D_H: skip.
        lengths: tokens of each document; their sum is L.

    Returns:
        [L, H, P] in float32.
    """
    heads, groups = x_LHP.shape[1], B_LGN.shape[1]
    size = min(_CHUNK, max(lengths))
    chunks = [-(-length // size) for length in lengths]
    first = set(accumulate(chunks[:-1], initial=0))
    place_L = _places(lengths, chunks, size).to(x_LHP.device)

    def chunked(tensor: Tensor) -> Tensor:
        padded = tensor.new_zeros(sum(chunks) * size, *tensor.shape[1:], dtype=torch.float32)
        return padded.index_copy(0, place_L, tensor.float()).unflatten(0, (-1, size)).movedim(1, 2)

    dt_KHQ = chunked(dt_LH)  # a padding token has dt 0: it neither decays nor adds
    B_KGQN, C_KGQN = chunked(B_LGN), chunked(C_LGN)
    xdt_KHQP = chunked(x_LHP) * dt_KHQ[..., None]
    decay_KHQ = (dt_KHQ * A_H.float()[:, None]).cumsum(-1)

    def by_group(tensor: Tensor) -> Tensor:
        return tensor.unflatten(1, (groups, heads // groups))

    future_QQ = torch.ones(size, size, dtype=torch.bool, device=x_LHP.device).triu(1)
    between_KHQQ = (decay_KHQ[..., :, None] - decay_KHQ[..., None, :]).masked_fill(future_QQ, -torch.inf).exp()
    scores_KHQQ = by_group(between_KHQQ) * (C_KGQN @ B_KGQN.transpose(-1, -2))[:, :, None]
    y_KHQP = (scores_KHQQ @ by_group(xdt_KHQP)).flatten(1, 2)

    to_end_KHQ = (decay_KHQ[..., -1:] - decay_KHQ).exp()
    added = (B_KGQN.transpose(-1, -2)[:, :, None] @ by_group(xdt_KHQP * to_end_KHQ[..., None])).flatten(1, 2)
    before_KHNP = _states_before(added, decay_KHQ[..., -1].exp(), first)
    carried = (C_KGQN[:, :, None] @ by_group(before_KHNP)).flatten(1, 2) * decay_KHQ.exp()[..., None]
    y_LHP = (y_KHQP + carried).movedim(1, 2).flatten(0, 1).index_select(0, place_L)
    return y_LHP + x_LHP.float() * D_H.float()[:, None]


def _places(lengths: Sequence[int], chunks: Sequence[int], size: int) -> Tensor:
    """Return [L]: where each token lies among the chunks' places."""
    begins = accumulate(chunks[:-1], initial=0)
    return torch.cat([torch.arange(n) + begin * size for n, begin in zip(lengths, begins, strict=True)])


def _states_before(added_KHNP: Tensor, decay_KH: Tensor, first: set[int]) -> Tensor:
    """Return the state that each chunk starts from; zero in a document's first chunk."""
    zero_HNP = torch.zeros_like(added_KHNP[0])
    states, state_HNP = [], zero_HNP
    # unbind, not added[k]: the backward pass of each selection would write a whole tensor.
    for number, (added_HNP, decay_H) in enumerate(zip(added_KHNP.unbind(), decay_KH.unbind(), strict=True)):
        state_HNP = zero_HNP if number in first else state_HNP
        states.append(state_HNP)
        state_HNP = state_HNP * decay_H[:, None, None] + added_HNP
    return torch.stack(states)


def convolve(x_LC: Tensor, weight_CW: Tensor, bias_C: Tensor, lengths: Sequence[int]) -> Tensor:
    """Convolve each channel over its own last W tokens of the same document, then apply SiLU; [L, C]."""
    kernel = weight_CW.shape[1]
    position_L = torch.cat([torch.arange(length) for length in lengths]).to(x_LC.device)
    y_LC = x_LC * weight_CW[:, -1] + bias_C
    for back in range(1, min(kernel, len(position_L))):
        earlier_LC = F.pad(x_LC[:-back], (0, 0, back, 0)).masked_fill((position_L < back)[:, None], 0)
        y_LC = y_LC + earlier_LC * weight_CW[:, -1 - back]
    return F.silu(y_LC)


def split_convolve_scan(
    zxbcdt_BLC: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    chunk_size: int,
    *,
    seq_idx: Tensor | None = None,
    headdim: int,
    ngroups: int,
    **_: Any,
) -> Tensor:
    """Do what mamba_ssm's `mamba_split_conv1d_scan_combined` does, norm apart; [B, L, H * P], gated.

    Args:
        zxbcdt_BLC: gate, input, B, C and time step of each token, side by side.
        conv1d_weight: [C, W].
        conv1d_bias: [C].
        dt_bias: [H], added to the time step before softplus.
        A: [H].
        D: [H].
        chunk_size: of the kernel; there is one here of its own.
        seq_idx: [1, L], the number of each token's document; None: each row is one.
        headdim: P.
        ngroups: G.
        _: what the kernel is told beside, always the same.
    """
    heads = dt_bias.shape[0]
    inner = heads * headdim
    states = (conv1d_weight.shape[0] - inner) // 2
    rows = []
    for row in zxbcdt_BLC:
        lengths = [row.shape[0]] if seq_idx is None or seq_idx.is_meta else _lengths(seq_idx[0])
        z_LC, xbc_LC, dt_LH = row.split([inner, inner + 2 * states, heads], -1)
        convolved = convolve(xbc_LC, conv1d_weight, conv1d_bias, lengths)
        x_LC, b_LC, c_LC = convolved.split([inner, states, states], -1)
        y_LHP = scan(
            x_LC.unflatten(-1, (heads, headdim)),
            F.softplus(dt_LH.float() + dt_bias),
            A,
            b_LC.unflatten(-1, (ngroups, -1)),
            c_LC.unflatten(-1, (ngroups, -1)),
            D,
            lengths,
        )
        rows.append((y_LHP.flatten(1) * F.silu(z_LC.float())).to(row.dtype))
    return torch.stack(rows)


def _lengths(document_L: Tensor) -> list[int]:
    lengths: list[int] = document_L.unique_consecutive(return_counts=True)[1].tolist()
    return lengths


class GroupNorm(torch.nn.Module):
    """RMSNorm within groups of channels, behind the gate; in place of Megatron's `ExtendedRMSNorm`."""

    def __init__(
        self, hidden_size: int, *, eps: float, group_size: int, norm_before_gate: bool, device: Any, dtype: torch.dtype
    ) -> None:
        super().__init__()
        assert not norm_before_gate, "Megatron's mixer applies the gate first"
        self.eps, self.group_size = eps, group_size
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; any leading shape."""
        grouped = F.rms_norm(x.float().unflatten(-1, (-1, self.group_size)), (self.group_size,), None, self.eps)
        return (grouped.flatten(-2) * self.weight.float()).to(x.dtype)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> Any:
        """Return the weight as Megatron's checkpoints take it: cut over the tensor-parallel ranks."""
        from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
        from megatron.core.utils import get_tensor_model_parallel_group_if_none

        return make_sharded_tensors_for_checkpoint(
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {"weight": 0},
            sharded_offsets,
            tp_group=get_tensor_model_parallel_group_if_none(None),
            dp_cp_group=metadata["dp_cp_group"],
        )


def install() -> None:
    """Put these in place of the kernels; imports Megatron's mixer, so CUDA must be redirected already."""
    # 0.16 imports kernels of its inference engine on every machine, and those need Triton.
    if importlib.util.find_spec("triton") is None:
        kernels = types.ModuleType("tensor_ops")
        for name in ("tensor_get_slice_after", "tensor_masked_update", "tensor_merge"):
            setattr(kernels, name, None)
        sys.modules.setdefault("megatron.core.inference.contexts.attention_context.triton.tensor_ops", kernels)
    import megatron.core.ssm.mamba_mixer as mixer

    mixer.HAVE_MAMBA_SSM = True
    mixer.mamba_split_conv1d_scan_combined = split_convolve_scan
    mixer.ExtendedRMSNorm = GroupNorm
    mixer._check_mamba_sequence_packing_support = lambda **_: (True, None)
