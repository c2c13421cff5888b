"""The sandbox: run untrusted programs, each in a fresh confined copy of a warm interpreter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from nemo_cascade.config.sandbox import Limits, SandboxConfig
from nemo_cascade.sandbox.compiling import Compiler
from nemo_cascade.sandbox.execution import Errand, memory_file
from nemo_cascade.sandbox.isolation import bubblewrap_launch, rlimits_launch
from nemo_cascade.sandbox.outcome import outcome_of
from nemo_cascade.sandbox.pool import WorkerPool
from nemo_cascade.sandbox.program import Outcome, Program


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
        self._environment = launch.environment_inside
        self.pool = WorkerPool(config, launch)
        self._compiler = Compiler(self.pool, config.compile_limits, self._environment)
        self._callers = ThreadPoolExecutor(config.workers, thread_name_prefix="sandbox-run")

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
        header = {"argv": list(program.args), "entry": program.main_file, "environment": self._environment}
        if program.language == "python":
            files = {**program.files, program.main_file: program.source_bytes()}
            errand = Errand({**header, "kind": "python_program"}, files, limits, program.stdin_bytes())
            return outcome_of(self.pool.execute([errand])[0])
        compiled = self._compiler.compile(program)
        if isinstance(compiled, Outcome):
            return compiled
        binary = memory_file("program", compiled)
        try:
            errand = Errand(
                {**header, "kind": "command"}, program.files, limits, program.stdin_bytes(), {"binary": binary}
            )
            return outcome_of(self.pool.execute([errand])[0])
        finally:
            os.close(binary)

    def run_many(self, programs: Sequence[Program], limits: Limits | None = None) -> list[Outcome]:
        """Run programs side by side on all workers; outcomes in the order of the programs."""
        return list(self._callers.map(lambda program: self.run(program, limits), programs))

    def close(self) -> None:
        """Kill all workers with everything in them."""
        self.pool.close()
        self._callers.shutdown(wait=True, cancel_futures=True)
