"""The checker's process: it runs the tests, calls the solution over a pipe, and proves its report with the secret.

The solution's code never runs here: nothing it does can patch, trace, read or end this process.
"""

from __future__ import annotations

import json
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

from . import exchange
from .job import Job
from .remote import Link, SolutionError, Unjudgeable

_MOST_DETAIL = 500


def run(job: Job, started: Callable[[], None]) -> None:
    """Run the tests and write the report on the descriptor `report`. Never returns."""
    exchange.allow_long_integers()
    link = Link(socket.socket(fileno=job.descriptors["peer"]))
    started()
    report: dict[str, Any] = {"secret": job.header["secret"], "error": None, "results": []}
    try:
        report["results"] = _judge(link, job.header)
    except Unjudgeable as error:
        report["error"] = str(error)
    except Exception as error:
        report["results"] = [[False, _told(error)]] * len(job.header["tests"])
    with open(job.descriptors["report"], "wb") as file:
        file.write(json.dumps(report).encode())
    os._exit(0)


def _judge(link: Link, header: Any) -> list[list[Any]]:
    names = link.loaded()
    entry = header["entry_point"]
    if entry and entry not in names:
        raise SolutionError(f"the solution defines no `{entry}`")
    common: dict[str, Any] = {"__name__": "tests", **names}
    if entry:
        common["candidate"] = names[entry]
    _test_code(header["setup"], "setup", common)
    return [_one(text, entry, dict(common)) for text in header["tests"]]


def _one(text: str, entry: str, scope: dict[str, Any]) -> list[Any]:
    try:
        _test_code(text, "test", scope)
        if entry and callable(scope.get("check")):
            scope["check"](scope["candidate"])
    except Unjudgeable:
        raise
    except BaseException as error:  # SystemExit and its like are no passes either
        return [False, _told(error)]
    return [True, ""]


def _test_code(text: str, name: str, scope: dict[str, Any]) -> None:
    try:
        code = compile(text, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise Unjudgeable(f"the {name} doesn't compile: {error}") from error
    exec(code, scope)


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename in ("test", "setup")), None)
    where = f" (line {line} of the test)" if line is not None else ""
    return f"{type(error).__name__}: {error}"[:_MOST_DETAIL] + where
