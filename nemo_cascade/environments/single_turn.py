"""One answer to the prompt, which the task's verifier judges."""

from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.environments.environment import Step
from nemo_cascade.types import Int32, Task, Trajectory


class SingleTurn:
    """Ends after the first turn.

    Args:
        tokenizer: not needed.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        pass

    def start(self, task: Task) -> Int32:
        """Return the rendered prompt."""
        return task.token_ids

    def step(self, trajectory: Trajectory) -> Step:
        """End."""
        return Step()
