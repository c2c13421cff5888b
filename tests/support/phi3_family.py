"""Phi-3 as a user would add it: a family in one file, whose HF tensors stack what the shipped ones keep apart."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.cuts import Cut
from nemo_cascade.models.families.dense import DenseFamily
from nemo_cascade.models.families.family import Rule


class Phi3(DenseFamily):
    """Llama's layers; query, key and value in one tensor, gate and up in another."""

    model_type = "phi3"
    class_name = "Phi3ForCausalLM"

    def read(self, config: Mapping[str, Any]) -> Architecture:
        # Only its long-context scaling, which is refused, goes by this field.
        return super().read({k: v for k, v in config.items() if k != "original_max_position_embeddings"})

    def layer_rules(self, arch: Architecture, number: int) -> Iterator[Rule]:
        for rule in super().layer_rules(arch, number):
            if len(rule.hf) == 1:
                yield rule
                continue
            heights = tuple(shape[0] for shape in rule.hf.values())
            first, (_, *columns) = next(iter(rule.hf.items()))
            name = first.replace("q_proj", "qkv_proj").replace("gate_proj", "gate_up_proj")
            yield Rule(rule.megatron, {name: (sum(heights), *columns)}, Stacked(rule.cut, heights))


@dataclass(frozen=True)
class Stacked:
    """One HF tensor, in which those of another cut lie one above the other."""

    inner: Cut
    heights: tuple[int, ...]

    @property
    def axis(self):
        return self.inner.axis

    @property
    def pads_groups(self):
        return self.inner.pads_groups

    def take(self, sources, shape, rank, size):
        edges = pairwise(accumulate(self.heights, initial=0))
        return self.inner.take([_Rows(sources[0], *edge) for edge in edges], shape, rank, size)

    def join(self, shards):
        import torch

        return [torch.cat(self.inner.join(shards))]

    def hf_shape(self, shape, size):
        parts = self.inner.hf_shape(shape, size)
        return [(sum(part[0] for part in parts), *parts[0][1:])]


@dataclass(frozen=True)
class _Rows:
    """Some rows of a stored tensor, with the face of a whole one."""

    whole: object
    begin: int
    end: int

    def __getitem__(self, index):
        rows = index[0] if isinstance(index, tuple) else index
        start, stop, _ = rows.indices(self.end - self.begin)
        own = self.whole[self.begin + start : self.begin + stop]
        return own[:, index[1]] if isinstance(index, tuple) else own

    def get_shape(self):
        return [self.end - self.begin, *self.whole.get_shape()[1:]]
