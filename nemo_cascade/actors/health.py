"""How the run's actors are: memory of each process, and whether every engine still computes."""

from __future__ import annotations

import logging

from nemo_cascade.actors.reward import RewardGroup
from nemo_cascade.actors.rollout import RolloutGroup
from nemo_cascade.actors.trainer import TrainerGroup

log = logging.getLogger(__name__)


def health(
    policy: TrainerGroup | None = None, rollout: RolloutGroup | None = None, reward: RewardGroup | None = None
) -> dict[str, float]:
    """Ask every actor how it is, between two calls.

    Returns:
        `rss_mib/<actor>` for each, and `heartbeat_s/<engine>`: the seconds an engine took to score two tokens, for a
        process that answers may still hold an engine that doesn't compute.

    Raises:
        ActorDiedError: an actor is dead.
        DeadlineError: an actor doesn't answer.
    """
    found: dict[str, float] = {}
    for group in (policy, rollout, reward):
        if group is not None:
            found |= {f"rss_mib/{name}": mib for name, mib in group.resident_mib().items()}
    if rollout is not None:
        found |= {f"heartbeat_s/{name}": seconds for name, seconds in rollout.heartbeat().items()}
    return found
