"""Who judges a response: a verifier in the pools, the reward model, or a generative reward model."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from nemo_cascade.actors.genrm import GenRMGroup
from nemo_cascade.actors.reward import RewardGroup
from nemo_cascade.actors.scorer import ScorerGroup
from nemo_cascade.config.verifiers.kinds import GENRM, PREFERENCE
from nemo_cascade.errors import RewardError
from nemo_cascade.types import Judged, Place, Sample, Verdict


class Judge(Protocol):
    """Gives samples their verdicts while others are still being generated.

    Attributes:
        by_group: whether it judges a task's samples together: each call then hands in all of one task, in order.
    """

    by_group: ClassVar[bool]

    def submit(self, samples: Sequence[Sample]) -> None:
        """Hand in samples; each one's verdict comes back with its place."""

    def collect(self) -> Sequence[Judged]:
        """Return the verdicts that are there, without waiting for others."""

    def drain(self) -> Sequence[Judged]:
        """Wait for all verdicts in flight and return them."""


class Judges:
    """Send each sample to its task's judge, and gather the verdicts of all of them.

    Args:
        pools: the verifiers.
        scorer: the reward model's replicas, if one is in use.
        group_size: samples of each task.
        genrm: the generative reward model, if one is in use.
    """

    def __init__(
        self, pools: RewardGroup, scorer: ScorerGroup | None, group_size: int, genrm: GenRMGroup | None = None
    ) -> None:
        self.pools, self.group_size = pools, group_size
        named: dict[str, Judge | None] = {PREFERENCE: scorer, GENRM: genrm}
        self._named = {name: judge for name, judge in named.items() if judge is not None}
        self._gathering: dict[str, dict[int, Sample]] = {}

    def self_test(self, names: Iterable[str], settings: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Run the verifiers' golden cases; a reward model has proven itself when it was loaded.

        Args:
            names: verifiers.
            settings: of each of them.

        Raises:
            RewardError: lists the cases that failed.
        """
        if pooled := [name for name in names if name not in (PREFERENCE, GENRM)]:
            self.pools.self_test(pooled, settings)

    def submit(self, samples: Sequence[Sample]) -> None:
        """Hand in samples; each one's verdict comes back with its place.

        Raises:
            CascadeError: a judge failed, or there is none of that name.
        """
        singles: dict[Judge, list[Sample]] = {}
        for task, answer in samples:
            judge = self._judge(task.verifier)
            if not judge.by_group:
                singles.setdefault(judge, []).append((task, answer))
                continue
            group = self._gathering.setdefault(task.task_id, {})
            group[answer.sample] = (task, answer)
            if len(group) == self.group_size:
                judge.submit([sample for _, sample in sorted(self._gathering.pop(task.task_id).items())])
        for judge, some in singles.items():
            judge.submit(some)

    def collect(self) -> list[Judged]:
        """Return the verdicts that are there by now.

        Raises:
            CascadeError: a judge failed, or is too slow.
        """
        return [verdict for judge in (self.pools, *self._named.values()) for verdict in judge.collect()]

    def withdraw(self, task_id: str) -> list[Judged]:
        """Return errors for samples of a task that wait for others to be judged with, which won't come."""
        group = self._gathering.pop(task_id, {})
        lacking = Verdict(None, "group", f"{len(group)} of {self.group_size} responses to judge together")
        return [(answer.place, lacking) for _, answer in group.values()]

    def drain(self) -> list[Judged]:
        """Wait for all verdicts in flight and return them; a sample whose group isn't whole can't be judged.

        Raises:
            CascadeError: a judge failed, or is too slow.
        """
        lacking = [verdict for task_id in list(self._gathering) for verdict in self.withdraw(task_id)]
        return [*self.drain_submitted(), *lacking]

    def drain_submitted(self) -> list[Judged]:
        """Wait for all verdicts in flight and return them; samples that wait for others of their group go on waiting.

        Raises:
            CascadeError: a judge failed, or is too slow.
        """
        return [verdict for judge in (self.pools, *self._named.values()) for verdict in judge.drain()]

    def compare(self, group: Sequence[Sample]) -> None:
        """Hand a whole group that a verifier has judged to the reward model; its verdicts come like others.

        Raises:
            RewardError: no reward model is in use.
        """
        self._judge(PREFERENCE).submit(group)

    def preferences(self, groups: Sequence[Sequence[Sample]]) -> dict[Place, Verdict]:
        """Ask the reward model about whole groups that a verifier has judged.

        Raises:
            RewardError: no reward model is in use.
            CascadeError: it failed, or is too slow.
        """
        for group in groups:
            self.compare(group)
        return dict(self._judge(PREFERENCE).drain())

    def _judge(self, verifier: str) -> Judge:
        """Return who judges under a verifier's name."""
        if verifier in (PREFERENCE, GENRM) and verifier not in self._named:
            what = "reward model" if verifier == PREFERENCE else "generative reward model"
            mend = "set reward_model where `preference` is used" if verifier == PREFERENCE else "set reward.genrm.url"
            raise RewardError(f"there is no {what} to ask", mend=mend)
        return self._named.get(verifier, self.pools)
