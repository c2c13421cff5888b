"""Decide which tokenised samples enter a packing: not the bad, the over-long, the repeated, the contaminated ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_cascade.config.stages.sft_data import SftDataConfig
from nemo_cascade.data.hygiene.screen import Screened
from nemo_cascade.data.rows.sources import Problems, refuse_bad_share
from nemo_cascade.data.sft.shards import Shard
from nemo_cascade.data.sft.tokenised import TokenisedSet
from nemo_cascade.errors import DataError
from nemo_cascade.types import Int64


@dataclass(frozen=True)
class Admitted:
    """The samples that are packed.

    Attributes:
        samples: [n], their numbers in the tokenised set, ascending.
        source_of: [n], number of each one's source.
        lengths: [n], tokens of each one that are used.
        trained: [n], how many of those are trained.
        overlong: numbers of the samples that were dropped for their length.
        report: counts of what was dropped or cut, and why.
    """

    samples: Int64
    source_of: Int64
    lengths: Int64
    trained: Int64
    overlong: Int64
    report: dict[str, Any]


def admit(tokenised: TokenisedSet, screened: Screened, data: SftDataConfig, seq_length: int) -> Admitted:
    """Apply the rules for bad, over-long, repeated and contaminated samples.

    Args:
        tokenised: all samples.
        screened: which of them are repeated or contaminated.
        data: its rules.
        seq_length: tokens of a pack.

    Raises:
        DataError: bad rows or over-long samples that the rules don't allow, or nothing left to train on. Counts all and
            names the first twenty.
    """
    lengths = tokenised.samples["length"].astype(np.int64)
    trained = tokenised.samples["trained"].astype(np.int64)
    kept = ~(screened.repeated | screened.contaminated)
    overlong = np.flatnonzero(kept & (lengths > seq_length))
    untrainable, broken = _bad_rows(tokenised, "untrainable"), _bad_rows(tokenised, "broken")
    if data.max_bad_fraction == 0:
        broken.refuse("rows are no training conversations", "mend or remove the rows, or set data.max_bad_fraction")
    if data.overlong == "refuse":
        _overlong(tokenised, overlong).refuse(
            f"samples are longer than seq_length={seq_length}",
            "raise seq_length, or set data.overlong=truncate, or data.overlong=drop and data.max_bad_fraction",
        )
    cut = 0
    if data.overlong == "truncate":
        for sample in overlong.tolist():
            shard, begin = tokenised.shards[tokenised.part_of[sample]], int(tokenised.samples[sample]["begin"])
            lengths[sample], trained[sample] = _cut_at_turn(shard, begin, seq_length)
            cut += int(lengths[sample] > 0)
        overlong = overlong[lengths[overlong] == 0]
    found = {
        "broken": broken,
        "without an assistant turn": untrainable,
        f"longer than seq_length={seq_length}": _overlong(tokenised, overlong),
    }
    refuse_bad_share("samples", found, tokenised.rows, data.max_bad_fraction)
    kept[overlong] = False
    samples = np.flatnonzero(kept)
    if not len(samples):
        raise DataError("no sample to train on", value=f"{tokenised.rows} rows read", mend="check data.sources")
    report = {
        "dropped_overlong": len(overlong),
        "dropped_untrainable": untrainable.total,
        "dropped_broken": broken.total,
        "cut_at_turn": cut,
        "dropped_contaminated": int(screened.contaminated.sum()),
        "dropped_duplicates": int((screened.repeated & ~screened.contaminated).sum()),
        "first_dropped": [*broken.first, *untrainable.first, *_overlong(tokenised, overlong).first],
        **screened.report,
    }
    return Admitted(samples, tokenised.source_of[samples], lengths[samples], trained[samples], overlong, report)


def _bad_rows(tokenised: TokenisedSet, kind: str) -> Problems:
    problems = Problems()
    problems.total, problems.first = tokenised.bad_rows(kind, problems.limit)
    return problems


def _overlong(tokenised: TokenisedSet, samples: Int64) -> Problems:
    problems = Problems(total=len(samples))
    for sample in samples[: problems.limit].tolist():
        problems.first.append(f"{tokenised.place(sample)}: {tokenised.samples[sample]['length']} tokens")
    return problems


def _cut_at_turn(shard: Shard, begin: int, most: int) -> tuple[int, int]:
    """Return how many tokens of a longer sample are used, and how many of those are trained.

    It is cut behind the last trained turn that ends within `most` tokens; (0, 0) if none does.
    """
    mask = shard.mask()[begin : begin + most + 1]
    ends = np.flatnonzero((mask[:-1] == 1) & (mask[1:] == 0)) + 1
    return (int(ends[-1]), int(mask[: ends[-1]].sum())) if len(ends) else (0, 0)
