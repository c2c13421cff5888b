"""Runs inside the sandbox: try a test that a policy wrote on one tree of files, and report on the first stdout.

Input: JSON {"nonce", "tools": texts of our own that run in this namespace, "pytest": text of its stand-in,
"test": path, "sources", "packages", "paths" (see `conceal`)}. Report: lines of the nonce and JSON, {"parses": bool} and
then {"reason": of the first failure, empty where all passed}. What the test prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any

outcome: Any = None  # of runner.py
use_pytest: Any = None
conceal: Any = None  # of concealed.py


def make_steady() -> None:
    """Draw the same random numbers in every run: what differs between runs is the tree alone."""
    stream = random.Random(0)
    seed = random.Random.seed
    os.urandom = stream.randbytes
    os.getrandom = lambda size, flags=0: stream.randbytes(size)
    random._urandom = stream.randbytes  # type: ignore[attr-defined]
    random.Random.seed = lambda self, a=None, version=2: seed(self, stream.getrandbits(64) if a is None else a, version)  # type: ignore[method-assign, assignment, misc]
    random.seed(0)


def parses(text: str, path: str) -> bool:
    """Tell whether a text is Python."""
    try:
        compile(text, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _everything(descriptor: int) -> bytes:
    pieces = iter(lambda: os.read(descriptor, 1 << 20), b"")
    return b"".join(pieces)


def main() -> None:
    """Read the order, run, report."""
    order = json.loads(_everything(0))  # past sys.stdin, whose buffer could be read again
    nonce, report, test = order["nonce"].encode(), os.dup(1), order["test"]
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for tool in order.pop("tools"):
        exec(compile(tool, "tools of the sandbox", "exec", dont_inherit=True), globals())
    good = parses(order["sources"][test], test)
    os.write(report, nonce + json.dumps({"parses": good}).encode() + b"\n")
    if good:
        use_pytest(order.pop("pytest"))
        sys.path.insert(0, os.getcwd())
        make_steady()
        conceal(order.pop("sources"), order.pop("packages"), order.pop("paths"), test)
        os.write(report, nonce + json.dumps({"reason": outcome(test)[1]}).encode() + b"\n")


if __name__ == "__main__":
    main()
