"""Do in the zygote, on small programs and tests, what every child will do.

The interpreter specialises code while it runs, fills caches and loads what it needs on first use. Done here it is done
once; done in a child each of these writes copies a page that is thrown away with the child.
"""

import contextlib
import marshal
import os
import socket
import sys
from collections.abc import Callable, Iterator

from . import harness, python_program, solution
from .job import Job
from .job import rehearse as rehearse_job
from .python_program import flushed

_TIMES = 40
_PROGRAM = b"""
from typing import List, Optional
import collections, math, sys
class Point:
    def __init__(self, x: int) -> None:
        self.x = x
def total(items: List[int], start: Optional[int] = 0) -> int:
    return sum(i * i for i in items) + start
table = collections.defaultdict(list)
for i, word in enumerate("a b c a".split()):
    table[word].append(Point(i).x)
print(sorted(table.items(), key=lambda pair: -len(pair[1])), f"{total(range(9)):>5d}", math.gcd(4, 6), 1 / 3)
for line in sys.stdin:
    print([int(part) for part in line.split()])
"""
_SOLUTION = b"""
from typing import List
class Solution:
    def total(self, items: List[int], start: int = 0) -> int:
        return sum(items, start)
def merged(first, second):
    return sorted(first + second), len(first) / 2, "text" * len(second)
"""
_TEST = """
def check(candidate):
    assert candidate([1, 4], [2, 3]) == ([1, 2, 3, 4], 1.0, "texttext")
    assert candidate([], []) == ([], 0.0, "")
    assert Solution().total([1, 2], start=3) == 6
"""
_HEADER = {
    "argv": [],
    "entry": "main.py",
    "contest": True,
    "provided": [["Counter", "collections", "Counter"]],
    "secret": "",
    "entry_point": "merged",
    "held": "__held__",
    "setup": marshal.dumps(compile("import math", "setup", "exec")),
    "tests": [marshal.dumps(compile(_TEST, "test", "exec"))],
    "runs": [[]],
    "wanted": ["Solution", "merged"],
    "library": [],
    "modules": ["solution"],
    "unittest": False,
}
_REPLACED_MODULES = ("__main__", "pytest", "solution")

Role = Callable[[Job, Callable[[], None]], object]


def rehearse() -> None:
    """Run a program, a solution and a checker, each some times, and leave no trace of them."""
    with _no_trace():
        for _ in range(_TIMES):
            rehearse_job(_PROGRAM, _run_program)
        _judge(_solve, _check)
        _judge(_check, _solve)


def _run_program(job: Job, started: Callable[[], None]) -> None:
    assert flushed(python_program.perform(job, started)) == 0


def _solve(job: Job, started: Callable[[], None]) -> None:
    assert flushed(solution.perform(job, started)) == 0


def _check(job: Job, started: Callable[[], None]) -> None:
    assert harness.perform(job, started)


@contextlib.contextmanager
def _no_trace() -> Iterator[None]:
    modules = {name: sys.modules[name] for name in _REPLACED_MODULES if name in sys.modules}
    arguments, frames, digits = sys.argv, sys.getrecursionlimit(), sys.get_int_max_str_digits()
    set_limit, limit = sys.setrecursionlimit, sys.getrecursionlimit
    yield
    for name in _REPLACED_MODULES:
        sys.modules.pop(name, None)
    sys.modules.update(modules)
    sys.argv = arguments
    sys.setrecursionlimit, sys.getrecursionlimit = set_limit, limit
    sys.setrecursionlimit(frames)
    sys.set_int_max_str_digits(digits)


def _judge(ours: Role, theirs: Role) -> None:
    """Play one of the two processes of a judgement; a child that comes to nothing plays the other one."""
    pairs = [socket.socketpair() for _ in range(_TIMES)]
    pid = os.fork()
    mine, role = (0, ours) if pid else (1, theirs)
    try:
        for pair in pairs:
            pair[1 - mine].close()  # else one role wouldn't notice the other's end
        for pair in pairs:
            descriptors = {"peer": pair[mine].detach(), "report": os.open("/dev/null", os.O_WRONLY)}
            role(Job(_HEADER, {"main.py": _SOLUTION}, descriptors), lambda: None)
    finally:
        if pid == 0:
            os._exit(0)
    os.waitpid(pid, 0)
