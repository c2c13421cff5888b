"""Whether a layout can split an architecture, and what it costs where it can only just. Import-light: no torch."""

from __future__ import annotations

from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.models.architecture import Architecture, Layer


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
    wrong = layout.problems()
    return problems + (wrong or layout.layer_problems(len(arch.layers)))


def _tensor_parallel(layer: Layer, tensor: int, pads: bool) -> list[str]:
    attention, ffn = layer.mixer, layer.mlp.width
    groups, padding = attention.groups, attention.padding_groups(tensor)
    heads = f"num_key_value_heads {groups} (of {attention.heads} heads)"
    problems = []
    if padding and padding <= groups and not pads:
        problems.append(
            f"{heads} is not a multiple of tensor_model_parallel_size {tensor}; parallel.pad_attention_groups=true "
            f"adds {padding} zero groups"
        )
    elif padding > groups:  # more attention would be computed in vain than for the model
        fit = ", ".join(str(size) for size in range(1, 2 * groups + 1) if ffn % size == 0)
        problems.append(
            f"{heads} is not a multiple of tensor_model_parallel_size {tensor}, which needs {padding} padding groups "
            f"beside them, at most {groups} are made; sizes that fit: {fit}"
        )
    if ffn % tensor:
        problems.append(f"intermediate_size {ffn} is not a multiple of tensor_model_parallel_size {tensor}")
    return problems


def padding_note(arch: Architecture, parallel: ParallelConfig) -> str | None:
    """Say what this layout computes in vain to get equal shares of attention; None where it needn't."""
    tensor = parallel.layout.tp
    padded = [kind.mixer for kind in arch.kinds if kind.mixer.padding_groups(tensor)]
    if not padded:
        return None
    (groups, padding), *_ = ((attention.groups, attention.padding_groups(tensor)) for attention in padded)
    return (
        f"{padding} zero padding group{'s' * (padding > 1)} beside {groups} key/value heads in every layer, for TP "
        f"{tensor}: the same numbers, attention x {(groups + padding) / groups:.2f}"
    )
