"""The error tree: every error a user can meet says what is wrong, the value, the limit and the mend."""

from collections.abc import Sequence
from typing import Any


class CascadeError(Exception):
    """Base of all errors raised for users. Programmer mistakes are asserts instead.

    Args:
        what: what is wrong, one sentence without the value.
        value: the offending value.
        limit: what would have been accepted.
        mend: what to change so that it works.
    """

    def __init__(self, what: str, *, value: Any = None, limit: Any = None, mend: str | None = None) -> None:
        self.what, self.value, self.limit, self.mend = what, value, limit, mend
        parts = [what]
        if value is not None:
            parts.append(f"got: {value}")
        if limit is not None:
            parts.append(f"allowed: {limit}")
        if mend is not None:
            parts.append(f"mend: {mend}")
        super().__init__("; ".join(parts))

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickling between Ray actors with all fields."""
        return _rebuild, (type(self), self.__dict__.copy(), self.args)


def _rebuild(cls: type[CascadeError], state: dict[str, Any], args: tuple[Any, ...]) -> CascadeError:
    error = cls.__new__(cls)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error


class ConfigError(CascadeError):
    """A configuration that can't run; lists every violation at once."""

    def __init__(self, violations: Sequence[CascadeError | str]) -> None:
        self.violations = tuple(str(v) for v in violations)
        count = len(self.violations)
        head = f"{count} problem{'s' if count != 1 else ''} in the configuration"
        super().__init__(head + "".join(f"\n  {i}. {v}" for i, v in enumerate(self.violations, 1)))


class DataError(CascadeError):
    """Training or prompt data that can't be trusted: names file and line."""


class TemplateError(DataError):
    """A chat template that can't be masked, or that the tokenizer can't write."""


class ModelError(CascadeError):
    """A model folder, architecture or weight that doesn't fit."""


class RuntimeUnavailableError(CascadeError):
    """A device, library or service that was asked for and is absent."""


class TrainingError(CascadeError):
    """Training that went wrong: non-finite steps over the limit, a mismatch between ranks."""


class CheckpointError(CascadeError):
    """A checkpoint that is missing, incomplete or altered."""


class RolloutError(CascadeError):
    """An engine that failed, or generated what it was not asked for."""


class WeightSyncError(CascadeError):
    """Trainer and engine don't hold the same weights, or an illegal step in their hand-over."""


class RewardError(CascadeError):
    """A verifier that failed its self-test or its error budget."""


class SandboxError(CascadeError):
    """Isolation that can't be given, or a sandbox that broke (never a program that failed inside it)."""


class RunFolderError(CascadeError):
    """A run folder that belongs to another configuration, or is damaged."""


class DeadlineError(CascadeError):
    """Something didn't finish in its time."""


class ActorDiedError(CascadeError):
    """A worker process died."""


class PausedError(CascadeError):
    """A run that stopped with everything saved, for another job to go on with it.

    Args:
        place: where it stopped, such as `math_rl, step 12`.
        reason: why.
    """

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"the run pauses after {place}: {reason}", mend="the same command goes on from there")
