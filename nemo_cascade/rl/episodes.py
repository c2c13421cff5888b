"""Play all samples of some tasks in their environments, turn by turn.

Turns are in step: every sample that goes on is asked its next question in one generation, when all have answered the
last. So what an engine is asked never depends on how fast somebody was, and the same weights, tasks and seed give the
same bits. The price is that a turn takes as long as its slowest sample.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.environments.environment import Environment, Step, make_environment
from nemo_cascade.errors import CascadeError, RolloutError
from nemo_cascade.sandbox.inside.foreign import Attempt
from nemo_cascade.types import FinishReason, Int32, Place, Question, Task, Trajectory, Verdict

# Steps at a time: most of one's time is waiting for a service or for the sandbox.
CONCURRENT_STEPS = 16


@dataclass(slots=True)
class Episode:
    """One sample.

    Attributes:
        task: what it is about.
        environment: its world.
        given: tokens that it is asked to go on from.
        trajectory: what was said so far; None before its first answer.
        verdict: of its environment; None: the task's judge has the word.
    """

    task: Task
    environment: Environment
    given: Int32
    trajectory: Trajectory | None = None
    verdict: Verdict | None = None


class Episodes:
    """Samples under way.

    Use it as a context manager: leaving it ends its threads.

    Args:
        tasks: different ones.
        samples: of each.
        tokenizer: the policy's.
        room: most tokens that an answer may be asked for behind (max_model_len - max_tokens).
        deadline_s: of one step of an environment.

    Raises:
        RolloutError: an environment can't start a task.
        CascadeError: one can't be loaded.
    """

    def __init__(
        self, tasks: Sequence[Task], samples: int, tokenizer: ChatTokenizer, room: int, deadline_s: float
    ) -> None:
        self._samples, self._room, self._deadline_s = samples, room, deadline_s
        self._order: dict[Place, Episode] = {}
        for task in tasks:
            for sample in range(samples):
                self._order[task.task_id, sample] = _begin(task, tokenizer)
        if len(self._order) != len(tasks) * samples:
            raise RolloutError("a task was drawn twice", value=f"{len(tasks) - len(self._order) // samples} of them")
        self._again, self._asked = set(self._order), set[Place]()
        self._stepping: dict[Place, Future[Step]] = {}
        self._threads = ThreadPoolExecutor(CONCURRENT_STEPS, "environment")

    def __enter__(self) -> Episodes:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def questions(self) -> list[Question]:
        """Return what the engines are asked next; nothing when all is over.

        Raises:
            RolloutError: an environment starts the samples of a task differently.
        """
        asked = [(place, episode) for place, episode in self._order.items() if place in self._again]
        self._asked, self._again = self._again, set()
        if any(episode.trajectory is not None for _, episode in asked):
            return [Question(name, episode.given, range(sample, sample + 1)) for (name, sample), episode in asked]
        return [self._first_question(asked[i : i + self._samples]) for i in range(0, len(asked), self._samples)]

    def _first_question(self, group: Sequence[tuple[Place, Episode]]) -> Question:
        """Ask a task's samples together, so that an engine reads their prompt once."""
        (name, _), first = group[0]
        if not all(np.array_equal(first.given, episode.given) for _, episode in group):
            where = f"{name}: {first.task.environment.name}"
            raise RolloutError("an environment starts the samples of a task differently", value=where)
        return Question(name, first.given, range(self._samples))

    def answered(self, answers: Sequence[Trajectory]) -> list[Episode]:
        """Take answers; return the episodes that are over."""
        for answer in answers:
            episode = self._order[answer.place]
            said = answer if episode.trajectory is None else episode.trajectory.followed_by(answer)
            episode.trajectory = said
            self._asked.discard(answer.place)
            self._stepping[answer.place] = self._threads.submit(episode.environment.step, said)
        return self._settle([place for place, step in self._stepping.items() if step.done()], deadline=0.0)

    def settled(self) -> list[Episode]:
        """Wait for the steps that are still being taken, and return the episodes that are over.

        Raises:
            RolloutError: an answer is missing.
        """
        if self._asked:
            raise RolloutError("the engines lost answers", value=f"{len(self._asked)} never came")
        return self._settle(list(self._stepping), time.monotonic() + self._deadline_s)

    def _settle(self, places: Sequence[Place], deadline: float) -> list[Episode]:
        over = []
        for place in places:
            episode, step = self._order[place], _outcome(self._stepping.pop(place), deadline)
            if self._goes_on(episode, step):
                self._again.add(place)
            else:
                episode.verdict = step.verdict
                over.append(episode)
        return over

    def _goes_on(self, episode: Episode, step: Step) -> bool:
        """Tell whether the policy is asked once more; what was cut off instead counts as truncated."""
        said = episode.trajectory
        assert said is not None, "a step follows an answer"
        if step.observation is None or said.finish_reason is not FinishReason.STOP:
            return False
        episode.given = np.concatenate([said.token_ids, step.observation]).astype(np.int32)
        if len(said.turns) < episode.task.environment.max_turns and len(episode.given) <= self._room:
            return True
        episode.trajectory = replace(said, finish_reason=FinishReason.LENGTH)
        return False


def _begin(task: Task, tokenizer: ChatTokenizer) -> Episode:
    with Attempt(Exception, but=(CascadeError,)) as attempt:  # a user's environment may raise whatever it likes
        environment = make_environment(task.environment, tokenizer)
        return Episode(task, environment, environment.start(task))
    where = f"{task.task_id}: {task.environment.name}: {type(attempt.error).__name__}: {attempt.error}"
    raise RolloutError("an environment can't start a task", value=where) from attempt.error


def _outcome(stepping: Future[Step], deadline: float) -> Step:
    """Return what a step came to; a failure is an error of its sample."""
    with Attempt(Exception) as attempt:  # whatever a user's environment raises is an error of the sample
        step = stepping.result(timeout=max(0.0, deadline - time.monotonic()))
        observation = step.observation
        if observation is not None and (not len(observation) or np.asarray(observation).dtype.kind not in "iu"):
            raise ValueError("an observation is at least one token id")
        return step
    if isinstance(attempt.error, TimeoutError):
        stepping.cancel()
        return Step(verdict=Verdict(None, "timeout", "a step of the environment took too long"))
    return Step(verdict=Verdict(None, "environment", f"{type(attempt.error).__name__}: {attempt.error}"))


def turn_seed(seed: int, turn: int) -> int:
    """Return the seed of a turn's generation, a pure function of its arguments; the first turn's is `seed` itself."""
    if not turn:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/turn/{turn}".encode(), digest_size=6).digest(), "big")
