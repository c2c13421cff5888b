"""Number formats of the policy: the refusal of those that this machine can't compute, and what they ask of lengths."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

from nemo_cascade.config.layout import Layout
from nemo_cascade.config.model import PrecisionConfig
from nemo_cascade.errors import ConfigError, RuntimeUnavailableError


def check_precision(precision: PrecisionConfig, *, gpu: bool, capability: tuple[int, int] | None = None) -> None:
    """Refuse a precision that can't be had here.

    Megatron hands FP8 to Transformer Engine by `fp8` and `fp8_recipe`; block scaling needs Hopper, MXFP8 Blackwell.

    Args:
        precision: what is wanted.
        gpu: whether a CUDA GPU is present.
        capability: its compute capability, where there is one.

    Raises:
        ConfigError: FP8 on top of fp32.
        RuntimeUnavailableError: FP8 without a GPU, without Transformer Engine, or on too old a GPU.
    """
    if precision.fp8 == "off":
        return
    if precision.dtype != "bf16":
        raise ConfigError([f"precision.fp8={precision.fp8} needs precision.dtype=bf16, got {precision.dtype}"])
    mend = "set precision.fp8=off, or run in a container with Transformer Engine on a Hopper or newer GPU"
    if not gpu:
        raise RuntimeUnavailableError("FP8 needs a CUDA GPU and this machine has none", value=precision.fp8, mend=mend)
    if importlib.util.find_spec("transformer_engine") is None:
        raise RuntimeUnavailableError(
            "FP8 needs Transformer Engine, which is not installed", value=precision.fp8, mend=mend
        )
    least = {"tensorwise": (8, 9), "delayed": (8, 9), "blockwise": (9, 0), "mxfp8": (10, 0)}[precision.fp8_recipe]
    if capability is None or capability < least:
        raise RuntimeUnavailableError(
            f"the GPU is too old for FP8 recipe {precision.fp8_recipe}",
            value=capability,
            limit=f">= {least}",
            mend=mend,
        )


def token_multiple(precision: PrecisionConfig, layout: Layout) -> int:
    """Return what the length of every pack must be a multiple of.

    Sequence parallelism deals tokens out to the TP ranks; FP8 matrix products want sides that are multiples of 16
    (32 for MXFP8's blocks). With 128 x 128 blocks a rank's share that is no multiple of 128 would be gathered in high
    precision in every layer (Transformer Engine's Float8BlockQuantizer.is_quantizable).
    """
    tiles = {"tensorwise": 16, "delayed": 16, "mxfp8": 32, "blockwise": 128}
    tile = 1 if precision.fp8 == "off" else tiles[precision.fp8_recipe]
    return tile * layout.tp if layout.sp else tile


@dataclass(frozen=True, slots=True)
class Padding:
    """How micro-batches are padded when they are built; the data hold none of it.

    Attributes:
        document: each document is padded at its end, untrained, to a multiple of this many tokens.
        pack: the micro-batch is padded, by a document of its own, to a multiple of this; itself one of `document`.
        group: micro-batches of a step come in groups of this many, filled up by untrained ones. Above 1 all of a step
            are of one length, too: the interleaved schedule's messages carry no shapes.
    """

    document: int = 1
    pack: int = 1
    group: int = 1

    @classmethod
    def of(cls, precision: PrecisionConfig, layout: Layout) -> Padding:
        """Return what a layout needs."""
        own = token_multiple(precision, layout)
        return cls(
            document=layout.pad_documents_to,
            pack=math.lcm(layout.pad_documents_to, layout.cp * own),
            group=layout.pp if layout.vpp > 1 else 1,
        )
