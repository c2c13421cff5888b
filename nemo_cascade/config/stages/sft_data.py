"""Training conversations of an SFT stage: sources, blend, repeats, evaluation prompts among them."""

from dataclasses import field
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from nemo_cascade.config.base import Fraction, Seed, block
from nemo_cascade.config.data import DataFileConfig


@block
class ThoughtsConfig:
    """What becomes of the thoughts in a source's replies (arXiv 2508.14444; data/sft/thoughts.py).

    A source that is also learned without its thoughts, or with cut ones, is named twice, the second time with a
    `repeat` below 1.
    """

    handling: Literal["keep", "remove", "cut"] = "keep"
    """remove: replies are learned without them, as asked not to think; cut: they break off at a number of tokens drawn
    for each sample, and the answer follows."""
    least_tokens: PositiveInt = 1024
    """cut: smallest number of tokens that is drawn."""
    most_tokens: PositiveInt = 2048
    """cut: largest one; shorter thoughts stay whole."""


@block
class SourceConfig(DataFileConfig):
    """One set of training conversations: rows with `messages`, and perhaps `tools` and `mode`."""

    domain: str = "general"
    """Domain that its tokens count for in reports."""
    repeat: PositiveFloat = 1.0
    """Passes over it in an epoch (the papers' up-sampling); 1.5: once, and half of its tokens, drawn, once more."""
    max_samples: PositiveInt | None = None
    """Use only the first so many rows."""
    max_tokens: PositiveInt | None = None
    """Most tokens that it brings to an epoch; over it, samples are drawn."""
    thoughts: ThoughtsConfig = field(default_factory=ThoughtsConfig)
    """What becomes of its replies' thoughts."""
    weight: PositiveFloat | None = None
    """Share of the epoch's tokens, relative to the other sources; it then is passed over at most `repeat` times."""


@block
class DedupConfig:
    """Samples that repeat an earlier one, in this source or another; the first stays, the others are dropped."""

    method: Literal["none", "exact", "near"] = "none"
    """exact: the same but for case, white space and the script of digits; near: also those whose runs of words mostly
    agree (MinHash), which drops templated problems that differ in their numbers only."""
    threshold: Fraction = 0.7
    """near: share of common runs of words (Jaccard similarity) from which on two samples are the same."""


@block
class DecontaminateConfig:
    """Samples that hold evaluation prompts (arXiv 2512.13607, section 3.2: 9-gram)."""

    against: list[str] = field(default_factory=list)
    """Files or folders of the evaluation sets; empty: nothing is looked for."""
    ngram: PositiveInt = 9
    """A sample that shares this many words in a row with a prompt holds it."""
    rule: Literal["drop", "refuse"] = "drop"
    """drop: such samples are dropped and counted; refuse: they stop the run, named by file and line."""


@block
class SftDataConfig:
    """Training conversations of an SFT stage and the rules they must obey."""

    sources: list[SourceConfig]
    """What is trained on."""
    domain_weights: dict[str, PositiveFloat] = field(default_factory=dict)
    """Domain -> its share of the epoch's tokens, any scale; names every domain of the sources. Empty: as they come."""
    overlong: Literal["refuse", "drop", "truncate"] = "refuse"
    """A sample longer than seq_length: refuse stops the run; drop counts it against max_bad_fraction; truncate keeps
    its whole turns up to the last assistant turn that fits, and drops it where none does."""
    max_bad_fraction: Fraction = 0.0
    """Largest share of rows that may be broken, without a reply, or dropped for their length before the run is refused;
    those that are allowed are listed in the packed data's quarantine.jsonl."""
    packing_order: Literal["decreasing", "drawn"] = "decreasing"
    """decreasing: best fit, longest first, the fullest packs; drawn: best fit in a drawn order, packs of mixed lengths,
    which small batches of short samples need."""
    shuffle_seed: Seed = 0
    """Seeds the order of the packs, together with the run's seed."""
    dedup: DedupConfig = field(default_factory=DedupConfig)
    """Samples that repeat others."""
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    """Samples that hold evaluation prompts."""
    workers: NonNegativeInt = 0
    """Processes that read and tokenise; 0: one per core, fewer for little data. The result doesn't depend on it."""
