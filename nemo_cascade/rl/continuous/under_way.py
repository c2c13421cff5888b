"""A group on its way: answered turn by turn, judged sample by sample, and compared where the reward model has a say."""

from collections.abc import Sequence
from contextlib import ExitStack

from nemo_cascade.config.rollout import SamplingConfig
from nemo_cascade.rl.ask import Answerers, episodes_of
from nemo_cascade.rl.collect import preference_counts
from nemo_cascade.rl.episodes import Episode, turn_seed
from nemo_cascade.rl.group import Group
from nemo_cascade.types import Place, Question, Sample, Task, Trajectory, Verdict


class GroupUnderWay:
    """All samples of a prompt; close it.

    Args:
        task: the prompt.
        samples: of it.
        seed: of its generation.
        sampling: how they are drawn.
        by: who answers and judges.
        prefers: the reward model has a say in a group that holds a verified response.
    """

    def __init__(
        self, task: Task, samples: int, seed: int, sampling: SamplingConfig, by: Answerers, *, prefers: bool
    ) -> None:
        self.task, self._samples, self._seed, self._by, self._prefers = task, samples, seed, by, prefers
        self._stack = ExitStack()
        self._episodes = self._stack.enter_context(episodes_of([task], samples, sampling, by))
        self._ended: dict[int, Trajectory] = {}
        self._verdicts: dict[int, Verdict] = {}
        self._group: Group | None = None
        self.awaited: set[Place] = set()

    @property
    def places(self) -> list[Place]:
        """Of all its samples."""
        return [(self.task.task_id, sample) for sample in range(self._samples)]

    @property
    def is_stepping(self) -> bool:
        """Whether an environment is answering one of its samples."""
        return self._episodes.stepping > 0

    def questions(self) -> list[tuple[Question, int]]:
        """Return what the engines are asked next, with seeds."""
        asked = self._episodes.questions()
        return [(question, turn_seed(self._seed, self._episodes.turns_of(question))) for question in asked]

    def answered(self, answers: Sequence[Trajectory]) -> None:
        """Take answers, and what environments said by now; hand what is over to its judge."""
        over = self._episodes.answered(answers)
        if not over:
            return
        to_judge = [sample for episode in over if (sample := self._end(episode)) is not None]
        self.awaited |= {answer.place for _, answer in to_judge}
        self._by.judges.submit(to_judge)
        if len(self._ended) == self._samples:
            for place, verdict in self._by.judges.withdraw(self.task.task_id):
                self.judged(place, verdict)

    def _end(self, episode: Episode) -> Sample | None:
        """Take note of a sample that is over; return it where somebody else has to judge it."""
        answer = episode.trajectory
        assert answer is not None, "what is over was answered"
        self._ended[answer.sample] = answer
        if episode.verdict is None:
            return episode.task, answer
        self._verdicts[answer.sample] = episode.verdict
        return None

    def judged(self, place: Place, verdict: Verdict) -> None:
        """Take a verdict: the judge's, or behind that the reward model's."""
        self.awaited.discard(place)
        if self._group is None:
            self._verdicts[place[1]] = verdict
        else:
            self._group.preferences = {**self._group.preferences, place[1]: verdict}

    def whole(self) -> Group | None:
        """Return the group where all of it is there; None where something is still to come."""
        if self.awaited or len(self._verdicts) < self._samples:
            return None
        if self._group is None:
            samples = range(self._samples)
            group = Group(self.task, [self._ended[s] for s in samples], [self._verdicts[s] for s in samples])
            self._group = group
            if self._prefers and preference_counts(group):
                self.awaited = set(self.places)
                self._by.judges.compare(group.samples)
                return None
        return self._group

    def give_up(self) -> int:
        """Ask and judge it no further; return the tokens of its samples that are over."""
        self._episodes.cancel()
        for place, _ in self._by.judges.withdraw(self.task.task_id):
            self.awaited.discard(place)
        return sum(answer.num_sampled for answer in self._ended.values())

    @property
    def is_gone(self) -> bool:
        """Whether no judge and no environment is at it any more, once it was given up: its prompt may be asked anew."""
        return not self.awaited and not self._episodes.in_a_step

    def close(self) -> None:
        """Drop its worlds."""
        self._stack.close()
