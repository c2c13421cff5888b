"""The sandbox: run untrusted programs, each in a fresh confined copy of a warm interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

from nemo_cascade.config.sandbox import Limits, SandboxConfig
from nemo_cascade.sandbox.compiling import Compiler
from nemo_cascade.sandbox.execution import Errand, sealed_file
from nemo_cascade.sandbox.isolation import bubblewrap_launch, rlimits_launch
from nemo_cascade.sandbox.judging import FunctionTests, Judgement, judge_functions
from nemo_cascade.sandbox.outcome import outcome_of
from nemo_cascade.sandbox.pool import WorkerPool
from nemo_cascade.sandbox.program import Outcome, Program
from nemo_cascade.sandbox.proof import prove_isolation

_LIMITS = Limits()


class Sandbox:
    """Runs untrusted programs. Thread-safe; close it, or use it as a context manager.

    Args:
        config: isolation, packages, limits of a compiler.
        workers: warm interpreters, each running one program at a time.

    Raises:
        SandboxError: if the machine can't give the isolation that was asked for; it names the reason and the mend.
    """

    def __init__(self, config: SandboxConfig, workers: int = 1) -> None:
        packages = list(config.packages)
        launch = bubblewrap_launch(packages) if config.isolation == "bubblewrap" else rlimits_launch(packages)
        self.pool = WorkerPool(launch, workers)
        self._compiler = Compiler(self.pool, config.compile_limits)
        with ExitStack() as undo:
            undo.callback(self.close)
            prove_isolation(self.run, namespaces=config.isolation == "bubblewrap")
            undo.pop_all()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, program: Program, limits: Limits = _LIMITS) -> Outcome:
        """Run one program to its end or to its limits.

        Args:
            program: what to run.
            limits: what it may use.

        Returns:
            How it ended, with its output. A program that fails is an outcome, never an exception.

        Raises:
            SandboxError: if the sandbox itself broke.
        """
        header = {"argv": list(program.args), "entry": program.main_file}
        if program.language == "python":
            files = {**program.files, program.main_file: program.source_bytes()}
            python = {**header, **program.for_python(), "kind": "python_program", "unwritten": [program.main_file]}
            return self._outcome(lambda: Errand(python, files, limits, program.stdin_bytes()))
        compiled = self._compiler.compile(program)
        if isinstance(compiled, Outcome):
            return compiled
        binary = sealed_file("program", compiled)
        try:
            command = {**header, "kind": "command", "unwritten": []}
            given = {"binary": binary}
            return self._outcome(lambda: Errand(command, program.files, limits, program.stdin_bytes(), given))
        finally:
            os.close(binary)

    def _outcome(self, prepare: Callable[[], Errand]) -> Outcome:
        return outcome_of(self.pool.execute(lambda: [prepare()])[0])

    def judge(self, program: Program, tests: FunctionTests, limits: Limits = _LIMITS) -> Judgement:
        """Judge a Python solution by tests that call it: the tests run in another process than the solution.

        Args:
            program: the solution.
            tests: trusted tests.
            limits: of the solution, for all tests together.

        Raises:
            SandboxError: if the sandbox itself broke.
        """
        return judge_functions(self.pool, program, tests, limits)

    def close(self) -> None:
        """Kill all workers with everything in them."""
        self.pool.close()
