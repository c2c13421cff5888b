"""Build this rank's part of the model as Megatron-Core's GPTModel, without weights."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nemo_cascade.config.model import ModelConfig, ParallelConfig, PrecisionConfig
from nemo_cascade.errors import ModelError
from nemo_cascade.models.architecture import Architecture, Layer, LayerNorm
from nemo_cascade.models.axes import Axes
from nemo_cascade.models.fit import layout_problems
from nemo_cascade.models.megatron import backend  # before anything of megatron
from nemo_cascade.models.megatron.packing import rotary_table_length
from nemo_cascade.models.megatron.rotary import scaled_frequencies, softmax_scale
from nemo_cascade.models.megatron.specs import block_spec, resolve_layer_spec
from nemo_cascade.types import Int32

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
    """Build the chunks of this rank (its pipeline stage, its tensor shard), each a GPTModel on `backend.device()`.

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
    from megatron.core.models.gpt import GPTModel

    from nemo_cascade.models.megatron.heads import DeferredOutput, ScalarHead

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
        part = number if parallel.layout.chunks > 1 else None
        gpt = GPTModel(
            config=config,
            transformer_layer_spec=block_spec(config, layer_spec, part),
            vocab_size=arch.padded_vocab_size(model.make_vocab_size_divisible_by, parallel.layout.tp),
            max_sequence_length=seq_length,
            pre_process=axes["pp"].first and number == 0,
            post_process=axes["pp"].last and number == parallel.layout.chunks - 1,
            share_embeddings_and_output_weights=arch.tied,
            position_embedding_type="rope",
            rotary_base=arch.positions.theta,
            rotary_percent=arch.positions.fraction,
            vp_stage=part,
        )
        if arch.positions.scaling is not None:
            rotary = gpt.rotary_pos_emb
            rotary.inv_freq = scaled_frequencies(rotary.inv_freq, arch.positions)
        if gpt.post_process and arch.scores:
            gpt.output_layer = ScalarHead(config)
        elif gpt.post_process:
            DeferredOutput.take_over(gpt.output_layer)
        chunks.append(gpt)
    return chunks


def transformer_config(
    arch: Architecture, *, parallel: ParallelConfig, precision: PrecisionConfig, layer_spec: str
) -> Any:
    """Return Megatron's TransformerConfig for an architecture in a layout.

    Args:
        arch: the model.
        parallel: layout.
        precision: number formats.
        layer_spec: `transformer_engine` or `local`; fused kernels are used with the former.
    """
    from megatron.core.activations import squared_relu
    from megatron.core.transformer import TransformerConfig

    fused = layer_spec == "transformer_engine"
    dtype, layout, layer = DTYPES[precision.dtype], parallel.layout, _every_layer(arch)
    attention = layer.mixer
    groups = attention.groups + attention.padding_groups(layout.tp)
    return TransformerConfig(
        num_layers=len(arch.layers),
        hidden_size=arch.hidden_size,
        ffn_hidden_size=layer.mlp.width,
        num_attention_heads=groups * attention.heads_per_group,
        num_query_groups=groups,
        kv_channels=attention.head_dim,
        softmax_scale=softmax_scale(attention.head_dim, arch.positions),
        normalization="LayerNorm" if isinstance(arch.norm, LayerNorm) else "RMSNorm",
        layernorm_zero_centered_gamma=isinstance(arch.norm, LayerNorm),
        layernorm_epsilon=arch.norm.epsilon,
        qk_layernorm=attention.qk_norm,
        add_qkv_bias=attention.qkv_bias,
        add_bias_linear=False,
        gated_linear_unit=layer.mlp.activation == "swiglu",
        activation_func=F.silu if layer.mlp.activation == "swiglu" else squared_relu,
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
        bias_activation_fusion=fused and layer.mlp.activation == "swiglu",
        masked_softmax_fusion=False,
        persist_layer_norm=fused,
        apply_rope_fusion=fused,
        gradient_accumulation_fusion=fused and importlib.util.find_spec("fused_weight_gradient_mlp_cuda") is not None,
        **_recompute(parallel),
        **({} if precision.fp8 == "off" else {"fp8": precision.fp8, "fp8_recipe": precision.fp8_recipe}),
    )


def packed_sequences(cu_seqlens: Int32) -> Any:
    """Return Megatron's PackedSeqParams for one packed micro-batch; every pipeline stage needs it.

    Args:
        cu_seqlens: [documents + 1] document boundaries, host memory, rising from 0.
    """
    from megatron.core.packed_seq_params import PackedSeqParams

    boundaries = tuple(int(x) for x in cu_seqlens)
    limit = rotary_table_length(boundaries)
    on_device = torch.from_numpy(np.ascontiguousarray(cu_seqlens, dtype=np.int32))
    if backend.device().type != "meta":  # Megatron still reads the boundaries there
        on_device = on_device.to(backend.device())
    params = PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=on_device,
        cu_seqlens_kv=on_device,
        max_seqlen_q=limit,
        max_seqlen_kv=limit,
    )
    params.host_boundaries = boundaries
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
