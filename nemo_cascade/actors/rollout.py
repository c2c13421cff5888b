"""The engines: one actor each, generating side by side; a dead one is replaced once, with the same weights."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from nemo_cascade.actors.actor import Actor
from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.fleet import Fleet, Member
from nemo_cascade.actors.placement import engine_slots, placed_on
from nemo_cascade.actors.turns import DEADLINE_MARGIN_S, Turns
from nemo_cascade.config.rollout import RolloutConfig, SamplingConfig
from nemo_cascade.errors import ActorDiedError, DeadlineError, RolloutError
from nemo_cascade.rollout.buckets import SyncSummary, WeightBucket
from nemo_cascade.types import Float32, Int32, Place, Question, Trajectory

log = logging.getLogger(__name__)


class RolloutActor(Actor):
    """One engine's process."""

    worker: Any = None

    def start(self, **arguments: Any) -> float:
        """Start the engine; return the seconds it took."""
        from nemo_cascade.rollout.engine import RolloutWorker

        self.worker = RolloutWorker(**arguments)
        return float(self.worker.start_seconds)

    def generate(self, questions: list[Question], sampling: SamplingConfig, seed: int) -> Iterator[list[Trajectory]]:
        """Yield answers as they end; those that end together in one message."""
        yield from self.worker.generate(questions, sampling, seed)

    def advance(
        self, asked: list[tuple[Question, int]], sampling: SamplingConfig, patience_s: float, first: bool
    ) -> list[Trajectory]:
        """Take up questions, and return the answers that end next."""
        answers: list[Trajectory] = self.worker.advance(asked, sampling, patience_s, first)
        return answers

    def take_back(self) -> None:
        """Keep what is under way for the next `advance`, and be free for something else."""
        self.worker.take_back()

    def give_up(self, places: list[Place]) -> int:
        """Give up some answers; return how many tokens they had."""
        lost: int = self.worker.give_up(places)
        return lost

    def end_turns(self) -> None:
        """Give up what is under way."""
        self.worker.end_turns()

    def probe(self, sequences: list[Int32], temperature: float) -> list[Float32]:
        """Score given tokens."""
        scores: list[Float32] = self.worker.probe(sequences, temperature)
        return scores

    def begin_update(self, version: int) -> None:
        """Get ready for new weights."""
        self.worker.begin_update(version)

    def receive(self, bucket: WeightBucket, content: NDArray[np.uint8] | None) -> None:
        """Load a bucket, from its sender's memory or, on another machine than that, from its content."""
        if content is None:
            self.worker.receive(bucket)
            return
        own = bucket.copied(content)
        try:
            self.worker.receive(own)
        finally:
            own.release()

    def finish_update(self, sent: SyncSummary) -> None:
        """Check what was received and take it into use."""
        self.worker.finish_update(sent)

    def abort_update(self) -> None:
        """Give up a hand-over."""
        self.worker.abort_update()

    def close(self) -> None:
        """Stop the engine."""
        if self.worker is not None:
            self.worker.close()


class RolloutGroup:
    """All engines.

    Task i of a generation goes to engine i modulo the number of engines, so that the same call gives the same
    rollouts.

    Args:
        cluster: where the engines live.
        config: engine settings; `num_engines` of them are started.
        model_path: HF folder they start from.
        seed: of the run.
        family: of the model, where its config.json doesn't say it.
        routed_experts: answers tell which experts their tokens went to.

    Attributes:
        start_seconds: of each engine.
        version: weight version that all engines hold; 0 for the folder they were started from.

    Raises:
        CascadeError: an engine does not come up within rollout.start_deadline_s.
    """

    def __init__(
        self,
        cluster: Cluster,
        config: RolloutConfig,
        model_path: str,
        seed: int,
        family: str | None = None,
        routed_experts: bool = False,
    ) -> None:
        self.cluster, self.config, self.model_path, self.seed, self.family = cluster, config, model_path, seed, family
        self.routed_experts = routed_experts
        self.version = 0
        self.restarts: dict[str, int] = {}
        self._alone: dict[str, int] = {}
        self._restore: Callable[[Member], None] | None = None
        self._fleet = Fleet(cluster, "rollout", RolloutError)
        self._slots = engine_slots(cluster.slots, config) if cluster.slots else []
        for index in range(config.num_engines):
            environment, options = self._place(index)
            self._fleet.add(RolloutActor, environment, **options)
        self._fleet.wait_until_up()
        self.start_seconds = self._start_engines(self._fleet.members)

    @property
    def pids(self) -> list[int]:
        """Process ids of the engines."""
        return [m.info.pid for m in self._fleet.members if m.info is not None]

    @property
    def fleet(self) -> Fleet:
        """The engines' actors, for a weight hand-over."""
        return self._fleet

    def generate(
        self, questions: Sequence[Question], sampling: SamplingConfig, seed: int
    ) -> Iterator[list[Trajectory]]:
        """Sample answers to each question on all engines; yield them as they end, in no particular order.

        A list holds what ended together on one engine: a message an answer would cost the driver more than a small
        answer takes to sample.

        An engine that dies is started anew, once in the run, gets the present weights and generates its share again
        from the same seeds; answers that were already yielded are not repeated.

        Raises:
            ActorDiedError: an engine died and can't be replaced.
            DeadlineError: not done within rollout.generate_deadline_s.
            RolloutError: a question that can't be generated from.
        """
        self._fleet.check()
        end = time.monotonic() + self.config.generate_deadline_s + DEADLINE_MARGIN_S
        count = len(self._fleet.members)
        shares = {i: list(questions[i::count]) for i in range(count) if questions[i::count]}
        wanted = sum(len(question.samples) for question in questions)

        def begin(index: int) -> Any:
            handle = self._fleet.members[index].handle
            stream = handle.generate.options(num_returns="streaming")
            return stream.remote(shares[index], sampling, seed)

        streams = {index: begin(index) for index in shares}
        seen: set[tuple[str, int]] = set()
        complete = False
        try:
            while streams:
                index = self._ready(streams, end, wanted - len(seen))
                try:
                    item = self._fleet.next_of(self._fleet.members[index], streams[index], "generate", end, 0.0)
                    ended = None if item is None else self._fleet.value_of(self._fleet.members[index], item, "generate")
                except ActorDiedError as death:
                    self._revive(index, death, end)
                    streams[index] = begin(index)
                    continue
                if ended is None:
                    del streams[index]
                elif fresh := [answer for answer in ended if (answer.task_id, answer.sample) not in seen]:
                    seen.update((answer.task_id, answer.sample) for answer in fresh)
                    yield fresh
            complete = True
        finally:
            if not complete:
                for stream in streams.values():
                    ray.cancel(stream, force=False)

    @property
    def slots(self) -> int:
        """Answers that all engines sample at a time, at most."""
        return self.config.num_engines * self.config.max_num_seqs

    @contextmanager
    def turns(self, sampling: SamplingConfig) -> Iterator[Turns]:
        """Open a generation whose questions keep coming; leaving it gives up what isn't answered.

        Raises:
            ActorDiedError: an engine can't be used any more.
        """
        self._fleet.check()
        turns = Turns(self, sampling)
        try:
            yield turns
        finally:
            turns.close()

    def _ready(self, streams: dict[int, Any], end: float, missing: int) -> int:
        """Return an engine that has something to say."""
        order = list(streams)
        ready, _ = ray.wait(
            [streams[i] for i in order], num_returns=1, timeout=max(0.0, end - time.monotonic()), fetch_local=False
        )
        if ready:
            return next(i for i in order if streams[i] is ready[0])
        names = [self._fleet.members[i].name for i in order]
        self._fleet.broken = f"{', '.join(names)} did not finish generating"
        silence = self._fleet.silence(names, "generate", self.config.generate_deadline_s)
        raise DeadlineError(f"{missing} answers are missing: {silence.what}", limit=silence.limit, mend=silence.mend)

    def probe(self, sequences: list[Int32], temperature: float = 1.0) -> list[Float32]:
        """Score given tokens on the first engine: [n - 1] log-probs for each sequence of n tokens."""
        scores: list[Float32] = self._probe(self._fleet.members[:1], sequences, temperature)[0]
        return scores

    def probe_each(self, sequences: list[Int32], temperature: float = 1.0) -> dict[str, list[Float32]]:
        """Score given tokens on every engine; engine name -> scores."""
        members = self._fleet.members
        return dict(zip([m.name for m in members], self._probe(members, sequences, temperature), strict=True))

    def hold(self, version: int, restore: Callable[[Member], None]) -> None:
        """Note that all engines hold `version`, and how a new engine gets it."""
        self.version, self._restore = version, restore
        self._alone.clear()

    def holds_alone(self, member: Member, version: int) -> None:
        """Note that an engine was given a later version than the others hold."""
        self._alone[member.name] = version

    def lacking(self, version: int) -> list[Member]:
        """Return the engines that a version is to be handed to: all but those that were given it alone."""
        return [member for member in self._fleet.members if self._alone.get(member.name) != version]

    def close(self) -> None:
        """End all engines."""
        self._fleet.close()

    def _probe(self, members: Sequence[Member], sequences: list[Int32], temperature: float) -> list[Any]:
        return self._fleet.call_on(members, "probe", sequences, temperature, deadline_s=self.config.generate_deadline_s)

    def _place(self, index: int) -> tuple[dict[str, str], dict[str, Any]]:
        environment, options = placed_on(self._slots[index]) if self._slots else ({}, {})
        return self.cluster.environment(self.cluster.config.rollout_threads, **environment), options

    def revive(self, index: int, death: ActorDiedError) -> None:
        """Replace a dead engine that was asked turn by turn; raises as `generate`."""
        self._revive(index, death, time.monotonic() + self.config.generate_deadline_s + DEADLINE_MARGIN_S)

    def _start_engines(self, members: Sequence[Member]) -> list[float]:
        refs = {
            m.name: m.handle.start.remote(
                model_path=self.model_path,
                family=self.family,
                routed_experts=self.routed_experts,
                config=self.config,
                seed=self.seed,
                threads=self.cluster.config.rollout_threads,
                device=self.cluster.device,
            )
            for m in members
        }
        return self._fleet.gather(refs, "start", self.config.start_deadline_s)

    def _revive(self, index: int, death: ActorDiedError, end: float) -> None:
        """Put a new engine with the same weights in the place of a dead one.

        Raises:
            ActorDiedError: it died before, no time is left, or the weights it held are not to be had any more.
        """
        name = self._fleet.members[index].name
        if self.restarts.get(name, 0) >= 1 or end - time.monotonic() <= DEADLINE_MARGIN_S:
            self._fleet.broken = str(death)
            raise death
        self.restarts[name] = self.restarts.get(name, 0) + 1
        log.warning("%s; starting it anew", death)
        self._fleet.broken = None
        environment, options = self._place(index)
        member = self._fleet.replace(index, RolloutActor, environment, **options)
        self._fleet.wait_until_up([member])
        self._start_engines([member])
        if self.version:
            assert self._restore is not None, "a version comes with a way to restore it"
            self._restore(member)
