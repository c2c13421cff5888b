"""Look for what is wrong with a user's own config files, where Hydra's words don't name the mistake."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nemo_cascade.config.reading import keys
from nemo_cascade.errors import CascadeError

_GLOBAL = re.compile(r"\s*#\s*@package\s+_global_\s*")
# `override /model: nano`, `/stage@stages.sft: sft`, `optimizer: cosine`.
_ENTRY = re.compile(r"(?:(?:override|optional)\s+)?(/?)([\w/-]+)(?:@[\w.:-]+)?")
_WHOLE_RUN = "cascade"
_SELF = "_self_"


def file_faults(files: Sequence[Path], groups: Mapping[str, Sequence[str]]) -> Iterator[CascadeError]:
    """Yield what keeps config files from being what they are meant to be.

    Args:
        files: those that a command line chose, each in the folder of its group.
        groups: every config group with its choices.
    """
    for file in files:
        try:
            text = file.read_bytes().decode("utf-8")
            found = yaml.safe_load(text)
        except UnicodeDecodeError as error:
            yield CascadeError("a config file is not UTF-8", value=f"{file}: {error}", mend="save it as UTF-8")
            continue
        except yaml.MarkedYAMLError as error:
            line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
            yield CascadeError("a config file is no YAML", value=f"{file}{line}", mend=error.problem)
            continue
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            yield CascadeError(
                "a config file is no YAML",
                value=f"{file}: {' '.join(str(error).split())}",
                mend="mend the line that is named",
            )
            continue
        if text.startswith("\ufeff"):
            mend = "save it as UTF-8 without one: Hydra doesn't see the first line otherwise"
            yield CascadeError("a config file begins with a byte order mark", value=file, mend=mend)
        elif not isinstance(found, Mapping):
            limit = "keys and values, `key: value`"
            yield CascadeError(
                "a config file holds no mapping", value=file, limit=limit, mend="write `key: value` lines"
            )
        else:
            yield from _mapping_faults(file, text, found, groups)


def _mapping_faults(
    file: Path, text: str, found: Mapping[Any, Any], groups: Mapping[str, Sequence[str]]
) -> Iterator[CascadeError]:
    comments = []
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            break
        comments.append(line)
    group = file.parent.name if file.parent.name in groups else file.parent.parent.name
    if group == _WHOLE_RUN and not any(_GLOBAL.fullmatch(line) for line in comments):
        what = "a cascade's file doesn't say that it is about the whole run"
        yield CascadeError(what, value=file, mend="let its first line be: # @package _global_")
    if "defaults" not in found:
        near = keys.nearest("defaults", [str(key) for key in found])
        if near is not None:
            yield CascadeError("a config file has no defaults list", value=f"{file}: {near}", mend="write defaults:")
        return
    entries = found["defaults"]
    if not isinstance(entries, list):
        yield CascadeError(
            "`defaults` is no list",
            value=f"{file}: {entries!r}",
            limit="a list of `group: choice`",
            mend="write `- override /GROUP: CHOICE`, one a line",
        )
        return
    for entry in entries:
        yield from _entry_faults(file, entry, groups)


def _entry_faults(file: Path, entry: Any, groups: Mapping[str, Sequence[str]]) -> Iterator[CascadeError]:
    if isinstance(entry, str):
        return  # a file of the same group, or _self_: Hydra names one that is missing
    if not isinstance(entry, Mapping) or len(entry) != 1:
        limit = f"`group: choice`, the name of a file, or {_SELF}"
        yield CascadeError(
            "an entry of `defaults` can't be read",
            value=f"{file}: {entry!r}",
            limit=limit,
            mend="write `- override /GROUP: CHOICE`",
        )
        return
    [(key, choice)] = entry.items()
    match = _ENTRY.fullmatch(str(key).strip())
    if match is None:
        yield CascadeError(
            "an entry of `defaults` can't be read", value=f"{file}: {key}", mend="write `- override /GROUP: CHOICE`"
        )
        return
    absolute, group = bool(match[1]), match[2]
    if absolute and group not in groups:
        near = keys.nearest(group, list(groups))
        mend = f"did you mean {str(key).replace(group, near)}?" if near else None
        limit = ", ".join(groups)
        yield CascadeError("unknown config group", value=f"{file}: {key}", limit=limit, mend=mend)
    elif absolute and isinstance(choice, str) and choice not in groups[group]:
        near = keys.nearest(choice, list(groups[group]))
        mend = f"did you mean {key}: {near}?" if near else None
        limit = ", ".join(groups[group])
        yield CascadeError(f"no such choice of {group}", value=f"{file}: {key}: {choice}", limit=limit, mend=mend)
