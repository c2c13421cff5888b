import itertools

import numpy as np

from nemo_cascade.models.megatron.context import context_share


def test_context_ranks_hold_every_token_once_and_of_each_document_its_outer_and_inner_pieces():
    boundaries, size = (0, 8, 24, 28), 2
    first, second = (context_share(boundaries, rank, size) for rank in range(size))
    assert first.tolist() == [0, 1, 6, 7, 8, 9, 10, 11, 20, 21, 22, 23, 24, 27]
    assert sorted([*first, *second]) == list(range(28))
    # Of a causal mask's pairs each has as many.
    within = np.concatenate([np.arange(end - begin) for begin, end in itertools.pairwise(boundaries)])
    assert within[first].sum() == within[second].sum()
    assert context_share((0, 3, 4), 0, 1).tolist() == [0, 1, 2, 3]
