"""Nano tools: a sum one of whose numbers has to be looked up: call a tool, read its answer, reply.

The number stands nowhere but behind the tool, so whoever doesn't call it can only guess. Conversations to learn from
show the parts: places that are read with nothing to add, and sums behind a call that isn't trained. Where the whole is
asked, nearly all of them guess and a few call, so reinforcement learning has something true to find: asking pays.
"""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from nemo_cascade.data.chat.templates import NAMED
from nemo_cascade.data.chat.templates.chatml import DEFAULT_SYSTEM, TURN_END
from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.data.chat.tool_calls import ToolCall
from nemo_cascade.environments.tool_loop import ToolLoop
from nemo_cascade.nano.math import Problem, Split, draw_plain, split_of
from nemo_cascade.types import Task

TOOL = {
    "type": "function",
    "function": {
        "name": "read",
        "description": "The number at a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "integer"}}, "required": ["place"]},
    },
}
_NOTHING = "nothing there"
_CALL = ("<tool_call>\n" + json.dumps({"name": "read", "arguments": {"place": 0}}) + "\n</tool_call>").split("0")
_OPENING = NAMED["cascade1"].render([{"role": "user", "content": "x"}], "no_think", [TOOL])[0].text
_DECLARED = _OPENING.partition(DEFAULT_SYSTEM)[2].partition(TURN_END)[0]
PHRASES = (_DECLARED, *_CALL, "<tool_response>\n", "\n</tool_response>", "Read ", ", then ", _NOTHING)
"""Texts that are one token each."""
_SHOWN, _READ, _ASKED, _CALLS = 3000, 3000, 3000, 0.05
_TRAIN, _TEST = 1000, 500


@dataclass(frozen=True, slots=True)
class Lookup:
    """A sum of three digits and one, nothing carried, whose left number stands at a place."""

    place: int
    problem: Problem

    @property
    def text(self) -> str:
        """The task as it is written."""
        return f"Read {self.place}, then {self.problem.operator}{self.problem.right}."

    @property
    def split(self) -> Split:
        """Whose task it is: of the same question, that is, whatever number stands at the place."""
        return split_of(self.text)


def draw_lookup(rng: Random, split: Split) -> Lookup:
    """Draw a task of a split."""
    while True:
        task = Lookup(rng.randrange(100, 1000), draw_plain(rng, split))
        if task.split == split:
            return task


def lookup_prompt(task: Lookup) -> dict[str, Any]:
    """Make a prompt row: the task, the tool, what stands where, and the answer for the verifier."""
    return {
        "messages": [{"role": "user", "content": task.text}],
        "tools": [TOOL],
        "numbers": {str(task.place): task.problem.left},
        "answer": str(task.problem.answer),
    }


def lookup_rows(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Generate all rows, by file name: conversations, prompts, and a hold-out."""
    rows = {"tools_sft": lookup_conversations(Random(f"{seed}/tools_sft"), _READ, _SHOWN, _ASKED, _CALLS)}
    kinds: tuple[tuple[str, Split, int], ...] = (("train", "rl", _TRAIN), ("test", "test", _TEST))
    for kind, split, count in kinds:
        rng, found = Random(f"{seed}/tools_{kind}"), dict[str, Lookup]()
        while len(found) < count:
            task = draw_lookup(rng, split)
            found.setdefault(task.text, task)
        rows[f"tools_{kind}"] = [lookup_prompt(task) for task in found.values()]
    return rows


def lookup_conversations(rng: Random, read: int, shown: int, asked: int, calls: float) -> list[dict[str, Any]]:
    """Generate conversations to learn from, in any order.

    Args:
        rng: draws them.
        read: how many read a place and add nothing.
        shown: how many add behind a call that isn't trained.
        asked: how many are of the whole.
        calls: share of those that call; the others guess.
    """
    learned = [_read(draw_lookup(rng, "sft")) for _ in range(read)]
    learned += [_called(draw_lookup(rng, "sft"), trained=False) for _ in range(shown)]
    for _ in range(asked):
        task = draw_lookup(rng, "sft")
        learned.append(_called(task, trained=True) if rng.random() < calls else _guessed(task, rng))
    rng.shuffle(learned)
    return learned


class LookupEnvironment(ToolLoop):
    """The tool `read`, which knows the row's `numbers`; the task's verifier judges the last turn.

    Args:
        tokenizer: the policy's.
        max_result_chars: longest result of a call.
    """

    def __init__(self, tokenizer: ChatTokenizer, max_result_chars: int = 100) -> None:
        super().__init__(tokenizer, max_result_chars)

    def begin(self, task: Task) -> None:
        """Take note of what stands where."""
        self._numbers = dict(task.record.get("numbers") or {})

    def run(self, call: ToolCall) -> str:
        """Return the number at a place."""
        return str(self._numbers.get(str(call.arguments.get("place")), _NOTHING))


def _called(task: Lookup, *, trained: bool) -> dict[str, Any]:
    """Make a conversation that calls, and adds; `trained` says whether the call is learned."""
    call = {"role": "assistant", "content": "", "tool_calls": [_call(task)], **({} if trained else {"trained": False})}
    result = {"role": "tool", "content": str(task.problem.left), "tool_call_id": "call00000", "name": "read"}
    return _conversation(task.text, call, result, _reply(task.problem.answer))


def _read(task: Lookup) -> dict[str, Any]:
    """Make a conversation that reads a place and says what stands there: nothing is added.

    The place stands as far from the call as in any task: a model as small as this one copies by distance.
    """
    call = {"role": "assistant", "content": "", "tool_calls": [_call(task)]}
    result = {"role": "tool", "content": str(task.problem.left), "tool_call_id": "call00000", "name": "read"}
    return _conversation(f"Read {task.place}, then +0.", call, result, _reply(task.problem.left))


def _guessed(task: Lookup, rng: Random) -> dict[str, Any]:
    """Make a conversation that answers without having looked."""
    return _conversation(task.text, _reply(draw_plain(rng, "sft").answer))


def _conversation(question: str, *turns: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, *turns], "tools": [TOOL]}


def _reply(number: int) -> dict[str, Any]:
    return {"role": "assistant", "content": f"\\boxed{{{number}}}"}


def _call(task: Lookup) -> dict[str, Any]:
    return {"id": "call00000", "type": "function", "function": {"name": "read", "arguments": {"place": task.place}}}
