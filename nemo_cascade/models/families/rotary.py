"""Rotary positions in an HF config: old (`rope_theta`, `rope_scaling`) and new (`rope_parameters`) spelling."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from nemo_cascade.models.architecture import LinearScaling, Llama3Scaling, Rotary, Scaling, YarnScaling
from nemo_cascade.models.families.fields import is_number

_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
# By rope_type: what it becomes, the numbers that must be there, and those that may.
_SCALINGS: Mapping[str, tuple[type[Scaling], tuple[str, ...], tuple[str, ...]]] = {
    "linear": (LinearScaling, ("factor",), ()),
    "llama3": (Llama3Scaling, _LLAMA3, ()),
    "yarn": (
        YarnScaling,
        ("factor", "original_max_position_embeddings"),
        ("beta_fast", "beta_slow", "attention_factor", "truncate"),
    ),
}
_REFUSED = {"dynamic": "frequencies that follow the length of each sequence; transformers and vLLM differ in them"}


def read_rotary(config: Mapping[str, Any], partial: float | None = None) -> tuple[Rotary, list[str]]:
    """Return the rotary positions, and what is wrong with them.

    transformers takes `rope_scaling` in place of `rope_parameters` where both are there; a config in which they differ
    has been put together of two, and is refused.

    Args:
        config: HF config.
        partial: of each head, the fraction that turns where nothing is said; None: heads of the family turn as a whole.
    """
    given = [dict(config[key]) for key in ("rope_scaling", "rope_parameters") if isinstance(config.get(key), Mapping)]
    given = [rope for rope in given if rope]
    read = [_rope(dict(rope), config, partial) for rope in given or [{}]]
    positions, problems = read[0]
    if not problems and len(read) == 2 and read[0] != read[1]:
        problems = [f"rope_scaling={given[0]!r} beside another rope_parameters={given[1]!r}"]
    return positions, problems


def write_rotary(positions: Rotary, partial: float | None = None) -> dict[str, Any]:
    """Return the fields, in the new spelling, that `read_rotary` reads the same positions from.

    Args:
        positions: what to write.
        partial: as `read_rotary` has it; where the family has such a fraction, transformers has it, too, so it is said.
    """
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": positions.theta}
    if partial is not None:
        rope["partial_rotary_factor"] = positions.fraction
    if positions.scaling is not None:
        (kind,) = (name for name, (made, *_) in _SCALINGS.items() if type(positions.scaling) is made)
        said = {name: value for name, value in asdict(positions.scaling).items() if value is not None}
        rope |= {"rope_type": kind, **said}
    return {"rope_parameters": rope}


def _rope(rope: dict[str, Any], config: Mapping[str, Any], partial: float | None) -> tuple[Rotary, list[str]]:
    theta = rope.pop("rope_theta", config.get("rope_theta", 10000.0))
    fraction = rope.pop("partial_rotary_factor", None)
    if fraction is None:
        fraction = config.get("partial_rotary_factor")
    if fraction is None:
        fraction = 1.0 if partial is None else partial
    kinds = {rope.pop(key) for key in ("rope_type", "type") if isinstance(rope.get(key), str)}
    kind = next(iter(kinds), "default")
    problems = []
    if not is_number(theta) or theta <= 0:
        problems.append(f"rope_theta must be a positive number, got {theta!r}")
    if not is_number(fraction) or not 0 < fraction <= 1:
        problems.append(f"partial_rotary_factor must be above 0, at most 1, got {fraction!r}")
    elif partial is None and fraction != 1:
        problems.append(f"partial_rotary_factor={fraction!r} (only 1)")
    if len(kinds) > 1:
        problems.append(f"rope_type and type differ: {' and '.join(sorted(kinds))}")
    elif kind == "yarn" and fraction != 1:
        problems.append(f"rope_type 'yarn' of a part of each head, partial_rotary_factor={fraction!r} (only 1)")
    scaling, wrong = (None, []) if problems else _scaling(kind, rope)
    if problems or wrong:
        return Rotary(1.0), problems + wrong
    return Rotary(float(theta), scaling, float(fraction)), []


def _scaling(kind: str, rope: Mapping[str, Any]) -> tuple[Scaling | None, list[str]]:
    """Return what a rope_type's fields say, and what is wrong with them."""
    if kind == "default":
        return None, [f"rope field {key}={value!r} of type default" for key, value in rope.items() if value]
    if kind not in _SCALINGS:
        words = _REFUSED.get(kind, f"only default, {', '.join(sorted(_SCALINGS))}")
        return None, [f"rope_type {kind!r} ({words})"]
    made, needed, others = _SCALINGS[kind]
    given = {key: rope[key] for key in (*needed, *others) if rope.get(key) is not None}
    problems = [f"rope field {key} is missing" for key in needed if key not in rope]
    problems += [
        f"rope field {key} must be a positive number, got {rope[key]!r}"
        for key in (*needed, *others)
        if (key in given or (key in needed and key in rope))
        and key != "truncate"
        and not (is_number(rope[key]) and rope[key] > 0)
    ]
    if not isinstance(rope.get("truncate", True), bool):
        problems.append(f"rope field truncate must be true or false, got {rope['truncate']!r}")
    known = (*needed, *others)
    problems += [f"unknown rope field {key}={value!r}" for key, value in rope.items() if key not in known and value]
    for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
        if not problems and low in given and high in given and given[high] <= given[low]:
            problems.append(f"rope field {high} must be above {low} {given[low]!r}")
    problems = [f"{problem} (rope_type {kind!r})" for problem in problems]
    return (None, problems) if problems else (made(**given), [])
