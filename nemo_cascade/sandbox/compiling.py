"""Compile C++ inside the sandbox, once per source."""

import hashlib
import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import replace

from nemo_cascade.config.sandbox import Limits
from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox.execution import Errand, memory_file
from nemo_cascade.sandbox.inside.foreign import Attempt
from nemo_cascade.sandbox.isolation import find_compiler
from nemo_cascade.sandbox.outcome import outcome_of
from nemo_cascade.sandbox.pool import WorkerPool
from nemo_cascade.sandbox.program import Outcome, Program, Status

_OPTIONS = ("-std=c++17", "-O2", "-pipe")
_PRODUCT = "program"
_KEPT = 256

Compiled = bytes | Outcome


class Compiler:
    """Compiles programs and keeps the last few hundred binaries and complaints. Thread-safe.

    What went over a limit isn't kept: it depends on the machine's state, and would fail the same text later.

    Args:
        pool: where the compiler runs: its input is as untrusted as any program.
        limits: of one compiler run.
    """

    def __init__(self, pool: WorkerPool, limits: Limits) -> None:
        self._pool, self._limits = pool, limits
        self._lock = threading.Lock()
        self._results: OrderedDict[str, Future[Compiled]] = OrderedDict()

    def compile(self, program: Program) -> Compiled:
        """Return the binary, or the outcome with status `compile_error`.

        Raises:
            SandboxError: if there is no compiler, or the sandbox broke.
        """
        key = _key(program)
        with self._lock:
            result = self._results.get(key)
            ours = result is None
            if result is None:
                result = self._results[key] = Future()
                while len(self._results) > _KEPT:
                    self._results.popitem(last=False)
            self._results.move_to_end(key)
        if ours:
            with Attempt(BaseException) as attempt:  # others may wait for it; the next one shall try anew
                compiled, kept = self._compile(program)
                if not kept:
                    self._forget(key)
                result.set_result(compiled)
            if attempt.error is not None:
                self._forget(key)
                result.set_exception(attempt.error)
        return result.result()

    def _forget(self, key: str) -> None:
        with self._lock:
            self._results.pop(key, None)

    def _compile(self, program: Program) -> tuple[Compiled, bool]:
        """Return the result, and whether compiling again would give the same."""
        compiler = find_compiler()
        if compiler is None:
            raise SandboxError("no C++ compiler", limit="/usr/bin/g++ or /usr/bin/c++", mend="install g++")
        target = memory_file("binary")
        try:
            header = {
                "kind": "command",
                "argv": [compiler, *_OPTIONS, "-o", _PRODUCT, program.main_file],
                "entry": compiler,
                "product": _PRODUCT,
                "unwritten": [],
            }
            files = {**program.files, program.main_file: program.source_bytes()}

            def prepare() -> list[Errand]:
                os.ftruncate(target, 0)
                return [Errand(header, files, self._limits, extra={"product": target}, compile_job=True)]

            outcome = outcome_of(self._pool.execute(prepare)[0])
            if outcome.status in (Status.KILLED, Status.STARVED):
                return outcome, False
            if not outcome.ok:
                failed = replace(outcome, status=Status.COMPILE_ERROR, detail=f"the compiler: {outcome.detail}")
                return failed, outcome.status is Status.ERROR
            return _whole_file(target), True
        finally:
            os.close(target)


def _whole_file(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _key(program: Program) -> str:
    digest = hashlib.sha256()
    for name, content in [(program.main_file, program.source_bytes()), *sorted(program.files.items())]:
        digest.update(f"{name}\0{len(content)}\0".encode("utf-8", "replace") + content)
    return digest.hexdigest()
