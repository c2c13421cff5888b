"""Pack samples into bins of one length without splitting any: best fit, decreasing by default, in O(n log n).

One after the other, each sample goes into the fullest bin that still holds it. Which free spaces exist is a set of bits
(bit s: some bin has s tokens left), so finding the best fit is a shift and a lowest-set-bit.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nemo_cascade.types import Int64

_SHIFT = 9
_LOW = (1 << _SHIFT) - 1


@dataclass(frozen=True)
class Packing:
    """Which samples lie together.

    Attributes:
        samples: [n], sample numbers, pack after pack.
        offsets: [packs + 1], where each pack begins in `samples`.
        fill: share of the packs' capacity that holds tokens; 0 without packs.
    """

    samples: Int64
    offsets: Int64
    fill: float

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def members(self, pack: int) -> Int64:
        """Sample numbers of a pack."""
        return self.samples[self.offsets[pack] : self.offsets[pack + 1]]


def pack_best_fit(
    lengths: Sequence[int] | Int64,
    capacity: int,
    seed: int = 0,
    order: Literal["decreasing", "drawn"] = "decreasing",
) -> Packing:
    """Pack samples of the given lengths into few bins of `capacity`: each into the fullest one that still holds it.

    Equally long samples are taken in an order drawn from `seed`, so that neighbours in the source aren't always
    neighbours in a pack; then the packs and the samples in each are put in a drawn order. Which samples share a
    pack, and so the fill, is untouched by that.

    Args:
        lengths: [n], each between 1 and capacity.
        capacity: tokens of a pack.
        seed: draws the orders.
        order: decreasing takes the longest first, which fills best but puts samples of one length together; drawn
            takes them in a drawn order, so that each pack is a fair draw of all lengths.
    """
    size = np.asarray(lengths, dtype=np.int64)
    if size.size == 0:
        return Packing(size, np.zeros(1, np.int64), 0.0)
    assert size.min() >= 1, "an empty sample can't be packed"
    assert size.max() <= capacity, "a sample is longer than a pack"
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(size.size)
    taken = drawn[np.argsort(-size[drawn], kind="stable")] if order == "decreasing" else drawn
    pack_of, packs = _best_fit(size[taken].tolist(), capacity)
    rank = rng.permutation(packs)[pack_of]
    shuffled = np.lexsort((rng.permutation(size.size), rank))
    counts = np.bincount(rank, minlength=packs)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    return Packing(taken[shuffled], offsets, float(size.sum()) / (packs * capacity))


def _best_fit(lengths: list[int], capacity: int) -> tuple[Int64, int]:
    """Return each sample's pack and the number of packs; in the order given."""
    # Bit s of the set: some pack has s tokens left. Kept in words, with the set of non-zero words above them,
    # since shifting one integer of `capacity` bits is slow at long capacities. The empty pack is always there.
    words = [0] * ((capacity >> _SHIFT) + 1)
    words[capacity >> _SHIFT] = 1 << (capacity & _LOW)
    filled = 1 << (capacity >> _SHIFT)
    with_space: defaultdict[int, list[int]] = defaultdict(list)
    pack_of, packs = [0] * len(lengths), 0
    for i, length in enumerate(lengths):
        word = length >> _SHIFT
        fitting = words[word] >> (length & _LOW)
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
        else:
            above = filled >> (word + 1)
            word += (above & -above).bit_length()
            fitting = words[word]
            space = (word << _SHIFT) + (fitting & -fitting).bit_length() - 1
        if space == capacity:
            pack, packs = packs, packs + 1
        else:
            waiting = with_space[space]
            pack = waiting.pop()
            if not waiting:
                words[word] ^= 1 << (space & _LOW)
                if not words[word]:
                    filled ^= 1 << word
        pack_of[i] = pack
        rest = space - length
        if rest:
            waiting = with_space[rest]
            if not waiting:
                words[rest >> _SHIFT] |= 1 << (rest & _LOW)
                filled |= 1 << (rest >> _SHIFT)
            waiting.append(pack)
    return np.asarray(pack_of, dtype=np.int64), packs
