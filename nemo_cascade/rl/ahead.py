"""Rollouts ahead of the step that trains them: engines draw while the policy trains what was drawn before.

    max_staleness 0     a step's batch is drawn when it is due, with the weights that it trains
    max_staleness k     with the weights of step t the batch of step t + k is drawn, while step t trains

Weights change between batches alone, when the engines have nothing to do, and which weights draw a batch follows from
its number: a stage that is stopped goes on as if it hadn't been, from the batches that its checkpoint holds.

One worker draws one batch after another, and the policy waits for nobody else. A new engine in a dead one's place waits
for the policy: between two updates it gets the weights as they are then, and its rollouts say so. So nothing waits in a
circle.
"""

from __future__ import annotations

import pickle
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from nemo_cascade.actors.fleet import Member
from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.errors import RolloutError
from nemo_cascade.rl.batch import RolloutBatch
from nemo_cascade.rl.collect import Collector
from nemo_cascade.telemetry.timers import PhaseTimer

ROLLOUTS_AHEAD = "rollouts_ahead.pickle"
_ENDING_S = 20.0
_LOOK_S = 0.2


class _Unwanted(RolloutError):
    """The stage is at an end, and nobody wants what is being drawn."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A step's batch.

    Attributes:
        batch: judged rollouts.
        stage: the values that it was drawn with.
        said: what the step's log line says of how it was drawn.
    """

    batch: RolloutBatch
    stage: GrpoStage
    said: dict[str, Any]


class Ahead:
    """Draws batches up to `max_staleness` steps before they are due; leave it to let go of what nobody wants.

    Args:
        collector: draws one batch.
        stage: how far ahead, and how many steps there are.
        version_of: step -> the weight version that it trains.
        restore: gives an engine the policy's present weights, as a version.
        checkpoint: what the stage goes on from; its every byte is as it was written.
        first: step that comes next.
    """

    def __init__(
        self,
        collector: Collector,
        stage: GrpoStage,
        version_of: Callable[[int], int],
        restore: Callable[[Member, int], None],
        checkpoint: Path | None = None,
        first: int = 0,
    ) -> None:
        self._collector, self._version_of, self._restore = collector, version_of, restore
        self._most, self._steps = stage.max_staleness, stage.steps
        self._drawn: dict[int, Drawn | Future[Drawn]] = dict(enumerate(self._read(checkpoint), first))
        self._next = first + len(self._drawn)
        self._now, self._owner = first, threading.current_thread()
        self._lost: queue.SimpleQueue[tuple[Member, Future[None]]] = queue.SimpleQueue()
        self._unwanted = threading.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="rollouts-ahead")

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the batch that is being drawn come to its end, or after an error give it up."""
        if error is not None:
            self._unwanted.set()
        self._worker.shutdown(wait=error is None, cancel_futures=True)
        for drawn in self._drawn.values():
            if error is not None and isinstance(drawn, Future) and not drawn.cancelled():
                try:
                    drawn.exception(_ENDING_S)
                except NotYetError:
                    return  # ends when the engines do

    def settle(self, step: int) -> None:
        """Wait until the engines have nothing to do; the policy stands before `step`.

        Raises:
            CascadeError: what ended the drawing.
        """
        self._now = step
        for number, drawn in self._drawn.items():
            self._drawn[number] = self._wait(drawn)

    def draw(self, step: int, stage_at: Callable[[int], GrpoStage], timer: PhaseTimer) -> None:
        """Draw, or begin to, all batches that the weights of `step` are for.

        Args:
            step: whose weights the engines hold.
            stage_at: step -> the stage with its values.
            timer: takes the time of a batch that is drawn here and now.
        """
        due = range(self._next, min(step + self._most + 1, self._steps))
        self._next = max(self._next, due.stop)
        if self._most and due:
            engines = self._collector.by.engines
            engines.hold(engines.version, self._wait_for_weights)
        for number in due:
            stage = stage_at(number)
            if self._most:
                self._drawn[number] = self._worker.submit(self._collect, number, stage, PhaseTimer(), apart=True)
            else:
                self._drawn[number] = self._collect(number, stage, timer, apart=False)

    def take(self, step: int) -> Drawn:
        """Return a step's batch, waiting for it if need be; it is drawn already or being drawn.

        Raises:
            CascadeError: what ended the drawing.
            RolloutError: a rollout is older than `max_staleness` allows.
        """
        drawn = self._wait(self._drawn.pop(step))
        now = self._version_of(step)
        ages = [
            now - turn.version
            for group in drawn.batch.groups
            for answer in group.answers
            for part in answer.parts
            for turn in part.turns
        ]
        if min(ages) < 0 or max(ages) > self._most:
            value, limit = f"{min(ages)} to {max(ages)} steps", f"0 to max_staleness={self._most}"
            raise RolloutError("rollouts of other weights than this step may train", value=value, limit=limit)
        if self._most:
            drawn.said.update(staleness_mean=sum(ages) / len(ages), staleness_max=max(ages))
        return drawn

    def write(self, folder: Path) -> None:
        """Write what is drawn and not trained yet into a checkpoint; the engines have to have settled."""
        if not self._most:
            return
        held = []
        for _, drawn in sorted(self._drawn.items()):
            assert isinstance(drawn, Drawn), "a checkpoint is written when the engines have settled"
            batch = drawn.batch
            held.append((batch.groups, batch.dropped_groups, batch.rounds, drawn.stage, drawn.said))
        (folder / ROLLOUTS_AHEAD).write_bytes(pickle.dumps(held))

    def _read(self, checkpoint: Path | None) -> list[Drawn]:
        if checkpoint is None or not self._most:
            return []
        held = pickle.loads((checkpoint / ROLLOUTS_AHEAD).read_bytes())
        return [
            Drawn(self._collector.batch_of(groups, dropped, rounds), stage, said)
            for groups, dropped, rounds, stage, said in held
        ]

    def _wait(self, drawn: Drawn | Future[Drawn]) -> Drawn:
        """Wait for a batch, and meanwhile give new engines their weights: the policy has nothing else to do."""
        while isinstance(drawn, Future):
            try:
                return drawn.result(_LOOK_S)
            except NotYetError:
                if drawn.done():
                    raise  # a deadline of its own
            while not self._lost.empty():
                member, given = self._lost.get()
                self._restore(member, self._version_of(self._now))
                given.set_result(None)
        return drawn

    def _wait_for_weights(self, member: Member) -> None:
        """Have a new engine wait until the policy is between two updates."""
        if threading.current_thread() is self._owner:  # nobody draws ahead, and the engines are asked something else
            self._restore(member, self._version_of(self._now))
            return
        given: Future[None] = Future()
        self._lost.put((member, given))
        while not given.done():
            self._go_on(0)
            self._unwanted.wait(_LOOK_S)

    def _collect(self, step: int, stage: GrpoStage, timer: PhaseTimer, *, apart: bool) -> Drawn:
        self._collector.stage = stage
        batch = self._collector.collect(step, timer, self._go_on)
        said = {**batch.metrics(), **self._collector.stream.metrics()}
        if apart:
            said["seconds_ahead"] = timer.finish()
        return Drawn(batch, stage, said)

    def _go_on(self, _: int) -> None:
        if self._unwanted.is_set():
            raise _Unwanted("the stage is at an end")
