"""How many verifier processes a pool keeps: `reward.workers`, and spares beside those whose verdict lingers."""

from __future__ import annotations

from collections.abc import Collection

from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.rewards.pool.processes import Task, Worker

# Share of the time after which a verdict lingers when its successor is forked: while the core of what hangs is free.
_AHEAD_SHARE = 0.2


class Staffing:
    """Decides when to fork a worker and when to let one go; holds no state, so that it can be tested by itself.

    A verdict lingers once it has used `reward.linger_share` of its deadline: most verdicts take a thousandth of it, so
    this one is likely to hang until it is killed, and samples that wait shouldn't wait for that. Its worker no longer
    counts against `reward.workers`; what waits gets a spare, of which there are `reward.spare_workers` at most. The
    spare is forked before it is due; if the verdict ends well after all, it stands by for the next loss.

    The price: a hanging verdict that sleeps uses no CPU, one that spins does. There are never more than
    `reward.workers` + `reward.spare_workers` processes, so each still gets its share of that: half a core, where both
    keys are equal and there is a core for each of `reward.workers`. The sandbox gives programs three times their CPU
    limit of wall time, so at equal keys no program fails for the spares beside it.
    """

    def __init__(self, config: RewardConfig) -> None:
        self._workers, self._share = config.workers, config.linger_share
        self._most = config.workers + config.spare_workers

    def free_places(self, staff: Collection[Worker], now: float) -> int:
        """Return how many of the regular places are held by no verdict: so many tasks may be given out."""
        return max(0, self._workers - sum(self._holds_place(worker, now) for worker in staff))

    def to_fork(self, staff: Collection[Worker], queued: int, now: float) -> int:
        """Return how many workers to fork for `queued` tasks that no idle worker takes."""
        ready = sum(worker.idle or worker.starting for worker in staff)
        wanted = min(queued, self.free_places(staff, now) + self._soon_free(staff, now)) - ready
        return max(0, min(wanted, self._most - len(staff)))

    def to_retire(self, staff: Collection[Worker], now: float) -> list[Worker]:
        """Return idle workers that are too many: verdicts lingered, their workers were doubled, and they ended well."""
        idle = [worker for worker in staff if worker.idle]
        standing_by = min(1, self._most - self._workers)
        return idle[: max(0, len(idle) - self.free_places(staff, now) - standing_by)]

    def next_change(self, staff: Collection[Worker], now: float) -> float | None:
        """Return when the next verdict is likely to linger, or lingers; None if no worker could be had for it."""
        if len(staff) >= self._most and not any(worker.idle for worker in staff):
            return None
        due = [at for worker in staff if worker.task for at in self._lingers_at(worker.task) if at > now]
        return min(due, default=None)

    def _holds_place(self, worker: Worker, now: float) -> bool:
        return worker.task is not None and not worker.ended and now < self._lingers_at(worker.task)[1]

    def _soon_free(self, staff: Collection[Worker], now: float) -> bool:
        """Return whether a place is held by a verdict that is likely to linger."""
        held = [worker.task for worker in staff if worker.task and self._holds_place(worker, now)]
        return any(self._lingers_at(task)[0] <= now for task in held)

    def _lingers_at(self, task: Task) -> tuple[float, float]:
        """Return when a verdict is likely to linger, and when it does."""
        lingers_after_s = self._share * task.deadline_s
        return task.started + _AHEAD_SHARE * lingers_after_s, task.started + lingers_after_s
