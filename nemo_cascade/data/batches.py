"""Where micro-batches come from: packed data on disk for SFT, rollouts in memory for RL.

Both give every data-parallel rank as many micro-batches, and neither keeps a position: a step's batches are a pure
function of the step, so resuming needs no state and the global batch doesn't depend on the layout.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from nemo_cascade.data.layout import dummy_beside, dummy_document, lay_out
from nemo_cascade.data.sft.packing import pack_best_fit
from nemo_cascade.data.sft.store import PackedStore, open_store
from nemo_cascade.errors import DataError
from nemo_cascade.types import Float32, Int64, PackedBatch


class ShuffledStream(ABC):
    """An endless stream of what lies in a folder, in a new order each epoch.

    Step s takes items s*G to (s+1)*G - 1, G the global batch size. An epoch that ends within a batch wraps: the rest of
    the batch is the start of the next epoch, so every item is seen once per epoch and every batch is full.

    Args:
        folder: where the items lie.
        global_batch_size: items per step over all data-parallel ranks.
        seed: draws each epoch's order.
    """

    def __init__(self, folder: str | Path, global_batch_size: int, seed: int) -> None:
        self.folder, self.global_batch_size, self.seed = str(folder), global_batch_size, seed
        self._opened: Any = None
        self._drawn: tuple[int, Int64] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Travel between processes without the memory map."""
        return {**self.__dict__, "_opened": None, "_drawn": None}

    @property
    @abstractmethod
    def num_items(self) -> int:
        """Items of an epoch."""

    def steps(self, epochs: int) -> int:
        """Steps that see every item at least `epochs` times: the last one reaches into the next epoch."""
        return -(-epochs * self.num_items // self.global_batch_size)

    def items(self, step: int) -> list[int]:
        """Item numbers of a step's global batch, in order."""
        first = step * self.global_batch_size
        return [self._item(p) for p in range(first, first + self.global_batch_size)]

    def _item(self, position: int) -> int:
        epoch, index = divmod(position, self.num_items)
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.num_items)
        return int(self._drawn[1][index])


class PackedSource(ShuffledStream):
    """The micro-batches of an SFT stage; the items are the store's packs."""

    @property
    def store(self) -> PackedStore:
        """The store, opened at first use in each process."""
        if self._opened is None:
            self._opened = open_store(self.folder)
        return cast(PackedStore, self._opened)

    @property
    def num_items(self) -> int:
        """Packs of an epoch."""
        return len(self.store)

    def micro_batches(self, step: int, dp_rank: int, dp_size: int) -> list[PackedBatch]:
        """Return a rank's share of the step: every dp_size-th pack, made up to equal numbers with untrained packs."""
        mine = self.items(step)[dp_rank::dp_size]
        batches = [self.store.batch(pack) for pack in mine]
        if len(batches) < -(-self.global_batch_size // dp_size):
            batches.append(lay_out([dummy_document()]))
        return batches


@dataclass(frozen=True)
class RolloutSource:
    """The micro-batches of one policy update, made from documents in memory; the step is not looked at.

    Attributes:
        documents: all samples of the update.
        plan: [dp_rank][micro-batch] sample numbers; none: an untrained micro-batch.
    """

    documents: tuple[PackedBatch, ...]
    plan: tuple[tuple[tuple[int, ...], ...], ...]

    def micro_batches(self, step: int, dp_rank: int, dp_size: int) -> list[PackedBatch]:
        """Return a rank's micro-batches."""
        assert dp_size == len(self.plan), "balanced for another data-parallel size"
        dummy = dummy_beside(self.documents[0])
        return [lay_out([self.documents[i] for i in members] or [dummy]) for members in self.plan[dp_rank]]

    def per_sample(self, values: Sequence[Sequence[Float32]]) -> list[Float32]:
        """Cut arrays aligned with labels back into samples.

        Args:
            values: [dp_rank][micro-batch], each [T].

        Returns:
            For each sample [n], aligned with its labels (0 at the last token, which predicts nothing).
        """
        cut: list[Float32] = [np.zeros(d.num_tokens, np.float32) for d in self.documents]
        for rank_plan, rank_values in zip(self.plan, values, strict=True):
            for members, array in zip(rank_plan, rank_values, strict=True):
                begin = 0
                for i in members:
                    n = self.documents[i].num_tokens
                    cut[i][:-1] = array[begin : begin + n - 1]
                    begin += n
        return cut

    def with_extra(self, name: str, values: Sequence[Float32]) -> RolloutSource:
        """Return the same source with a further extra, given per sample and aligned with its labels."""
        documents = tuple(
            replace(d, extras={**d.extras, name: v.astype(np.float32)})
            for d, v in zip(self.documents, values, strict=True)
        )
        return replace(self, documents=documents)

    def without_routed_experts(self) -> RolloutSource:
        """Return the same source whose tokens go to the experts that the router chooses."""
        return replace(self, documents=tuple(replace(d, routed_experts=None) for d in self.documents))

    def trained_only(self, keep: Sequence[bool]) -> RolloutSource:
        """Return the same source whose samples outside of `keep` aren't trained: they stay, but count for nothing."""
        documents = tuple(
            d if kept else replace(d, loss_mask=np.zeros_like(d.loss_mask))
            for d, kept in zip(self.documents, keep, strict=True)
        )
        return replace(self, documents=documents)


def balanced_micro_batches(
    documents: Sequence[PackedBatch], tokens_per_micro_batch: int, dp_size: int
) -> RolloutSource:
    """Spread documents over data-parallel ranks: as few micro-batches as fit, equally many and equally full.

    Args:
        documents: samples of one update, each no longer than a micro-batch.
        tokens_per_micro_batch: most tokens of a micro-batch.
        dp_size: data-parallel ranks.

    Raises:
        DataError: no document, or one longer than a micro-batch.
    """
    if not documents:
        raise DataError("no sample to train on", mend="look why the step kept none")
    plan = balanced_plan([d.num_tokens for d in documents], tokens_per_micro_batch, dp_size)
    return RolloutSource(tuple(documents), plan)


def balanced_plan(
    lengths: Sequence[int], tokens_per_micro_batch: int, dp_size: int
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Deal samples of these lengths to micro-batches. Returns [dp_rank][micro-batch] sample numbers; some have none.

    Raises:
        DataError: a sample longer than a micro-batch.
    """
    if max(lengths) > tokens_per_micro_batch:
        raise DataError(
            "a sample is longer than a micro-batch",
            value=f"{max(lengths)} tokens",
            limit=f"seq_length={tokens_per_micro_batch}",
            mend="raise the stage's seq_length to rollout.max_model_len",
        )
    # The fewest micro-batches first; levelling may need one more, when it can't keep to the limit.
    bins = -(-len(pack_best_fit(lengths, tokens_per_micro_batch)) // dp_size) * dp_size
    while (level := _level(lengths, bins, tokens_per_micro_batch)) is None:
        bins += dp_size
    heaviest_first = sorted(level, key=lambda members: (-sum(lengths[i] for i in members), members))
    plan: list[list[tuple[int, ...]]] = [[] for _ in range(dp_size)]
    for turn in range(bins // dp_size):
        # Back and forth over the ranks: nobody is always dealt the heavier one.
        ranks = range(dp_size) if turn % 2 == 0 else range(dp_size - 1, -1, -1)
        for rank, members in zip(ranks, heaviest_first[turn * dp_size :], strict=False):
            plan[rank].append(tuple(members))
    return tuple(tuple(p) for p in plan)


def _level(lengths: Sequence[int], bins: int, capacity: int) -> list[list[int]] | None:
    """Put each sample, longest first, into the emptiest bin; None if that overfills one."""
    heap = [(0, b) for b in range(bins)]
    members: list[list[int]] = [[] for _ in range(bins)]
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        load, b = heapq.heappop(heap)
        if load + lengths[i] > capacity:
            return None
        members[b].append(i)
        heapq.heappush(heap, (load + lengths[i], b))
    return [sorted(m) for m in members]
