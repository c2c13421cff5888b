"""Choose the layer implementation: Transformer Engine's on a GPU, or Megatron-Core's local layers anywhere."""

import importlib.util
from typing import Any, Literal

from nemo_cascade.errors import RuntimeUnavailableError
from nemo_cascade.models.fit import takes_transformer_engine
from nemo_cascade.models.megatron import backend  # before anything of megatron
from nemo_cascade.models.megatron.attention import PackedAttention, RMSNorm, ZeroCentredLayerNorm

LayerSpec = Literal["transformer_engine", "local"]


def resolve_layer_spec(
    wanted: Literal["auto", "transformer_engine", "local"], dtype: Literal["fp32", "bf16"]
) -> LayerSpec:
    """Return the implementation to build with here.

    Args:
        wanted: `model.layer_spec`.
        dtype: `precision.dtype`.

    Raises:
        RuntimeUnavailableError: Transformer Engine was asked for and it, or a GPU, is absent.
    """
    installed = importlib.util.find_spec("transformer_engine") is not None
    usable = backend.HAS_GPU and installed
    if not takes_transformer_engine(wanted, dtype, usable=usable):
        return "local"
    if not usable:
        raise RuntimeUnavailableError(
            "model.layer_spec=transformer_engine needs a GPU and the package transformer_engine",
            value=f"GPU {'present' if backend.HAS_GPU else 'absent'}, package {'installed' if installed else 'absent'}",
            mend="set model.layer_spec=local, or auto",
        )
    return "transformer_engine"


def expert_spec(config: Any, layer_spec: LayerSpec) -> Any:
    """Return the spec of a mixture of experts, with this package's router; None where there are no experts."""
    if config.num_moe_experts is None:
        return None
    from megatron.core.models.gpt.moe_module_specs import get_moe_module_spec

    from nemo_cascade.models.megatron.router import BalancedRouter

    spec = get_moe_module_spec(
        use_te=layer_spec == "transformer_engine",
        num_experts=config.num_moe_experts,
        moe_grouped_gemm=config.moe_grouped_gemm,
    )
    # Since 0.17 specs are partial calls.
    (spec.submodules if hasattr(spec, "submodules") else spec.keywords["submodules"]).router = BalancedRouter
    return spec


def block_spec(config: Any, layer_spec: LayerSpec, chunk: int | None = None) -> Any:
    """Return Megatron's TransformerBlockSubmodules for this pipeline stage's layers, all of one kind.

    Args:
        config: Megatron TransformerConfig of the model.
        layer_spec: result of `resolve_layer_spec`.
        chunk: which part of the stage, where it has several.
    """
    from megatron.core.models.gpt import gpt_layer_specs as specs
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build

    layers = get_num_layers_to_build(config, vp_stage=chunk)
    experts: dict[str, Any] = {"num_experts": config.num_moe_experts, "moe_grouped_gemm": config.moe_grouped_gemm}
    mixture = expert_spec(config, layer_spec)
    if layer_spec == "transformer_engine":
        from megatron.core.extensions.transformer_engine import TENorm

        layer = specs.get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm, **experts)
        layer.submodules.mlp = mixture or layer.submodules.mlp
        return TransformerBlockSubmodules(layer_specs=[layer] * layers, layer_norm=TENorm)
    layer = specs.get_gpt_layer_local_spec(
        qk_layernorm=config.qk_layernorm, normalization=config.normalization, **experts
    )
    layer.submodules.mlp = mixture or layer.submodules.mlp
    # Megatron's own local norm refuses sequence parallelism, its local attention refuses packed documents.
    norm = RMSNorm if config.normalization == "RMSNorm" else ZeroCentredLayerNorm
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = norm
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = PackedAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    return TransformerBlockSubmodules(layer_specs=[layer] * layers, layer_norm=norm)
