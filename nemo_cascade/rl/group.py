"""All samples of one task, with what was said of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nemo_cascade.types import FinishReason, Sample, Task, Trajectory, Verdict


@dataclass(slots=True)
class Group:
    """G judged samples of a task.

    Attributes:
        task: what they are about.
        answers: [G], in the order of their sample numbers.
        verdicts: [G], of the environment or the task's judge.
        preferences: sample -> the reward model's verdict, where it has a say beside the verifier and was asked.
    """

    task: Task
    answers: list[Trajectory]
    verdicts: list[Verdict]
    preferences: Mapping[int, Verdict] = field(default_factory=dict)

    def error(self, sample: int) -> Verdict | None:
        """Return the verdict that is an error, of judge or reward model, if any."""
        given = (self.verdicts[sample], self.preferences.get(sample))
        return next((v for v in given if v is not None and v.error is not None), None)

    def valid(self, sample: int) -> bool:
        """Tell whether the sample ended by itself or by its limit and was judged."""
        return self.answers[sample].finish_reason != FinishReason.ABORT and self.error(sample) is None

    def score(self, sample: int) -> float | None:
        """Return the judge's score; None where the sample is invalid."""
        return self.verdicts[sample].score if self.valid(sample) else None

    @property
    def scores(self) -> list[float | None]:
        """[G]."""
        return [self.score(s) for s in range(len(self.answers))]

    @property
    def samples(self) -> list[Sample]:
        """[G], as judges take them."""
        return [(self.task, answer) for answer in self.answers]
