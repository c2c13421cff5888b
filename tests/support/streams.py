"""Rollouts as single ones, for tests that don't care which of them ended together."""

from collections.abc import Generator, Iterator

from nemo_cascade.types import Rollout


def flat(together: Generator[list[Rollout], None, None]) -> Iterator[Rollout]:
    """Yield one by one; leaving it leaves the generation."""
    try:
        for ended in together:
            yield from ended
    finally:
        together.close()
