"""Faults of form that a stage takes the reward for, each a rule (NeMo-RL's recipes of Nemotron 3: such a reward is 0).

    invalid call          a turn calls a tool that there isn't, without what it needs, or in a form that can't be read
    malformed thought     a turn's think tags aren't one opening and one closing where it is to think, none where not
    duplicate thought     the answer is what was thought, word by word
    empty answer          nothing to be seen behind the thought, and no call

Every turn of a rollout is looked at; one fault is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nemo_cascade.config.stages.rollout_rules import PenaltiesConfig
from nemo_cascade.data.chat.tool_calls import read_calls
from nemo_cascade.rewards.response import THINK_CLOSE, THINK_OPEN, is_visible, split_response
from nemo_cascade.types import Task

if TYPE_CHECKING:
    from nemo_cascade.rl.rewards import Marks


def invalid_call(task: Task, turn: str) -> bool:
    """Tell whether a turn holds a call that can't be run."""
    _, calls = read_calls(split_response(turn).answer or "", task.record.get("tools") or [])
    return any(call.problem is not None for call in calls)


def malformed_thought(task: Task, turn: str) -> bool:
    """Tell whether a turn's think tags aren't those of its mode."""
    tags = (turn.count(THINK_OPEN), turn.count(THINK_CLOSE))
    if task.record.get("mode") == "no_think":
        return tags != (0, 0)
    return tags != (1, 1) or not turn.lstrip().startswith(THINK_OPEN)


def duplicate_thought(task: Task, turn: str) -> bool:
    """Tell whether a turn answers with its thought, but for white space around it."""
    parts = split_response(turn)
    return bool(parts.reasoning.strip()) and parts.reasoning.strip() == (parts.answer or "").strip()


def empty_answer(task: Task, turn: str) -> bool:
    """Tell whether a turn says nothing: a call is something."""
    answer = split_response(turn).answer
    return answer is None or not is_visible(answer)


@dataclass(frozen=True)
class Penalty:
    """One fault, and the reward of a rollout that has it.

    Attributes:
        name: of the fault.
        reward: takes the reward's place where that is higher.
        has: tells whether a turn has the fault.
    """

    name: str
    reward: float
    has: Callable[[Task, str], bool]
    shapes: ClassVar[bool] = False

    @property
    def text(self) -> str:
        """What it does, in the words of a formula."""
        return f"{self.name.replace('_', ' ')}: r <= {self.reward:g}"

    def apply(self, marks: Marks) -> None:
        """Find the fault, count it, and lower the rewards of rollouts that have it. What was cut off has no form."""
        found = np.array(
            [
                [any(self.has(task, turn) for turn in turns) for turns in row]
                for task, row in zip(marks.tasks, marks.turns(), strict=True)
            ],
            dtype=bool,
        )
        found &= ~marks.truncated
        marks.faults[self.name] = int((found & marks.valid).sum())
        marks.rewards[found] = np.minimum(marks.rewards[found], self.reward)


_FAULTS: Sequence[tuple[str, Callable[[Task, str], bool]]] = (
    ("invalid_call", invalid_call),
    ("malformed_thought", malformed_thought),
    ("duplicate_thought", duplicate_thought),
    ("empty_answer", empty_answer),
)


def penalties_of(config: PenaltiesConfig) -> list[Penalty]:
    """Return the penalties that are on, in order."""
    rewards = {
        "invalid_call": config.invalid_call,
        "malformed_thought": config.malformed_thought,
        "duplicate_thought": config.duplicate_thought,
        "empty_answer": config.empty_answer,
    }
    return [Penalty(name, reward, has) for name, has in _FAULTS if (reward := rewards[name]) is not None]
