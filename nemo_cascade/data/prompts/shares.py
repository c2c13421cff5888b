"""Batches in which each task has a fixed share: as many prompts as its weight says, give or take one.

Who is furthest behind its share gives the next prompt; so a batch's counts differ from the weights by less than one
prompt, and over batches they even out.
"""

from collections.abc import Mapping
from typing import Any

from nemo_cascade.data.prompts.curriculum import CurriculumStream
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.prompts.prompt_stream import PromptStream
from nemo_cascade.types import Task


class SharedStream:
    """Draw from each task's own stream.

    Args:
        streams: of each task.
        shares: of each task, 1 together.
        parts: each task's prompts.
        drawn: prompts of each task so far; None starts anew.
    """

    def __init__(
        self,
        streams: Mapping[str, PromptStream | CurriculumStream],
        shares: Mapping[str, float],
        parts: Mapping[str, PromptSet],
        drawn: Mapping[str, int] | None = None,
    ) -> None:
        self.streams, self._shares = streams, shares
        self._drawn = dict(drawn or dict.fromkeys(streams, 0))
        self._home = {task.task_id: name for name, part in parts.items() for task in part.prompts}

    def state(self) -> dict[str, Any]:
        """Return what it goes on from, JSON-like."""
        return {"drawn": dict(self._drawn), "streams": {name: s.state() for name, s in self.streams.items()}}

    def at(self, step: int) -> None:
        """Tell which step prompts are drawn for."""
        for stream in self.streams.values():
            stream.at(step)

    def take(self, n: int) -> list[Task]:
        """Draw the next n prompts, all different, task by task.

        Raises:
            DataError: a task has fewer prompts than its share of n.
        """
        counts = dict.fromkeys(self.streams, 0)
        total = sum(self._drawn.values())
        for i in range(n):
            behind = {name: share * (total + i + 1) - self._drawn[name] for name, share in self._shares.items()}
            name = max(behind, key=lambda name: behind[name])
            self._drawn[name] += 1
            counts[name] += 1
        return [task for name, count in counts.items() if count for task in self.streams[name].take(count)]

    def passed_over(self, task_id: str) -> None:
        """Let another prompt of the same task be drawn in this one's place."""
        self._drawn[self._home[task_id]] -= 1

    def note(self, task_id: str, *, solved_all: bool, solved_none: bool) -> None:
        """Remember how a prompt's rollouts came out."""
        self.streams[self._home[task_id]].note(task_id, solved_all=solved_all, solved_none=solved_none)

    def metrics(self) -> dict[str, Any]:
        """Return what a step's log line says of the tasks' streams."""
        found = {name: metrics for name, stream in self.streams.items() if (metrics := stream.metrics())}
        return {"stream_by_task": found} if found else {}
