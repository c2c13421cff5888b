"""Blend sources into an epoch: up-sampling, caps, token shares by source and by domain.

Works on sample numbers and lengths alone, so it is the same for any number of workers that read or tokenised them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from nemo_cascade.config.stages.sft_data import SourceConfig
from nemo_cascade.errors import DataError
from nemo_cascade.types import Int64


def epoch_entries(
    source_of_sample: Int64,
    lengths: Int64,
    sources: Sequence[SourceConfig],
    seed: int,
    domain_weights: Mapping[str, float] | None = None,
) -> Int64:
    """List the samples of one epoch, each as often as it is seen.

    A source brings at most `repeat` passes and `max_tokens` tokens. Without weights it brings just that. With weights
    the sources bring tokens in their proportion, as many as they can without any one going over what it may bring: the
    scarcest is used to its end, the others are drawn down, and nothing is repeated more often than was asked for.
    Samples of a pass that isn't whole are drawn from the seed and the source's number, whatever the other sources are.
    A source whose share holds none of those that were drawn still brings one, the shortest: none is left out unsaid.

    Args:
        source_of_sample: [n], number of each sample's source in `sources`.
        lengths: [n], tokens of each sample.
        sources: their `repeat`, `max_tokens`, `weight`, `domain`; sources that share all have a weight, or none has.
        seed: draws the samples of the partial passes.
        domain_weights: share of each domain in the epoch's tokens (any scale); inside a domain its sources share by
            weight, or by what they may bring. None or empty: no balance of domains.

    Returns:
        [entries], sample numbers, ascending (the order is the packing's to draw). `np.bincount(entries, minlength=n)`
        is how often each sample is seen.

    Raises:
        DataError: a weighted source has no sample, or one that is longer than all that it may bring; or the blend holds
            none.
    """
    of_source = np.asarray(source_of_sample, dtype=np.int64)
    size = np.asarray(lengths, dtype=np.int64)
    tokens = np.bincount(of_source, weights=size, minlength=len(sources))
    times = np.zeros(len(size), np.int64)
    for number, target in enumerate(_targets(tokens, sources, domain_weights or {})):
        members = np.flatnonzero(of_source == number)
        if len(members) == 0:
            continue
        passes, rest = divmod(round(target), int(tokens[number]))
        times[members] = passes
        if rest:
            drawn = np.random.default_rng([seed, number]).permutation(members)
            times[drawn[: np.searchsorted(np.cumsum(size[drawn]), rest, side="right")]] += 1
        if not times[members].any():
            shortest = members[np.argmin(size[members])]
            _refuse_small_cap(sources[number], int(size[shortest]))
            times[shortest] = 1
    if not times.any():
        raise DataError("the blend holds no sample", mend="add sources")
    return np.repeat(np.arange(len(size), dtype=np.int64), times)


def _refuse_small_cap(source: SourceConfig, shortest: int) -> None:
    if source.max_tokens is not None and source.max_tokens < shortest:
        raise DataError(
            "a source may bring less than its shortest sample",
            value=f"{source.path}, {shortest} tokens",
            limit=f"max_tokens={source.max_tokens}",
            mend="raise max_tokens, or remove the source",
        )


def _targets(tokens: np.ndarray, sources: Sequence[SourceConfig], domain_weights: Mapping[str, float]) -> list[float]:
    """Return the tokens that each source brings to the epoch."""
    may_bring = [
        min(s.repeat * t, s.max_tokens if s.max_tokens is not None else np.inf)
        for s, t in zip(sources, tokens.tolist(), strict=True)
    ]
    weighted = [s.weight is not None for s in sources]
    if not domain_weights and not any(weighted):
        return may_bring
    for source, bring in zip(sources, may_bring, strict=True):
        if bring == 0:
            raise DataError("a source of a weighted blend has no sample", value=source.path, mend="remove the source")
    raw = [bring if s.weight is None else s.weight for s, bring in zip(sources, may_bring, strict=True)]
    shares = list(raw)
    if domain_weights:
        of_domain = {d: sum(r for r, s in zip(raw, sources, strict=True) if s.domain == d) for d in domain_weights}
        shares = [domain_weights[s.domain] * r / of_domain[s.domain] for r, s in zip(raw, sources, strict=True)]
    scale = min(bring / share for bring, share in zip(may_bring, shares, strict=True))
    return [scale * share for share in shares]
