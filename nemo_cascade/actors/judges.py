"""Who judges a response: a verifier in the pools, the reward model, or a generative reward model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from nemo_cascade.actors.genrm import GenRMGroup
from nemo_cascade.actors.reward import RewardGroup, Submission
from nemo_cascade.actors.scorer import ScorerGroup
from nemo_cascade.config.verifiers import GENRM, PREFERENCE
from nemo_cascade.errors import RewardError
from nemo_cascade.types import Prompt, Rollout, Verdict


class Judges:
    """Send each rollout to its prompt's verifier, and gather the verdicts of all kinds.

    Args:
        pools: the verifiers.
        scorer: the reward model's replicas, if one is in use.
        group_size: rollouts of each prompt.
        genrm: the generative reward model, if one is in use.
    """

    def __init__(
        self, pools: RewardGroup, scorer: ScorerGroup | None, group_size: int, genrm: GenRMGroup | None = None
    ) -> None:
        self.pools, self._scorer, self._genrm, self.group_size = pools, scorer, genrm, group_size

    @property
    def scorer(self) -> ScorerGroup:
        """The reward model's replicas.

        Raises:
            RewardError: none is in use.
        """
        if self._scorer is None:
            raise RewardError("there is no reward model to ask", mend="set reward_model where `preference` is used")
        return self._scorer

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

    def submit(self, submissions: Sequence[Submission]) -> None:
        """Hand in rollouts; each one's verdict comes back with its key.

        Raises:
            CascadeError: a judge failed.
        """
        pooled = []
        for key, prompt, rollout in submissions:
            if prompt.verifier == PREFERENCE:
                self.scorer.submit(key, prompt, rollout, self.group_size)
            elif prompt.verifier == GENRM:
                if self._genrm is None:
                    raise RewardError("there is no generative reward model to ask", mend="give Judges one")
                self._genrm.submit(key, prompt, rollout)
            else:
                pooled.append((key, prompt, rollout))
        self.pools.submit(pooled)

    def drain(self) -> list[tuple[str, Verdict]]:
        """Wait for all verdicts in flight and return them.

        Raises:
            CascadeError: a judge failed, or is too slow.
        """
        scored = self._scorer.drain() if self._scorer is not None else []
        compared = self._genrm.drain() if self._genrm is not None else []
        return [*self.pools.drain(), *scored, *compared]

    def preferences(self, groups: Sequence[tuple[Prompt, Sequence[Rollout]]]) -> list[list[Verdict]]:
        """Ask the reward model about rollouts that a verifier has judged. Returns verdicts in the same shape.

        Raises:
            RewardError: no reward model is in use.
            CascadeError: it failed, or is too slow.
        """
        return self.scorer.score(groups)
