"""Pairs of responses, one preferred."""

from typing import Literal

from nemo_cascade.config.base import Fraction, Seed, block
from nemo_cascade.config.data import DataFileConfig


@block
class PairSetConfig(DataFileConfig):
    """Pairs of responses, one preferred.

    Rows have `messages` ending in a user turn, `chosen`, `rejected`; each of these a text or a list of messages that
    ends with the reply. What a loss asks for beside them: `margin`, or `chosen_reward` and `rejected_reward`.
    """

    overlong: Literal["refuse", "drop"] = "refuse"
    """A pair longer than seq_length stops the run, or is dropped and counted against max_bad_fraction."""
    max_bad_fraction: Fraction = 0.0
    """Largest share of pairs that may be dropped (broken, equal responses, an empty one, overlong) before the run is
    refused; those that are allowed are listed in the tokenised data's quarantine.jsonl. A released set's ties don't
    count."""
    shuffle_seed: Seed = 0
    """Seeds the order of the pairs, together with the run's seed."""


@block
class PairDataConfig(PairSetConfig):
    """What a reward model learns from, and what it is measured on: pairs, or rated replies where its loss reads these.

    Rows of rated replies have `messages` ending in the reply, and a number for some of the loss's attributes.
    """

    holdout_path: str
    """Rows of the same kind that are never trained on; a prompt that is also in `path` refuses the run."""
    holdout_split: str | None = None
    """hf:// only: their split; null: `split`."""
