"""Runs inside the sandbox as the module `pytest`: what tests use of pytest, on the standard library alone.

It stands in for pytest on every machine, installed or not, so that a verdict depends on no package, and no patch can
supply the module that its tests judge with. `runner.py` collects and runs what is marked here.
"""

from __future__ import annotations

import builtins
import importlib
import math
import re
import warnings as _warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


class Skipped(BaseException):
    """The test asked not to be run."""


class Failed(AssertionError):
    """The test said that it fails."""


class XFailed(BaseException):
    """The test said that its failure is expected."""


def skip(reason: str = "", **_: Any) -> None:
    """End the test without a verdict."""
    raise Skipped(reason)


def fail(reason: str = "", pytrace: bool = True, **_: Any) -> None:
    """Fail the test."""
    raise Failed(reason)


def xfail(reason: str = "") -> None:
    """End the test as one that is expected to fail."""
    raise XFailed(reason)


def importorskip(name: str, *_: Any, **__: Any) -> Any:
    """Import a module, or end the test without a verdict."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Skipped(str(error)) from None


class Mark:
    """A mark by name; called with a function or class it is put on it, called with anything else it takes arguments."""

    def __init__(self, name: str, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        self.name, self.args, self.kwargs = name, args, dict(kwargs or {})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Mark a test, or return the mark with arguments."""
        if len(args) == 1 and not kwargs and (callable(args[0]) and self.name != "skipif"):
            args[0].pytestmark = [*vars(args[0]).get("pytestmark", []), self]
            return args[0]
        return Mark(self.name, (*self.args, *args), {**self.kwargs, **kwargs})


class _Marks:
    def __getattr__(self, name: str) -> Mark:
        if name.startswith("__"):
            raise AttributeError(name)
        return Mark(name)


mark = _Marks()


class Param:
    """One set of values of a parametrised test."""

    def __init__(self, *values: Any, id: str | None = None, marks: Any = ()) -> None:
        self.values, self.id = values, id
        self.marks = list(marks) if isinstance(marks, (list, tuple)) else [marks]


param = Param


class Fixture:
    """A fixture: the function that makes it, and how."""

    def __init__(self, function: Callable[..., Any], params: Sequence[Any] | None, autouse: bool, name: str) -> None:
        self.function, self.params, self.autouse, self.name = function, params, autouse, name
        self.__name__ = name

    def __get__(self, instance: Any, owner: Any = None) -> Fixture:
        bound = self.function.__get__(instance, owner) if instance is not None else self.function
        return Fixture(bound, self.params, self.autouse, self.name)


def fixture(function: Any = None, *, scope: Any = "", params: Any = None, autouse: bool = False, ids: Any = None,
            name: str | None = None) -> Any:  # fmt: skip
    """Make a fixture of a function; every test gets its own, whatever the scope."""

    def decorate(made: Callable[..., Any]) -> Fixture:
        return Fixture(made, list(params) if params is not None else None, autouse, name or made.__name__)

    return decorate(function) if callable(function) else decorate


class ExceptionInfo:
    """What `raises` caught."""

    value: Any = None
    tb: Any = None

    @property
    def type(self) -> Any:
        """Its class."""
        return builtins.type(self.value)

    @property
    def typename(self) -> str:
        """The name of its class."""
        return builtins.type(self.value).__name__

    def match(self, pattern: str) -> bool:
        """Assert that its text has the pattern."""
        assert re.search(pattern, str(self.value)), f"{pattern!r} isn't in {str(self.value)!r}"
        return True


@contextmanager
def _raising(expected: Any, match: str | None) -> Iterator[ExceptionInfo]:
    info = ExceptionInfo()
    try:
        yield info
    except expected as error:
        info.value, info.tb = error, error.__traceback__
        if match is not None:
            info.match(match)
        return
    raise Failed(f"did not raise {expected}")


def raises(expected: Any, *args: Any, match: Any = None, **kwargs: Any) -> Any:
    """Expect an exception of a block, or of a call."""
    if not args:
        return _raising(expected, match)
    with _raising(expected, None) as info:
        args[0](*args[1:], **kwargs)
    return info


@contextmanager
def warns(expected: Any = Warning, *, match: str | None = None) -> Iterator[list[Any]]:
    """Expect a warning of a block."""
    with _warnings.catch_warnings(record=True) as seen:
        _warnings.simplefilter("always")
        yield seen
    if not any(issubclass(w.category, expected) and (not match or re.search(match, str(w.message))) for w in seen):
        raise Failed(f"did not warn {expected}")


def deprecated_call(*, match: str | None = None) -> Any:
    """Expect a deprecation warning of a block."""
    return warns((DeprecationWarning, PendingDeprecationWarning), match=match)


class approx:
    """A number, or numbers in lists and dictionaries, that equals what is near."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False) -> None:
        self.expected, self.rel, self.abs, self.nan_ok = expected, rel, abs, nan_ok

    def __eq__(self, actual: object) -> bool:
        return self._near(actual, self.expected)

    def __repr__(self) -> str:
        return f"approx({self.expected!r})"

    def _near(self, actual: Any, expected: Any) -> bool:
        if isinstance(expected, Mapping):
            same = isinstance(actual, Mapping) and actual.keys() == expected.keys()
            return same and all(self._near(actual[key], value) for key, value in expected.items())
        if isinstance(expected, (list, tuple)):
            same = isinstance(actual, (list, tuple)) and len(actual) == len(expected)
            return same and all(self._near(a, e) for a, e in zip(actual, expected, strict=True))
        if not isinstance(expected, (int, float, complex)) or isinstance(expected, bool):
            return bool(actual == expected)
        if not isinstance(actual, (int, float, complex)):
            return False
        if actual == expected:
            return True
        if isinstance(expected, float) and math.isnan(expected):
            return self.nan_ok and isinstance(actual, float) and math.isnan(actual)
        gap, size = builtins.abs(actual - expected), builtins.abs(expected)
        if math.isinf(size) or math.isnan(gap):
            return False
        relative = (self.rel if self.rel is not None else 1e-6) * size
        absolute = self.abs if self.abs is not None else 1e-12
        return gap <= (absolute if self.abs is not None and self.rel is None else max(relative, absolute))


class MonkeyPatch:
    """Changes that are undone after the test."""

    _absent = object()

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def setattr(self, target: Any, name: Any, value: Any = _absent, raising: bool = True) -> None:
        """Set an attribute of an object, or one named by a dotted path."""
        if isinstance(target, str):
            path, _, last = target.rpartition(".")
            raising, value, target, name = (raising if value is self._absent else bool(value)), name, _found(path), last
        old = getattr(target, name, self._absent)
        if raising and old is self._absent:
            raise AttributeError(name)
        self._undo.append(lambda: delattr(target, name) if old is self._absent else setattr(target, name, old))
        setattr(target, name, value)

    def delattr(self, target: Any, name: str, raising: bool = True) -> None:
        """Delete an attribute."""
        if hasattr(target, name):
            old = getattr(target, name)
            self._undo.append(lambda: setattr(target, name, old))
            delattr(target, name)
        elif raising:
            raise AttributeError(name)

    def setitem(self, target: Any, name: Any, value: Any) -> None:
        """Set an item."""
        old = target.get(name, self._absent)
        self._undo.append(lambda: target.pop(name, None) if old is self._absent else target.__setitem__(name, old))
        target[name] = value

    def delitem(self, target: Any, name: Any, raising: bool = True) -> None:
        """Delete an item."""
        if name in target:
            old = target[name]
            self._undo.append(lambda: target.__setitem__(name, old))
            del target[name]
        elif raising:
            raise KeyError(name)

    def setenv(self, name: str, value: str) -> None:
        """Set a variable of the environment."""
        import os

        self.setitem(os.environ, name, str(value))

    def delenv(self, name: str, raising: bool = True) -> None:
        """Delete a variable of the environment."""
        import os

        self.delitem(os.environ, name, raising)

    def chdir(self, path: Any) -> None:
        """Go to a folder."""
        import os

        old = os.getcwd()
        self._undo.append(lambda: os.chdir(old))
        os.chdir(path)

    def undo(self) -> None:
        """Take everything back, the last change first."""
        while self._undo:
            self._undo.pop()()


def _found(path: str) -> Any:
    """Import what a dotted path names: a module, or an attribute of one."""
    try:
        return importlib.import_module(path)
    except ImportError:
        owner, _, name = path.rpartition(".")
        if not owner:
            raise
        return getattr(_found(owner), name)
