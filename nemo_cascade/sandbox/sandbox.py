"""The sandbox: run untrusted programs, each in a fresh confined copy of a warm interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

from nemo_cascade.config.sandbox import Limits, SandboxConfig
from nemo_cascade.sandbox.compiling import Compiler
from nemo_cascade.sandbox.execution import Errand, sealed_file
from nemo_cascade.sandbox.isolation import bubblewrap_launch, rlimits_launch
from nemo_cascade.sandbox.judging import FunctionTests, IoCase, Judgement, judge_functions, same_output
from nemo_cascade.sandbox.outcome import outcome_of
from nemo_cascade.sandbox.pool import WorkerPool
from nemo_cascade.sandbox.program import Outcome, Program
from nemo_cascade.sandbox.proof import prove_isolation


class Sandbox:
    """Runs untrusted programs. Thread-safe; close it, or use it as a context manager.

    Args:
        config: isolation, number of workers, limits.

    Raises:
        SandboxError: if the machine can't give the isolation that was asked for; it names the reason and the mend.
    """

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        packages = list(config.packages)
        launch = bubblewrap_launch(packages) if config.isolation == "bubblewrap" else rlimits_launch(packages)
        self.pool = WorkerPool(config, launch)
        self._compiler = Compiler(self.pool, config.compile_limits)
        self._callers = ThreadPoolExecutor(config.workers, thread_name_prefix="sandbox-run")
        try:
            prove_isolation(self.run, namespaces=config.isolation == "bubblewrap")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, program: Program, limits: Limits | None = None) -> Outcome:
        """Run one program to its end or to its limits.

        Args:
            program: what to run.
            limits: default: the configuration's.

        Returns:
            How it ended, with its output. A program that fails is an outcome, never an exception.

        Raises:
            SandboxBusyError: if too many runs are waiting.
            SandboxError: if the sandbox itself broke.
        """
        limits = limits or self.config.limits
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

    def run_many(self, programs: Sequence[Program], limits: Limits | None = None) -> list[Outcome]:
        """Run programs side by side on all workers; outcomes in the order of the programs."""
        return list(self._callers.map(lambda program: self.run(program, limits), programs))

    def judge(self, program: Program, tests: FunctionTests, limits: Limits | None = None) -> Judgement:
        """Judge a Python solution by tests that call it: the tests run in another process than the solution.

        Args:
            program: the solution.
            tests: trusted tests.
            limits: of the solution, for all tests together; default: the configuration's.

        Raises:
            SandboxError: if the sandbox itself broke, or is too busy.
        """
        return judge_functions(self.pool, program, tests, limits or self.config.limits)

    def judge_output(self, program: Program, cases: Sequence[IoCase], limits: Limits | None = None) -> Judgement:
        """Judge a whole program by what it prints for given inputs; the first failed case ends it.

        Args:
            program: the solution; its own `stdin` is not used.
            cases: inputs with the outputs that they must give. The program never sees an expected output.
            limits: of each case; default: the configuration's.

        Raises:
            SandboxError: if the sandbox itself broke, or is too busy.
        """
        assert cases, "no cases to judge by"
        results, details = [], []
        for case in cases:
            outcome = self.run(replace(program, stdin=case.stdin), limits)
            passed = outcome.ok and same_output(outcome.stdout, case.expected, case.tolerance)
            results.append(passed)
            details.append("" if passed else outcome.detail or "wrong output")
            if not passed:
                break
        unseen = len(cases) - len(results)
        return Judgement((*results, *[False] * unseen), (*details, *["not run"] * unseen), outcome)

    def close(self) -> None:
        """Kill all workers with everything in them."""
        self.pool.close()
        self._callers.shutdown(wait=True, cancel_futures=True)
