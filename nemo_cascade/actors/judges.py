"""Who judges a response: a verifier in the pools, or the reward model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nemo_cascade.actors.reward import RewardGroup
from nemo_cascade.actors.scorer import ScorerGroup
from nemo_cascade.config.stage import PREFERENCE
from nemo_cascade.errors import RewardError
from nemo_cascade.types import Prompt, Rollout, Verdict


class Judges:
    """Send each rollout to its prompt's verifier, and gather the verdicts of both kinds.

    Args:
        pools: the verifiers.
        scorer: the reward model's replicas, if one is in use.
        group_size: rollouts of each prompt.
    """

    def __init__(self, pools: RewardGroup, scorer: ScorerGroup | None, group_size: int) -> None:
        self.pools, self._scorer, self.group_size = pools, scorer, group_size

    @property
    def scorer(self) -> ScorerGroup:
        """The reward model's replicas.

        Raises:
            RewardError: none is in use.
        """
        if self._scorer is None:
            raise RewardError("there is no reward model to ask", mend="set reward_model where `preference` is used")
        return self._scorer

    def self_test(self, names: Iterable[str]) -> None:
        """Run the verifiers' golden cases; the reward model has proven itself when it was loaded.

        Raises:
            RewardError: lists the cases that failed.
        """
        if pooled := [name for name in names if name != PREFERENCE]:
            self.pools.self_test(pooled)

    def submit(self, key: str, prompt: Prompt, rollout: Rollout) -> None:
        """Hand in a rollout; its verdict comes back with `key`.

        Raises:
            CascadeError: a judge failed.
        """
        if prompt.verifier == PREFERENCE:
            self.scorer.submit(key, prompt, rollout, self.group_size)
        else:
            self.pools.submit(key, prompt, rollout)

    def drain(self) -> list[tuple[str, Verdict]]:
        """Wait for all verdicts in flight and return them.

        Raises:
            CascadeError: a judge failed, or is too slow.
        """
        scored = self._scorer.drain() if self._scorer is not None else []
        return [*self.pools.drain(), *scored]

    def preferences(self, groups: Sequence[tuple[Prompt, Sequence[Rollout]]]) -> list[list[Verdict]]:
        """Ask the reward model about rollouts that a verifier has judged. Returns verdicts in the same shape.

        Raises:
            RewardError: no reward model is in use.
            CascadeError: it failed, or is too slow.
        """
        return self.scorer.score(groups)
