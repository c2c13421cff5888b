"""Which groups are asked for and not trained yet, how many more may be asked, and which of them a step trains.

    B prompts a step, k = max_staleness, A = floor((oversampling - 1) B); v: version that engines hold, t: next step
    deadline of a group    v + k: the last step that may train it, v as it was when the group was asked
    asked at most          whole + max(0, open - A) <= B (v + k + 1 - t): what is more could not be trained in time
    t is complete          when B are whole, and for each deadline d:  open(<= d) - left(<= d) <= B (d - t)
    t takes                the B whole ones that are due first
    t gives up             what is due at t and isn't taken; it is asked anew, before all others

left(<= d) = min(A, those open that were never given up): the stragglers that a step may leave behind. With A = 0
nothing is ever given up: what is due at d or before, and not trained by t, is at most B (d - t + 1), by induction over
takes (B go, the ones due first) and asks (they have the last deadline). A prompt that was given up once is waited for,
so a long one isn't overtaken for ever; and whatever is open becomes whole while no weights change, so every step gets
complete.

k = 0 is the same with one deadline: of floor(B oversampling) prompts the first B whole ones.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nemo_cascade.rl.group import Group
from nemo_cascade.types import Task


@dataclass(slots=True)
class Entry:
    """A prompt that is asked.

    Attributes:
        task: the prompt.
        serial: the how manyeth group of the stage.
        born: step whose weights began to answer it.
        again: it was given up before.
        group: all its samples, judged; None: they aren't yet.
    """

    task: Task
    serial: int
    born: int
    again: bool
    group: Group | None = None


class RolloutBuffer:
    """Groups between being asked and being trained.

    Args:
        wanted: groups of a step (B).
        staleness: steps that a rollout may be old (k).
        oversampling: prompts that may be drawn for each that a step trains, 1 to 2.
        step: that comes next (t).
    """

    def __init__(self, wanted: int, staleness: int, oversampling: float, step: int = 0) -> None:
        self._wanted, self._staleness, self.step = wanted, staleness, step
        self._spare = math.floor((oversampling - 1) * wanted + 1e-9)
        self._entries: dict[str, Entry] = {}

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    @property
    def num_whole(self) -> int:
        """Groups that are whole."""
        return sum(entry.group is not None for entry in self)

    def room(self, version: int) -> int:
        """Return how many more groups may be asked while engines hold the weights that step `version` trains."""
        most = self._wanted * (version + self._staleness + 1 - self.step)
        whole = self.num_whole
        if whole >= most:
            return 0
        return max(0, most + self._spare - len(self))

    def add(self, entry: Entry) -> None:
        """Note that a group is asked."""
        assert entry.task.task_id not in self, "a prompt is under way once"
        self._entries[entry.task.task_id] = entry

    def whole(self, task_id: str, group: Group) -> None:
        """Note that all samples of a group are judged."""
        self._entries[task_id].group = group

    def remove(self, task_id: str) -> Entry:
        """Let a group go that isn't to be trained."""
        return self._entries.pop(task_id)

    def is_complete(self) -> bool:
        """Tell whether the next step has its groups, and none that is left behind must not be."""
        if self.num_whole < self._wanted:
            return False
        for deadline in range(self.step, self.step + self._staleness + 1):
            late = [entry for entry in self if entry.group is None and self._deadline(entry) <= deadline]
            left = min(self._spare, sum(not entry.again for entry in late))
            if len(late) - left > self._wanted * (deadline - self.step):
                return False
        return True

    def take(self) -> tuple[list[Entry], list[Entry]]:
        """Return the groups that the next step trains, those due first before others, and those that it gives up."""
        whole = [entry for entry in self if entry.group is not None]
        taken = sorted(whole, key=lambda e: (self._deadline(e), not e.again, e.serial))[: self._wanted]
        for entry in taken:
            self.remove(entry.task.task_id)
        given_up = [entry for entry in self if self._deadline(entry) <= self.step]
        self.step += 1
        return taken, given_up

    def _deadline(self, entry: Entry) -> int:
        return entry.born + self._staleness


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Return groups in the order that they were asked in."""
    return sorted(entries, key=lambda entry: entry.serial)
