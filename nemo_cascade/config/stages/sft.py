"""Supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from nemo_cascade.config.base import block
from nemo_cascade.config.data import DataFileConfig
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.stages.base import DataUse, ModelUse, PolicyStage, Problems, StageSize, policies_by_then
from nemo_cascade.config.stages.policy_loss import LogitTeacherConfig
from nemo_cascade.config.stages.sft_data import SftDataConfig
from nemo_cascade.config.stages.validation import ValidationConfig
from nemo_cascade.errors import CascadeError

if TYPE_CHECKING:
    from nemo_cascade.config.schema import RunConfig


@block
class SftStage(PolicyStage):
    """Supervised fine-tuning on packed conversations; loss on assistant tokens only: their cross entropy, or the
    divergence from a teacher's logits (distillation, as of a pruned model by the one that it was made of).
    """

    kind: Literal["sft"] = "sft"
    """Stage kind."""
    data: SftDataConfig
    """Conversations."""
    global_batch_size: PositiveInt
    """Packs per optimizer step over all data-parallel ranks."""
    epochs: PositiveInt = 1
    """Passes over the data."""
    max_steps: PositiveInt | None = None
    """Stop after so many steps even if the epochs aren't over."""

    teacher: LogitTeacherConfig | None = None
    """Whose logits are learned; null: the labels are."""
    validation: ValidationConfig | None = None
    """Rows whose loss is measured between the steps; null: none."""

    def reads(self) -> Iterator[DataUse]:
        """Yield the sources, and the sets that are screened out of them."""
        screen = self.data.decontaminate
        against = tuple(screen.against)
        for number, source in enumerate(self.data.sources):
            told = {"keep": "", "remove": ", without thoughts", "cut": ", thoughts cut"}[source.thoughts.handling]
            use = f"x {source.repeat:g}" * (source.repeat != 1) + told
            ngram = screen.ngram if against else 0
            yield DataUse(f"data.sources.{number}", source, "sft", source.domain, use, against, ngram)
        for number, path in enumerate(against):
            key = f"data.decontaminate.against.{number}"
            yield DataUse(key, DataFileConfig(path=path), "screen", path_key="")
        if self.validation is not None:
            yield DataUse("validation", self.validation, "holdout")

    def models(self) -> Iterator[ModelUse]:
        """Yield the teacher."""
        if self.teacher is not None:
            yield ModelUse("teacher.model", self.teacher.model, "teacher")

    def teacher_layout(self, run: RunConfig) -> ParallelConfig | None:
        """Return the layout of its ranks, which hold the teacher, too."""
        return None if self.teacher is None else self.layout(run)

    def size(self) -> StageSize:
        """Return how large the stage is."""
        return epochs_size(self.epochs, self.max_steps, self.global_batch_size, "packs", self.seq_length)

    def metrics_every(self) -> dict[str, int]:
        """Return the metrics that checkpoints can be kept by, and the steps between their values."""
        own = {} if self.validation is None else {"validation_loss": self.validation.every}
        return own | super().metrics_every()

    def problems(self, run: RunConfig, name: str) -> Problems:
        """Yield what is wrong with teacher, batch and blend."""
        yield from policies_by_then(run, name, self.models())
        if not self.data.sources:
            yield CascadeError(f"stages.{name}.data.sources is empty", mend="name at least one file")
        data_parallel = run.parallel.data_parallel_size
        if self.global_batch_size % data_parallel:
            yield CascadeError(
                "packs can't be dealt evenly to the replicas",
                value=f"stages.{name}.global_batch_size={self.global_batch_size}",
                limit=f"a multiple of parallel.data_parallel_size={data_parallel}",
                mend=f"stages.{name}.global_batch_size={-(-self.global_batch_size // data_parallel) * data_parallel}",
            )
        yield from _blend(f"stages.{name}.data", self.data)


def epochs_size(epochs: int, max_steps: int | None, batch: int, of: str, seq_length: int) -> StageSize:
    """Return the size of a stage that passes over its data."""
    planned = f"<= {max_steps}" if max_steps else f"{epochs} epoch{'s' * (epochs > 1)}"
    return StageSize(max_steps, planned, f"{batch} {of}", batch * seq_length, seq_length)


def _blend(prefix: str, data: SftDataConfig) -> Problems:
    sources, domains = data.sources, {s.domain for s in data.sources}
    for number, thoughts in enumerate(source.thoughts for source in sources):
        if thoughts.least_tokens > thoughts.most_tokens:
            value = f"{prefix}.sources.{number}.thoughts.least_tokens={thoughts.least_tokens}"
            yield CascadeError(
                "no budget lies between",
                value=value,
                limit=f"most_tokens={thoughts.most_tokens}",
                mend=f"{prefix}.sources.{number}.thoughts.least_tokens={thoughts.most_tokens}",
            )
    balance = data.domain_weights
    if balance and balance.keys() != domains:
        value = f"{prefix}.domain_weights names {', '.join(sorted(balance))}"
        limit = f"the domains of the sources: {', '.join(sorted(domains))}"
        yield CascadeError(
            "domain_weights must name every domain of the sources",
            value=value,
            limit=limit,
            mend="name them all, or none",
        )
    # With a balance of domains, weights are compared inside each domain; without, over all sources.
    for group in [[s for s in sources if s.domain == d] for d in sorted(domains)] if balance else [sources]:
        if len({s.weight is None for s in group}) > 1:
            without = ", ".join(s.path for s in group if s.weight is None)
            limit = "a weight for all sources that share, or for none"
            yield CascadeError(
                f"some of {prefix}.sources have a weight",
                value=f"none: {without}",
                limit=limit,
                mend="give all of them one, or none",
            )
