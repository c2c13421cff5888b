"""Frozen models: loaded once, asked for log-probabilities of what others said."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import ray

from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.fleet import Fleet
from nemo_cascade.actors.placement import frozen_slots
from nemo_cascade.actors.ranks import RankActor, add_ranks
from nemo_cascade.errors import TrainingError
from nemo_cascade.training.setup import FrozenSetup
from nemo_cascade.types import BatchSource, Float32


class FrozenActor(RankActor):
    """One rank's process."""

    def make(self, **arguments: Any) -> Any:
        """Return the worker; Megatron is imported here, in the actor's own process."""
        from nemo_cascade.training.scoring.frozen import FrozenWorker

        return FrozenWorker(**arguments)


class FrozenGroup:
    """All ranks that hold the frozen models. A context manager: leaving it ends them.

    Args:
        cluster: where the ranks live; its step_deadline_s bounds every call.
        setup: the models and their layout; one actor a rank.

    Raises:
        CascadeError: they don't come up, or can't load a model.
    """

    def __init__(self, cluster: Cluster, setup: FrozenSetup) -> None:
        self.parallel = setup.parallel
        self._deadline = cluster.config.step_deadline_s
        self._fleet = Fleet(cluster, "frozen", TrainingError)
        ranks = setup.parallel.layout.ranks
        slots = frozen_slots(cluster.slots, ranks) if cluster.slots else []
        add_ranks(self._fleet, FrozenActor, ranks, cluster.config.policy_threads, slots)
        self._fleet.call("invoke", "setup", setup, deadline_s=self._deadline)

    def __enter__(self) -> FrozenGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fleet.close()

    def logprobs(self, model: str, source: BatchSource) -> list[list[Float32]]:
        """Score the labels of a batch with one of the models. Returns [dp_rank][micro-batch], each [T].

        Args:
            model: its folder, as in the set-up.
            source: hands out the micro-batches of every replica.
        """
        answers = self._fleet.call("invoke", "logprobs", model, ray.put(source), deadline_s=self._deadline)
        return [answer for answer in answers if answer is not None]
