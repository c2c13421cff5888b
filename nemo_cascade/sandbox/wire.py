"""The service's messages, one class for both ends."""

from __future__ import annotations

import base64
from typing import Any

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from nemo_cascade.config.sandbox import Limits
from nemo_cascade.sandbox.judging import FunctionTests, IoCase
from nemo_cascade.sandbox.program import Language, Program

IDEMPOTENCY_HEADER = "Idempotency-Key"
"""A request with a key that the service has seen gets the answer of the first one; the program runs once."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProgramBody(_Message):
    """A program and its input."""

    language: Language
    source: str
    stdin: str = ""
    stdin_base64: Base64Bytes | None = Field(default=None, description="input that is no text; instead of stdin")
    files: dict[str, Base64Bytes] = Field(default_factory=dict, description="path -> content in base64")
    args: list[str] = Field(default_factory=list)
    entry: str = ""
    contest: bool = False

    @classmethod
    def of(cls, program: Program) -> dict[str, Any]:
        """Return the JSON form of a program."""
        body: dict[str, Any] = {"language": program.language, "source": program.source, "entry": program.entry}
        body["contest"] = program.contest
        if isinstance(program.stdin, bytes):
            body["stdin_base64"] = base64.b64encode(program.stdin).decode()
        else:
            body["stdin"] = program.stdin
        body["files"] = {path: base64.b64encode(content).decode() for path, content in program.files.items()}
        return {**body, "args": list(program.args)}

    def program(self) -> Program:
        """Return the program.

        Raises:
            SandboxError: for one that can't be run.
        """
        stdin = self.stdin if self.stdin_base64 is None else self.stdin_base64
        return Program(self.language, self.source, stdin, self.files, tuple(self.args), self.entry, self.contest)


class RunRequest(_Message):
    """Run a program."""

    program: ProgramBody
    limits: Limits | None = Field(default=None, description="default: the service's")


class FunctionTestsBody(_Message):
    """Trusted Python tests; see FunctionTests."""

    tests: list[str]
    entry_point: str = ""
    setup: str = ""
    modules: list[str] = Field(default_factory=lambda: ["solution"])

    def function_tests(self) -> FunctionTests:
        """Return the tests."""
        return FunctionTests(tuple(self.tests), self.entry_point, self.setup, tuple(self.modules))


class JudgeRequest(_Message):
    """Judge a solution by function tests."""

    program: ProgramBody
    tests: FunctionTestsBody
    limits: Limits | None = None


class IoCaseBody(_Message):
    """Input and the output it must give; see IoCase."""

    stdin: str
    expected: str
    tolerance: float | None = None

    def case(self) -> IoCase:
        """Return the case."""
        return IoCase(self.stdin, self.expected, self.tolerance)


class JudgeOutputRequest(_Message):
    """Judge a whole program by its output."""

    program: ProgramBody
    cases: list[IoCaseBody] = Field(min_length=1)
    limits: Limits | None = None


class Health(_Message):
    """State of the service."""

    ready: bool
    isolation: str
    workers: int
    in_flight: int = Field(description="requests that run or wait")
    replaced: int = Field(description="workers that died and were replaced")
    recycled: int = Field(description="workers that were replaced for their age")


class Problem(_Message):
    """Why a request has no answer. Never says anything about the program."""

    error: str = Field(description="unauthorized, too_large, too_slow, invalid, conflict, busy or infrastructure")
    detail: str
