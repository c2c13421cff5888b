"""The map between HF tensors and Megatron parameters, as the family of an architecture writes it. Import-light."""

import re
from functools import lru_cache

from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.cuts import Shape
from nemo_cascade.models.families import family_named
from nemo_cascade.models.families.family import OUTPUT_LAYER, Rule

__all__ = ["OUTPUT_LAYER", "Rule", "fp32_names", "hf_shapes", "names_with_padded_groups", "rules_by_name", "tied_names"]


@lru_cache(maxsize=8)
def rules_by_name(arch: Architecture) -> dict[str, Rule]:
    """Return every parameter's rule, by each of its names in Megatron (layers counted over the whole model)."""
    return {name: rule for rule in family_named(arch.family).rules(arch) for name in rule.megatron}


def hf_shapes(arch: Architecture) -> dict[str, Shape]:
    """Return name and shape of every tensor of the whole HF model, a tied one once."""
    return {name: shape for rule in family_named(arch.family).rules(arch) for name, shape in rule.hf.items()}


def fp32_names(arch: Architecture) -> frozenset[str]:
    """Return the HF tensors that trainer and engine keep in fp32 whatever the model's dtype."""
    return frozenset(name for rule in family_named(arch.family).rules(arch) if rule.fp32 for name in rule.hf)


def tied_names(arch: Architecture) -> dict[str, str]:
    """Return {output layer: embedding} in HF's names where they are one tensor, else nothing."""
    family = family_named(arch.family)
    return {family.output: family.embedding} if arch.tied else {}


def names_with_padded_groups(arch: Architecture) -> frozenset[str]:
    """Return the Megatron parameters that padding groups lie in; their names go without the layer's number."""
    padded = (name for name, rule in rules_by_name(arch).items() if rule.cut.pads_groups)
    return frozenset(without_layer(name) for name in padded)


def without_layer(name: str) -> str:
    """Return a parameter's name without its layer's number, as checkpoints have it where layers are alike."""
    return re.sub(r"\.\d+\.", ".", name, count=1)
