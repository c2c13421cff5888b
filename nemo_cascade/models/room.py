"""What weights alone take, on a rank of a layout. Import-light: no torch."""

import math

from nemo_cascade.config.layout import Layout
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.rules import hf_shapes

_BYTES = {"fp32": 4, "bf16": 2}


def weight_bytes(arch: Architecture, layout: Layout, dtype: str) -> int:
    """Return the bytes of a model's weights on a rank, an equal share of what its layout splits.

    Args:
        arch: the model.
        layout: TP and PP split all weights but those of routed experts, which ETP, EP and PP split.
        dtype: of the weights, fp32 or bf16.
    """
    sizes = {name: math.prod(shape) for name, shape in hf_shapes(arch).items()}
    routed = sum(size for name, size in sizes.items() if ".experts." in name)
    rest = sum(sizes.values()) - routed
    return _BYTES[dtype] * (rest // (layout.tp * layout.pp) + routed // (layout.etp * layout.ep * layout.pp))
