"""Arithmetic on document boundaries."""

import pytest

from nemo_cascade.models.megatron.packing import padding_pays, rotary_table_length


@pytest.mark.parametrize(
    ("lengths", "pays"),
    [
        ([64] * 8, True),
        ([16] * 32, True),
        ([128] * 16, True),
        ([64] * 64, True),
        ([512] * 4, False),
        ([1024, 512, 256, 128, 64, 64], False),  # measured: 64 ms one by one, 254 ms padded
        ([300, 310, 400, 350], False),
        ([2048], False),
    ],
)
def test_padding_pays_only_for_many_short_documents_of_one_length(lengths, pays):
    assert padding_pays([sum(lengths[:i]) for i in range(len(lengths) + 1)]) == pays


@pytest.mark.parametrize(
    ("boundaries", "length"),
    [
        ([0, 100], 256),
        ([0, 256], 256),  # one document: a table of the pack's length is right
        ([0, 200, 300], 256),
        ([0, 200, 256], 512),  # several: it would be taken for positions that run on
    ],
)
def test_rotary_table_never_runs_on_over_documents(boundaries, length):
    assert rotary_table_length(boundaries, [0] * (len(boundaries) - 1)) == length
