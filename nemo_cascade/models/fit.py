"""Whether a layout can split an architecture, and what it costs where it can only just. Import-light: no torch."""

from dataclasses import replace
from typing import Any

from nemo_cascade.config.layout import Layout
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.models.architecture import Architecture, Attention, Dense, Experts, Layer, Mamba


def layout_problems(arch: Architecture, parallel: ParallelConfig) -> list[str]:
    """Return every reason why this architecture can't be split by this layout; empty if it can.

    Args:
        arch: the model.
        parallel: the layout, and whether attention may be padded.
    """
    layout = parallel.layout
    problems = [
        text for kind in arch.kinds for text in _tensor_parallel(kind, layout.tp, parallel.pad_attention_groups)
    ]
    if arch.hybrid:
        problems += _hybrid(layout)
    wrong = layout.problems()
    return problems + _expert_parallel(arch, layout) + (wrong or layout.layer_problems(len(arch.layers)))


def sharing_problems(arch: Architecture, parallel: ParallelConfig, *, fused: bool) -> list[str]:
    """Return every reason why documents of a pack can't attend to one copy of what they begin with; empty if they can.

    Args:
        arch: the model.
        parallel: the layout.
        fused: its layers are Transformer Engine's.
    """
    problems = []
    if fused:
        problems.append("Transformer Engine attends to a document's own tokens alone; layer_spec=local also to others")
    if parallel.layout.cp > 1:
        problems.append(f"context_parallel_size {parallel.layout.cp} cuts each document on its own; 1 doesn't")
    if arch.mamba is not None:
        problems.append("a state space runs on from token to token: a second response would go on from the first")
    if arch.experts is not None:
        problems.append("experts are balanced over all tokens, and those of a prompt would count once")
    return problems


def takes_transformer_engine(wanted: str, dtype: str, *, usable: bool) -> bool:
    """Tell whether layers are Transformer Engine's.

    Args:
        wanted: `model.layer_spec`; auto takes local layers for fp32, for Transformer Engine multiplies fp32 in TF32
            (common/gemm/cublaslt_gemm.cu) and its fast attention refuses it.
        dtype: `precision.dtype`.
        usable: the package and a GPU are there.
    """
    return wanted == "transformer_engine" or (wanted == "auto" and usable and dtype == "bf16")


def fitting_sizes(arch: Architecture, parallel: ParallelConfig) -> dict[str, Any]:
    """Return the fewest changes of a layout that make it one which can split the architecture, no size larger.

    Returns:
        Keys of ParallelConfig and their values; everything at 1 where no single size suffices.
    """
    sizes = [name for name in _SIZES if (getattr(parallel, name) or 1) > 1]
    tries: list[dict[str, Any]] = [{"sequence_parallel": not parallel.sequence_parallel}]
    tries += [{name: size} for name in sizes for size in range(getattr(parallel, name) - 1, 0, -1)]
    tries += [{**change, "sequence_parallel": False} for change in tries]
    for change in tries:
        if not layout_problems(arch, replace(parallel, **change)):
            return change
    return {**dict.fromkeys(sizes, 1), "sequence_parallel": False}


_SIZES = (
    "tensor_model_parallel_size",
    "virtual_pipeline_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
)


def _hybrid(layout: Layout) -> list[str]:
    """Return what Megatron's stack of half layers can't do."""
    problems = []
    if layout.cp > 1:
        problems.append(f"context_parallel_size {layout.cp} is not supported with layers of this kind; 1 is")
    if layout.vpp > 1:
        problems.append(
            f"virtual_pipeline_model_parallel_size {layout.vpp} is not supported with layers of this kind; 1 is"
        )
    return problems


def _tensor_parallel(layer: Layer, tensor: int, pads: bool) -> list[str]:
    width = layer.mlp.width if isinstance(layer.mlp, Dense) else 0
    if isinstance(layer.mlp, Experts):
        width = layer.mlp.shared_width
    problems = []
    if isinstance(layer.mixer, Attention):
        problems += _attention(layer.mixer, width, tensor, pads)
    if isinstance(layer.mixer, Mamba):
        sizes = {"mamba_num_heads": layer.mixer.heads, "mamba n_groups": layer.mixer.groups}
        problems += [
            f"{name} {size} is not a multiple of tensor_model_parallel_size {tensor}"
            for name, size in sizes.items()
            if size % tensor
        ]
    if width % tensor:
        name = "intermediate_size" if isinstance(layer.mlp, Dense) else "width of the shared expert"
        problems.append(f"{name} {width} is not a multiple of tensor_model_parallel_size {tensor}")
    return problems


def _attention(attention: Attention, ffn: int, tensor: int, pads: bool) -> list[str]:
    groups, padding = attention.groups, attention.padding_groups(tensor)
    heads = f"num_key_value_heads {groups} (of {attention.heads} heads)"
    if padding and padding <= groups and not pads:
        return [
            f"{heads} is not a multiple of tensor_model_parallel_size {tensor}; parallel.pad_attention_groups=true "
            f"adds {padding} zero groups"
        ]
    if padding > groups:  # more attention would be computed in vain than for the model
        fit = ", ".join(str(size) for size in range(1, 2 * groups + 1) if ffn % size == 0)
        return [
            f"{heads} is not a multiple of tensor_model_parallel_size {tensor}, which needs {padding} padding groups "
            f"beside them, at most {groups} are made; sizes that fit: {fit}"
        ]
    return []


def _expert_parallel(arch: Architecture, layout: Layout) -> list[str]:
    experts = arch.experts
    if experts is None:
        return [f"expert_model_parallel_size {layout.ep}: the model has no experts"] if layout.ep > 1 else []
    problems = []
    stage = layout.tp * layout.cp * layout.dp
    if stage % (layout.ep * layout.etp):
        problems.append(
            f"expert_model_parallel_size {layout.ep} x expert_tensor_parallel_size {layout.etp} doesn't divide the "
            f"{stage} ranks of a pipeline stage"
        )
    if layout.ep == 1 and layout.etp != layout.tp:
        # Megatron-Core 0.16 reduces the gradients of such experts over the wrong ranks.
        problems.append(
            f"expert_tensor_parallel_size {layout.etp} must be tensor_model_parallel_size {layout.tp} where "
            "expert_model_parallel_size is 1"
        )
    if experts.count % layout.ep:
        problems.append(f"{experts.count} experts are not a multiple of expert_model_parallel_size {layout.ep}")
    if experts.width % layout.etp:
        problems.append(f"expert width {experts.width} is not a multiple of expert_tensor_parallel_size {layout.etp}")
    if layout.tp > 1 and not layout.sp:
        problems.append("experts with tensor_model_parallel_size > 1 need sequence_parallel=true")
    return problems


def padding_note(arch: Architecture, parallel: ParallelConfig) -> str | None:
    """Say what this layout computes in vain to get equal shares of attention; None where it needn't."""
    tensor = parallel.layout.tp
    padded = [kind.mixer for kind in arch.kinds if isinstance(kind.mixer, Attention) and kind.padding_groups(tensor)]
    if not padded:
        return None
    (groups, padding), *_ = ((attention.groups, attention.padding_groups(tensor)) for attention in padded)
    return (
        f"{padding} zero padding group{'s' * (padding > 1)} beside {groups} key/value heads in every layer, for TP "
        f"{tensor}: the same numbers, attention x {(groups + padding) / groups:.2f}"
    )
