"""An environment in one file: the policy is told how far its last answer's length is from what is wanted."""

from nemo_cascade.environments.environment import Step
from nemo_cascade.types import FinishReason, Verdict


class Lengths:
    """Wants an answer of `wanted` tokens; over when it got one, or at the third turn."""

    def __init__(self, tokenizer, wanted: int = 3) -> None:
        self.tokenizer, self.wanted = tokenizer, wanted

    def start(self, task):
        return task.token_ids

    def step(self, trajectory):
        off = abs(len(trajectory.response_ids) - 1 - self.wanted)
        verdict = Verdict(1.0 / (1 + off), detail=f"off by {off}")
        if off == 0 or trajectory.finish_reason is not FinishReason.STOP or len(trajectory.turns) == 3:
            return Step(None, verdict)
        return Step(self.tokenizer.encode(f"{off}"), verdict)
