"""The reward model in service: replicas that score responses while others are still being generated.

The responses to one prompt are scored together, in the order of their sample numbers: which responses share a pack is
then a function of the prompts alone, and a score has the same bits whatever the load and however often a run is
resumed.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import ray

from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.fleet import Fleet, Member
from nemo_cascade.actors.placement import scorer_slots
from nemo_cascade.actors.ranks import RankActor, add_ranks
from nemo_cascade.config.model import ModelConfig, PrecisionConfig
from nemo_cascade.config.rollout import RolloutConfig
from nemo_cascade.config.schema import ScorerConfig
from nemo_cascade.data.chat.encode import OPENING_TOKENS
from nemo_cascade.errors import RewardError
from nemo_cascade.training.scoring.request import Request, ScorerSetup
from nemo_cascade.types import Judged, Place, Sample

# Batches at a replica: one at work, one at hand.
MOST_AT_WORK = 2


class ScorerActor(RankActor):
    """One rank of a replica."""

    def make(self, **arguments: Any) -> Any:
        """Return the worker; Megatron is imported here, in the actor's own process."""
        from nemo_cascade.training.scoring.scorer import ScorerWorker

        return ScorerWorker(**arguments)


@dataclass(slots=True)
class _Batch:
    """The responses to one prompt."""

    places: list[Place]
    requests: list[Request]
    refs: dict[str, Any] = field(default_factory=dict)
    sent: float = 0.0


@dataclass(slots=True)
class _Replica:
    """One whole reward model: its ranks, and the batches at work, oldest first."""

    members: list[Member]
    at_work: deque[_Batch] = field(default_factory=deque)


class ScorerGroup:
    """All replicas of the reward model.

    Args:
        cluster: where they live.
        config: replicas, layout, deadline.
        rollout: the engines, whose GPUs it leaves alone where they have some of their own.
        model: layer implementation.
        precision: number formats.

    Raises:
        CascadeError: they don't come up.
    """

    by_group: ClassVar[bool] = True

    def __init__(
        self,
        cluster: Cluster,
        config: ScorerConfig,
        rollout: RolloutConfig,
        model: ModelConfig,
        precision: PrecisionConfig,
    ) -> None:
        self.config, self._model, self._precision = config, model, precision
        self._fleet = Fleet(cluster, "scorer", RewardError)
        self._deadline = cluster.config.actor_start_deadline_s
        self._holds: tuple[str, str] | None = None
        self._waiting: deque[_Batch] = deque()
        self._done: list[Judged] = []
        self._replicas = [
            _Replica(add_ranks(self._fleet, ScorerActor, config.tensor_parallel_size, config.threads, slots))
            for slots in scorer_slots(cluster.slots, config, rollout)
        ]

    @property
    def pids(self) -> list[int]:
        """Process ids of the ranks."""
        return [m.info.pid for m in self._fleet.members if m.info is not None]

    def load(self, reward_model: Path, policy_tokenizer: Path) -> None:
        """Have all replicas hold this reward model, and prove it fit for use; nothing happens if they do already.

        Raises:
            ModelError: the folder holds no reward model.
            RewardError: it fails its self-test.
        """
        wanted = (str(reward_model), str(policy_tokenizer))
        if self._holds == wanted:
            return
        self._holds = None
        setup = ScorerSetup(
            *wanted,
            model=self._model,
            tensor_parallel_size=self.config.tensor_parallel_size,
            precision=self._precision,
            micro_batch_tokens=self.config.micro_batch_tokens,
        )
        self._fleet.call("invoke", "setup", setup, deadline_s=self._deadline)
        self._fleet.call("invoke", "self_test", deadline_s=self._deadline)
        self._holds = wanted

    def submit(self, samples: Sequence[Sample]) -> None:
        """Hand in the samples of one task, in order; each one's verdict comes back with its place.

        Raises:
            CascadeError: a replica failed.
        """
        self._fleet.check()
        requests = [
            Request(task.record["messages"], answer.response_ids, answer.context_ids[-OPENING_TOKENS:])
            for task, answer in samples
        ]
        self._waiting.append(_Batch([answer.place for _, answer in samples], requests))
        self._take_answered()
        self._dispatch()

    def collect(self) -> list[Judged]:
        """Return the verdicts that are there. Raises as `drain`."""
        self._take_answered()
        self._dispatch()
        done, self._done = self._done, []
        return done

    def _take_answered(self) -> None:
        for replica in self._replicas:
            while replica.at_work and self._has_answered(replica.at_work[0]):
                self._finish(replica)

    def drain(self) -> list[Judged]:
        """Wait for all verdicts and return them.

        Raises:
            DeadlineError: a replica took longer than scorer.deadline_s for one prompt's responses.
            ActorDiedError: one died.
            CascadeError: what it raised.
        """
        self._dispatch()
        while any(replica.at_work for replica in self._replicas):
            for replica in self._replicas:
                if replica.at_work:
                    self._finish(replica)
            self._dispatch()
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """End all replicas."""
        self._fleet.close()

    def _dispatch(self) -> None:
        while self._waiting:
            replica = min(self._replicas, key=lambda r: len(r.at_work))
            if len(replica.at_work) == MOST_AT_WORK:
                return
            batch = self._waiting.popleft()
            requests = ray.put(batch.requests)
            batch.refs = {m.name: m.handle.invoke.remote("score", requests) for m in replica.members}
            batch.sent = time.monotonic()
            replica.at_work.append(batch)

    def _has_answered(self, batch: _Batch) -> bool:
        """Tell whether a batch is to be waited for no longer: it is scored, or late."""
        refs = list(batch.refs.values())
        late = time.monotonic() > batch.sent + 2 * self.config.deadline_s  # that of the one before it, and its own
        return late or len(ray.wait(refs, num_returns=len(refs), timeout=0)[0]) == len(refs)

    def _finish(self, replica: _Replica) -> None:
        """Take the oldest batch's verdicts, waiting for them."""
        batch = replica.at_work.popleft()
        verdicts = self._fleet.gather(batch.refs, "score", self.config.deadline_s)[0]
        self._done += zip(batch.places, verdicts, strict=True)
