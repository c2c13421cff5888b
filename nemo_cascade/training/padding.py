"""What a layout and a number format ask of the length of a micro-batch. Import-light."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nemo_cascade.config.layout import Layout
from nemo_cascade.config.model import PrecisionConfig
from nemo_cascade.training.precision import token_multiple


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
