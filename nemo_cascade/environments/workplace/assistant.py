"""The workplace assistant: what counts is what the tables hold in the end."""

import json
from collections.abc import Mapping
from typing import Any

from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.data.chat.tool_calls import ToolCall
from nemo_cascade.environments.tool_loop import ToolLoop
from nemo_cascade.environments.workplace.tables import State, read_state
from nemo_cascade.environments.workplace.tools import TOOLS, call_tool
from nemo_cascade.errors import DataError
from nemo_cascade.types import Task, Verdict


class WorkplaceAssistant(ToolLoop):
    """Score 1 where the policy's calls leave the tables as the row's `ground_truth` calls leave fresh ones, else 0.

    Rows are those of NeMo Gym's `workplace_assistant`.

    Args:
        tokenizer: the policy's.
        tables: folder of the tables (`tables.py`).
        max_result_chars: longest result of a call.
    """

    def __init__(self, tokenizer: ChatTokenizer, tables: str, max_result_chars: int = 20000) -> None:
        super().__init__(tokenizer, max_result_chars)
        self._tables = tables

    def begin(self, task: Task) -> None:
        """Set up the tables, and those that are due."""
        self._state, self._due = read_state(self._tables).fresh(), read_state(self._tables).fresh()
        for name, arguments in true_calls(task.record):
            call_tool(self._due, name, arguments)

    def run(self, call: ToolCall) -> str:
        """Run a tool on the sample's tables."""
        return json.dumps({"output": call_tool(self._state, call.name, call.arguments)}, ensure_ascii=False)

    def verdict(self) -> Verdict:
        """Compare the tables."""
        done = self._state.same(self._due)
        return Verdict(float(done), detail="the tables are as they are due" if done else "the tables differ")

    @property
    def state(self) -> State:
        """The sample's tables."""
        return self._state


def true_calls(record: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the calls that a row's tables are due by.

    Raises:
        DataError: there are none that can be read, or one of a tool that there isn't.
    """
    given = record.get("ground_truth")
    try:
        calls: Any = json.loads(given) if isinstance(given, str) else given
        given_as = [(c["name"], c["arguments"]) for c in calls]
        read = [(name, json.loads(a) if isinstance(a, str) else a) for name, a in given_as]
        if unknown := sorted({name for name, _ in read} - TOOLS.keys()):
            raise DataError("a true call names a tool that there isn't", value=unknown[0])
        return [(name, dict(arguments)) for name, arguments in read]
    except (TypeError, KeyError, ValueError) as error:
        raise DataError("field 'ground_truth' is no list of {name, arguments}", value=f"{given!r:.200}") from error
