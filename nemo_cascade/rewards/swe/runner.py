"""Runs inside the sandbox, on the standard library alone: run the tests named on stdin, report on the first stdout.

Input: one line of JSON {"nonce": text, "tests": [id, ...]}; an id is `path/test_x.py`, `path/test_x.py::test_f` or
`path/test_x.py::Class::test_m`. Report: the nonce and JSON {id: [number of tests, reason of the first failure]}.
Test functions without arguments and unittest classes are run; what they print goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
import unittest
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any


def load(path: str) -> ModuleType:
    """Import a test file under its dotted name."""
    return importlib.import_module(path.removesuffix(".py").replace("/", "."))


def cases(module: ModuleType, parts: list[str]) -> Iterator[Callable[[], Any]]:
    """Yield the tests of a module, of one class, or the one named."""
    if not parts:
        for name, value in list(vars(module).items()):
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if isinstance(value, type) and (issubclass(value, unittest.TestCase) or name.startswith("Test")):
                yield from cases(module, [name])
            elif name.startswith("test") and callable(value):
                yield value
        return
    target = getattr(module, parts[0])
    if not isinstance(target, type):
        yield target
        return
    for name in parts[1:] or [n for n in dir(target) if n.startswith("test")]:
        yield method(target, name)


def method(owner: type, name: str) -> Callable[[], Any]:
    """Return a test method as a function, with its set-up and tear-down."""

    def run() -> None:
        if not issubclass(owner, unittest.TestCase):
            getattr(owner(), name)()
            return
        result = unittest.TestResult()
        unittest.TestSuite([owner(name)]).run(result)
        problems = [*result.errors, *result.failures]
        if problems:
            raise AssertionError(problems[0][1].strip().rsplit("\n", 1)[-1])
        if result.testsRun != 1 or result.skipped or result.unexpectedSuccesses:
            raise AssertionError("the test was skipped or didn't run")

    return run


def outcome(test_id: str) -> list[Any]:
    """Run what an id names; returns [number of tests, reason of the first failure or an empty text]."""
    path, *parts = test_id.split("::")
    count = 0
    try:
        for case in cases(load(path), parts):
            count += 1
            case()
    except BaseException as error:  # SystemExit of a test is a failure too
        return [count, "".join(traceback.format_exception_only(type(error), error)).strip()[-300:] or "failed"]
    return [count, "" if count else "no test found"]


def require(test_id: str) -> None:
    """Raise AssertionError with the reason if the test doesn't pass."""
    _, reason = outcome(test_id)
    if reason:
        raise AssertionError(reason)


def main() -> None:
    """Read the order, run, report."""
    order = json.loads(sys.stdin.readline())
    nonce, report = order["nonce"], os.dup(1)
    os.dup2(2, 1)
    sys.path.insert(0, os.getcwd())
    results = {test_id: outcome(test_id) for test_id in order["tests"]}
    os.write(report, (nonce + json.dumps(results) + "\n").encode())


if __name__ == "__main__":
    main()
