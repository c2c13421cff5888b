"""The checker's process: it runs the tests, calls the solution over a pipe, and proves its report with the secret.

The solution's code never runs here: nothing it does can patch, trace, read or end this process. Of its names the tests
see those alone that were read off the tests before (sandbox/ready_tests.py), so it brings no built-in, no library and
no helper that the tests have themselves.
"""

import importlib
import json
import marshal
import os
import socket
import sys
import traceback
import types
from collections.abc import Callable, Collection
from typing import Any

from . import exchange, pytest_form, suite
from .foreign import Attempt
from .job import Job
from .link import Link
from .remote import SolutionGoneError, Unjudgeable

_MOST_DETAIL = 500


def run(job: Job, started: Callable[[], None]) -> None:
    """Run the tests and write the report on the descriptor `report`. Never returns."""
    perform(job, started)
    os._exit(0)


def perform(job: Job, started: Callable[[], None]) -> bool:
    """Run the tests, write the report, hang up; return whether all passed."""
    exchange.limit_long_integers()
    with socket.socket(fileno=job.descriptors["peer"]) as connection:
        started()
        report: dict[str, Any] = {"secret": job.header["secret"], "error": None, "results": []}
        with Attempt(BaseException) as attempt:
            report["results"] = _judge(Link(connection), job.header)
        if isinstance(attempt.error, Unjudgeable):
            report["error"] = str(attempt.error)
        elif attempt.error is not None:
            report["results"] = [[False, _told(attempt.error)]] * len(job.header["tests"])
        with open(job.descriptors["report"], "wb") as file:
            file.write(json.dumps(report).encode())
    return all(passed for passed, _ in report["results"])


class SolutionModule(types.ModuleType):
    """What tests import where they believe that the solution is a module."""

    def __init__(self, name: str, link: Link, wanted: Collection[str], defined: Collection[str]) -> None:
        super().__init__(name)
        self.__dict__.update(_link=link, _defined=defined, __all__=[name for name in wanted if name in defined])

    def __getattr__(self, name: str) -> Any:
        """Get what the solution defines under a name."""
        if name.startswith("__") or name not in self.__dict__["_defined"]:
            raise AttributeError(f"the solution defines no `{name}`")
        return self.__dict__["_link"].value(op="global", name=name)


def _judge(link: Link, header: Any) -> list[list[Any]]:
    defined = link.loaded()
    common: dict[str, Any] = {"__name__": "tests", header["held"]: link.held}
    sys.modules["pytest"] = pytest_form
    if header["unittest"]:
        suite.load_unittest()
    for name, module, attribute in header["library"]:
        common[name] = _library(module, attribute)
    common |= {name: link.value(op="global", name=name) for name in header["wanted"] if name in defined}
    for name in header["modules"]:
        sys.modules[name] = SolutionModule(name, link, header["wanted"], defined)
    exec(marshal.loads(header["setup"]), common)
    link.share(_own_classes(common))
    if header["entry_point"]:
        common["candidate"] = _entry_point(header["entry_point"], common, defined)
    return [_one(link, *test, dict(common)) for test in zip(header["tests"], header["runs"], strict=True)]


def _library(module: str, attribute: str) -> Any:
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        raise Unjudgeable(f"the tests use a module that the sandbox lacks: {error}") from error
    return getattr(loaded, attribute) if attribute else loaded


def _own_classes(scope: dict[str, Any]) -> list[type]:
    return [value for value in scope.values() if isinstance(value, type) and value.__module__ == scope["__name__"]]


def _entry_point(path: str, scope: dict[str, Any], defined: Collection[str]) -> Any:
    """Return what a path as `f`, `Solution().f` or `Tool.f` leads to; for `f` a method of `Solution` will do, too."""
    first, *parts = path.split(".")
    if first.removesuffix("()") not in scope and "Solution" in defined:
        first, parts = "Solution()", path.split(".")
    if first.removesuffix("()") not in scope:
        raise SolutionGoneError(f"the solution defines no `{path}`")
    found = scope[first.removesuffix("()")]
    found = found() if first.endswith("()") else found
    for part in parts:
        found = getattr(found, part.removesuffix("()"))
        found = found() if part.endswith("()") else found
    return found


def _one(link: Link, code: bytes, runs: list[str], scope: dict[str, Any]) -> list[Any]:
    with Attempt(BaseException, but=(Unjudgeable,)) as attempt:  # SystemExit and its like are no passes either
        exec(marshal.loads(code), scope)
        link.share(_own_classes(scope))
        if "candidate" in scope and callable(scope.get("check")):
            scope["check"](scope["candidate"])
        if runs:
            suite.run(runs, scope)
    return [True, ""] if attempt.error is None else [False, _told(attempt.error)]


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename in ("test", "setup")), None)
    where = f" (line {line} of the test)" if line is not None else ""
    return f"{type(error).__name__}: {error}"[:_MOST_DETAIL] + where
