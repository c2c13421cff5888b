"""Rounds of feedback on a program: what a test that may be seen says of it comes back as the user's next turn.

Test-time scaling as at olympiads (arXiv 2603.19220: at IOI candidates of 50 rounds). The row's tests are those that may
be seen (`visible_part`) and hidden ones; only the former are ever told of. What is scored is one program, the last, or
the best by the visible tests, and it is scored by the task's verifier on all of the row's tests.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

from nemo_cascade.config.environments import TaskEnvironmentConfig
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.config.verifiers.base import longest_s
from nemo_cascade.data.chat.encode import response_text
from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.environments.dialogue import Dialogue, cut
from nemo_cascade.environments.environment import Step
from nemo_cascade.errors import CascadeError, DataError
from nemo_cascade.rewards.code.formats import visible_part
from nemo_cascade.rewards.code.verify import CodeVerifier, TestResult
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.verifier import VerifierError
from nemo_cascade.types import FinishReason, Int32, Task, Trajectory, Verdict

_JUDGE = "code"
_FAILED = """The program fails a test.

{test}

What happened: {fault}

Write the whole program again."""
_NONE = "There is no program to test: {fault}. Write the whole program in one closed code block."


class CodeFeedback:
    """Test each program by the visible tests, and let the policy try again until all pass or the rounds are over.

    Args:
        tokenizer: the policy's.
        rounds: times that a failure is told, at most; so many turns and one may be taken.
        answer: which program is scored: the last, or the best by the share of visible tests that pass, of equals the
            later one.
        tests_s: CPU seconds of all tests of one program together, in the place of the verifier's `total_s`.
        max_message_chars: longest account of a test, and of what happened.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        rounds: int = 4,
        answer: Literal["last", "best"] = "best",
        tests_s: float = 40.0,
        max_message_chars: int = 2000,
    ) -> None:
        self._tokenizer, self._rounds, self._answer, self._tests_s = tokenizer, rounds, answer, tests_s
        self._most = max_message_chars

    @staticmethod
    def longest_step_s(settings: dict[str, Any]) -> float:
        """Return how long a step may take by its own limits: visible tests, and hidden ones of an earlier program."""
        return 2 * (longest_s(settings["tests_s"]) + SandboxConfig().compile_limits.wall_s)

    @staticmethod
    def misuses(key: str, use: TaskEnvironmentConfig, verifier: str | None) -> Iterator[CascadeError]:
        """Yield why tasks can't be played so; see `Environment`."""
        rounds, place = use.settings["rounds"], f"{key}.environment"
        for name in ("rounds", "tests_s", "max_message_chars"):
            if use.settings[name] <= 0:
                value = f"{place}.settings.{name}={use.settings[name]}"
                yield CascadeError("feedback needs more than nothing", value=value, limit="above 0", mend="raise it")
        if use.max_turns <= rounds:
            yield CascadeError(
                "rounds of feedback that no turn follows",
                value=f"{place}.settings.rounds={rounds}",
                limit=f"below {place}.max_turns={use.max_turns}",
                mend=f"{place}.max_turns={rounds + 1}",
            )
        if verifier not in (_JUDGE, None):
            yield CascadeError(
                "programs are judged by another verifier than the one that tests them",
                value=f"{key}.reward.kind={verifier}",
                limit=_JUDGE,
                mend=f"{key}.reward.kind={_JUDGE}",
            )

    def start(self, task: Task) -> Int32:
        """Return the rendered prompt.

        Raises:
            DataError: the row doesn't have tests of both kinds.
        """
        try:
            self._visible = visible_part(task.record)
        except VerifierError as error:
            mend = "give `visible_tests` beside the row's others"
            raise DataError(f"{task.task_id}: {error.detail}", mend=mend) from error
        self._task, self._left = task, self._rounds
        self._verifier = _verifier(frozenset({**task.settings, "total_s": self._tests_s}.items()))
        self._dialogue = Dialogue(self._tokenizer, task)
        self._best, self._passed = "", -1.0
        self._judged: dict[str, Verdict] = {}
        return task.token_ids

    def step(self, trajectory: Trajectory) -> Step:
        """Test the last turn's program; tell a failure while rounds are left."""
        text = response_text(self._tokenizer, trajectory.response_ids, trajectory.context_ids)
        self._dialogue.reply(trajectory)
        try:
            results = self._verifier.results(self._visible, Response(text))
        except VerifierError as error:
            return Step(verdict=Verdict(None, error.kind, error.detail))
        passed = sum(not result.fault for result in results) / len(results)
        if passed >= self._passed:
            self._best, self._passed = text, passed
        failed = next((result for result in results if result.fault), None)
        verdict = self._earlier(text)
        if failed is None or not self._left or trajectory.finish_reason is not FinishReason.STOP:
            return Step(verdict=verdict)
        self._left -= 1
        return self._dialogue.asked(self._told(failed), verdict)

    def _told(self, failed: TestResult) -> str:
        form = _FAILED if failed.shown else _NONE
        return form.format(test=cut(failed.shown, self._most), fault=cut(failed.fault, self._most))

    def _earlier(self, last: str) -> Verdict | None:
        """Judge an earlier program where that is the one that counts; None: the task's verifier judges the last."""
        if self._answer == "last" or self._best == last:
            return None
        if self._best not in self._judged:
            try:
                score = self._verifier.verify(self._task.record, Response(self._best))
                self._judged[self._best] = Verdict(float(score), detail=f"an earlier program: {score.detail}")
            except VerifierError as error:
                self._judged[self._best] = Verdict(None, error.kind, error.detail)
        return self._judged[self._best]


@cache
def _verifier(settings: frozenset[tuple[str, Any]]) -> CodeVerifier:
    """Return this process's judge for tasks with these settings; its sandbox serves them all."""
    options: Mapping[str, Any] = dict(settings)
    return CodeVerifier(**options)
