"""An engine by the clock: so many answers at a time, each takes its seconds; what it says follows from the question."""

import heapq
import time
from collections import deque
from contextlib import contextmanager
from random import Random

import numpy as np

from nemo_cascade.types import FinishReason, first_turn


class SlotEngine:
    """Answers with the question's length and an end; counts the seconds in which its slots were taken."""

    def __init__(self, slots=1000, answer_s=0.0):
        self.slots, self.answer_s = slots, answer_s
        self.asked, self.busy_s = [], 0.0
        self._queue, self._running, self._rng = deque(), [], Random(0)

    def generate(self, questions, sampling, seed):
        self.ask(questions, seed)
        while self.waiting:
            if answers := self.answers(1.0):
                yield answers

    @contextmanager
    def turns(self, sampling):
        yield self

    @property
    def waiting(self):
        return len(self._queue) + len(self._running)

    def ask(self, questions, seed):
        for question in questions:
            self.asked += [(question.task_id, sample, len(question.token_ids), seed) for sample in question.samples]
            self._queue += [(question, sample) for sample in question.samples]

    def answers(self, patience_s):
        now, ended = time.monotonic(), []
        until = now + patience_s
        while True:
            while self._queue and len(self._running) < self.slots:
                self._start(now)
            while self._running and self._running[0][0] <= now:
                ended_at, *_, answered = heapq.heappop(self._running)
                ended.append(answered)
                if self._queue:  # an engine goes on by itself, whether anybody listens or not
                    self._start(ended_at)
            if ended or now >= until:
                return [self._answer(*one) for one in ended]
            time.sleep(max(0.0, min(self._running[0][0], until) - now))
            now = time.monotonic()

    def _start(self, at):
        took = self.answer_s * self._rng.uniform(0.5, 1.5)
        self.busy_s += took
        heapq.heappush(self._running, (at + took, len(self.asked), self._rng.random(), self._queue.popleft()))

    def _answer(self, question, sample):
        ids = np.array([len(question.token_ids), 2])
        said = (question.token_ids, ids, np.array([-1.0, -2.0]), FinishReason.STOP, 1)
        return first_turn(question.task_id, sample, *said)
