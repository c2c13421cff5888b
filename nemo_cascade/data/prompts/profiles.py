"""Pass rates of prompts by a named model: a file of lines, named by the hash of all that they depend on.

The first line says what was asked, of whom and how; each other one holds a prompt's key, and how many of its samples
passed out of how many that were judged. A prompt's key is the hash of what it asks, so a profile fits the same prompts
in another file, order or tokenizer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_cascade.config.stages.tasks import ProfileConfig
from nemo_cascade.errors import DataError
from nemo_cascade.storage.hashes import hash_json, hash_recipe
from nemo_cascade.storage.jsonl import append_line, read_lines, repair_tail
from nemo_cascade.types import Task

_KEY_LENGTH = 32


def question_key(record: Mapping[str, Any]) -> str:
    """Return the key of a prompt: the hash of its conversation and tools."""
    asked = [record.get("messages"), record.get("tools") or []]
    return hash_json(asked)[:_KEY_LENGTH]


@dataclass(frozen=True, slots=True)
class PassRate:
    """How a prompt's samples came out.

    Attributes:
        passed: samples whose score was 1 or more.
        judged: samples with a verdict that is no error.
    """

    passed: int
    judged: int

    @property
    def rate(self) -> float | None:
        """The share that passed; None where nothing was judged."""
        return self.passed / self.judged if self.judged else None


class ProfileFile:
    """A profile on disk, complete or under way.

    Args:
        folder: where profiles are.
        recipe: all that its numbers depend on, JSON-like.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        self.recipe = dict(recipe)
        self.path = folder / f"{hash_recipe(self.recipe)[:16]}.jsonl"

    def open(self) -> dict[str, PassRate]:
        """Begin the file, or return what it already holds."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        repair_tail(self.path)
        if not self.path.exists():
            append_line(self.path, {"profile": self.recipe})
        return read_profile(self.path)

    def add(self, tasks: Sequence[Task], rates: Mapping[str, PassRate]) -> None:
        """Append prompts' rates, given by task id."""
        for task in tasks:
            found = rates[task.task_id]
            key = question_key(task.record)
            append_line(self.path, {"key": key, "id": task.task_id, "passed": found.passed, "judged": found.judged})


def read_profile(path: str | Path) -> dict[str, PassRate]:
    """Return a profile's rates by prompt key.

    Raises:
        DataError: there is no such file, or it is no profile.
    """
    if not Path(path).is_file():
        raise DataError(
            "no profile", value=str(path), mend="nemo-cascade profile prompts ... prints where it writes it"
        )
    lines = iter(read_lines(Path(path)))
    _, head = next(lines, (1, {}))
    if "profile" not in head:
        raise DataError("not a profile of pass rates", value=str(path), mend="make one: nemo-cascade profile prompts")
    return {line["key"]: PassRate(int(line["passed"]), int(line["judged"])) for _, line in lines}


def rates_of(tasks: Iterable[Task], path: str) -> list[float]:
    """Return the pass rate of each task.

    Raises:
        DataError: the profile lacks some of them, or nothing of them was judged.
    """
    profile = read_profile(path)
    found = [profile.get(question_key(task.record)) for task in tasks]
    if lacking := sum(entry is None or entry.rate is None for entry in found):
        value = f"{lacking} of {len(found)} prompts"
        raise DataError(f"the profile {path} doesn't hold all prompts", value=value, mend="profile these prompts")
    return [entry.rate or 0.0 for entry in found if entry is not None]


def admitted(rates: Sequence[float], rule: ProfileConfig) -> list[int]:
    """Return the places of prompts whose pass rate a rule lets in."""
    return [
        i
        for i, rate in enumerate(rates)
        if rule.at_least <= rate <= rule.at_most and not (rule.drop_solved and rate >= 1.0)
    ]
