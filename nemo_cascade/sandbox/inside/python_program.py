"""Run a Python program as its own `__main__`, the way `python main.py` would."""

import atexit
import builtins
import importlib
import io
import sys
import threading
import traceback
import types
from collections.abc import Callable, Mapping
from os import _exit
from typing import Any, NoReturn

from .foreign import Attempt
from .job import EXIT_MEMORY, Job


def open_streams() -> None:
    """Make text streams on descriptors 0, 1 and 2. For the zygote: what they lead to is decided in each child."""
    reader = io.BufferedReader(io.FileIO(0, closefd=False))
    writers = [io.BufferedWriter(io.FileIO(number, "w", closefd=False)) for number in (1, 2)]
    sys.stdin = io.TextIOWrapper(reader, "utf-8", "replace")
    sys.stdout = io.TextIOWrapper(writers[0], "utf-8", "backslashreplace")
    sys.stderr = io.TextIOWrapper(writers[1], "utf-8", "backslashreplace", line_buffering=True)
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)


def _leave(code: object = None) -> NoReturn:
    raise SystemExit(code)


def add_site_names() -> None:
    """Define what Python's module `site` does for programs, which isn't loaded here. For the zygote."""
    vars(builtins).update(exit=_leave, quit=_leave)


class SourceInMemory:
    """Shows tracebacks and `inspect` a source that is in no file. See linecache.lazycache."""

    def __init__(self, source: bytes) -> None:
        self._source = source

    def get_source(self, name: str) -> str:
        """Return the text of the module."""
        return self._source.decode("utf-8", "replace")


def fresh_module(name: str, path: str, source: bytes) -> types.ModuleType:
    """Put an empty module in place and return it."""
    module = types.ModuleType(name)
    vars(module).update(__file__=path, __builtins__=__builtins__, __loader__=SourceInMemory(source))
    sys.modules[name] = module
    return module


def prepare(header: Mapping[str, Any], module: types.ModuleType) -> None:
    """Give a program what judges of contests give: names that it needn't import, room for recursion."""
    for name, source, attribute in header.get("provided", ()):
        loaded = importlib.import_module(source)
        setattr(module, name, getattr(loaded, attribute) if attribute else loaded)
    _count_frames_from(len(list(traceback.walk_stack(sys._getframe(1)))) + _OWN_FRAMES)
    if header.get("contest"):
        sys.setrecursionlimit(CONTEST_FRAMES)


def _count_frames_from(depth: int) -> None:
    """Have limits of recursion mean what they mean where a program is at the bottom of the stack.

    A chain of 100,000 under `sys.setrecursionlimit(100_010)` is one that judges of contests let through.
    """
    set_limit, limit = sys.setrecursionlimit, sys.getrecursionlimit
    sys.setrecursionlimit = lambda frames: set_limit(frames + depth if 0 < frames <= _MOST_FRAMES else frames)
    sys.getrecursionlimit = lambda: limit() - depth
    sys.setrecursionlimit(limit())


def run(job: Job, started: Callable[[], None]) -> None:
    """Run the job's entry file. Never returns."""
    finish(perform(job, started))


def perform(job: Job, started: Callable[[], None]) -> int:
    """Run the job's entry file; return its exit status."""
    entry = job.header["entry"]
    source = job.files[entry]
    sys.argv = [entry, *job.header["argv"]]
    module = fresh_module("__main__", entry, source)
    prepare(job.header, module)
    started()

    def body() -> None:
        execute(source, entry, module)
        if _others_to_wait_for():
            threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter would

    return guarded(body, any_status=bool(job.header.get("contest")))


def _others_to_wait_for() -> bool:
    locks, handlers = threading._shutdown_locks, threading._threading_atexits  # type: ignore[attr-defined]
    return len(locks) > 1 or bool(handlers)  # one is the main thread's own


def execute(source: bytes, path: str, module: types.ModuleType) -> None:
    """Run a source in a module."""
    exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)


CONTEST_FRAMES = 50_000
"""Depth of recursion that LiveCodeBench sets; Python's own is 1,000."""
_OWN_FRAMES = 3
_MOST_FRAMES = 2**30


def guarded(body: Callable[[], object], any_status: bool = False) -> int:
    """Call a body; return the exit status that its end means, with the traceback on stderr where it failed.

    Args:
        body: what to call.
        any_status: `sys.exit` is an end like any other, whatever status it gives.
    """
    with Attempt(BaseException) as attempt:
        body()
        return 0
    error = attempt.error
    if isinstance(error, SystemExit):
        if any_status:
            return 0
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        sys.stderr.write(f"{error.code}\n")
        return 1
    if isinstance(error, MemoryError):
        return EXIT_MEMORY
    assert error is not None, "it ended without an error"
    trace = error.__traceback__
    for _ in range(_OWN_FRAMES):  # our own frames are no news to anyone
        trace = trace.tb_next if trace is not None else None
    traceback.print_exception(type(error), error, trace)
    return 1


def finish(status: int) -> None:
    """Run exit handlers, flush and end the process."""
    _exit(flushed(status))


def flushed(status: int) -> int:
    """Run exit handlers and flush; return the exit status."""
    with Attempt(BaseException):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        return status
    return status or 120  # what the interpreter itself answers when it can't flush
