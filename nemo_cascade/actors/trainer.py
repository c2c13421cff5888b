"""The policy: one actor per Megatron rank, called as one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from numpy.typing import NDArray

from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.fleet import Fleet
from nemo_cascade.actors.placement import policy_slots
from nemo_cascade.actors.ranks import RankActor, add_ranks
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.errors import TrainingError
from nemo_cascade.rollout.buckets import WeightBucket, write_buckets
from nemo_cascade.types import BatchSource, Float32

if TYPE_CHECKING:
    import torch

    from nemo_cascade.training.setup import StepResult, TrainerSetup, WhichModel

DRAIN_DEADLINE_S = 60.0


class PolicyActor(RankActor):
    """One rank's process. Rank 0 holds the weight buckets of a hand-over until the driver says that they were taken."""

    _weights: Iterator[tuple[str, torch.Tensor]]
    _buckets: Iterator[WeightBucket]
    _unreleased: dict[int, WeightBucket]

    def make(self, **arguments: Any) -> Any:
        """Return the worker; Megatron is imported here, in the actor's own process."""
        from nemo_cascade.training.worker import TrainerWorker

        return TrainerWorker(**arguments)

    def begin_sending(self, bucket_bytes: int, dtype: str, checksums: bool) -> None:
        """Get ready to hand out the policy's weights, bucket by bucket.

        Args:
            bucket_bytes: size of a bucket.
            dtype: torch dtype name of the engine.
            checksums: sum every weight, for the proof of what the engines hold.
        """
        self._weights = self.worker.weight_tensors()
        self._buckets = write_buckets(
            self._weights, bucket_bytes, dtype, checksums=checksums, fp32=self.worker.fp32_weights
        )
        self._unreleased = {}

    def next_bucket(self, done: list[int], as_bytes: bool) -> tuple[WeightBucket | None, NDArray[np.uint8] | None]:
        """Return the next bucket, None at the end; `as_bytes` also its content, for engines on other machines.

        Args:
            done: indices of the buckets that every engine has taken in: they are freed.
            as_bytes: whether some engine can't open this process's files.

        Raises:
            WeightSyncError: there is no memory for it.
        """
        for index in done:
            self._unreleased.pop(index).release()
        bucket = next(self._buckets, None)
        if bucket is None:
            return None, None
        self._unreleased[bucket.index] = bucket
        return bucket, np.fromfile(bucket.path, dtype=np.uint8) if as_bytes else None

    def end_sending(self) -> None:
        """Free all buckets; a hand-over that is given up goes through the rest of its collectives first."""
        for bucket in self._unreleased.values():
            bucket.release()
        self._unreleased = {}
        for _ in self._weights:  # the other ranks are in the same collectives, to the last tensor
            pass

    def follow_weights(self) -> None:
        """Take part in the collectives behind rank 0's buckets."""
        for _ in self.worker.weight_tensors():
            pass


class Sending:
    """A hand-over of the policy's weights, seen from the driver. A context manager: leaving it ends it on all ranks.

    Rank 0 owns the buckets, on whatever node it is. It writes one ahead of what was taken, and frees a bucket when the
    driver has said that all engines are done with it.

    Args:
        fleet: the policy's ranks, in order.
        as_bytes: whether the buckets' content is needed beside them.
        arguments: of `PolicyActor.begin_sending`.
    """

    def __init__(self, fleet: Fleet, as_bytes: bool, *arguments: Any) -> None:
        self._fleet, self._as_bytes, self._arguments = fleet, as_bytes, arguments
        self._first, self._others = fleet.members[0], fleet.members[1:]
        self._done: list[int] = []
        self._begun: Any = None
        self._asked: tuple[Any, Any] | None = None
        self._following: dict[str, Any] = {}

    def __enter__(self) -> Sending:
        self._fleet.check()
        self._following = {m.name: m.handle.follow_weights.remote() for m in self._others}
        self._begun = self._first.handle.begin_sending.remote(*self._arguments)
        self._ask()
        return self

    def take(self, deadline_s: float) -> tuple[WeightBucket, Any] | None:
        """Return the next bucket and a reference to its content (or to None); None at the end.

        Raises:
            CascadeError: a rank failed.
            DeadlineError: rank 0, or at the end another one, was too slow.
        """
        assert self._asked is not None, "enter first, and stop at the end"
        asked, content = self._asked
        end = time.monotonic() + deadline_s
        if self._begun is not None:
            self._fleet.gather({self._first.name: self._begun}, "begin_sending", deadline_s)
            self._begun = None
        self._watch_others(asked, end)
        (bucket,) = self._fleet.gather({self._first.name: asked}, "next_bucket", _left(end))
        if bucket is not None:
            self._ask()
            return bucket, content
        self._fleet.gather(self._following, "follow_weights", _left(end))
        self._following, self._asked = {}, None
        return None

    def done(self, bucket: WeightBucket) -> None:
        """Say that all engines have taken a bucket in: rank 0 hears it with the next request, and frees it."""
        self._done.append(bucket.index)

    def __exit__(self, *_: object) -> None:
        if self._fleet.broken is not None:
            return  # its members are in unknown states, and answer nothing any more
        refs = [self._first.handle.end_sending.remote(), *self._following.values()]
        _, late = ray.wait(refs, num_returns=len(refs), timeout=DRAIN_DEADLINE_S)
        if late:
            self._fleet.broken = "ranks are stuck in a weight hand-over that was given up"

    def _watch_others(self, asked: Any, end: float) -> None:
        """Wait for rank 0's answer; the error of another rank, without which it may never come, is raised at once."""
        while True:
            names = {ref: name for name, ref in self._following.items()}
            ready, _ = ray.wait([asked, *names], num_returns=1, timeout=_left(end), fetch_local=False)
            if not ready or asked in ready:
                return
            for ref in ready:
                self._fleet.gather({names[ref]: self._following.pop(names[ref])}, "follow_weights", _left(end))

    def _ask(self) -> None:
        done, self._done = self._done, []
        request = self._first.handle.next_bucket.options(num_returns=2)
        self._asked = tuple(request.remote(done, self._as_bytes))


def _left(end: float) -> float:
    return max(1.0, end - time.monotonic())


class TrainerGroup:
    """All ranks of the policy. Methods are those of TrainerWorker; each is called on every rank.

    Every call has a deadline: cluster.actor_start_deadline_s until the ranks are up, cluster.step_deadline_s for
    everything else.

    Args:
        cluster: where the ranks live.
        parallel: layout; one actor per rank.

    Attributes:
        changes: counts what changes the weights: set-ups, steps, loaded checkpoints.
        temperature: that log-probs are computed at.
        seq_length: of the present set-up.
        dtype: that it computes in: fp32, bf16 or fp8.

    Raises:
        CascadeError: the ranks don't come up.
    """

    def __init__(self, cluster: Cluster, parallel: ParallelConfig) -> None:
        self.cluster, self.parallel = cluster, parallel
        self.changes = 0
        self.temperature, self.seq_length, self.dtype = 1.0, 0, "fp32"
        self._deadline = cluster.config.step_deadline_s
        self._fleet = Fleet(cluster, "policy", TrainingError)
        slots = policy_slots(cluster.slots, parallel.layout.ranks) if cluster.slots else []
        add_ranks(self._fleet, PolicyActor, parallel.layout.ranks, cluster.config.policy_threads, slots)

    @property
    def pids(self) -> list[int]:
        """Process ids of the ranks."""
        return [m.info.pid for m in self._fleet.members if m.info is not None]

    @property
    def machine(self) -> str:
        """Where rank 0 runs and holds weight buckets."""
        info = self._fleet.members[0].info
        assert info is not None, "the ranks are up"
        return info.machine

    def setup(self, setup: TrainerSetup) -> dict[str, Any]:
        """Build model, optimizer and schedule on every rank; return rank 0's facts."""
        self.changes += 1
        self.temperature, self.seq_length = setup.temperature, setup.seq_length
        self.dtype = setup.precision.dtype if setup.precision.fp8 == "off" else "fp8"
        facts: dict[str, Any] = self._invoke("setup", setup)[0]
        return facts

    def score_at(self, temperature: float) -> None:
        """Have log-probs computed at another temperature from now on; the same one costs nothing."""
        if temperature != self.temperature:
            self._invoke("score_at", temperature)
            self.temperature = temperature

    def train_step(self, source: BatchSource, step: int) -> StepResult:
        """Make one optimizer step; return its result, with the memory of the rank that holds most."""
        self.changes += 1
        results: list[StepResult] = self._invoke("train_step", ray.put(source), step)
        return replace(results[0], memory_bytes=max(result.memory_bytes for result in results))

    def logprobs(self, source: BatchSource, step: int, which: WhichModel = "policy") -> list[list[Float32]]:
        """Score the labels of a batch. Returns [dp_rank][micro-batch], each [T]."""
        answers = self._invoke("logprobs", ray.put(source), step, which)
        return [answer for answer in answers if answer is not None]

    def outputs(self, source: BatchSource, step: int) -> list[list[Float32]]:
        """Have the reward model judge a batch's documents. Returns [dp_rank][micro-batch], each [documents, K]."""
        answers = self._invoke("outputs", ray.put(source), step)
        return [answer for answer in answers if answer is not None]

    def give_memory_back(self) -> None:
        """Give the driver what the ranks keep for tensors to come, so that others on their GPUs find it."""
        self._invoke("give_memory_back")

    def save_checkpoint(self, folder: str, state: dict[str, Any]) -> None:
        """Write a distributed checkpoint into `folder`."""
        self._invoke("save_checkpoint", folder, state)

    def load_checkpoint(self, folder: str) -> dict[str, Any]:
        """Load a distributed checkpoint; return the state saved with it."""
        self.changes += 1
        state: dict[str, Any] = self._invoke("load_checkpoint", folder)[0]
        return state

    def export_hf(self, folder: str) -> None:
        """Write an HF folder."""
        self._invoke("export_hf", folder)

    def send_weights(self, bucket_bytes: int, dtype: str, *, checksums: bool, as_bytes: bool) -> Sending:
        """Return a hand-over of the present weights, to be entered. Its arguments are those of `begin_sending`."""
        return Sending(self._fleet, as_bytes, bucket_bytes, dtype, checksums)

    def close(self) -> None:
        """End all ranks."""
        self._fleet.close()

    def _invoke(self, method: str, *args: Any) -> list[Any]:
        refs = {m.name: m.handle.invoke.remote(method, *args) for m in self._fleet.members}
        return self._fleet.gather(refs, method, self._deadline)
