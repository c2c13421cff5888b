"""A conversation of several turns, judged by a rubric at its end.

The row has `followups`, what the user says behind each reply, and `rubric` (rewards/rubric.py). Where the chat template
drops earlier thoughts when the user speaks, each user's turn becomes a sample of its own (environments/dialogue.py);
all of them have the conversation's score.
"""

from typing import Literal

from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.environments.dialogue import Dialogue
from nemo_cascade.environments.environment import Step
from nemo_cascade.errors import DataError
from nemo_cascade.rewards.judge import JudgeClient
from nemo_cascade.rewards.response import is_visible
from nemo_cascade.rewards.rubric import RubricJudge, conversation_text, read_rubric
from nemo_cascade.rewards.verifier import VerifierError
from nemo_cascade.types import FinishReason, Int32, Task, Trajectory, Verdict


class RubricChat:
    """Ask the row's follow-ups one after the other, then a judge about each item of its rubric.

    Args:
        tokenizer: the policy's.
        judge_url: base URL of the judge's API, such as http://judge:8000/v1.
        judge_model: its name on that server.
        timeout_s: of one request.
        combine: of the items; see `RubricJudge`.
        unreadable: what a judgement that can't be read counts for.
        attempts: questions about an item until one can be.
        temperature: of the judge.
        max_tokens: of a judgement.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        judge_url: str,
        judge_model: str,
        timeout_s: float = 60.0,
        combine: Literal["mean", "all", "weighted"] = "mean",
        unreadable: Literal["error", "not_met"] = "error",
        attempts: int = 1,
        temperature: float = 0.0,
        max_tokens: int = 2048,
    ) -> None:
        self._tokenizer = tokenizer
        client = JudgeClient(judge_url, judge_model, timeout_s)
        sampling = {"temperature": temperature, "max_tokens": max_tokens}
        self._judge = RubricJudge(client, combine, unreadable, attempts, sampling)

    def start(self, task: Task) -> Int32:
        """Return the rendered prompt.

        Raises:
            DataError: the row's rubric or follow-ups can't be read.
        """
        try:
            self._items = read_rubric(task.record)
        except VerifierError as error:
            raise DataError(f"{task.task_id}: {error.detail}") from error
        followups = task.record.get("followups") or []
        if not isinstance(followups, list) or not all(isinstance(text, str) and text.strip() for text in followups):
            raise DataError("field 'followups' is no list of texts", value=f"{task.task_id}: {followups!r:.200}")
        self._followups = list(followups)
        self._dialogue = Dialogue(self._tokenizer, task)
        return task.token_ids

    def step(self, trajectory: Trajectory) -> Step:
        """Say what the user says next; judge where that was all."""
        reply = self._dialogue.reply(trajectory)
        if trajectory.finish_reason is not FinishReason.STOP or not reply.ended or not is_visible(reply.text):
            return Step(verdict=Verdict(0.0, detail="a reply is empty or was cut off"))
        if self._followups:
            return self._dialogue.asked(self._followups.pop(0), Verdict(0.0, detail="the conversation was cut off"))
        context = conversation_text(self._dialogue.messages[:-1])
        try:
            score = self._judge.score(self._items, context, reply.text)
        except VerifierError as error:
            return Step(verdict=Verdict(None, error.kind, error.detail))
        return Step(verdict=Verdict(float(score), detail=score.detail))
