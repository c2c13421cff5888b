"""The part of pytest that tests of functions use; it takes pytest's place in the checker. The rest can't be judged.

See docs.pytest.org/en/stable/reference/reference.html.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from .remote import Unjudgeable

_RELATIVE, _ABSOLUTE = 1e-6, 1e-12


class raises:
    """Context manager: its block must raise one of the exceptions.

    Args:
        expected: a class or a tuple of classes.
        match: what the message must hold, a regular expression.
    """

    value: BaseException
    _expected: Any
    _match: str | None

    def __new__(cls, expected: Any, *call: Any, match: str | None = None, **named: Any) -> Any:
        """Call what is handed over, if anything is, else return the manager."""
        made = super().__new__(cls)
        made._expected, made._match = expected, match
        if not call:
            return made
        with made:
            call[0](*call[1:], **named)
        return made

    def __enter__(self) -> raises:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            raise AssertionError(f"did not raise {self._expected}")
        if not isinstance(error, self._expected):
            return False
        if self._match is not None and re.search(self._match, str(error)) is None:
            raise AssertionError(f"raised {error!r}, which doesn't match {self._match!r}")
        self.value, self.type = error, type(error)
        return True


class approx:
    """Equal to numbers, or sequences and dictionaries of them, that are as close as pytest's defaults have it."""

    __array_ufunc__ = None

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False) -> None:
        self._expected, self._rel, self._abs, self._nan_ok = expected, rel, abs, nan_ok

    def __eq__(self, actual: object) -> bool:
        return self._close(actual, self._expected)

    def __hash__(self) -> int:
        return hash(repr(self._expected))

    def __repr__(self) -> str:
        return f"approx({self._expected!r})"

    def _close(self, actual: Any, expected: Any) -> bool:
        if isinstance(expected, dict):
            return (
                isinstance(actual, dict)
                and actual.keys() == expected.keys()
                and all(self._close(actual[key], value) for key, value in expected.items())
            )
        if hasattr(expected, "tolist"):
            expected = expected.tolist()
        if isinstance(expected, (list, tuple)):
            return (
                isinstance(actual, (list, tuple))
                and len(actual) == len(expected)
                and all(self._close(one, other) for one, other in zip(actual, expected))  # noqa: B905 - same length
            )
        if not isinstance(actual, (int, float, complex)) or isinstance(expected, (str, bool)) or expected is None:
            return bool(type(actual) is type(expected) and actual == expected)
        if actual == expected or (self._nan_ok and actual != actual and expected != expected):
            return True
        if math.isinf(abs(expected)):
            return False
        relative = (self._rel if self._rel is not None else 0.0 if self._abs is not None else _RELATIVE) * abs(expected)
        return bool(abs(actual - expected) <= max(relative, _ABSOLUTE if self._abs is None else self._abs))


def fixture(function: Any = None, **settings: Any) -> Any:
    """Mark a fixture; those with parameters can't be judged."""
    if "params" in settings:
        raise Unjudgeable("a fixture has parameters")

    def marked(made: Callable[..., Any]) -> Callable[..., Any]:
        vars(made)["is_fixture"] = True
        return made

    return marked if function is None else marked(function)


def param(*values: Any, **_: Any) -> tuple[Any, ...]:
    """Return the values of one set of parameters."""
    return values


def fail(reason: str = "", **_: Any) -> None:
    """Fail."""
    raise AssertionError(reason)


class _Marks:
    def parametrize(self, names: str | Iterable[str], rows: Iterable[Any], **_: Any) -> Callable[[Any], Any]:
        """Run a test once for each row; several marks multiply."""
        split = [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else list(names)
        table = [dict(zip(split, row if len(split) > 1 or _is_param(row) else (row,), strict=True)) for row in rows]

        def marked(function: Any) -> Any:
            before = getattr(function, "parameters", [{}])
            vars(function)["parameters"] = [{**one, **other} for one in table for other in before]
            return function

        return marked

    def skip(self, *arguments: Any, **_: Any) -> Any:
        """Skip a test."""

        def marked(function: Any) -> Any:
            vars(function)["skipped"] = True
            return function

        return marked(arguments[0]) if arguments and callable(arguments[0]) else marked

    def __getattr__(self, name: str) -> Any:
        """Ignore marks that say nothing of the outcome, as `slow` and `timeout`."""
        if name in ("xfail", "skipif", "usefixtures", "asyncio"):
            raise Unjudgeable(f"a test is marked {name}")
        return lambda *arguments, **_: arguments[0] if arguments and callable(arguments[0]) else lambda one: one


def _is_param(row: Any) -> bool:
    return isinstance(row, tuple) and len(row) == 1


mark = _Marks()


def main(*_: Any, **__: Any) -> int:
    """Stand in for `pytest.main()` at the end of a text: its tests are run anyway."""
    return 0


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise Unjudgeable(f"a test uses pytest.{name}")
