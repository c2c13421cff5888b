"""First fit as NeMo packs, written anew from its description: nemo-toolkit itself is too heavy to install.

NVIDIA NeMo 2.x, nemo/utils/sequence_packing_utils.py: samples are taken longest first (`first_fit_decreasing`) or in a
drawn order (`first_fit_shuffle`); each goes into the first bin that still holds it, searched from the front. There the
load of a bin is summed anew at every look; here it is kept, which can only flatter the peer. Quadratic either way.
"""

import random


def first_fit(lengths, capacity):
    """Return the loads of the bins."""
    loads = []
    for length in lengths:
        room = capacity - length
        for number, load in enumerate(loads):
            if load <= room:
                loads[number] = load + length
                break
        else:
            loads.append(length)
    return loads


def first_fit_decreasing(lengths, capacity):
    return first_fit(sorted(lengths, reverse=True), capacity)


def first_fit_shuffle(lengths, capacity, seed=0):
    shuffled = list(lengths)
    random.Random(seed).shuffle(shuffled)
    return first_fit(shuffled, capacity)
