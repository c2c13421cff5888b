"""Run a Python program as its own `__main__`, the way `python main.py` would."""

from __future__ import annotations

import atexit
import io
import os
import sys
import threading
import types
from collections.abc import Callable

from .job import EXIT_MEMORY, Job, forget_sandbox_modules


def open_streams() -> None:
    """Make fresh text streams on descriptors 0, 1 and 2."""
    reader = io.BufferedReader(io.FileIO(0, closefd=False))
    writers = [io.BufferedWriter(io.FileIO(number, "w", closefd=False)) for number in (1, 2)]
    sys.stdin = io.TextIOWrapper(reader, "utf-8", "replace")
    sys.stdout = io.TextIOWrapper(writers[0], "utf-8", "backslashreplace")
    sys.stderr = io.TextIOWrapper(writers[1], "utf-8", "backslashreplace", line_buffering=True)
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)


def fresh_main(path: str) -> types.ModuleType:
    """Put an empty `__main__` in place and return it."""
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    return module


def run(job: Job, started: Callable[[], None]) -> None:
    """Run the job's entry file. Never returns."""
    entry = job.header["entry"]
    open_streams()
    sys.argv = [entry, *job.header["argv"]]
    sys.path.insert(0, os.getcwd())
    sys.path.append(os.environ["PYTHONPATH"])
    module = fresh_main(entry)
    source = job.files[entry]
    forget_sandbox_modules()
    started()
    status = guarded(lambda: exec(compile(source, entry, "exec", dont_inherit=True), module.__dict__))
    finish(status)


def guarded(body: Callable[[], object]) -> int:
    """Call a body; return the exit status that its end means, with the traceback on stderr where it failed."""
    try:
        body()
        threading._shutdown()  # type: ignore[attr-defined]  # waits for non-daemon threads, as the interpreter would
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        sys.stderr.write(f"{end.code}\n")
        return 1
    except MemoryError:
        return EXIT_MEMORY
    except BaseException as error:
        trace = error.__traceback__
        for _ in range(2):  # our own two frames are no news to anyone
            trace = trace.tb_next if trace is not None else None
        sys.excepthook(type(error), error, trace)
        return 1
    return 0


def finish(status: int) -> None:
    """Run exit handlers, flush and end the process."""
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        status = status or 120  # what the interpreter itself answers when it can't flush
    os._exit(status)
