"""Runs inside the sandbox, on the standard library alone: find the tests that an id names, and run them.

An id is `path/test_x.py`, `path/test_x.py::test_f` or `path/test_x.py::Class::test_m`, each of the latter two perhaps
with the values of one parametrised case behind it, as pytest writes them (`[3-1.5]`). Run are unittest classes, and
functions and `Test` classes as pytest runs them: parametrised, with fixtures and set-up methods.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from importlib.machinery import ModuleSpec
from io import StringIO
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # its text runs before this one
    from nemo_cascade.sandbox.inside.foreign import Attempt

Call = tuple[str, Callable[[], Any]]
# unittest, inspect and importlib.abc are slow to import, and most tests need none of them.


class StandIn:
    """Gives the text of one module to whoever imports it, before any other finder does."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find the module; see MetaPathFinder."""
        loader: Any = self
        return ModuleSpec(fullname, loader) if fullname == self._name else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the module to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the text."""
        exec(compile(self._text, self._name, "exec", dont_inherit=True), module.__dict__)


def use_pytest(text: str) -> None:
    """Make the stand-in of pytest importable, in place of any other."""
    sys.modules.pop("pytest", None)
    sys.meta_path.insert(0, StandIn("pytest", text))


def of_pytest(name: str, module: str = "pytest") -> Any:
    """Return a class of the stand-in; nothing is an instance of what is returned while no test imported it."""
    return getattr(sys.modules.get(module), name, ())


def is_unittest(value: Any) -> bool:
    """Tell whether a value is a class of unittest's kind."""
    return isinstance(value, type) and issubclass(value, of_pytest("TestCase", "unittest"))


def marks_of(owner: Any) -> list[Any]:
    """Return the marks of a function, class or module."""
    marks = getattr(owner, "pytestmark", [])
    return list(marks) if isinstance(marks, (list, tuple)) else [marks]


def load(path: str) -> ModuleType:
    """Import a test file under its dotted name."""
    return importlib.import_module(path.removesuffix(".py").replace("/", "."))


def cases(module: ModuleType, parts: list[str]) -> Iterator[Call]:
    """Yield (values behind the name, test) of a module, of one class, or the one named."""
    if parts:
        yield from _named(module, parts)
        return
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, type) and (is_unittest(value) or name.startswith("Test")):
            yield from cases(module, [name])
        elif name.startswith("test") and callable(value):
            yield from functions(module, None, value)


def _named(module: ModuleType, parts: list[str]) -> Iterator[Call]:
    target: Any = getattr(module, parts[0])
    if not isinstance(target, type):
        yield from functions(module, None, target)
        return
    for part in parts[1:]:
        if isinstance(getattr(target, part), type):  # a class within a class
            target = getattr(target, part)
    last = parts[-1] if not isinstance(getattr(target, parts[-1], target), type) else ""
    names = [last] if last else [n for n in dir(target) if n.startswith("test")]
    for name in names:
        if is_unittest(target):
            yield "", _unittest(target, name)
        else:
            yield from functions(module, target, getattr(target, name))


def _unittest(owner: Any, name: str) -> Callable[[], Any]:
    def run() -> None:
        import unittest

        result = unittest.TestResult()
        unittest.TestSuite([owner(name)]).run(result)
        problems = [*result.errors, *result.failures]
        if problems:
            raise AssertionError(problems[0][1].strip().rsplit("\n", 1)[-1])
        if result.testsRun != 1 or result.skipped or result.unexpectedSuccesses:
            raise AssertionError("the test was skipped or didn't run")

    return run


def functions(module: ModuleType, owner: type | None, function: Any) -> Iterator[Call]:
    """Yield the cases of a test function or method, one for each set of its parameters."""
    marks = [*marks_of(function), *(marks_of(owner) if owner else []), *marks_of(module)]
    sets = [_parameter_sets(mark) for mark in marks if mark.name == "parametrize"]
    for chosen in itertools.product(*reversed(sets)):
        values = {name: value for case in reversed(chosen) for name, value in case[1].items()}
        own = [mark for case in chosen for mark in case[2]]
        name = "-".join(case[0] for case in reversed(chosen))
        case = Case(module, owner, function, values, [*own, *marks])
        yield name, case.run


def _parameter_sets(mark: Any) -> list[tuple[str, dict[str, Any], list[Any]]]:
    """Return (id, values by name, marks) of each case of a parametrised test."""
    names, values = mark.args[0], list(mark.args[1] if len(mark.args) > 1 else mark.kwargs["argvalues"])
    names = [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else list(names)
    ids = mark.kwargs.get("ids")
    sets = []
    for index, value in enumerate(values):
        marked = isinstance(value, of_pytest("Param"))
        parts = value.values if marked else tuple(value) if len(names) > 1 else (value,)
        given = value.id if marked else None
        if given is None and ids is not None:
            told = [ids(part) for part in parts] if callable(ids) else [list(ids)[index]]
            given = None if None in told else "-".join(map(str, told))
        shown = given or "-".join(_shown(name, index, part) for name, part in zip(names, parts, strict=True))
        sets.append((shown, dict(zip(names, parts, strict=True)), value.marks if marked else []))
    shown_ids = [name for name, _, _ in sets]
    return [
        (name if shown_ids.count(name) == 1 else f"{name}{shown_ids[:index].count(name)}", values, marks)
        for index, (name, values, marks) in enumerate(sets)
    ]


def _shown(name: str, index: int, value: Any) -> str:
    """Return a value as pytest writes it into a test's id."""
    if isinstance(value, str):
        return value.encode("unicode_escape").decode()
    if value is None or isinstance(value, (int, float, complex)):
        return str(value)
    return getattr(value, "__name__", f"{name}{index}")


class Case:
    """One test with the values of its parameters."""

    def __init__(
        self, module: ModuleType, owner: type | None, function: Any, values: Mapping[str, Any], marks: Sequence[Any]
    ) -> None:
        self._module, self._owner, self._function, self._values, self._marks = module, owner, function, values, marks

    def run(self) -> None:
        """Set up, call, tear down; a skipped test is no passed one."""
        expected: Any = None
        tolerated: tuple[type[Exception], ...] = ()
        for mark in self._marks:
            if mark.name == "skip" or (mark.name == "skipif" and mark.args and mark.args[0]):
                raise AssertionError("the test is skipped")
            if mark.name == "xfail" and (not mark.args or mark.args[0]):
                expected, tolerated = mark, (Exception,)
        try:
            self._call()
        except of_pytest("XFailed"):
            return
        except of_pytest("Skipped") as reason:
            raise AssertionError(f"the test is skipped: {reason}") from None
        except tolerated:
            return
        if expected is not None and expected.kwargs.get("strict"):
            raise AssertionError("the test passes though it is expected to fail")

    def _call(self) -> None:
        """Call the test once for each choice of its fixtures' parameters."""
        counts = self._call_with({})
        for choice in itertools.islice(itertools.product(*map(range, counts.values())), 1, None):
            self._call_with(dict(zip(counts, choice, strict=True)))

    def _call_with(self, choice: Mapping[str, int]) -> dict[str, int]:
        with ExitStack() as after:
            instance = self._owner() if self._owner else None
            self._set_up(instance, after)
            function = getattr(instance, self._function.__name__) if instance is not None else self._function
            request = Request(self._module, instance, after, self._values, choice)
            for name, made in request.known.items():
                if made.autouse:
                    request.get(name)
            for mark in self._marks:
                for name in mark.args if mark.name == "usefixtures" else ():
                    request.get(name)
            result = function(**{name: request.get(name) for name in _arguments(function)})
            if hasattr(result, "cr_frame"):
                import asyncio

                asyncio.run(result)
            return request.counts

    def _set_up(self, instance: Any, after: ExitStack) -> None:
        """Call the set-up functions that pytest knows; the tear-down ones are called at the end."""
        function = self._function
        module = "function" if instance is None else "method"
        places = [(self._module, "module", self._module), (type(instance), "class", type(instance))]
        places.append((self._module, "function", function) if instance is None else (instance, module, function))
        for place, kind, argument in places:
            for name, when in ((f"setup_{kind}", "now"), (f"teardown_{kind}", "then")):
                found = getattr(place, name, None) if place is not type(None) else None
                if found is None:
                    continue
                takes = len(_arguments(found)) > 0
                call = (lambda f=found, a=argument: f(a)) if takes else found
                if when == "now":
                    call()
                else:
                    after.callback(call)


def _arguments(function: Any) -> list[str]:
    """Return the names of the arguments that a function must be given."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is None or hasattr(function, "__wrapped__"):
        import inspect

        needed = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = inspect.signature(function).parameters.values()
        return [p.name for p in parameters if p.kind in needed and p.default is inspect.Parameter.empty]
    bound = hasattr(function, "__func__")
    positional = code.co_varnames[bound : code.co_argcount - len(function.__defaults__ or ())]
    keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return [*positional, *(name for name in keywords if name not in (function.__kwdefaults__ or {}))]


class Request:
    """Makes the fixtures of one test, each once."""

    def __init__(
        self,
        module: ModuleType,
        instance: Any,
        after: ExitStack,
        values: Mapping[str, Any],
        choice: Mapping[str, int],
    ) -> None:
        self.module, self.instance, self.param = module, instance, None
        self._after, self._made, self._choice = after, dict(values), choice
        self.counts: dict[str, int] = {}  # fixture -> number of its parameters
        self.known: dict[str, Any] = {}
        for place in [*conftests(module), module, *([instance] if instance is not None else [])]:
            for key in dir(place):
                if isinstance(value := getattr(place, key, None), of_pytest("Fixture")):
                    self.known[value.name] = value

    def get(self, name: str) -> Any:
        """Return the value of a fixture, or of a parameter of the test."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    getfixturevalue = get

    def addfinalizer(self, function: Callable[[], Any]) -> None:
        """Call a function after the test."""
        self._after.callback(function)

    def _make(self, name: str) -> Any:
        if name == "request":
            return self
        if name not in self.known:
            return getattr(self, f"_{name}")()
        made = self.known[name]
        if made.params is not None:
            self.counts[name] = len(made.params)
            self.param = _value(made.params[self._choice.get(name, 0)])
        value = made.function(**{argument: self.get(argument) for argument in _arguments(made.function)})
        if hasattr(value, "gi_frame"):
            generator = value
            value = next(generator)
            self._after.callback(lambda: next(generator, None))
        return value

    def _tmp_path(self) -> Any:
        import tempfile
        from pathlib import Path

        return Path(self._after.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))

    _tmpdir = _tmp_path

    def _monkeypatch(self) -> Any:
        import pytest

        patch = pytest.MonkeyPatch()
        self._after.callback(patch.undo)
        return patch

    def _capsys(self) -> Any:
        streams = (StringIO(), StringIO())
        self._after.enter_context(redirect_stdout(streams[0]))
        self._after.enter_context(redirect_stderr(streams[1]))

        def readouterr() -> Any:
            texts = [stream.getvalue() for stream in streams]
            for stream in streams:
                stream.seek(0)
                stream.truncate()
            return SimpleNamespace(out=texts[0], err=texts[1])

        return SimpleNamespace(readouterr=readouterr)


def _value(param: Any) -> Any:
    return param.values[0] if isinstance(param, of_pytest("Param")) else param


def conftests(module: ModuleType) -> Iterator[ModuleType]:
    """Yield the `conftest` modules of the folders above a test, the outermost first."""
    parts = module.__name__.split(".")[:-1]
    for depth in range(len(parts) + 1):
        name = ".".join([*parts[:depth], "conftest"])
        try:
            found = importlib.util.find_spec(name)
        except ImportError:
            continue
        if found is not None:
            yield importlib.import_module(name)


def outcome(test_id: str) -> list[Any]:
    """Run what an id names; returns [number of tests, reason of the first failure or an empty text]."""
    name, bracket, values = test_id.partition("[")
    path, *parts = name.split("::")
    count = 0
    with Attempt(BaseException) as attempt:  # SystemExit of a test is a failure too
        for values_of_case, case in cases(load(path), parts):
            if bracket and f"{values_of_case}]" != values:
                continue
            count += 1
            case()
    if attempt.error is not None:
        return [count, "".join(traceback.format_exception_only(attempt.error)).strip()[-300:] or "failed"]
    return [count, "" if count else "no test found"]


def require(test_id: str) -> None:
    """Raise AssertionError with the reason if the test doesn't pass."""
    _, reason = outcome(test_id)
    if reason:
        raise AssertionError(reason)
