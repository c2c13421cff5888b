"""How old the weights are that drew a batch's rollouts, when it is trained."""

from __future__ import annotations

from nemo_cascade.errors import RolloutError
from nemo_cascade.rl.batch import RolloutBatch


def check_ages(batch: RolloutBatch, version: int, most: int) -> tuple[float, int]:
    """Return mean and maximum of the rollouts' ages in steps, turn by turn; a turn is as old as its oldest token.

    Args:
        batch: what is to be trained.
        version: of the weights that it trains.
        most: steps that a rollout may be old.

    Raises:
        RolloutError: a rollout is older, or of weights that are yet to come.
    """
    ages = [
        version - turn.oldest
        for group in batch.groups
        for answer in group.answers
        for part in answer.parts
        for turn in part.turns
    ]
    if min(ages) < 0 or max(ages) > most:
        value, limit = f"{min(ages)} to {max(ages)} steps", f"0 to max_staleness={most}"
        raise RolloutError("rollouts of other weights than this step may train", value=value, limit=limit)
    return sum(ages) / len(ages), max(ages)
