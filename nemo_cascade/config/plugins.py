"""Users' own code, named in the configuration by where it is: `my_package.my_module:Name` or `my_file.py:Name`.

Importing runs it: it is as trusted as the rest of the configuration. Its settings are what its constructor (of a class)
or the function itself takes by name: they are typed by its annotations, and checked before anything starts.
"""

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError, PydanticSerializationError

from nemo_cascade.errors import CascadeError

_FILE = ".py"
_NONE_SHIPPED: Mapping[str, str] = {}
_LOADING = threading.RLock()
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def is_plugin(name: str) -> bool:
    """Tell whether a name says where code is; shipped parts have plain names."""
    return ":" in name


def anchored(name: str) -> str:
    """Return a plug-in's name with the path of its file made absolute: other processes have other working folders."""
    place, _, attribute = name.partition(":")
    return f"{Path(place).expanduser().absolute()}:{attribute}" if place.endswith(_FILE) else name


def loadable(name: str, shipped: Mapping[str, str] = _NONE_SHIPPED) -> str:
    """Return a part's name, anchored, once its code could be loaded: for the validators of blocks that name parts.

    Args:
        name: a shipped part's, or where a user's own is.
        shipped: name -> where it is.
    """
    place = anchored(name)
    try:
        load_plugin(shipped.get(place, place))
    except CascadeError as problem:
        raise PydanticCustomError("refused", "refused", {"problem": problem}) from problem
    return place


@cache
def load_plugin(name: str) -> Callable[..., Any]:
    """Import a plug-in.

    Raises:
        CascadeError: its file or module isn't there or can't be imported, or it has no such class or function.
    """
    place, _, attribute = name.partition(":")
    try:
        module = _of_file(Path(place)) if place.endswith(_FILE) else importlib.import_module(place)
    except CascadeError:
        raise
    except (Exception, SystemExit) as error:
        # Whatever a user's module raises while it is imported is told as a refusal.
        why = f"{type(error).__name__}: {error}"
        mend = f"make `python {place}` run" if place.endswith(_FILE) else f"make `import {place}` work here"
        raise CascadeError("a plug-in can't be imported", value=f"{name}: {why}", mend=mend) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise CascadeError(
            "no such class or function", value=name, limit=", ".join(there) or "none there", mend="name one of these"
        )
    return found  # type: ignore[no-any-return]


def _of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise CascadeError("a plug-in's file isn't there", value=str(path), mend="FILE.py:NAME, seen by every node")
    # The same file is the same module, whichever plug-in of it was asked for first.
    key = f"nemo_cascade_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    with _LOADING:  # what another thread is still executing isn't whole
        if key not in sys.modules:
            _execute(key, path)
    return sys.modules[key]


def _execute(key: str, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None, "a file that ends with .py has a loader"
    assert spec.loader is not None, "a file that ends with .py has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    with ExitStack() as undo:
        undo.callback(sys.modules.pop, key)
        spec.loader.exec_module(module)
        undo.pop_all()


def plugin_fields(found: Callable[..., Any], given_by_position: int) -> list[tuple[str, Any, Any]]:
    """Return (name, type, default) of what a plug-in takes by name, `dataclasses.MISSING` where it must be given.

    Args:
        found: class or function.
        given_by_position: its first so many parameters are no settings: a caller fills them.

    Raises:
        CascadeError: it takes fewer parameters, or any number of them (`*args`, `**kwargs`): these can't be checked.
    """
    inside = vars(found).get("__init__", found) if isinstance(found, type) else found
    parameters = list(inspect.signature(found).parameters.values())
    hints = get_type_hints(inside)
    loose = [p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    first = parameters[:given_by_position]
    if loose or len(first) < given_by_position or any(p.kind not in _POSITIONAL for p in first):
        value = f"{getattr(found, '__qualname__', found)}{inspect.signature(found)}"
        limit = f"{given_by_position} parameters by position, settings by name, no * and no **"
        raise CascadeError(
            "a plug-in's parameters aren't those that are given to it",
            value=value,
            limit=limit,
            mend="let it take these by these names",
        )
    settings = parameters[given_by_position:]
    return [
        (p.name, hints.get(p.name, Any), dataclasses.MISSING if p.default is p.empty else p.default) for p in settings
    ]


def completed_settings(place: str, given: Mapping[str, Any], given_by_position: int) -> dict[str, Any]:
    """Hold settings to what a plug-in takes by name, and fill in its defaults.

    Raises:
        ValueError: it can't be loaded, or a setting is unknown, missing or of another type.
    """
    try:
        fields = plugin_fields(load_plugin(place), given_by_position)
    except CascadeError as error:
        raise ValueError(str(error)) from error
    name = place.rpartition(":")[2]
    if unknown := sorted(given.keys() - {key for key, _, _ in fields}):
        raise ValueError(f"settings of {name}: {', '.join(key for key, _, _ in fields) or 'none'}; not {unknown[0]}")
    settings = {}
    for key, kind, default in fields:
        if key not in given and default is dataclasses.MISSING:
            raise ValueError(f"{name} needs the setting {key}")
        try:
            settings[key] = TypeAdapter(kind).validate_python(given.get(key, default), strict=True)
        except ValidationError as error:
            raise ValueError(f"{key}: {error.errors()[0]['msg']}") from error
        _check_kept(name, key, kind, settings[key])
    return settings


def _check_kept(name: str, key: str, kind: Any, value: Any) -> None:
    """Hold a setting to what a run's configuration file can keep: a resumed run reads it there."""
    adapter = TypeAdapter(kind)
    try:
        adapter.validate_python(adapter.dump_python(value, mode="json"), strict=True)
    except (ValidationError, PydanticSerializationError) as error:
        kept = "numbers, texts, truth values, null, lists and mappings of them"
        raise ValueError(f"{key}: {name} takes {value!r}, which no file keeps as it is; settings are {kept}") from error


def plugin_hashes(names: Iterable[str]) -> dict[str, str]:
    """Return plug-in -> hash of the file that it is written in; what that imports is not looked at."""
    hashes = {}
    for name in sorted({name for name in names if is_plugin(name)}):
        file = inspect.getsourcefile(load_plugin(name))
        if file is not None:
            hashes[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return hashes
