"""Engines by a clock of their own: log-normal lengths, slots, decoding that slows down as slots fill; instant judges.

An engine with n answers under way takes BASE_S + n * EACH_S for a token of each (weights are read once, a cache for
each answer). What goes on behind a pause is read anew first, READ_PER_S tokens a second. The clock goes on only where
somebody waits. Seconds and tokens stand for 100 of a real engine each.
"""

import heapq
import math
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import numpy as np

from nemo_cascade.types import FinishReason, Verdict, first_turn

# An 8B model on two H100 at 70 % of their bandwidth: 7 ms, and 0.5 ms for each cache of 18,000 tokens.
BASE_S, EACH_S, READ_PER_S = 0.7, 0.05, 200.0


@dataclass
class Answer:
    """What it will be long, what is sampled of it, and where its engine stood when it began."""

    question: object
    sample: int
    length: int
    reason: FinishReason
    done: int = 0
    begun_at: float = 0.0
    swaps: list = field(default_factory=list)

    @property
    def place(self):
        return self.question.task_id, self.sample


class Engine:
    """All its answers move on together: `progress` tokens each so far."""

    def __init__(self, slots):
        self.slots, self.queue, self.running = slots, deque(), {}
        self.progress, self.now, self.reads_until, self.busy_s, self.slot_s = 0.0, 0.0, 0.0, 0.0, 0.0
        self._ends = []

    def __len__(self):
        return len(self.queue) + len(self.running)

    def fill(self):
        while self.queue and len(self.running) < self.slots:
            answer = self.queue.popleft()
            answer.begun_at = self.progress - answer.done
            self.running[answer.place] = answer
            heapq.heappush(self._ends, (answer.begun_at + answer.length, id(answer), answer))

    def next_end(self):
        """When its next answer ends, and that answer."""
        while self._ends and self.running.get(self._ends[0][2].place) is not self._ends[0][2]:
            heapq.heappop(self._ends)
        if not self._ends:
            return math.inf, None
        end, _, answer = self._ends[0]
        return max(self.now, self.reads_until) + (end - self.progress) * self._token_s, answer

    @property
    def _token_s(self):
        return BASE_S + EACH_S * len(self.running)

    def go_on(self, until):
        """Move to a time before which none of its answers ends."""
        if self.running:
            self.progress += max(0.0, until - max(self.now, self.reads_until)) / self._token_s
            self.busy_s += until - self.now
            self.slot_s += (until - self.now) * len(self.running)
        self.now = until

    def sampled(self, answer):
        return min(answer.length - 1, max(0, int(self.progress - answer.begun_at)))

    def end(self, answer):
        heapq.heappop(self._ends)
        del self.running[answer.place]

    def take_back(self, version):
        """Stop all, and have it read anew."""
        under_way, self._ends = list(self.running.values()), []
        self.running.clear()
        for answer in reversed(under_way):
            done = self.sampled(answer)
            if done > answer.done:
                answer.swaps.append((done, version))
            answer.done = done
            self.queue.appendleft(answer)
        self.reads_until = self.now + sum(a.done for a in under_way) / READ_PER_S
        self.fill()


class SimulatedEngines:
    """`median`, `by_task`, `by_sample`: of the lengths, and the sigmas of their logarithms."""

    def __init__(self, engines, slots_each, median=150, by_task=0.4, by_sample=0.5, longest=400, seed=0):
        self.engines, self.slots = [Engine(slots_each) for _ in range(engines)], engines * slots_each
        self._shape, self._longest, self._seed = (median, by_task, by_sample), longest, seed
        self.version, self.tokens, self.asked, self._home = 0, 0, [], {}

    def hold(self, version, restore):
        self.version = version

    @contextmanager
    def turns(self, sampling):
        try:
            yield self
        finally:
            self.give_up({a.place for e in self.engines for a in [*e.queue, *e.running.values()]})

    def generate(self, questions, sampling, seed):
        self.ask(questions, seed)
        while self.waiting:
            yield self.answers(math.inf)

    @property
    def clock(self):
        return self.engines[0].now

    def idle_until(self, time):
        for engine in self.engines:
            engine.go_on(max(time, engine.now))

    @property
    def busy(self):
        """Shares of the time so far: engines that sample, and slots that are taken."""
        total = self.clock * len(self.engines)
        slots = self.clock * self.slots
        return sum(e.busy_s for e in self.engines) / total, sum(e.slot_s for e in self.engines) / slots

    @property
    def waiting(self):
        return sum(map(len, self.engines))

    def ask(self, questions, seed):
        for question in questions:
            engine = self._home.get(question.task_id) or min(self.engines, key=len)
            self._home[question.task_id] = engine
            for sample in question.samples:
                self.asked.append((question.task_id, sample))
                length = self._length(question, sample, seed)
                reason = FinishReason.LENGTH if length > self._longest else FinishReason.STOP
                engine.queue.append(Answer(question, sample, min(length, self._longest), reason))
            engine.fill()

    def _length(self, question, sample, seed):
        median, by_task, by_sample = self._shape
        task = Random(f"{self._seed}/{question.task_id}").gauss(0, by_task)
        own = Random(f"{self._seed}/{seed}/{question.task_id}/{sample}").gauss(0, by_sample)
        return max(2, round(median * math.exp(task + own)))

    def answers(self, patience_s):
        (at, answer), engine = min(((e.next_end(), e) for e in self.engines), key=lambda found: found[0][0])
        if at > self.clock + patience_s:
            self.idle_until(self.clock + patience_s)
            return []
        self.idle_until(at)
        engine.end(answer)
        self.tokens += answer.length
        if not any(
            other.question.task_id == answer.question.task_id for other in [*engine.queue, *engine.running.values()]
        ):
            del self._home[answer.question.task_id]
        engine.fill()
        return [self._said(answer)]

    def _said(self, answer):
        ids, logprobs = np.zeros(answer.length, np.int32), np.zeros(answer.length, np.float32)
        swaps = [(end, version) for end, version in answer.swaps if version != self.version]
        given = (answer.question.token_ids, ids, logprobs, answer.reason, self.version)
        return first_turn(answer.question.task_id, answer.sample, *given, swaps=swaps)

    def pause(self):
        for engine in self.engines:
            engine.take_back(self.version)

    def give_up(self, places):
        lost = 0
        for engine in self.engines:
            for place in [place for place in engine.running if place in places]:
                lost += engine.sampled(engine.running.pop(place))
            for answer in [answer for answer in engine.queue if answer.place in places]:
                engine.queue.remove(answer)
                lost += answer.done
            engine.fill()
        for name in {name for name, _ in places}:
            self._home.pop(name, None)
        self.tokens += lost
        return lost


class InstantJudges:
    """Give a score that follows from the place: `solved` says by what."""

    def __init__(self, solved=lambda place: float(place[1] % 2)):
        self._solved, self.group_size, self._places = solved, 0, []

    def submit(self, samples):
        self._places += [answer.place for _, answer in samples]

    def collect(self):
        places, self._places = self._places, []
        return [(place, Verdict(self._solved(place))) for place in places]

    drain = drain_submitted = collect

    def withdraw(self, task_id):
        return []
