"""Plain nested data into the frozen schema: no unknown key, no silent conversion, every violation at once."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from nemo_cascade.config.reading import keys
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.own import OWN_STAGE, own_kind, own_stage
from nemo_cascade.errors import CascadeError, ConfigError

_BOUND = {"greater_than": "gt", "less_than": "lt"}
_YAML_KINDS = {bool: "true or false", int: "a number", float: "a number"}


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def to_run_config(data: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> RunConfig:
    """Convert plain data to a RunConfig.

    Args:
        data: nested mappings and lists, interpolations resolved.
        origins: dotted key -> where its value was set, quoted in complaints.

    Raises:
        ConfigError: lists every unknown key, missing key and value out of bounds.
    """
    found, problems = check(data, origins or {})
    if found is None:
        raise ConfigError(problems)
    return found


def check(data: Mapping[str, Any], origins: Mapping[str, str]) -> tuple[RunConfig | None, list[CascadeError]]:
    """Convert like `to_run_config`, but return the violations instead of raising them."""
    problems = list(_own_stage_problems(data, origins))
    try:
        # JSON, because only there does pydantic's strict mode take mappings for dataclasses: "8", 8.0 and true are
        # then not the integer 8, while 1 still is the float 1.0.
        config: RunConfig = _adapter(RunConfig).validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        # What a stage of a user's own kind may hold is in the problems already, key by key.
        found = [e for e in error.errors(include_url=False) if e["type"] != OWN_STAGE]
        return None, [_violation(e, data, origins) for e in found] + problems
    return (None if problems else config), problems


def _own_stage_problems(data: Mapping[str, Any], origins: Mapping[str, str]) -> Iterator[CascadeError]:
    """Yield what is wrong with stages of a user's own kind, key by key."""
    cascade = data.get("stages")
    for name, given in cascade.items() if isinstance(cascade, Mapping) else ():
        if (kind := own_kind(given)) is None:
            continue
        try:
            own_stage(kind, given)
        except CascadeError as error:
            what = f"stages.{name}.kind: {error.what}"
            yield CascadeError(what, value=error.value, limit=error.limit, mend=error.mend)
        except ValidationError as error:
            for e in error.errors(include_url=False):
                yield _violation(e, data, origins, prefix=("stages", str(name)))


def _violation(
    error: ErrorDetails, data: Mapping[str, Any], origins: Mapping[str, str], prefix: tuple[str, ...] = ()
) -> CascadeError:
    key = ".".join([*prefix, *_path(error["loc"], data)])
    kind, value = error["type"], error.get("input")
    origin = f" (from {origins[key]})" if key in origins else ""
    if kind == "unexpected_keyword_argument":
        try:
            keys.find(key, data)
        except CascadeError as unknown:
            value = f"{unknown.value}{origin}"
            return CascadeError(unknown.what, value=value, limit=unknown.limit, mend=unknown.mend)
        return CascadeError("unknown key", value=f"{key}{origin}", mend=f"leave {key} out")
    if kind == "refused":
        told: CascadeError = error["ctx"]["problem"]
        value = f"{'nothing' if told.value is None else told.value}{origin}"
        meant = re.sub(r"^did you mean (\w+)\?$", rf"did you mean {key}=\1?", told.mend or "") or None
        return CascadeError(f"{key}: {told.what}", value=value, limit=told.limit, mend=meant)
    if kind == "missing":
        return CascadeError(f"{key} is missing", mend=_mend_missing(key, data))
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        allowed = str(error.get("ctx", {}).get("expected_tags", "sft, grpo")).replace("'", "")
        tag = value.get("kind") if isinstance(value, Mapping) else value
        near = keys.nearest(str(tag), allowed.split(", ")) if tag is not None else None
        how = f"did you mean {key}.kind={near}?" if near else f"set {key}.kind, or take a family: stage@{key}=sft"
        value = "nothing" if tag is None else tag
        return CascadeError(f"{key}.kind names no kind of stage", value=value, limit=allowed, mend=how)
    limit = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ").replace("'", "")
    mend: str | None = None
    if kind == "literal_error" and isinstance(value, str):
        near = keys.nearest(value, [word.strip() for word in limit.replace(" or ", ",").split(",")])
        mend = f"did you mean {key}={near}?" if near else None
    mend = mend or _nearest_allowed(key, kind, value, error.get("ctx") or {}) or _number_in(key, kind, value)
    if kind == "string_type" and isinstance(value, bool | int | float):
        text = origin.removesuffix(")").rpartition("=")[2] if "command line" in origin else str(value).lower()
        mend = (
            f"""'{key}="{text}"' in a shell, {key}: "{text}" in a file: YAML reads it as {_YAML_KINDS[type(value)]}"""
        )
    if kind == "int_type" and isinstance(value, float) and value.is_integer():
        mend = f"{key}={int(value)}"
    if isinstance(value, Mapping):
        value = "a mapping" if value else "an empty mapping"
    if value is None and limit == "an object":
        mend = f"~{key}"
    mend = mend or f"leave it out, or see `nemo-cascade explain {key}`"
    shown = "null" if value is None else value if isinstance(error.get("input"), Mapping) else repr(value)
    return CascadeError(f"{key} does not fit", value=f"{shown}{origin}", limit=limit, mend=mend)


def _nearest_allowed(key: str, kind: str, value: Any, bounds: Mapping[str, Any]) -> str | None:
    """Return the override that is nearest to a number out of its bounds; None where no number is nearest."""
    if kind in ("less_than_equal", "greater_than_equal"):
        return f"{key}={bounds.get('le', bounds.get('ge'))}"
    whole = isinstance(value, int) and not isinstance(bounds.get(_BOUND.get(kind, "")), float)
    if kind in _BOUND and whole:
        return f"{key}={int(bounds[_BOUND[kind]]) + (1 if kind == 'greater_than' else -1)}"
    return None


def _number_in(key: str, kind: str, value: Any) -> str | None:
    """Return the override that a text was meant for which begins as a number."""
    begin = re.match(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", value, re.IGNORECASE) if isinstance(value, str) else None
    if kind not in ("float_type", "int_type") or begin is None:
        return None
    return f"did you mean {key}={begin[0]}?"


def _mend_missing(key: str, data: Mapping[str, Any]) -> str:
    reached = keys.find(key, data)
    if not reached:
        return f"give it: {key}=..."
    field = reached[0]
    words = keys.type_text(field.annotation, field.constraints)
    return f"give it: {key}=... ({words}; {field.meaning.rstrip('.')})"


def _path(loc: tuple[int | str, ...], data: Mapping[str, Any]) -> list[str]:
    """Turn pydantic's location into the user's key: only the former names the kind of stage (stages, x, grpo, lr)."""
    path: list[str] = []
    value: Any = data
    for index, part in enumerate(loc):
        if index == 2 and loc[0] == "stages" and isinstance(value, Mapping) and value.get("kind") == part:
            continue
        path.append(str(part))
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
        else:
            value = None
    return path
