"""The interface of a verifier: one call, one float; an exception is an error verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from nemo_cascade.rewards.response import Response


class Score(float):
    """A reward with one line that says why; it is a float in every other respect."""

    detail: str

    def __new__(cls, value: float, detail: str = "") -> Score:
        """Return a float that carries `detail`."""
        score = super().__new__(cls, value)
        score.detail = detail
        return score


class VerifierError(Exception):
    """A verdict that can't be given, raised by a verifier; it becomes an error verdict, never a score.

    Args:
        kind: `record` (the row is unusable), `infrastructure` (a server or the sandbox failed), ...
        detail: one line for people.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


@dataclass(frozen=True, slots=True)
class Golden:
    """One case of a verifier's self-test: this text must get this score, or this kind of error.

    Attributes:
        text: the response.
        score: the score it must get; None where an error is due.
        record: the row.
        error: the kind of error it must get.
    """

    text: str
    score: float | None
    record: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


class Verifier(Protocol):
    """Judges one response.

    The constructor may import heavy libraries, but must start no thread and open no connection: it runs once in the
    process that verifier workers are forked from. The module itself must import light, for its golden cases are
    read by the pool's process.
    """

    golden: ClassVar[tuple[Golden, ...]]
    """Cases of the self-test; a user's verifier may have none."""
    needs_s: float
    """Seconds that one verification may take by its own limits (0, or absent: none); the deadline must be longer."""

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return the reward of a response.

        Raises:
            VerifierError: no verdict can be given. Any other exception counts as an error too.
        """


def function_verifier(function: Callable[..., float]) -> type[Verifier]:
    """Return the class of verifiers that ask a user's function.

    Args:
        function: takes a row and a Response, and its settings by name; its attribute `golden` may hold cases.
    """

    class FunctionVerifier:
        golden: ClassVar[tuple[Golden, ...]] = tuple(getattr(function, "golden", ()))
        needs_s = 0.0

        def __init__(self, **settings: Any) -> None:
            self._settings = settings

        def verify(self, record: Mapping[str, Any], response: Response) -> float:
            return function(record, response, **self._settings)

    return FunctionVerifier


def field_of(record: Mapping[str, Any], name: str, kind: type[Any] | tuple[type[Any], ...]) -> Any:
    """Return a field that the verifier needs from a row.

    Raises:
        VerifierError: the row lacks the field, or it has another type (kind `record`).
    """
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise VerifierError("record", f"field {name!r} must be {expected}, got {type(value).__name__}")
    return value
