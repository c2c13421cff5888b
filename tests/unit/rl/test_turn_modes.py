"""Turns in step and streaming turns: the same conversations, and who waits for whom."""

from pathlib import Path

import numpy as np
import pytest

from nemo_cascade.config.environments import EnvironmentProcessesConfig
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.environments.hosting.hosts import EnvironmentHosts
from nemo_cascade.rl.ask import play
from nemo_cascade.rl.episodes import Episodes
from nemo_cascade.types import EnvironmentUse, Task
from tests.support.slot_engine import SlotEngine

SCRIPTED = Path(__file__).parents[2] / "support" / "scripted_environments.py"


@pytest.fixture(scope="module")
def hosts():
    with EnvironmentHosts(EnvironmentProcessesConfig(processes=1), None, SandboxConfig()) as made:
        yield made


def task(name, kind="Counting", **settings):
    use = EnvironmentUse(f"{SCRIPTED}:{kind}", settings, 8)
    return Task(name, "x", "math", np.array([5, 6], np.int32), {}, environment=use)


def played(hosts, turns, tasks, samples=2):
    engine, over = SlotEngine(), []
    with Episodes(tasks, samples, hosts, 40, 20.0) as episodes:
        play(episodes, engine, None, 7, over.extend, turns)
    return engine, {episode.trajectory.place: episode for episode in over}


def test_streaming_turns_are_the_same_conversations_with_the_same_seeds(hosts):
    alone = Task("alone", "x", "math", np.array([5, 6, 7], np.int32), {})
    tasks = [*(task(f"p{i}", turns=1 + i % 4) for i in range(12)), task("q", "Anew"), task("r", "Broken"), alone]
    step, stream = (played(hosts, turns, tasks, 3) for turns in ("lock_step", "streaming"))
    assert sorted(step[0].asked) == sorted(stream[0].asked)
    assert step[1].keys() == stream[1].keys()
    for place, one in step[1].items():
        other = stream[1][place]
        assert (one.verdict, one.trajectory.turns) == (other.verdict, other.trajectory.turns)
        for mine, its in zip(one.trajectory.parts, other.trajectory.parts, strict=True):
            assert mine.token_ids.tolist() == its.token_ids.tolist()


def test_only_where_turns_stream_does_nobody_wait_for_the_slowest(hosts):
    tasks = [task("slow", "Sleepy", seconds=0.5, turns=2), *(task(f"p{i}", turns=3) for i in range(4))]
    for turns, waits in (("lock_step", True), ("streaming", False)):
        engine, over = played(hosts, turns, tasks, 1)
        assert len(over) == 5
        order = [(name, length) for name, _, length, _ in engine.asked]
        second, last_of_others = order.index(("slow", 6)), max(order.index((f"p{i}", 10)) for i in range(4))
        assert (second < last_of_others) == waits


def test_samples_that_are_left_in_the_middle_of_a_step_disturb_no_others(hosts):
    engine = SlotEngine()
    with Episodes([task("left", "Sleepy", seconds=0.2, turns=2)], 2, hosts, 40, 20.0) as episodes:
        for answers in engine.generate(episodes.questions(), None, 7):
            episodes.answered(answers)
        assert episodes.in_a_step
    waiting = [task(f"w{i}", "Sleepy", seconds=0.3, turns=2) for i in range(20)]  # more than are stepped at a time
    with Episodes(waiting, 1, hosts, 40, 20.0) as episodes:
        for answers in engine.generate(episodes.questions(), None, 7):
            episodes.answered(answers)
    _, over = played(hosts, "streaming", [task("after", turns=2)])
    assert {episode.verdict.score for episode in over.values()} == {2.0}
