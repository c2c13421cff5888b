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
        vpp: parts that each pipeline stage is made of, dealt out in turns (the interleaved schedule).
        first_layers: layers of the first pipeline stage; None: as many as the others.
        last_layers: layers of the last pipeline stage; None: as many as the others.
        cp: context parallel, splits every sequence.
        dp: data parallel, replicas that see different data.
        ep: expert parallel, splits the experts over the ranks of a pipeline stage (tp x cp x dp).
        etp: tensor parallel of the experts, over ranks of the same stage.
        sp: norms and dropout are split over the tp ranks, too.
    """

    tp: int = 1
    pp: int = 1
    vpp: int = 1
    first_layers: int | None = None
    last_layers: int | None = None
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
            vpp=parallel.virtual_pipeline_model_parallel_size,
            first_layers=parallel.num_layers_in_first_pipeline_stage,
            last_layers=parallel.num_layers_in_last_pipeline_stage,
            cp=parallel.context_parallel_size,
            dp=parallel.data_parallel_size,
            ep=parallel.expert_model_parallel_size,
            etp=parallel.expert_tensor_parallel_size
            or (parallel.tensor_model_parallel_size if parallel.expert_model_parallel_size == 1 else 1),
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
        """Documents in a micro-batch are padded to a multiple of this: context parallelism cuts them in 2 x CP."""
        return 2 * self.cp if self.cp > 1 else 1

    def stage_layers(self, layers: int) -> list[int]:
        """Return how many of a model's layers each pipeline stage gets, first to last.

        What doesn't come out even is still dealt out, to the front: `layer_problems` says what is wrong with it.
        """
        sizes: list[int | None] = [None] * self.pp
        if self.first_layers is not None:
            sizes[0] = self.first_layers
        if self.last_layers is not None:
            sizes[-1] = self.last_layers
        open_stages = sizes.count(None)
        share, rest = divmod(layers - sum(size or 0 for size in sizes), open_stages or 1)
        dealt = iter([share + (number < rest) for number in range(open_stages)])
        return [next(dealt) if size is None else size for size in sizes]

    def layer_problems(self, layers: int) -> list[str]:
        """Return why a model of so many layers can't be dealt out to the pipeline; empty if it can."""
        sizes = self.stage_layers(layers)
        middle = sizes[self.first_layers is not None : self.pp - (self.last_layers is not None)]
        if sum(sizes) != layers or min(sizes) < 1 or len(set(middle)) > 1:
            words = f"{layers} layers are not a multiple of pipeline_model_parallel_size {self.pp}"
            if len(middle) < self.pp:
                words = f"{layers} layers can't be dealt out to {self.pp} pipeline stages of {sizes} layers"
            return [f"{words}; {self._even(layers)}"]
        if uneven := [size for size in sizes if size % self.vpp]:
            fit = [str(n) for n in range(1, max(sizes) + 1) if all(size % n == 0 for size in sizes)]
            return [
                f"a pipeline stage of {uneven[0]} layers is no multiple of virtual_pipeline_model_parallel_size "
                f"{self.vpp}; sizes that fit: {', '.join(fit)}"
            ]
        return []

    def _even(self, layers: int) -> str:
        """Say which pipelines a model of so many layers can have."""
        fit = [size for size in range(1, layers + 1) if layers % size == 0]
        near = sorted(fit, key=lambda size: abs(size - self.pp))[:3]
        words = f"sizes that fit: {', '.join(map(str, sorted(near)))}"
        middle = -(-layers // self.pp)
        last = layers - middle * (self.pp - 1)
        if last > 0 and last != middle:
            words += f"; or num_layers_in_last_pipeline_stage={last}, the others {middle}"
        return words

    def problems(self) -> list[str]:
        """Return every reason why no model can be spread so, with the nearest that can; empty if some can."""
        problems = []
        if self.pp == 1:
            for name, given in (
                (f"virtual_pipeline_model_parallel_size {self.vpp}", self.vpp > 1),
                (f"num_layers_in_first_pipeline_stage {self.first_layers}", self.first_layers is not None),
                (f"num_layers_in_last_pipeline_stage {self.last_layers}", self.last_layers is not None),
            ):
                if given:
                    problems.append(f"{name} needs pipeline_model_parallel_size > 1; 2 is the nearest")
        if self.sp and self.tp == 1:
            problems.append("sequence_parallel needs tensor_model_parallel_size > 1")
        return problems

    def __str__(self) -> str:
        parts = f" in {self.vpp} parts" if self.vpp > 1 else ""
        sizes = f"TP {self.tp} x PP {self.pp}{parts} x CP {self.cp} x DP {self.dp}"
        return sizes if self.ep == 1 else f"{sizes} (experts: EP {self.ep} x TP {self.etp})"
