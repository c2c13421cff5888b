"""How a model is spread over ranks: one value, passed whole. Import-light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nemo_cascade.config.model import ParallelConfig


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of all axes.

    Attributes:
        tp: tensor parallel, splits every layer's matrices.
        pp: pipeline parallel, splits the layers into stages.
        vpp: parts that each pipeline stage is made of, dealt out in turns.
        cp: context parallel, splits every sequence.
        dp: data parallel, replicas that see different data.
        ep: expert parallel, splits the experts over ranks of tp and dp.
        etp: tensor parallel of the experts.
        sp: norms and dropout are split over the tp ranks, too.
    """

    tp: int = 1
    pp: int = 1
    vpp: int = 1
    cp: int = 1
    dp: int = 1
    ep: int = 1
    etp: int = 1
    sp: bool = False

    @classmethod
    def of(cls, parallel: ParallelConfig) -> Layout:
        """Return the sizes that a configuration names."""
        return cls(
            tp=parallel.tensor_model_parallel_size,
            pp=parallel.pipeline_model_parallel_size,
            cp=parallel.context_parallel_size,
            dp=parallel.data_parallel_size,
            ep=parallel.expert_model_parallel_size,
            sp=parallel.sequence_parallel,
        )

    @property
    def ranks(self) -> int:
        """Processes of the layout."""
        return self.tp * self.pp * self.cp * self.dp

    @property
    def chunks(self) -> int:
        """Parts of the model that each rank holds."""
        return self.vpp

    @property
    def pad_documents_to(self) -> int:
        """Each packed document's length is a multiple of this: context parallelism cuts it in 2 x CP parts."""
        return 2 * self.cp if self.cp > 1 else 1

    def problems(self) -> list[str]:
        """Return every reason why no model can be spread so; empty if some can."""
        problems = []
        for name, size in (
            ("virtual pipeline parts", self.vpp),
            ("context_parallel_size", self.cp),
            ("expert_model_parallel_size", self.ep),
            ("expert tensor parallel size", self.etp),
        ):
            if size > 1:
                problems.append(f"{name} {size} is not supported; 1 is")
        if self.sp and self.tp == 1:
            problems.append("sequence_parallel needs tensor_model_parallel_size > 1")
        return problems

    def __str__(self) -> str:
        return f"TP {self.tp} x PP {self.pp} x CP {self.cp} x DP {self.dp}"
