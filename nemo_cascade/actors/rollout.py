"""The engines: one actor each, generating side by side; a dead one is replaced once, with the same weights."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from nemo_cascade.actors.actor import Actor
from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.fleet import Fleet, Member
from nemo_cascade.actors.placement import engine_slots, placed_on
from nemo_cascade.config.rollout import RolloutConfig, SamplingConfig
from nemo_cascade.errors import ActorDiedError, CascadeError, DeadlineError, RolloutError
from nemo_cascade.rollout.buckets import SyncSummary, WeightBucket
from nemo_cascade.types import Float32, Int32, Place, Question, Trajectory

log = logging.getLogger(__name__)

# The engine keeps its own deadline and says more about it: the group's comes a little later.
DEADLINE_MARGIN_S = 15.0


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


class Turns:
    """Questions that keep coming, and answers as they end: for conversations that don't wait for each other.

    Each engine has up to two calls in flight, so that it goes on sampling while the driver reads the first one's
    answers. A sample's later turns go to the engine that has read its earlier ones. An engine that dies is started
    anew, and asked again what it hadn't answered.

    Args:
        group: the engines.
        sampling: how answers are drawn.
    """

    def __init__(self, group: RolloutGroup, sampling: SamplingConfig) -> None:
        self._group, self._sampling = group, sampling
        count = len(group.fleet.members)
        self._open: list[dict[Place, tuple[Question, int]]] = [{} for _ in range(count)]
        self._unsent: list[list[tuple[Question, int]]] = [[] for _ in range(count)]
        self._calls: list[deque[Any]] = [deque() for _ in range(count)]
        self._home: dict[Place, int] = {}
        self._begun = [False] * count
        self._heard = time.monotonic()

    @property
    def waiting(self) -> int:
        """Answers that are to come."""
        return sum(map(len, self._open))

    def ask(self, questions: Sequence[Question], seed: int) -> None:
        """Ask questions, each with the seed of this generation."""
        for question in questions:
            places = [(question.task_id, sample) for sample in question.samples]
            emptiest = min(range(len(self._open)), key=lambda i: len(self._open[i]))
            index = self._home.get(places[0], emptiest)
            self._unsent[index].append((question, seed))
            for place in places:
                self._home[place] = index
                single = Question(question.task_id, question.token_ids, range(place[1], place[1] + 1))
                self._open[index][place] = single, seed
        self._heard = time.monotonic()

    def answers(self, patience_s: float) -> list[Trajectory]:
        """Return what ended by now; nothing where nothing does for so long.

        Raises:
            ActorDiedError: an engine died and can't be replaced.
            DeadlineError: no answer came for rollout.generate_deadline_s.
            CascadeError: what an engine raised.
        """
        for index in range(len(self._calls)):
            self._send(index, patience_s)
        heads = {calls[0]: index for index, calls in enumerate(self._calls) if calls}
        ready, _ = ray.wait(list(heads), num_returns=len(heads), timeout=0.0)
        if not ready:
            ready, _ = ray.wait(list(heads), num_returns=1, timeout=patience_s)
        answers = [answer for ref in ready for answer in self._taken(heads[ref])]
        limit = self._group.config.generate_deadline_s + DEADLINE_MARGIN_S
        if answers:
            self._heard = time.monotonic()
        elif time.monotonic() > self._heard + limit:
            names = [self._group.fleet.members[i].name for i, open_ones in enumerate(self._open) if open_ones]
            self._group.fleet.broken = f"{', '.join(names)} did not finish generating"
            raise self._group.fleet.silence(names, "advance", limit)
        return answers

    def close(self) -> None:
        """Give up what isn't answered."""
        fleet = self._group.fleet
        left = [member for member, open_ones in zip(fleet.members, self._open, strict=True) if open_ones]
        if left and fleet.broken is None:
            with suppress(CascadeError):
                fleet.call_on(left, "end_turns", deadline_s=self._group.config.generate_deadline_s)

    def _send(self, index: int, patience_s: float) -> None:
        """Keep an engine that has something to do at it, and tell it what is new."""
        if not self._open[index] or len(self._calls[index]) == 2:
            return
        handle = self._group.fleet.members[index].handle
        new, first = self._unsent[index], not self._begun[index]
        self._calls[index].append(handle.advance.remote(new, self._sampling, patience_s, first))
        self._unsent[index], self._begun[index] = [], True

    def _taken(self, index: int) -> list[Trajectory]:
        """Return the answers of an engine's oldest call."""
        ref = self._calls[index].popleft()
        try:
            answers: list[Trajectory] = self._group.fleet.value_of(self._group.fleet.members[index], ref, "advance")
        except ActorDiedError as death:
            self._group.revive(index, death)
            self._calls[index].clear()
            self._begun[index] = False
            self._unsent[index] = list(self._open[index].values())
            return []
        for answer in answers:
            del self._open[index][answer.place]
        return answers
