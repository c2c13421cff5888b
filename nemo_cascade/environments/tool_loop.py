"""An environment of tools: the policy calls them until it answers without a call."""

from abc import ABC, abstractmethod

from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.data.chat.tool_calls import ToolCall
from nemo_cascade.environments.dialogue import Dialogue, cut
from nemo_cascade.environments.environment import Step
from nemo_cascade.types import FinishReason, Int32, Task, Trajectory, Verdict


class ToolLoop(ABC):
    """Run the calls of each turn, in order, and hand their results to the policy.

    What a tool complains of, and a call that can't be read, is a result like any other: the policy may mend it.

    Args:
        tokenizer: the policy's.
        max_result_chars: longest result of a call; of a longer one the end is left out, and said to be.

    Attributes:
        over: a tool has ended the sample; calls behind its own aren't run.
    """

    dialogue: Dialogue
    over = False

    def __init__(self, tokenizer: ChatTokenizer, max_result_chars: int) -> None:
        self._tokenizer, self._most = tokenizer, max_result_chars

    def start(self, task: Task) -> Int32:
        """Return the rendered prompt."""
        self.dialogue = Dialogue(self._tokenizer, task)
        self.begin(task)
        return task.token_ids

    def step(self, trajectory: Trajectory) -> Step:
        """Run the calls of the last turn; it is over where there are none, or where one of them ends it."""
        reply = self.dialogue.reply(trajectory)
        if trajectory.finish_reason is not FinishReason.STOP or not reply.calls:
            return Step(verdict=self.verdict())
        results = []
        for call in reply.calls:
            results.append(cut(self._result(call), self._most))
            if self.over:
                return Step(verdict=self.verdict())
        return self.dialogue.results(reply.calls, results, self.verdict())

    def _result(self, call: ToolCall) -> str:
        return self.run(call) if call.problem is None else f"Error: {call.problem}"

    @abstractmethod
    def begin(self, task: Task) -> None:
        """Set up the sample's world."""

    @abstractmethod
    def run(self, call: ToolCall) -> str:
        """Return the result of a call that can be read; complaints are results, too."""

    def verdict(self) -> Verdict | None:
        """Return what the sample is worth if it ends now; None: the task's verifier says so."""
        return None
