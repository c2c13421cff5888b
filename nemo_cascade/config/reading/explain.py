"""What a key means: its docstring, type, unit and default, and what a run gives it and from where."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nemo_cascade.config.reading import keys
from nemo_cascade.config.schema import RunConfig

# House rule: a quantity's unit is the end of its name.
UNITS: Mapping[str, str] = {
    "_s": "seconds",
    "_minutes": "minutes",
    "_kib": "KiB",
    "_mib": "MiB",
    "_gib": "GiB",
    "_tokens": "tokens",
    "_length": "tokens",
    "_len": "tokens",
    "_steps": "steps",
    "_fraction": "share, 0 to 1",
    "_utilization": "share, 0 to 1",
    "_ratio_low": "share, 0 to 1",
    "_ratio_high": "share, 0 to 1",
}


@dataclass(frozen=True)
class Explanation:
    """Everything known about one key.

    Attributes:
        key: dotted path.
        meaning: the docstring.
        type: in words.
        unit: if the name tells one.
        default: the schema's, in words.
        value: the run's, or None where no run was given.
        origin: where the run's value came from.
        fields: for a block: name and meaning of each field in it.
    """

    key: str
    meaning: str
    type: str
    unit: str | None
    default: str
    value: str | None = None
    origin: str | None = None
    fields: tuple[tuple[str, str], ...] = ()


def explain(key: str, config: RunConfig | None = None, origins: Mapping[str, str] | None = None) -> list[Explanation]:
    """Explain a key; several answers if kinds of stages give it different meanings and no run tells the kind.

    Args:
        key: dotted path, of a value or of a block.
        config: a composed run; without one, names of stages and suites may be anything.
        origins: as `compose` returned them.

    Raises:
        CascadeError: there is no such key; names the closest.
    """
    data: dict[str, Any] | None = asdict(config) if config is not None else None  # type: ignore[call-overload]
    found = keys.find(key, data, may_add=config is None)
    return [_explain(key, field, data, origins or {}) for field in found]


def _explain(
    key: str, field: keys.SchemaField, data: Mapping[str, Any] | None, origins: Mapping[str, str]
) -> Explanation:
    own = field.key == key
    inner = keys.inner_block(field.annotation, _select(data, key) if data is not None else None)
    default = field.default
    shown = "none, must be given" if default is keys.NO_DEFAULT else ("a block" if inner else _text(default))
    value = origin = None
    if data is not None and not inner:
        value = _text(_select(data, key))
        origin = origins.get(key) or origins.get(field.key)
    return Explanation(
        key=key,
        meaning=field.meaning,
        type=keys.type_text(field.annotation, field.constraints) if own else f"in {field.key}",
        unit=next((unit for ending, unit in UNITS.items() if field.name.endswith(ending)), None),
        default=shown if own else "none",
        value=value,
        origin=origin,
        fields=tuple((f.name, f.meaning) for f in keys.fields_of(inner)) if inner else (),
    )


def _select(data: Mapping[str, Any] | None, key: str) -> Any:
    value: Any = data
    for part in key.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _text(value: Any) -> str:
    words = {True: "true", False: "false", None: "null"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
