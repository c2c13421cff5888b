"""Build a model whose layers are Mamba-2, attention, MLP or experts alone as Megatron-Core's MambaModel.

Its stack builds the norm behind the last layer of Transformer Engine's class; here it is put in place afterwards.
"""

import importlib.util
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from nemo_cascade.errors import RuntimeUnavailableError
from nemo_cascade.models.architecture import Architecture, Attention, Dense, Experts, Layer, Mamba
from nemo_cascade.models.megatron import backend  # before anything of megatron
from nemo_cascade.models.megatron.attention import PackedAttention, RMSNorm
from nemo_cascade.models.megatron.recompute import recomputed
from nemo_cascade.models.megatron.specs import LayerSpec, expert_spec

_SYMBOLS = {Mamba: "M", Attention: "*", Dense: "-", Experts: "E"}


def pattern(layers: tuple[Layer, ...]) -> str:
    """Return the layers as Megatron and HF write them: M Mamba-2, * attention, - MLP, E experts."""
    return "".join(_SYMBOLS[type(layer.mixer or layer.mlp)] for layer in layers)


def build_hybrid(arch: Architecture, config: Any, layer_spec: LayerSpec, **model: Any) -> Any:
    """Return this rank's part.

    Args:
        arch: what to build.
        config: Megatron's TransformerConfig of it.
        layer_spec: result of `specs.resolve_layer_spec`.
        model: further arguments of MambaModel.

    Raises:
        RuntimeUnavailableError: a GPU, but not the kernels of Mamba-2.
    """
    if arch.mamba is not None and backend.HAS_GPU and importlib.util.find_spec("mamba_ssm") is None:
        mend = "install mamba-ssm and causal-conv1d, or use an image that has them"
        raise RuntimeUnavailableError("Mamba-2 layers on a GPU need the package mamba_ssm", mend=mend)
    from megatron.core.models.mamba import MambaModel

    # Since 0.17 MambaModel is another name of HybridModel, whose pattern is called otherwise.
    names = inspect.signature(MambaModel.__mro__[1].__init__).parameters
    key = "hybrid_layer_pattern" if "hybrid_layer_pattern" in names else "hybrid_override_pattern"
    built = MambaModel(
        config=config,
        mamba_stack_spec=_stack_spec(arch, config, layer_spec),
        position_embedding_type="none",
        **{key: pattern(arch.layers)},
        **model,
    )
    if built.post_process:
        built.decoder.final_norm = _norm(layer_spec)(config=config, hidden_size=config.hidden_size)
        built.decoder.post_layer_norm = True
    return built


def _norm(layer_spec: LayerSpec) -> Any:
    if layer_spec == "local":
        return RMSNorm
    from megatron.core.extensions.transformer_engine import TENorm

    return TENorm


def _stack_spec(arch: Architecture, config: Any, layer_spec: LayerSpec) -> Any:
    """Return the spec of the stack; each half layer brings its own norm, fused where Transformer Engine does it."""
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add as add
    from megatron.core.ssm import mamba_block
    from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
    from megatron.core.ssm.mamba_mixer import MambaMixer, MambaMixerSubmodules
    from megatron.core.ssm.mlp_layer import MLPLayer
    from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.mlp import MLP, MLPSubmodules
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_layer import TransformerLayer
    from megatron.core.transformer.transformer_layer import TransformerLayerSubmodules as Half

    into, out, core, fused_norm = _linears(layer_spec)
    norm = {} if fused_norm else {"norm": RMSNorm}
    mamba = arch.mamba or Mamba(1, 1, 1, 1)
    mixer = ModuleSpec(
        module=MambaMixer,
        params={"d_conv": mamba.kernel, "chunk_size": mamba.chunk},
        submodules=MambaMixerSubmodules(in_proj=into, out_proj=out),
    )
    attention = ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(linear_qkv=into, core_attention=core, linear_proj=out),
    )
    linears = MLPSubmodules(linear_fc1=into, linear_fc2=out)
    mlp: Any = ModuleSpec(module=MLP, submodules=linears)
    if hasattr(MLP, "as_mlp_submodule"):  # since 0.17
        mlp = partial(MLP.as_mlp_submodule, submodules=linears)
    old = hasattr(mamba_block, "MambaStack")
    made: Callable[[type], type] = recomputed if config.recompute_granularity == "full" else lambda layer: layer
    input_norm = {} if fused_norm else {"input_layernorm": RMSNorm}
    mlp_norm = {} if fused_norm else {"pre_mlp_layernorm": RMSNorm}
    moe = Half(pre_mlp_layernorm=_norm(layer_spec), mlp=expert_spec(config, layer_spec), mlp_bda=add)
    return ModuleSpec(
        module=mamba_block.MambaStack if old else mamba_block.HybridStack,
        params={"post_layer_norm": False},
        submodules=(mamba_block.MambaStackSubmodules if old else mamba_block.HybridStackSubmodules)(
            mamba_layer=ModuleSpec(
                module=made(MambaLayer), submodules=MambaLayerSubmodules(mixer=mixer, mamba_bda=add, **norm)
            ),
            attention_layer=ModuleSpec(
                module=made(TransformerLayer),
                submodules=Half(self_attention=attention, self_attn_bda=add, **input_norm),
            ),
            mlp_layer=ModuleSpec(module=made(MLPLayer), submodules=Half(mlp=mlp, mlp_bda=add, **mlp_norm)),
            moe_layer=ModuleSpec(module=made(TransformerLayer), submodules=moe),
        ),
    )


def _linears(layer_spec: LayerSpec) -> tuple[Any, Any, Any, bool]:
    """Return the linear layers into and out of a part, core attention, and whether the norm is fused into the first."""
    if layer_spec == "local":
        from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear

        return ColumnParallelLinear, RowParallelLinear, PackedAttention, False
    from megatron.core.extensions import transformer_engine as te

    return te.TELayerNormColumnParallelLinear, te.TERowParallelLinear, te.TEDotProductAttention, True
