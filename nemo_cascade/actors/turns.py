"""Questions that keep coming to the engines, and what they are doing when something else is due."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray

from nemo_cascade.actors.fleet import Member
from nemo_cascade.config.rollout import SamplingConfig
from nemo_cascade.errors import ActorDiedError, CascadeError
from nemo_cascade.types import Place, Question, Trajectory

if TYPE_CHECKING:
    from nemo_cascade.actors.rollout import RolloutGroup

# The engine keeps its own deadline and says more about it: the group's comes a little later.
DEADLINE_MARGIN_S = 15.0


class Turns:
    """Questions that keep coming, and answers as they end: for conversations that don't wait for each other.

    Each engine has up to two calls in flight, so that it goes on sampling while the driver reads the first one's
    answers. A sample's later turns go to the engine that has read its earlier ones. An engine that dies is started
    anew, and asked again what it hadn't answered. Between `pause` and the next `answers` the engines are free for new
    weights, or for another generation.

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
        self._known: list[Member | None] = [None] * count
        self._kept: list[Trajectory] = []
        self._heard = time.monotonic()

    @property
    def waiting(self) -> int:
        """Answers that are to come."""
        return sum(map(len, self._open)) + len(self._kept)

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
        if self._kept:
            kept, self._kept = self._kept, []
            return kept
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

    def pause(self) -> None:
        """Have the engines keep what they have sampled, and be free for something else."""
        self._hear_out()
        busy = [index for index, open_ones in enumerate(self._open) if open_ones and self._is_known(index)]
        members = [self._group.fleet.members[index] for index in busy]
        self._group.fleet.call_on(members, "take_back", deadline_s=self._group.config.generate_deadline_s)

    def give_up(self, places: Collection[Place]) -> int:
        """Give up all samples of some tasks; return how many tokens had been sampled of those without an answer."""
        self._hear_out()
        self._kept = [answer for answer in self._kept if answer.place not in places]
        lost = 0
        for index, open_ones in enumerate(self._open):
            ours = [place for place in places if open_ones.pop(place, None) is not None]
            unsent = self._unsent[index]
            self._unsent[index] = [(q, seed) for q, seed in unsent if (q.task_id, q.samples[0]) not in ours]
            if ours and self._is_known(index):
                member = [self._group.fleet.members[index]]
                lost += self._group.fleet.call_on(
                    member, "give_up", ours, deadline_s=self._group.config.generate_deadline_s
                )[0]
        for place in places:
            self._home.pop(place, None)
        return lost

    def _hear_out(self) -> None:
        """Wait for the calls that are under way, and keep their answers."""
        for index, calls in enumerate(self._calls):
            while calls:
                self._kept += self._taken(index)
        self._heard = time.monotonic()

    def _is_known(self, index: int) -> bool:
        """Tell whether the engine is the one that was asked; one in a dead one's place knows nothing of it."""
        return self._known[index] is self._group.fleet.members[index]

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
        member, first = self._group.fleet.members[index], not self._is_known(index)
        new = self._unsent[index]
        if first and self._known[index] is not None:  # all that the one before had been asked
            new = list(self._open[index].values())
        self._calls[index].append(member.handle.advance.remote(new, self._sampling, patience_s, first))
        self._unsent[index], self._known[index] = [], member

    def _taken(self, index: int) -> list[Trajectory]:
        """Return the answers of an engine's oldest call."""
        ref = self._calls[index].popleft()
        try:
            answers: list[Trajectory] = self._group.fleet.value_of(self._group.fleet.members[index], ref, "advance")
        except ActorDiedError as death:
            self._group.revive(index, death)
            self._calls[index].clear()
            return []
        for answer in answers:
            del self._open[index][answer.place]
        return answers
