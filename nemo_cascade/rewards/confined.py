"""The verifiers' door to the sandbox: one per worker process, opened on first use.

What the sandbox is like is the run's to say, not a verifier's: `configure` is called once, in the process that all
verifier processes are forked from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from nemo_cascade.rewards.verifier import VerifierError

if TYPE_CHECKING:
    from nemo_cascade.config.sandbox import Limits, SandboxConfig
    from nemo_cascade.sandbox.judging import FunctionTests, Judgement
    from nemo_cascade.sandbox.program import Outcome, Program
    from nemo_cascade.sandbox.sandbox import Sandbox

# The kernel ends a program at its CPU limit by counting clock ticks, which may run ahead of the time it reports.
_TICK_SLACK = 0.8

_settings: SandboxConfig | None = None


def configure(settings: SandboxConfig) -> None:
    """Say what every sandbox that this process and its children open is like."""
    global _settings
    _settings = settings


class ConfinedRuns:
    """Runs programs in a sandbox of its own; what is wrong with the sandbox is an error, never a program's failure.

    Args:
        memory_mib: memory of one run.
    """

    def __init__(self, memory_mib: int) -> None:
        self._memory_mib = memory_mib
        self._sandbox: Sandbox | None = None
        # Imported here, once for all workers that are forked later; the sandbox itself holds threads and can't be.
        import nemo_cascade.sandbox.sandbox  # noqa: F401

    def run(self, program: Program, cpu_s: float) -> Outcome:
        """Run a program with this much CPU time.

        Raises:
            VerifierError: the sandbox broke, or the system killed the program (kind `infrastructure`).
        """
        with _sandbox_errors():
            outcome = self._started().run(program, self._limits(cpu_s))
        return _explained(outcome, cpu_s)

    def judge(self, program: Program, tests: FunctionTests, cpu_s: float) -> Judgement:
        """Judge a program by tests that call it, with this much CPU time for all.

        Raises:
            VerifierError: as `run`; or the tests themselves can't be run (kind `record`).
        """
        with _sandbox_errors():
            judgement = self._started().judge(program, tests, self._limits(cpu_s))
        if judgement.unjudgeable is not None:
            raise VerifierError("record", f"the tests can't be run: {judgement.unjudgeable}")
        return judgement if judgement.passed else replace(judgement, outcome=_explained(judgement.outcome, cpu_s))

    def _limits(self, cpu_s: float) -> Limits:
        from nemo_cascade.config.sandbox import Limits

        # The clock may run on while other processes have the CPU; the program's own seconds are what is limited.
        return Limits(cpu_s=cpu_s, wall_s=3 * cpu_s + 1, memory_mib=self._memory_mib)

    def _started(self) -> Sandbox:
        if self._sandbox is None:
            from nemo_cascade.config.sandbox import SandboxConfig
            from nemo_cascade.sandbox.sandbox import Sandbox

            # A verifier runs one program at a time; how many verifiers there are is the pool's to say.
            self._sandbox = Sandbox(replace(_settings or SandboxConfig(), workers=1))
        return self._sandbox


def python_or_cpp(language: str) -> Literal["python", "cpp"]:
    """Return a row's language.

    Raises:
        VerifierError: the sandbox runs no such language (kind `record`).
    """
    if language == "python":
        return "python"
    if language in ("cpp", "c++"):
        return "cpp"
    raise VerifierError("record", f"language must be python or cpp, got {language!r}")


@contextmanager
def _sandbox_errors() -> Iterator[None]:
    from nemo_cascade.errors import SandboxError

    try:
        yield
    except SandboxError as error:
        raise VerifierError("infrastructure", str(error)) from error


def _explained(outcome: Outcome, cpu_s: float) -> Outcome:
    """Take a kill at the CPU limit for a timeout; refuse any other kill that neither the program nor a limit caused."""
    from nemo_cascade.sandbox.program import Status

    if outcome.status != Status.KILLED or "by the system" not in outcome.detail:
        return outcome
    if outcome.cpu_s >= _TICK_SLACK * cpu_s:
        return replace(outcome, status=Status.TIMEOUT, detail=f"over {cpu_s:g} s of CPU")
    raise VerifierError("infrastructure", f"the sandbox's program was {outcome.detail}")
