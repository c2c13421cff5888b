"""Run the test functions and classes of a test's text, as pytest and unittest would; the first failure is raised.

unittest and inspect are heavy, so neither is loaded here: a text with unittest's classes has loaded it.
"""

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from .remote import SolutionGoneError, Unjudgeable


def load_unittest() -> None:
    """Load unittest, whose `main()` at the end of a text does nothing: the classes are run anyway."""
    vars(importlib.import_module("unittest"))["main"] = lambda *_, **__: None


def run(names: list[str], scope: dict[str, Any]) -> None:
    """Run what the names stand for; whatever fails raises.

    Raises:
        Unjudgeable: nothing was there to be run, or a test needs what no checker apart from the solution can give.
    """
    ran, unittest = 0, sys.modules.get("unittest")
    for name in names:
        target = scope.get(name)
        if isinstance(target, type) and unittest is not None and issubclass(target, unittest.TestCase):
            ran += _run_cases(target)
        elif isinstance(target, type):
            for method in [method for method in dir(target) if method.startswith("test")]:
                ran += _run_method(target, method, scope)
        elif callable(target):
            ran += _run_function(target, scope)
    if not ran:
        raise Unjudgeable("all tests are skipped, or none is there")


def _run_cases(kind: type) -> int:
    unittest = sys.modules["unittest"]
    result = unittest.TestResult()
    result.failfast = True
    unittest.defaultTestLoader.loadTestsFromTestCase(kind).run(result)
    if result.unexpectedSuccesses or result.expectedFailures:
        raise Unjudgeable("a test that is expected to fail says nothing")
    for _, reason in (*result.errors, *result.failures):
        last = reason.strip().rsplit("\n", 1)[-1]
        if last.startswith(f"{Unjudgeable.__module__}.{Unjudgeable.__qualname__}"):
            raise Unjudgeable(last.partition(": ")[2])
        raise AssertionError(last)
    return int(result.testsRun - len(result.skipped))


def _run_method(kind: type, name: str, scope: dict[str, Any]) -> int:
    instance = kind()
    for before in ("setup_class", "setup_method", "setup"):
        method = getattr(instance, before, None)
        if method is not None:
            method(*[getattr(instance, name)][: len(_parameters(method))])
    ran = _run_function(getattr(instance, name), scope)
    for after in ("teardown_method", "teardown_class"):
        method = getattr(instance, after, None)
        if method is not None:
            method(*[getattr(instance, name)][: len(_parameters(method))])
    return ran


def _run_function(function: Callable[..., Any], scope: dict[str, Any]) -> int:
    if getattr(function, "skipped", False):
        return 0
    ran = 0
    for given in getattr(function, "parameters", [{}]):
        started: list[Iterator[Any]] = []
        missing = [name for name in _parameters(function) if name not in given]
        made = {name: _fixture(name, scope, started) for name in missing}
        outcome = function(**given, **made)
        if isinstance(outcome, types.CoroutineType):
            outcome.close()
            raise Unjudgeable("a test is a coroutine")
        for fixture in started:
            next(fixture, None)
        ran += 1
    return ran


def _fixture(name: str, scope: dict[str, Any], started: list[Iterator[Any]]) -> Any:
    """Return what a fixture of the text makes; one that yields is left where it does."""
    make = scope.get(name)
    if not getattr(make, "is_fixture", False):
        raise Unjudgeable(f"a test asks for `{name}`, which the checker can't give")
    assert callable(make)
    made = make(**{needed: _fixture(needed, scope, started) for needed in _parameters(make)})
    if not isinstance(made, types.GeneratorType):
        return made
    started.append(made)
    try:
        return next(made)
    except StopIteration:
        raise SolutionGoneError(f"the fixture `{name}` yielded nothing") from None


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a function's parameters that have no default, without `self`."""
    plain = getattr(function, "__func__", function)
    code = plain.__code__
    last = code.co_argcount - len(plain.__defaults__ or ())
    return tuple(code.co_varnames[int(plain is not function) : last])
