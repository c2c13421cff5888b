"""What a host is told and what it says, pickled over a socket pair."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.environments.environment import Step
from nemo_cascade.types import Int32, Place, Task, Trajectory, Verdict

MOST_DETAIL = 2000


@dataclass(frozen=True, slots=True)
class Hello:
    """What a host begins with.

    Attributes:
        path: where modules are found.
        tokenizer: the policy's folder; None where no environment asks for one.
        threads: steps at a time.
        memory_mib: address space.
        sandbox: of programs that environments run.
    """

    path: list[str]
    tokenizer: str | None
    threads: int
    memory_mib: int
    sandbox: SandboxConfig


@dataclass(frozen=True, slots=True)
class Order:
    """One thing to do.

    Attributes:
        serial: comes back with the answer.
        place: the sample.
        task: what it is about.
        said: all its turns; None: it is to start.
        most: tokens of an observation that are of any use; of more only one too many is sent.
    """

    serial: int
    place: Place
    task: Task
    said: Trajectory | None
    most: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Samples that are over."""

    places: list[Place]


@dataclass(frozen=True, slots=True)
class Ready:
    """The host has what it begins with, or `problem` says why not."""

    problem: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """The host is alive, whatever its environments do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an order.

    Attributes:
        serial: the order's.
        value: a step, or the first tokens.
        problem: what was raised instead.
    """

    serial: int
    value: Step | Int32 | None = None
    problem: str = ""


def sound_step(given: Any, most: int) -> Step:
    """Return what an environment gave as a step of plain values.

    Raises:
        ValueError, TypeError: it is none.
    """
    if not isinstance(given, Step):
        raise TypeError(f"a step is a Step, not {type(given).__name__}")
    verdict = given.verdict
    if verdict is not None:
        score = None if verdict.score is None else float(verdict.score)
        if score is not None and not math.isfinite(score):
            raise ValueError(f"a score is finite, not {score}")
        error = None if verdict.error is None else str(verdict.error)[:100]
        verdict = Verdict(score, error, str(verdict.detail)[:MOST_DETAIL], float(verdict.seconds))
    observation = None if given.observation is None else sound_tokens(given.observation, most)
    return Step(observation, verdict, bool(given.anew))


def sound_tokens(given: Any, most: int) -> Int32:
    """Return tokens as an array of their own, at most one more than are of any use.

    Raises:
        ValueError: they are none.
    """
    tokens = np.asarray(given)
    if tokens.ndim != 1 or not tokens.size or tokens.dtype.kind not in "iu":
        raise ValueError("an observation is at least one token id")
    return np.array(tokens[: most + 1], np.int32)
