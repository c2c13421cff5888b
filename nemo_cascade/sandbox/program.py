"""What can be run and what comes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from nemo_cascade.config.sandbox import Limits
from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox.provided import provided_for

__all__ = ["Limits", "Outcome", "Program", "Status"]

Language = Literal["python", "cpp"]
_ENTRY = {"python": "main.py", "cpp": "main.cpp"}


class Status(StrEnum):
    """How a run ended.

    OK: exit status 0. ERROR: any other exit status, or a crash of its own making. COMPILE_ERROR: it didn't compile.
    TIMEOUT, MEMORY, OUTPUT: it went over that limit. ABANDONED: it was stopped when the tests that call it had ended.
    KILLED: the system was out of memory. STARVED: other processes kept the CPU from it until its time was over. The
    last two say nothing about the program.
    """

    OK = "ok"
    ERROR = "error"
    COMPILE_ERROR = "compile_error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT = "output"
    ABANDONED = "abandoned"
    KILLED = "killed"
    STARVED = "starved"


@dataclass(frozen=True, slots=True)
class Program:
    """An untrusted program with its input.

    Attributes:
        language: `python` or `cpp`.
        source: its text.
        stdin: what it reads.
        files: further files, path relative to its folder -> content.
        args: its arguments.
        entry: name of its main file; default main.py or main.cpp.
        contest: a Python program gets what judges of contests give: the names that they import for it (provided.py),
            50,000 frames of recursion, and `sys.exit` with any status is an end like any other. So LiveCodeBench does.

    Raises:
        SandboxError: for a language, path or text that can't be run (a mistake of the caller, not of the program).
    """

    language: Language
    source: str
    stdin: str | bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    args: tuple[str, ...] = ()
    entry: str = ""
    contest: bool = False

    def __post_init__(self) -> None:
        if self.language not in _ENTRY:
            raise SandboxError(
                "unknown language of a program", value=self.language, limit=", ".join(_ENTRY), mend="translate it"
            )
        for path in (*self.files, self.main_file):
            parts = path.split("/")
            if path.startswith("/") or not all(parts) or {"..", "."} & set(parts) or "\0" in path:
                raise SandboxError(
                    "a program's file lies outside its folder", value=path, limit="relative paths without .."
                )
        if any("\0" in argument for argument in self.args):
            raise SandboxError("a program's argument holds a null character", value=self.args)

    @property
    def main_file(self) -> str:
        """Name of the file that holds the source."""
        return self.entry or _ENTRY[self.language]

    def source_bytes(self) -> bytes:
        """Return the source in UTF-8; lone surrogates, which no file can hold, become question marks."""
        return self.source.encode("utf-8", "replace")

    def for_python(self) -> dict[str, Any]:
        """Return what a job's header says of a Python program."""
        return {"contest": True, "provided": provided_for(self.source)} if self.contest else {}

    def stdin_bytes(self) -> bytes:
        """Return the input in UTF-8."""
        return self.stdin if isinstance(self.stdin, bytes) else self.stdin.encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. Nothing in it is proof of correctness: a program chooses its exit status and output itself.

    Attributes:
        status: how it ended.
        exit_code: exit status; minus the signal's number where a signal ended it.
        stdout: standard output, cut at the limit; undecodable bytes replaced.
        stderr: standard error, likewise.
        seconds: from start to end.
        cpu_s: CPU seconds of the processes that it waited for, and its own.
        waited_s: seconds that it waited for anything but the CPU, as far as it was looked at.
        detail: one line for people where the status needs one.
    """

    status: Status
    exit_code: int
    stdout: str
    stderr: str
    seconds: float
    cpu_s: float = 0.0
    waited_s: float = 0.0
    detail: str = ""

    @property
    def ok(self) -> bool:
        """The program ran to its end with exit status 0 (no proof that it is right)."""
        return self.status is Status.OK
