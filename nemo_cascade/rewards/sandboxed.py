"""The verifiers' door to the sandbox: one per worker process, opened on first use.

What the sandbox is like is the run's to say, not a verifier's: `configure` is called once, in the process that all
verifier processes are forked from.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from nemo_cascade.config.verifiers.base import longest_s
from nemo_cascade.rewards.verifier import VerifierError

if TYPE_CHECKING:
    from nemo_cascade.config.sandbox import Limits, SandboxConfig
    from nemo_cascade.sandbox.judging import FunctionTests, Judgement
    from nemo_cascade.sandbox.program import Outcome, Program
    from nemo_cascade.sandbox.sandbox import Sandbox

_WAITING_S = 20.0

_settings: SandboxConfig | None = None


def configure(settings: SandboxConfig) -> None:
    """Say what every sandbox that this process and its children open is like."""
    global _settings
    _settings = settings


@dataclass
class Allowance:
    """What the runs of one verdict may still use together, seconds.

    The clock may run on while other processes have the CPU: the program's own seconds are what is limited, and those
    that it waits for something else than the CPU.

    Attributes:
        cpu_s: of the CPU.
        clock_s: by the clock.
        waiting_s: of waiting.
    """

    cpu_s: float
    clock_s: float
    waiting_s: float

    def spend(self, outcome: Outcome) -> None:
        """Take off what a run used."""
        self.cpu_s -= outcome.cpu_s
        self.clock_s -= outcome.seconds
        self.waiting_s -= outcome.waited_s

    @property
    def spent(self) -> bool:
        """Whether nothing of one kind is left."""
        return min(self.cpu_s, self.clock_s, self.waiting_s) <= 0


class ConfinedRuns:
    """Runs programs in a sandbox of its own; what is wrong with the sandbox is an error, never a program's failure.

    Args:
        memory_mib: memory of one run.
        forks: programs may start processes of their own.
        waiting_s: most seconds that the programs of one verdict may wait for anything but the CPU.
        files_mib: size of a run's /tmp; None: the sandbox's own.
    """

    def __init__(
        self, memory_mib: int, forks: bool = True, waiting_s: float = _WAITING_S, files_mib: int | None = None
    ) -> None:
        self._memory_mib, self._forks, self._waiting_s, self._files_mib = memory_mib, forks, waiting_s, files_mib
        self._sandbox: Sandbox | None = None
        self._starting = threading.Lock()
        # Imported here, once for all workers that are forked later; the sandbox itself holds threads and can't be.
        import nemo_cascade.sandbox.sandbox  # noqa: F401

    def longest_s(self, cpu_s: float) -> float:
        """Return how long a verdict with this much CPU time may take by the clock, compiling included."""
        from nemo_cascade.config.sandbox import SandboxConfig

        return longest_s(cpu_s) + (_settings or SandboxConfig()).compile_limits.wall_s

    def allowance(self, cpu_s: float) -> Allowance:
        """Return what a verdict with this much CPU time may use."""
        return Allowance(cpu_s, longest_s(cpu_s), self._waiting_s)

    def run(self, program: Program, cpu_s: float, output_kib: int = 256, allowance: Allowance | None = None) -> Outcome:
        """Run a program with this much CPU time.

        Args:
            program: what to run.
            cpu_s: most CPU seconds of this run.
            output_kib: most output.
            allowance: what is left for the verdict; this run's use is taken off. None: this run is all.

        Raises:
            VerifierError: the sandbox broke, or the machine did not let the program run (kind `infrastructure`).
        """
        left = allowance or self.allowance(cpu_s)
        with _sandbox_errors():
            outcome = self._started().run(program, self._limits(min(cpu_s, left.cpu_s), output_kib, left))
        left.spend(outcome)
        return _own_doing(outcome)

    def judge(self, program: Program, tests: FunctionTests, cpu_s: float, output_kib: int = 256) -> Judgement:
        """Judge a program by tests that call it, with this much CPU time for all.

        Raises:
            VerifierError: as `run`; or the tests themselves can't be run (kind `record`).
        """
        with _sandbox_errors():
            judgement = self._started().judge(program, tests, self._limits(cpu_s, output_kib, self.allowance(cpu_s)))
        if judgement.unjudgeable is not None:
            raise VerifierError("record", f"the tests can't be run: {judgement.unjudgeable}")
        return judgement if judgement.passed else replace(judgement, outcome=_own_doing(judgement.outcome))

    def _limits(self, cpu_s: float, output_kib: int, left: Allowance) -> Limits:
        from nemo_cascade.config.sandbox import Limits

        return Limits(
            files_mib=self._files_mib or Limits().files_mib,
            cpu_s=cpu_s,
            wall_s=left.clock_s,
            waiting_s=left.waiting_s,
            memory_mib=self._memory_mib,
            output_kib=output_kib,
            forks=self._forks,
        )

    def need_namespaces(self) -> None:
        """Refuse a sandbox whose programs have no processes of their own.

        Raises:
            VerifierError: it has only resource limits (kind `infrastructure`).
        """
        if _settings is not None and _settings.isolation != "bubblewrap":
            told = f"sandbox.isolation={_settings.isolation} lets no program start another; bubblewrap is needed"
            raise VerifierError("infrastructure", told)

    def _started(self) -> Sandbox:
        with self._starting:  # environments ask from several threads
            if self._sandbox is None:
                from nemo_cascade.config.sandbox import SandboxConfig
                from nemo_cascade.sandbox.sandbox import Sandbox

                self._sandbox = Sandbox(_settings or SandboxConfig())
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


def _own_doing(outcome: Outcome) -> Outcome:
    """Return an outcome that the program brought about; refuse any other.

    Raises:
        VerifierError: the system killed it, or kept the CPU from it (kind `infrastructure`).
    """
    from nemo_cascade.sandbox.program import Status

    if outcome.status in (Status.KILLED, Status.STARVED):
        raise VerifierError("infrastructure", f"the sandbox's program was {outcome.detail}")
    return outcome
