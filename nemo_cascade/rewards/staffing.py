"""How many verifier processes a pool keeps: `reward.workers`, and spares beside those whose verdict lingers."""

from __future__ import annotations

from collections.abc import Collection

from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.rewards.crew import Worker


class Staffing:
    """Decides when to fork a worker and when to let one go; holds no state, so that it can be tested by itself.

    A verdict lingers once it has used `reward.linger_share` of its deadline: most verdicts take a thousandth of it, so
    this one is likely to hang until it is killed, and samples that wait shouldn't wait for that. Its worker no longer
    counts against `reward.workers`; what waits gets a spare, of which there are `reward.spare_workers` at most.

    The price: a hanging verdict that sleeps uses no CPU, one that spins does. There are never more than
    `reward.workers` + `reward.spare_workers` processes, so each still gets its share of that: half a core, where both
    keys are equal and there is a core for each of `reward.workers`. The sandbox gives programs three times their CPU
    limit of wall time, so at equal keys no program fails for the spares beside it.
    """

    def __init__(self, config: RewardConfig) -> None:
        self._workers, self._share = config.workers, config.linger_share
        self._most = config.workers + config.spare_workers

    def to_fork(self, staff: Collection[Worker], queued: int, now: float) -> int:
        """Return how many workers to fork for `queued` tasks that no idle worker takes."""
        starting = sum(worker.pidfd < 0 and not worker.retiring for worker in staff)
        places = min(self._workers - self._steady(staff, now), self._most - len(staff))
        return max(0, min(queued - starting, places))

    def to_retire(self, staff: Collection[Worker], now: float) -> list[Worker]:
        """Return idle workers that are too many: a verdict lingered, its worker was doubled, and then it ended well."""
        surplus = self._steady(staff, now) - self._workers
        return [worker for worker in staff if worker.idle][: max(0, surplus)]

    def next_to_linger(self, staff: Collection[Worker], now: float) -> float | None:
        """Return when the next verdict begins to linger; None if none can, or no spare could be had for it."""
        if len(staff) >= self._most:
            return None
        due = [self._lingers_at(worker) for worker in staff]
        return min((at for at in due if at is not None and at > now), default=None)

    def _steady(self, staff: Collection[Worker], now: float) -> int:
        """Count the workers that hold one of the regular places."""
        steady = 0
        for worker in staff:
            at = self._lingers_at(worker)
            leaving = worker.retiring and worker.task is None
            steady += not leaving and (at is None or now < at)
        return steady

    def _lingers_at(self, worker: Worker) -> float | None:
        task = worker.task
        return None if task is None else task.started + self._share * task.deadline_s
