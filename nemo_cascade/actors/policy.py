"""The policy: one actor per Megatron rank, called as one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray

from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.fleet import Fleet
from nemo_cascade.actors.placement import policy_slots
from nemo_cascade.actors.ranks import RankActor, add_ranks
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.errors import CascadeError, DeadlineError, TrainingError, WeightSyncError
from nemo_cascade.rollout.buckets import WeightBucket, write_buckets
from nemo_cascade.types import BatchSource, Float32

if TYPE_CHECKING:
    from nemo_cascade.training.policy import PolicySetup, StepResult

BUCKETS_IN_FLIGHT = 3
DRAIN_DEADLINE_S = 60.0
POLL_S = 0.002


class PolicyActor(RankActor):
    """One rank's process."""

    def make(self, **arguments: Any) -> Any:
        """Return the worker; Megatron is imported here, in the actor's own process."""
        from nemo_cascade.training.policy import PolicyWorker

        return PolicyWorker(**arguments)

    def send_weights(
        self, folder: str, bucket_bytes: int, dtype: str, deadline_s: float, by_message: bool
    ) -> Iterator[Any]:
        """Write the policy's weights into bucket files under `folder`; yield each bucket.

        The reader removes a bucket's file once it is done with it; at most BUCKETS_IN_FLIGHT lie there at a time. A
        reader that gives up removes the folder.

        Args:
            folder: exists, in shared memory.
            bucket_bytes: size of a bucket.
            dtype: torch dtype name of the engine.
            deadline_s: for everything.
            by_message: also yield each bucket's bytes behind it, for engines on other machines.

        Raises:
            WeightSyncError: the reader gave up, or shared memory is full.
            DeadlineError: the reader is too slow.
        """
        weights = self.worker.weight_tensors()
        place, end = Path(folder), time.monotonic() + deadline_s
        try:
            for bucket in write_buckets(weights, place, bucket_bytes, dtype):
                yield bucket
                if by_message:
                    yield Path(bucket.path).read_bytes()
                _wait_for_room(place, end, deadline_s)
        except (CascadeError, FileNotFoundError) as error:
            for _ in weights:  # the other ranks are in the same collectives, to the last tensor
                pass
            if isinstance(error, CascadeError):
                raise
            raise WeightSyncError("the weight hand-over was given up by the engines' side") from error

    def follow_weights(self) -> None:
        """Take part in the collectives of rank 0's `send_weights`."""
        for _ in self.worker.weight_tensors():
            pass


def _wait_for_room(folder: Path, end: float, deadline_s: float) -> None:
    while len(list(folder.iterdir())) >= BUCKETS_IN_FLIGHT:
        if time.monotonic() > end:
            raise DeadlineError("the engines did not take the weights in time", limit=f"{deadline_s:g} s")
        time.sleep(POLL_S)


class PolicyGroup:
    """All ranks of the policy. Methods are those of PolicyWorker; each is called on every rank.

    Every call has a deadline: cluster.actor_start_deadline_s until the ranks are up, cluster.step_deadline_s for
    everything else.

    Args:
        cluster: where the ranks live.
        parallel: layout; one actor per rank.

    Attributes:
        changes: counts what changes the weights: set-ups, steps, loaded checkpoints.
        temperature: that log-probs are computed at.
        seq_length: of the present set-up.
        dtype: that it computes in.

    Raises:
        CascadeError: the ranks don't come up.
    """

    def __init__(self, cluster: Cluster, parallel: ParallelConfig) -> None:
        self.cluster, self.parallel = cluster, parallel
        self.changes = 0
        self.temperature, self.seq_length, self.dtype = 1.0, 0, "fp32"
        self._deadline = cluster.config.step_deadline_s
        self._fleet = Fleet(cluster, "policy", TrainingError)
        slots = policy_slots(cluster.slots, parallel.world_size) if cluster.device == "gpu" else []
        add_ranks(self._fleet, PolicyActor, parallel.world_size, cluster.config.policy_threads, slots)

    @property
    def pids(self) -> list[int]:
        """Process ids of the ranks."""
        return [m.info.pid for m in self._fleet.members if m.info is not None]

    @property
    def machine(self) -> str:
        """Where rank 0 runs and writes weight buckets."""
        info = self._fleet.members[0].info
        assert info is not None, "the ranks are up"
        return info.machine

    def setup(self, setup: PolicySetup) -> dict[str, Any]:
        """Build model, optimizer and schedule on every rank; return rank 0's facts."""
        self.changes += 1
        self.temperature, self.seq_length = setup.temperature, setup.seq_length
        self.dtype = setup.precision.dtype
        facts: dict[str, Any] = self._invoke("setup", setup)[0]
        return facts

    def train_step(self, source: BatchSource, step: int) -> StepResult:
        """Make one optimizer step; return its result, which is the same on every rank."""
        self.changes += 1
        result: StepResult = self._invoke("train_step", ray.put(source), step)[0]
        return result

    def logprobs(
        self, source: BatchSource, step: int, which: Literal["policy", "reference"] = "policy"
    ) -> list[list[Float32]]:
        """Score the labels of a batch. Returns [dp_rank][micro-batch], each [T]."""
        answers = self._invoke("logprobs", ray.put(source), step, which)
        return [answer for answer in answers if answer is not None]

    def scores(self, source: BatchSource, step: int) -> list[list[Float32]]:
        """Score the documents of a batch by the reward model. Returns [dp_rank][micro-batch], each [documents]."""
        answers = self._invoke("scores", ray.put(source), step)
        return [answer for answer in answers if answer is not None]

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

    def send_weights(
        self, folder: Path, bucket_bytes: int, dtype: str, deadline_s: float, *, by_message: bool = False
    ) -> Generator[tuple[WeightBucket, Any], None, None]:
        """Yield the weights as buckets (with a reference to their bytes if `by_message`) while rank 0 writes them.

        The folder, in shared memory, and the files in it are the caller's to remove. Leaving the iterator early
        removes the folder, which ends the hand-over on all ranks.

        Raises:
            CascadeError: a rank failed.
            DeadlineError: rank 0 or the others were too slow.
        """
        fleet = self._fleet
        fleet.check()
        end = time.monotonic() + deadline_s
        first, others = fleet.members[0], fleet.members[1:]
        refs = {m.name: m.handle.follow_weights.remote() for m in others}
        stream = first.handle.send_weights.options(num_returns="streaming").remote(
            str(folder), bucket_bytes, dtype, deadline_s, by_message
        )
        complete = False
        try:
            while (item := fleet.next_of(first, stream, "send_weights", end, deadline_s)) is not None:
                payload = fleet.next_of(first, stream, "send_weights", end, deadline_s) if by_message else None
                yield fleet.value_of(first, item, "send_weights"), payload
            fleet.gather(refs, "follow_weights", max(1.0, end - time.monotonic()))
            complete = True
        finally:
            if not complete:
                shutil.rmtree(folder, ignore_errors=True)  # rank 0 sees it and comes to an end
                _, late = ray.wait([*refs.values(), stream], num_returns=1 + len(refs), timeout=DRAIN_DEADLINE_S)
                if late:
                    fleet.broken = "ranks are stuck in a weight hand-over that was given up"

    def resident_mib(self) -> dict[str, float]:
        """Return the resident memory of each rank, MiB."""
        return self._fleet.resident_mib()

    def close(self) -> None:
        """End all ranks."""
        self._fleet.close()

    def _invoke(self, method: str, *args: Any) -> list[Any]:
        refs = {m.name: m.handle.invoke.remote(method, *args) for m in self._fleet.members}
        return self._fleet.gather(refs, method, self._deadline)
