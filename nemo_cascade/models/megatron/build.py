"""Build this rank's part of the model of Megatron-Core's classes, without weights."""

import importlib.util
import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nemo_cascade.config.layout import Layout
from nemo_cascade.config.model import ModelConfig, ParallelConfig, PrecisionConfig
from nemo_cascade.errors import ModelError
from nemo_cascade.models.architecture import (
    Architecture,
    Attention,
    Dense,
    Experts,
    Layer,
    LayerNorm,
    Rotary,
    ScoreHead,
)
from nemo_cascade.models.axes import Axes
from nemo_cascade.models.fit import layout_problems
from nemo_cascade.models.megatron import backend  # before anything of megatron
from nemo_cascade.models.megatron.attention import host_boundaries
from nemo_cascade.models.megatron.hybrid import build_hybrid
from nemo_cascade.models.megatron.packing import rotary_table_length
from nemo_cascade.models.megatron.rotary import scaled_frequencies, softmax_scale
from nemo_cascade.models.megatron.router import tell_routers_of_batches
from nemo_cascade.models.megatron.specs import LayerSpec, block_spec, resolve_layer_spec
from nemo_cascade.types import Int32, Int64

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_model(
    arch: Architecture,
    *,
    model: ModelConfig,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    seq_length: int,
    axes: Axes,
) -> list[Any]:
    """Build the chunks of this rank (its pipeline stage, its tensor shard), each a GPTModel or MambaModel.

    All parameters are NaN until `weights.load_weights` fills them, so a forgotten load can't go unseen. Process
    groups must exist (`training.runtime.start`). Collective where embeddings are tied over pipeline stages.

    Args:
        arch: what to build.
        model: layer implementation and vocabulary padding.
        parallel: layout; must be the one the process groups were made for.
        precision: dtype of parameters and activations, FP8.
        seq_length: tokens of the longest document.
        axes: this rank's place.

    Raises:
        ModelError: a layout or length that this architecture can't have (every reason listed).
        RuntimeUnavailableError: Transformer Engine was asked for and is absent.
    """
    from nemo_cascade.models.megatron.heads import DeferredOutput, ScoreLayer

    layer_spec = resolve_layer_spec(model.layer_spec, precision.dtype)
    problems = layout_problems(arch, parallel)
    if seq_length > arch.max_position_embeddings:
        problems.append(f"seq_length {seq_length} exceeds max_position_embeddings {arch.max_position_embeddings}")
    if precision.fp8 != "off" and (layer_spec != "transformer_engine" or precision.dtype != "bf16"):
        problems.append(f"fp8={precision.fp8} needs layer_spec=transformer_engine and dtype=bf16")
    if problems:
        raise ModelError(f"{model.name} can't be built so: " + "; ".join(problems))
    config = transformer_config(arch, parallel=parallel, precision=precision, layer_spec=layer_spec)
    chunks = []
    for number in range(parallel.layout.chunks):
        placed: dict[str, Any] = {
            "vocab_size": arch.padded_vocab_size(model.make_vocab_size_divisible_by, parallel.layout.tp),
            "max_sequence_length": seq_length,
            "pre_process": axes["pp"].first and number == 0,
            "post_process": axes["pp"].last and number == parallel.layout.chunks - 1,
            "share_embeddings_and_output_weights": arch.tied,
        }
        part = number if parallel.layout.chunks > 1 else None
        if arch.hybrid:
            chunk = build_hybrid(arch, config, layer_spec, **placed)
        else:
            chunk = _gpt(arch, config, layer_spec, part, **placed)
        if chunk.post_process and isinstance(arch.head, ScoreHead):
            chunk.output_layer = ScoreLayer(config, len(arch.head.names))
        elif chunk.post_process:
            DeferredOutput.take_over(chunk.output_layer)
        tell_routers_of_batches(chunk, arch.expert_layers)
        _keep_dtypes(chunk, config.params_dtype)
        biases = (buffer for name, buffer in chunk.named_buffers() if name.endswith(".expert_bias"))
        for tensor in (*chunk.parameters(), *biases):
            _fill_nan(tensor)
        chunks.append(chunk)
    return chunks


def _gpt(arch: Architecture, config: Any, layer_spec: LayerSpec, part: int | None, **placed: Any) -> Any:
    """Return one part of this rank's of a model of whole layers."""
    from megatron.core.models.gpt import GPTModel

    _every_layer(arch)
    assert arch.positions is not None, "whole layers have attention"
    gpt = GPTModel(
        config=config,
        transformer_layer_spec=block_spec(config, layer_spec, part),
        position_embedding_type="rope",
        rotary_base=arch.positions.theta,
        rotary_percent=arch.positions.fraction,
        vp_stage=part,
        **placed,
    )
    if arch.positions.scaling is not None:
        rotary = gpt.rotary_pos_emb
        rotary.inv_freq = scaled_frequencies(rotary.inv_freq, arch.positions)
    gpt.decoder.register_forward_pre_hook(_turned_as_placed, with_kwargs=True)
    return gpt


def _turned_as_placed(_: Any, args: tuple[Any, ...], others: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn documents that borrow their first tokens from where they go on: Megatron turns each from position 0.

    A rotary table as long as the pack is taken for one of its tokens, row by row.
    """
    packed = others.get("packed_seq_params")
    if packed is None or packed.borrowed is None:
        return args, others
    begins = zip(pairwise(host_boundaries(packed)), packed.borrowed, strict=True)
    rows = torch.cat([torch.arange(n, n + end - begin) for (begin, end), n in begins])
    table = others["rotary_pos_emb"]
    return args, {**others, "rotary_pos_emb": table.index_select(0, rows.to(table.device))}


def _keep_dtypes(chunk: Any, dtype: torch.dtype) -> None:
    """Give Mamba's skip the model's dtype, as HF and the engine do; its decay stays fp32."""
    for name, parameter in chunk.named_parameters():
        if name.endswith(".mixer.D"):
            parameter.data = parameter.data.to(dtype)


def transformer_config(
    arch: Architecture, *, parallel: ParallelConfig, precision: PrecisionConfig, layer_spec: LayerSpec
) -> Any:
    """Return Megatron's TransformerConfig for an architecture in a layout.

    Args:
        arch: the model.
        parallel: layout.
        precision: number formats.
        layer_spec: `transformer_engine` or `local`; fused kernels are used with the former.
    """
    from megatron.core.transformer import TransformerConfig

    fused = layer_spec == "transformer_engine"
    dtype, layout = DTYPES[precision.dtype], parallel.layout
    mlp = arch.dense or arch.experts
    assert mlp is not None, "some layer has an MLP"
    return TransformerConfig(
        num_layers=len(arch.layers),
        hidden_size=arch.hidden_size,
        ffn_hidden_size=mlp.width,
        normalization="LayerNorm" if isinstance(arch.norm, LayerNorm) else "RMSNorm",
        layernorm_zero_centered_gamma=isinstance(arch.norm, LayerNorm),
        layernorm_epsilon=arch.norm.epsilon,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method=_fill_nan,
        output_layer_init_method=_fill_nan,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=precision.dtype == "bf16",
        deterministic_mode=torch.are_deterministic_algorithms_enabled(),
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
        num_layers_in_first_pipeline_stage=layout.first_layers,
        num_layers_in_last_pipeline_stage=layout.last_layers,
        context_parallel_size=layout.cp,
        expert_model_parallel_size=layout.ep,
        expert_tensor_parallel_size=layout.etp,
        sequence_parallel=layout.sp,
        # Packs of one step differ in length, so stages tell each other the shape; but for the interleaved schedule,
        # whose two messages to one peer would take each other's.
        variable_seq_lengths=layout.pp > 1 and layout.vpp == 1,
        # Of two stages, each is the other's neighbour on both sides: Megatron's batched messages mix the two up.
        overlap_p2p_comm=layout.vpp > 1,
        batch_p2p_comm=layout.vpp == 1,
        moe_token_dispatcher_type="alltoall",  # the default is refused with variable lengths, even on a dense model
        # Losses are sums; one all-reduced token count divides them.
        calculate_per_token_loss=True,
        masked_softmax_fusion=False,
        persist_layer_norm=fused,
        apply_rope_fusion=fused,
        gradient_accumulation_fusion=fused and importlib.util.find_spec("fused_weight_gradient_mlp_cuda") is not None,
        **_activation(mlp, fused),
        **_attention(arch.attention, arch.positions, layout),
        **_experts(arch.experts, fused),
        **_mamba(arch),
        **_recompute(parallel),
        **({} if precision.fp8 == "off" else {"fp8": precision.fp8, "fp8_recipe": precision.fp8_recipe}),
    )


def _activation(mlp: Dense | Experts, fused: bool) -> dict[str, Any]:
    from megatron.core.activations import squared_relu

    if mlp.activation == "relu2":
        return {"gated_linear_unit": False, "activation_func": squared_relu, "bias_activation_fusion": False}
    return {"gated_linear_unit": True, "activation_func": F.silu, "bias_activation_fusion": fused}


def _attention(attention: Attention | None, positions: Rotary | None, layout: Layout) -> dict[str, Any]:
    """Return the fields of attention; of some, where no layer has any, for Megatron wants to know."""
    if attention is None:
        return {"num_attention_heads": layout.tp}
    groups = attention.groups + attention.padding_groups(layout.tp)
    return {
        "num_attention_heads": groups * attention.heads_per_group,
        "num_query_groups": groups,
        "kv_channels": attention.head_dim,
        "softmax_scale": None if positions is None else softmax_scale(attention.head_dim, positions),
        "qk_layernorm": attention.qk_norm,
        "add_qkv_bias": attention.qkv_bias,
    }


def _experts(experts: Experts | None, fused: bool) -> dict[str, Any]:
    """Return the fields of experts and router; what balances their load is not Megatron's business."""
    if experts is None:
        return {}
    return {
        "num_moe_experts": experts.count,
        "moe_router_topk": experts.chosen,
        "moe_ffn_hidden_size": experts.width,
        "moe_shared_expert_intermediate_size": experts.shared_width or None,
        "moe_router_score_function": experts.router.score,
        "moe_router_enable_expert_bias": experts.router.bias,
        "moe_router_topk_scaling_factor": None if experts.router.scaling == 1 else experts.router.scaling,
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "none",
        "moe_aux_loss_coeff": 0.0,
        "moe_grouped_gemm": fused,
        "moe_permute_fusion": fused,
    }


def _mamba(arch: Architecture) -> dict[str, Any]:
    if not arch.hybrid:
        return {}
    fields: dict[str, Any] = {"is_hybrid_model": True}
    if arch.mamba is not None:
        fields |= {
            "mamba_num_heads": arch.mamba.heads,
            "mamba_head_dim": arch.mamba.head_dim,
            "mamba_num_groups": arch.mamba.groups,
            "mamba_state_dim": arch.mamba.state,
        }
    return fields


def packed_sequences(
    cu_seqlens: Int32,
    document: Int64 | None = None,
    routed_experts: torch.Tensor | None = None,
    borrowed: Int64 | None = None,
) -> Any:
    """Return Megatron's PackedSeqParams for one packed micro-batch; every pipeline stage needs it.

    Args:
        cu_seqlens: [documents + 1] document boundaries, host memory, rising from 0.
        document: [C], the document of each token of this context rank, -1 of padding; None: without either.
        routed_experts: int16 [C, layers with experts, experts of a token], what routers replay; -1: their own choice.
        borrowed: [documents], tokens that each has in common with an earlier one, which alone holds them.
    """
    from megatron.core.packed_seq_params import PackedSeqParams

    boundaries = tuple(int(x) for x in cu_seqlens)
    shared = (0,) * (len(boundaries) - 1) if borrowed is None else tuple(borrowed.tolist())
    limit = rotary_table_length(boundaries, shared)
    on_device = torch.from_numpy(np.ascontiguousarray(cu_seqlens, dtype=np.int32))
    if backend.device().type != "meta":  # Megatron still reads the boundaries there
        on_device = on_device.to(backend.device())
    params = PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=on_device,
        cu_seqlens_kv=on_device,
        max_seqlen_q=limit,
        max_seqlen_kv=limit,
        # Since 0.17 it has to be told: without it a state space runs on over the borders of documents.
        **({"total_tokens": boundaries[-1]} if "total_tokens" in PackedSeqParams.__dataclass_fields__ else {}),
    )
    params.host_boundaries = boundaries
    whole = np.repeat(np.arange(len(cu_seqlens) - 1), np.diff(cu_seqlens)) if document is None else document
    params.document = torch.from_numpy(whole)
    params.routed_experts = routed_experts
    params.borrowed = shared if any(shared) else None
    return params


def _every_layer(arch: Architecture) -> Layer:
    """Return the one kind of layer that GPTModel stacks.

    Raises:
        ModelError: the layers differ.
    """
    if len(arch.kinds) != 1:
        raise ModelError("layers of several kinds in one model can't be built", value=arch.described(), limit="1 kind")
    return arch.kinds[0]


def _fill_nan(weight: torch.Tensor) -> torch.Tensor:
    return weight.data.fill_(math.nan)


def _recompute(parallel: ParallelConfig) -> dict[str, Any]:
    if parallel.recompute == "none":
        return {}
    if parallel.recompute == "selective":
        return {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
    return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
