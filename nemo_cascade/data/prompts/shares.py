"""Batches in which each task has a fixed share: as many prompts as its weight says, give or take one.

Who is furthest behind its share gives the next prompt; so a batch's counts differ from the weights by less than one
prompt, and over batches they even out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_cascade.config.stages.rollout_rules import PromptFilterConfig
from nemo_cascade.config.stages.tasks import TaskConfig
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.prompts.prompt_stream import PromptStream
from nemo_cascade.types import Task


class SharedStream:
    """Draw from each task's own stream.

    Args:
        prompts: of all tasks, in parts.
        tasks: with a weight each.
        seed: of the run.
        least: prompts of a step.
        state: what `state` returned earlier; None starts anew.
        rules: the filter of each task's stream.

    Raises:
        DataError: the state is of other prompts.
    """

    def __init__(
        self,
        prompts: PromptSet,
        tasks: Mapping[str, TaskConfig],
        seed: int,
        least: int,
        state: Mapping[str, Any] | None = None,
        rules: PromptFilterConfig = PromptFilterConfig(),  # noqa: B008  frozen
    ) -> None:
        total = sum(task.weight or 0.0 for task in tasks.values())
        self._shares = {name: (task.weight or 0.0) / total for name, task in tasks.items()}
        streams = (state or {}).get("streams", {})
        self._streams = {
            name: PromptStream(part, seed, rules, max(1, int(least * self._shares[name])), streams.get(name))
            for name, part in prompts.parts.items()
        }
        self._drawn: dict[str, int] = dict((state or {}).get("drawn") or dict.fromkeys(self._streams, 0))
        self._home = {task.task_id: name for name, part in prompts.parts.items() for task in part.prompts}

    def state(self) -> dict[str, Any]:
        """Return what it goes on from, JSON-like."""
        return {"drawn": self._drawn, "streams": {name: stream.state() for name, stream in self._streams.items()}}

    def take(self, n: int) -> list[Task]:
        """Draw the next n prompts, all different, task by task.

        Raises:
            DataError: a task has fewer prompts than its share of n.
        """
        counts = dict.fromkeys(self._streams, 0)
        total = sum(self._drawn.values())
        for i in range(n):
            behind = {name: share * (total + i + 1) - self._drawn[name] for name, share in self._shares.items()}
            name = max(behind, key=lambda name: behind[name])
            self._drawn[name] += 1
            counts[name] += 1
        return [task for name, count in counts.items() if count for task in self._streams[name].take(count)]

    def passed_over(self, task_id: str) -> None:
        """Let another prompt of the same task be drawn in this one's place."""
        self._drawn[self._home[task_id]] -= 1

    def note(self, task_id: str, *, solved_all: bool, solved_none: bool) -> None:
        """Remember how a prompt's rollouts came out."""
        self._streams[self._home[task_id]].note(task_id, solved_all=solved_all, solved_none=solved_none)

    def metrics(self) -> dict[str, Any]:
        """Return what a step's log line says of the tasks' filters."""
        found = {name: metrics for name, stream in self._streams.items() if (metrics := stream.metrics())}
        return {"prompt_filter_by_task": found} if found else {}
