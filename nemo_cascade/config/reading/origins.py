"""Where each value of a configuration came from: file and line, override, or the schema's default."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override

from nemo_cascade.config.reading import libyaml

SCHEMA_DEFAULT = "schema default"
COMMAND_LINE = "command line"


def flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as dotted keys; items of a list of mappings by number, other lists as one value."""
    if isinstance(data, Mapping) and data:
        items: Iterable[tuple[Any, Any]] = data.items()
    elif isinstance(data, list | tuple) and data and all(isinstance(item, Mapping) for item in data):
        items = enumerate(data)
    else:
        return {prefix: data} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def trace_origins(
    merged: Sequence[ResultDefault], folders: Sequence[Path], applied: Sequence[Override]
) -> dict[str, str]:
    """Replay the merge of files and overrides, remembering who wrote each key last.

    Args:
        merged: Hydra's defaults list, in merge order.
        folders: config folders, first match wins.
        applied: the overrides that took effect.

    Returns:
        Dotted key -> `conf/cascade/nano.yaml:12` or `command line: key=value`.
    """
    origins: dict[str, str] = {}
    for entry in merged:
        path = entry.config_path or ""
        file = next((f / f"{path}.yaml" for f in folders if (f / f"{path}.yaml").is_file()), None)
        if file is None or path.startswith("hydra/"):
            continue
        name = f"{file.parents[path.count('/')].name}/{path}.yaml"
        lines = {f"{entry.package}.{k}" if entry.package else k: n for k, n in key_lines(file)}
        _forget_lists(origins, lines)
        origins |= {key: f"{name}:{line}" for key, line in lines.items()}
    for override in applied:
        key = override.key_or_group
        inside = isinstance(override.value(), Mapping) and not override.is_delete()
        for known in [k for k in origins if k == key or k.startswith(f"{key}.")]:
            if not inside:
                del origins[known]
        written = flatten(override.value(), key) if inside else {key: None}
        if not override.is_delete():
            origins |= dict.fromkeys(written, f"{COMMAND_LINE}: {override.input_line}")
    return origins


def _forget_lists(origins: dict[str, str], written: Iterable[str]) -> None:
    """A list replaces the whole list of an earlier file, also where that one was longer."""
    for root in {key[: match.start()] for key in written if (match := re.search(r"\.\d+(\.|$)", key))}:
        for known in [k for k in origins if k.startswith(f"{root}.")]:
            del origins[known]


def key_lines(file: Path) -> Iterator[tuple[str, int]]:
    """Yield every dotted key of a config file that holds a value, with its line (from 1)."""
    with file.open(encoding="utf-8") as text:
        root = yaml.compose(text, Loader=libyaml.SafeLoader)
    if root is not None:
        yield from _node_lines(root, "")


def _node_lines(node: yaml.Node, prefix: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode) and node.value:
        for key, value in node.value:
            if not prefix and key.value == "defaults":
                continue
            yield from _node_lines(value, f"{prefix}.{key.value}" if prefix else str(key.value))
    elif isinstance(node, yaml.SequenceNode) and any(isinstance(v, yaml.MappingNode) for v in node.value):
        for index, value in enumerate(node.value):
            yield from _node_lines(value, f"{prefix}.{index}")
    elif prefix and node.value != "???":
        yield prefix, node.start_mark.line + 1


def complete(origins: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, str]:
    """Give every leaf of a configuration an origin: its own, that of the block it came in, or the schema's default."""
    full: dict[str, str] = {}
    for key in values:
        above = key
        while above and above not in origins:
            above = above.rpartition(".")[0]
        full[key] = origins.get(above, SCHEMA_DEFAULT)
    return full
