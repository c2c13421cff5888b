"""Arithmetic on document boundaries of a pack. Import-light: plain integers."""

from collections.abc import Sequence
from itertools import pairwise

# Costs in units of one query-key pair, fitted to packs of 500 to 4000 tokens on a CPU core: of an SDPA call, and of
# copying a token into a padded batch and out again.
_CALL_PAIRS = 9_000
_PAD_PAIRS = 64
# Rotary tables are cached by length: rounding keeps the number of different lengths small.
_ROTARY_GRANULE = 256


def padding_pays(boundaries: Sequence[int]) -> bool:
    """Tell whether one padded attention batch is cheaper than one call per document.

    True for many short documents of nearly the same length; a long one among them makes all rows long.

    Args:
        boundaries: [documents + 1] tokens, rising from 0.
    """
    lengths = [b - a for a, b in pairwise(boundaries)]
    longest, padded = max(lengths), max(lengths) * len(lengths)
    separate = sum(n * n / 2 for n in lengths) + _CALL_PAIRS * len(lengths)
    together = padded * longest / 2 + _PAD_PAIRS * padded + _CALL_PAIRS
    return len(lengths) > 1 and together < separate


def rotary_table_length(boundaries: Sequence[int], borrowed: Sequence[int]) -> int:
    """Return the max_seqlen to tell Megatron: at least the longest document, in tokens.

    Never exactly the pack's length if there are several documents: Megatron takes such a table for one that runs on
    over the whole pack, without a restart at each document.

    Args:
        boundaries: [documents + 1] tokens, rising from 0.
        borrowed: [documents], tokens before each that it has in common with another.
    """
    longest = max(b - a + n for (a, b), n in zip(pairwise(boundaries), borrowed, strict=True))
    length = -(-longest // _ROTARY_GRANULE) * _ROTARY_GRANULE
    return length + _ROTARY_GRANULE if length == boundaries[-1] and len(boundaries) > 2 else length
