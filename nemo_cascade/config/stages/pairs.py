"""Pairs of responses, one preferred."""

from __future__ import annotations

from typing import Literal

from nemo_cascade.config.base import Fraction, Seed, block
from nemo_cascade.config.data import DataFileConfig


@block
class PairDataConfig(DataFileConfig):
    """Pairs of responses, one preferred: what a reward model learns from, and what it is measured on.

    Rows have `messages` ending in a user turn, `chosen`, `rejected`; each of these a text or a list of messages that
    ends with the reply.
    """

    holdout_path: str
    """Pairs of the same kind that are never trained on; a prompt that is also in `path` refuses the run."""
    holdout_split: str | None = None
    """hf:// only: their split; null: `split`."""
    overlong: Literal["refuse", "drop"] = "refuse"
    """A pair longer than seq_length stops the run, or is dropped and counted against max_bad_fraction."""
    max_bad_fraction: Fraction = 0.0
    """Largest share of pairs that may be dropped (broken, equal responses, an empty one, overlong) before the run is
    refused; those that are allowed are listed in the tokenised data's quarantine.jsonl. A released set's ties don't
    count."""
    shuffle_seed: Seed = 0
    """Seeds the order of the pairs, together with the run's seed."""
