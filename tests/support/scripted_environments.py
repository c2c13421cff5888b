"""Environments of a few lines: well-behaved ones, and such as hang, raise, crash, fork or say far too much."""

import os
import subprocess
import sys
import time
from random import Random

import numpy as np

from nemo_cascade.environments.environment import Step
from nemo_cascade.types import Verdict


class Counting:
    """Gives 8, the turn's number; over after `turns` turns, with as many points."""

    def __init__(self, tokenizer, turns: int = 3):
        self.turns = turns

    def start(self, task):
        return task.token_ids

    def step(self, trajectory):
        done = len(trajectory.turns)
        verdict = Verdict(float(done))
        return Step(None if done == self.turns else np.array([8, done]), verdict)


class Parity(Counting):
    """Two turns; a point for every other sample."""

    def step(self, trajectory):
        done = trajectory.num_turns
        return Step(None if done == 2 else np.array([8, done]), Verdict(float(trajectory.sample % 2)))


class Broken(Counting):
    def step(self, trajectory):
        if trajectory.sample == 0:
            raise OSError("gone")
        return Step(np.zeros(0, np.int32)) if trajectory.sample == 1 else Step()


class Slow(Counting):
    def step(self, trajectory):
        time.sleep(60)
        return Step()


class Anew(Counting):
    """Has its second turn asked in a conversation that was written anew."""

    def step(self, trajectory):
        done = trajectory.num_turns
        return Step(None if done == 3 else np.array([9, done]), Verdict(float(done)), anew=done == 1)


class Stuck(Counting):
    def start(self, task):
        raise KeyError("world")


class Fickle(Counting):
    started = 0

    def start(self, task):
        Fickle.started += 1
        return np.array([Fickle.started], np.int32)


class Hostile(Counting):
    """Takes three turns; a few samples, by their number, misbehave at their second."""

    def step(self, trajectory):
        done = len(trajectory.turns)
        kind = misbehaviour(trajectory.task_id) if done == 2 else None
        if kind == "hangs":
            time.sleep(3600)
        elif kind == "hangs_in_c":
            sum(range(10**12))
        elif kind == "raises":
            raise OSError("gone")
        elif kind == "crashes":
            os._exit(3)
        elif kind == "says_50_mb":
            return Step(np.zeros(13_000_000, np.int32), Verdict(0.25))
        elif kind == "forks":
            for _ in range(3):
                subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
        elif kind == "forks_itself" and os.fork() == 0:
            time.sleep(0.2)
        elif kind == "gives_nonsense":
            return "well"
        return super().step(trajectory)


KINDS = ("hangs", "raises", "crashes", "says_50_mb", "forks", "forks_itself", "gives_nonsense")


def misbehaviour(name):
    """Return how a task misbehaves: two in a hundred each way."""
    place = int(name) % 50
    return KINDS[place] if place < len(KINDS) else None


class Sleepy(Counting):
    """Takes its time for each step: always as long, or in log-normal times with this median."""

    def __init__(self, tokenizer, seconds: float = 0.1, turns: int = 3, spread: float = 0.0):
        super().__init__(tokenizer, turns)
        self.seconds, self.spread = seconds, spread

    def step(self, trajectory):
        drawn = Random(f"{trajectory.place}/{trajectory.num_turns}").lognormvariate(0.0, self.spread)
        time.sleep(self.seconds * drawn)
        return super().step(trajectory)
