"""Play all samples of some tasks in their environments, turn by turn.

Turns may be in step: every sample that goes on is asked its next question in one generation, when all have answered the
last. So what an engine is asked never depends on how fast somebody was, and the same weights, tasks and seed give the
same bits. The price is that a turn takes as long as its slowest sample. Or they stream: each sample goes on as soon as
its environment has answered (`ask.play`).

A sample always ends: by its environment, by a limit, or as an error where its environment fails or takes too long.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace

import numpy as np

from nemo_cascade.environments.environment import Step
from nemo_cascade.environments.hosting.hosts import EnvironmentFailedError, EnvironmentHosts
from nemo_cascade.errors import RolloutError
from nemo_cascade.types import FinishReason, Int32, Place, Question, Task, Trajectory, Verdict

SINGLE_TURN = "single_turn"
"""The environment that is over after the first turn, and needs no process."""


@dataclass(slots=True)
class Episode:
    """One sample.

    Attributes:
        task: what it is about.
        given: tokens that it is asked to go on from.
        trajectory: what was said so far; None before its first answer.
        verdict: of its environment; None: the task's judge has the word.
        earlier: parts of it that a chat template wrote anew.
        fresh: the next answer begins a part.
    """

    task: Task
    given: Int32
    trajectory: Trajectory | None = None
    verdict: Verdict | None = None
    earlier: tuple[Trajectory, ...] = ()
    fresh: bool = True


class Episodes:
    """Samples under way.

    Use it as a context manager: leaving it drops their worlds.

    Args:
        tasks: different ones.
        samples: of each.
        hosts: of the environments.
        room: most tokens that an answer may be asked for behind (max_model_len - max_tokens).
        deadline_s: of one step of an environment that has none of its own.

    Raises:
        RolloutError: an environment can't start a task.
    """

    def __init__(
        self, tasks: Sequence[Task], samples: int, hosts: EnvironmentHosts, room: int, deadline_s: float
    ) -> None:
        self._samples, self._hosts, self._room, self._deadline_s = samples, hosts, room, deadline_s
        self._begun = time.monotonic()
        places = [(task, sample) for task in tasks for sample in range(samples)]
        self._order: dict[Place, Episode] = {}
        starting = {
            (task.task_id, sample): hosts.start(task, sample, room, self._patience(task))
            for task, sample in places
            if task.environment.name != SINGLE_TURN
        }
        for task, sample in places:
            place = (task.task_id, sample)
            given = _first_tokens(task, starting[place]) if place in starting else task.token_ids
            self._order[place] = Episode(task, given)
        if len(self._order) != len(tasks) * samples:
            raise RolloutError("a task was drawn twice", value=f"{len(tasks) - len(self._order) // samples} of them")
        self._again, self._asked = set(self._order), set[Place]()
        self._stepping: dict[Future[Step], Place] = {}

    def __enter__(self) -> Episodes:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        if worlds := [place for place, e in self._order.items() if e.task.environment.name != SINGLE_TURN]:
            self._hosts.forget(worlds)

    def cancel(self) -> None:
        """Take back the steps that no environment has begun."""
        for step in self._stepping:
            step.cancel()

    @property
    def in_a_step(self) -> bool:
        """Whether an environment is at a step of one of them."""
        return any(not step.done() for step in self._stepping)

    def questions(self) -> list[Question]:
        """Return what the engines are asked next: all samples that go on by now.

        Raises:
            RolloutError: an environment starts the samples of a task differently.
        """
        if not self._again:
            return []
        asked = [(place, episode) for place, episode in self._order.items() if place in self._again]
        self._asked |= self._again
        self._again = set()
        if any(episode.trajectory is not None for _, episode in asked):
            return [Question(name, episode.given, range(sample, sample + 1)) for (name, sample), episode in asked]
        return [self._first_question(asked[i : i + self._samples]) for i in range(0, len(asked), self._samples)]

    def turns_of(self, question: Question) -> int:
        """Return how many turns a question's sample has had."""
        said = self._order[question.task_id, question.samples.start].trajectory
        return 0 if said is None else said.num_turns

    @property
    def stepping(self) -> int:
        """Steps that environments are taking."""
        return len(self._stepping)

    def await_step(self) -> None:
        """Wait until an environment has answered; `answered` tells of it."""
        wait(self._stepping, return_when=FIRST_COMPLETED)

    def _first_question(self, group: Sequence[tuple[Place, Episode]]) -> Question:
        """Ask a task's samples together, so that an engine reads their prompt once."""
        (name, _), first = group[0]
        if not all(np.array_equal(first.given, episode.given) for _, episode in group):
            where = f"{name}: {first.task.environment.name}"
            raise RolloutError("an environment starts the samples of a task differently", value=where)
        return Question(name, first.given, range(self._samples))

    def answered(self, answers: Sequence[Trajectory]) -> list[Episode]:
        """Take answers; return the episodes that are over by now.

        Raises:
            RolloutError: an answer wasn't asked for, or doesn't begin with all that was said.
        """
        over = []
        for answer in answers:
            episode = self._take(answer)
            if episode.task.environment.name == SINGLE_TURN:
                over.append(episode)
                continue
            said = episode.trajectory
            assert said is not None, "just taken"
            step = self._hosts.step(episode.task, said, self._room, self._patience(episode.task))
            self._stepping[step] = answer.place
        return over + self._settle([step for step in self._stepping if step.done()])

    def _take(self, answer: Trajectory) -> Episode:
        """Append a turn to its episode: what was said before stays as it was, token by token."""
        place = answer.place
        if place not in self._asked:
            raise RolloutError(
                "an engine answered what it wasn't asked, or twice", value=f"{place[0]} sample {place[1]}"
            )
        self._asked.discard(place)
        episode = self._order[place]
        if not np.array_equal(answer.token_ids[: len(episode.given)], episode.given):
            raise RolloutError("an answer doesn't begin with what it was asked", value=f"{place[0]} sample {place[1]}")
        if episode.trajectory is None or episode.fresh:
            episode.trajectory = replace(answer, earlier=episode.earlier)
        else:
            episode.trajectory = episode.trajectory.followed_by(answer)
        episode.fresh = False
        return episode

    def settled(self) -> list[Episode]:
        """Wait for all steps that are being taken, and return the episodes that are over.

        Raises:
            RolloutError: an answer is missing.
        """
        if self._asked:
            raise RolloutError("the engines lost answers", value=f"{len(self._asked)} never came")
        wait(self._stepping)
        return self._settle(list(self._stepping))

    def _settle(self, steps: Sequence[Future[Step]]) -> list[Episode]:
        over = []
        for future in steps:
            place = self._stepping.pop(future)
            episode, step = self._order[place], _outcome(future)
            if self._goes_on(episode, step):
                self._again.add(place)
            else:
                episode.verdict = episode.verdict or step.verdict
                over.append(episode)
        return over

    def _goes_on(self, episode: Episode, step: Step) -> bool:
        """Tell whether the policy is asked once more; what was cut off instead counts as truncated."""
        said, use = episode.trajectory, episode.task.environment
        assert said is not None, "a step follows an answer"
        if step.observation is None or said.finish_reason is not FinishReason.STOP:
            return False
        given = step.observation if step.anew else np.concatenate([said.token_ids, step.observation])
        if said.num_turns >= use.max_turns or len(given) > self._room:
            episode.trajectory = replace(said, finish_reason=FinishReason.LENGTH)
            return False
        if time.monotonic() > self._begun + use.deadline_s:
            episode.verdict = Verdict(None, "deadline", f"not over after {use.deadline_s:g} s")
            return False
        episode.given, episode.fresh = np.asarray(given, np.int32), step.anew
        if step.anew:
            episode.earlier = (*episode.earlier, replace(said, earlier=()))
        return True

    def _patience(self, task: Task) -> float:
        return task.environment.step_deadline_s or self._deadline_s


def _first_tokens(task: Task, starting: Future[Int32]) -> Int32:
    try:
        return starting.result()
    except EnvironmentFailedError as error:
        where = f"{task.task_id}: {task.environment.name}: {error.detail}"
        raise RolloutError("an environment can't start a task", value=where) from error


def _outcome(stepping: Future[Step]) -> Step:
    """Return what a step came to; a failure is an error of its sample."""
    try:
        return stepping.result()
    except EnvironmentFailedError as error:
        return Step(verdict=Verdict(None, error.kind, error.detail))


def turn_seed(seed: int, turn: int) -> int:
    """Return the seed of a turn's generation, a pure function of its arguments; the first turn's is `seed` itself."""
    if not turn:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/turn/{turn}".encode(), digest_size=6).digest(), "big")
