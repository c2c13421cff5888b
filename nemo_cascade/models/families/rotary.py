"""Rotary positions in an HF config: old (`rope_theta`, `rope_scaling`) and new (`rope_parameters`) spelling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from nemo_cascade.models.architecture import Llama3Scaling, Rotary
from nemo_cascade.models.families.fields import is_number


def read_rotary(config: Mapping[str, Any]) -> tuple[Rotary, list[str]]:
    """Return rotary base and scaling, and what is wrong with them.

    transformers takes `rope_scaling` in place of `rope_parameters` where both are there; a config in which they differ
    has been put together of two, and is refused.
    """
    given = [dict(config[key]) for key in ("rope_scaling", "rope_parameters") if isinstance(config.get(key), Mapping)]
    given = [rope for rope in given if rope]
    read = [_rope(rope, config) for rope in given or [{}]]
    theta, scaling, problems = read[0]
    if not problems and len(read) == 2 and read[0] != read[1]:
        problems = [f"rope_scaling={given[0]!r} beside another rope_parameters={given[1]!r}"]
    return Rotary(theta, scaling), problems


def _rope(rope: dict[str, Any], config: Mapping[str, Any]) -> tuple[float, Llama3Scaling | None, list[str]]:
    theta = rope.pop("rope_theta", config.get("rope_theta", 10000.0))
    kinds = {rope.pop(key) for key in ("rope_type", "type") if isinstance(rope.get(key), str)}
    if not is_number(theta) or theta <= 0:
        return 1.0, None, [f"rope_theta must be a positive number, got {theta!r}"]
    if len(kinds) > 1:
        return float(theta), None, [f"rope_type and type differ: {' and '.join(sorted(kinds))}"]
    kind = next(iter(kinds), "default")
    if rope.get("partial_rotary_factor") == 1:
        del rope["partial_rotary_factor"]
    if kind == "default":
        unknown = [f"rope field {key}={value!r} of type default" for key, value in rope.items() if value]
        return float(theta), None, unknown
    if kind != "llama3":
        return float(theta), None, [f"rope_type {kind!r} (only default and llama3)"]
    fields = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    problems = [f"rope field {key} is missing" for key in fields if key not in rope]
    problems += [
        f"rope field {key} must be a positive number, got {rope[key]!r}"
        for key in fields
        if key in rope and not (is_number(rope[key]) and rope[key] > 0)
    ]
    problems += [f"unknown rope field {key}={value!r}" for key, value in rope.items() if key not in fields and value]
    if not problems and rope["high_freq_factor"] <= rope["low_freq_factor"]:
        problems.append(f"rope field high_freq_factor must be above low_freq_factor {rope['low_freq_factor']!r}")
    if problems:
        return float(theta), None, problems
    return float(theta), Llama3Scaling(**{key: rope[key] for key in fields}), []


def write_rotary(positions: Rotary) -> dict[str, Any]:
    """Return the fields, in the new spelling, that `read_rotary` reads the same positions from."""
    if positions.scaling is None:
        return {"rope_parameters": {"rope_type": "default", "rope_theta": positions.theta}}
    scaling = asdict(positions.scaling)
    return {"rope_parameters": {"rope_type": "llama3", "rope_theta": positions.theta, **scaling}}
