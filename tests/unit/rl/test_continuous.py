"""Continuous generation with simulated engines; real ones run in tests/distributed/test_swaps_in_flight.py."""

import pickle
import threading
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nemo_cascade.config.stages.rollout_rules import DynamicSamplingConfig
from nemo_cascade.errors import RewardError, RolloutError
from nemo_cascade.rl.drawing.base import ROLLOUTS_AHEAD
from nemo_cascade.rl.drawing.continuous import Continuous
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.types import Verdict
from tests.support.simulated_engines import InstantJudges, SimulatedEngines
from tests.support.simulated_stage import collector_of, play, stage_of, tasks_of

B, G, STEPS = 4, 2, 10
MODES = [
    (0, 1.0, "abort"),
    (0, 1.5, "abort"),
    (1, 1.0, "carry"),
    (1, 1.5, "carry"),
    (1, 1.25, "abort"),
    (4, 1.25, "carry"),
]


def engines():
    return SimulatedEngines(2, 6, median=40, longest=200)


def trained(drawn):
    return [group.task.task_id for one in drawn for group in one.batch.groups]


def open_tasks(held):
    return [entry.task.task_id for entry in held.whole] + [task.task_id for task, _ in held.to_ask]


def recorded(collector):
    """Return a list that hears of all that the collector's stream gives."""
    drawn, take = [], collector.stream.take

    def taking(n):
        tasks = take(n)
        drawn.extend(task.task_id for task in tasks)
        return tasks

    collector.stream.take = taking
    return drawn


@pytest.mark.parametrize("mode", MODES)
def test_each_prompt_that_is_drawn_is_trained_once_or_still_to_come(mode):
    stage = stage_of(STEPS, B, G, mode[0], "continuous", *mode[1:])
    collector = collector_of(stage, engines(), tasks_of(30))
    drawn = recorded(collector)

    def count(played, generation):
        assert Counter(trained(played.drawn)) + Counter(open_tasks(generation.held())) == Counter(drawn)

    played = play(stage, collector, 20.0, told=count)
    assert len(played.drawn) == STEPS
    assert all(len(one.batch.groups) == B for one in played.drawn)
    assert (sum(one.said["groups_given_up"] for one in played.drawn) > 0) == (
        mode[1] > 1 or (mode[2:] == ("abort",) and mode[0] > 0)
    )


@pytest.mark.parametrize(("leftovers", "over"), [("carry", True), ("abort", False)])
def test_rollouts_go_on_under_new_weights_or_are_asked_anew(leftovers, over):
    stage = stage_of(STEPS, B, G, 1, "continuous", 1.0, leftovers)
    played = play(stage, collector_of(stage, engines(), tasks_of(100)), 20.0)
    assert any(one.said["rollouts_over_versions"] for one in played.drawn) == over
    assert any(one.said["tokens_given_up"] for one in played.drawn) != over
    for step, one in enumerate(played.drawn):
        for answer in (answer for group in one.batch.groups for answer in group.answers):
            versions = answer.versions[answer.trained > 0]
            assert versions.min() >= step - 1
            assert versions.max() <= step
            assert (np.diff(versions) >= 0).all()


def test_a_group_without_signal_is_replaced_and_too_many_of_them_end_the_step():
    dynamic = DynamicSamplingConfig(enabled=True, max_rounds=2)
    stage = stage_of(STEPS, B, G, 1, "continuous", dynamic_sampling=dynamic)

    def mostly(place):
        return float(place[1] % 2) if int(place[0][1:]) % 3 else 1.0

    played = play(stage, collector_of(stage, engines(), tasks_of(100), InstantJudges(mostly)), 20.0)
    assert all(int(name[1:]) % 3 for name in trained(played.drawn))
    assert sum(one.batch.dropped_groups for one in played.drawn) > STEPS
    with pytest.raises(RolloutError, match="any variance"):
        play(stage, collector_of(stage, engines(), tasks_of(100), InstantJudges(lambda place: 1.0)), 20.0)


class SlowJudges(InstantJudges):
    """Say of the first asking of a sample that it failed, and only when `wait` is over."""

    def __init__(self):
        super().__init__()
        self.wait, self._seen, self._late = 8, Counter(), []

    def submit(self, samples):
        for _, answer in samples:
            self._seen[answer.place] += 1
            verdict = Verdict(None, "crash") if self._seen[answer.place] == 1 else Verdict(float(answer.place[1]))
            self._late.append([self.wait, (answer.place, verdict)])

    def collect(self):
        for late in self._late:
            late[0] -= 1
        ready = [judged for wait, judged in self._late if wait <= 0]
        self._late = [late for late in self._late if late[0] > 0]
        return ready


def test_a_verdict_of_what_was_given_up_is_not_taken_for_its_second_asking_s():
    stage = stage_of(STEPS, B, G, 0, "continuous", 1.5, "abort")
    collector = collector_of(stage, engines(), tasks_of(1000), SlowJudges())
    config = collector.by.config
    collector.by = replace(collector.by, config=replace(config, reward=replace(config.reward, max_error_fraction=1.0)))
    played = play(stage, collector, 20.0)
    errors = [
        (g.task.task_id, a.sample, g.verdicts[a.sample])
        for d in played.drawn
        for g in d.batch.groups
        for a in g.answers
    ]
    asked = Counter(collector.by.engines.asked)
    again = [(name, sample, verdict) for name, sample, verdict in errors if asked[name, sample] > 1]
    assert again
    judges = collector.by.judges
    for name, sample, verdict in again:  # where the first asking was judged, too, this is the second one's verdict
        if judges._seen[name, sample] > 1:
            assert verdict == Verdict(float(sample))


def test_broken_judges_stop_the_stage():
    class Broken(InstantJudges):
        def collect(self):
            return [(place, Verdict(None, "crash")) for place, _ in super().collect()]

    stage = stage_of(STEPS, B, G, 1, "continuous")
    with pytest.raises(RewardError, match="crash"):
        play(stage, collector_of(stage, engines(), tasks_of(50), Broken()), 20.0)


class Waiting(SimulatedEngines):
    """Answers while `gate` is open; fails or loses an engine where it is told to."""

    def __init__(self):
        super().__init__(2, 6, median=20, longest=60)
        self.gate, self.fails, self.dies, self.restore, self.restored = threading.Event(), None, None, None, []
        self.gate.set()

    def hold(self, version, restore):
        self.version, self.restore = version, restore

    def given(self, member, version):
        self.restored.append((member.name, version, threading.current_thread()))

    def answers(self, patience_s):
        if self.fails is not None:
            raise self.fails
        if self.dies is not None:
            dies, self.dies = self.dies, None
            self.restore(dies)
        if not self.gate.is_set():
            time.sleep(patience_s)
            return []
        return super().answers(1000.0)


def continuous(stage, engines, checkpoint=None, first=0, stream_state=None):
    collector = collector_of(stage, engines, tasks_of(40), stream_state=stream_state)
    return Continuous(collector, stage, lambda step: step, engines.given, checkpoint, first), collector


def run(drawing, stage, engines, steps):
    drawn = []
    for step in steps:
        drawing.settle(step)
        engines.hold(step, None)
        drawing.draw(step, lambda _: stage, PhaseTimer())
        drawn.append(drawing.take(step))
    return drawn


@pytest.mark.timeout(60)
def test_a_stopped_stage_goes_on_with_what_its_checkpoint_holds(tmp_path):
    stage, fleet = stage_of(STEPS, B, G, 1, "continuous", 1.25), Waiting()
    drawing, collector = continuous(stage, fleet)
    drawn = recorded(collector)
    with drawing:
        before = run(drawing, stage, fleet, range(5))
        drawing.settle(5)
        drawing.write(tmp_path)
        state = collector.stream.state()
    held = pickle.loads((tmp_path / ROLLOUTS_AHEAD).read_bytes())
    assert held.to_ask
    assert Counter(trained(before)) + Counter(open_tasks(held)) == Counter(drawn)
    drawing, collector = continuous(stage, fleet, tmp_path, 5, state)
    later = recorded(collector)
    with drawing:
        after = run(drawing, stage, fleet, range(5, STEPS))
        drawing.settle(STEPS)
        drawing.write(tmp_path)
    held = pickle.loads((tmp_path / ROLLOUTS_AHEAD).read_bytes())
    assert Counter(trained(before + after)) + Counter(open_tasks(held)) == Counter(drawn) + Counter(later)
    assert all(one.said["staleness_max"] <= 1 for one in before + after)


@pytest.mark.timeout(60)
def test_what_ends_the_generation_ends_the_stage_and_its_thread():
    stage, fleet = stage_of(STEPS, B, G, 1, "continuous"), Waiting()
    drawing, _ = continuous(stage, fleet)
    run(drawing, stage, fleet, range(1))
    fleet.fails = RolloutError("out of memory")
    with pytest.raises(RolloutError, match="out of memory"), drawing:
        run(drawing, stage, fleet, range(1, STEPS))
    drawing._worker.shutdown(wait=True)
    fleet.fails = None
    drawing, _ = continuous(stage, fleet)
    run(drawing, stage, fleet, range(1))
    fleet.gate.clear()
    with pytest.raises(ZeroDivisionError), drawing:
        raise ZeroDivisionError
    drawing._worker.shutdown(wait=True)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_new_engine_gets_its_weights_from_the_policy_between_two_updates(staleness):
    stage, fleet = stage_of(STEPS, B, G, staleness, "continuous", leftovers="abort"), Waiting()
    drawing, _ = continuous(stage, fleet)
    with drawing:
        run(drawing, stage, fleet, range(1))
        fleet.dies = SimpleNamespace(name="rollout-0")
        run(drawing, stage, fleet, range(1, 4))
    ((name, version, thread),) = fleet.restored
    assert name == "rollout-0"
    assert version <= 1
    assert thread is threading.current_thread()


@pytest.mark.timeout(60)
def test_an_engine_that_died_does_not_keep_a_stage_that_ends():
    stage, fleet = stage_of(STEPS, B, G, 1, "continuous"), Waiting()
    drawing, _ = continuous(stage, fleet)
    run(drawing, stage, fleet, range(1))
    fleet.dies = SimpleNamespace(name="rollout-0")
    with pytest.raises(ZeroDivisionError), drawing:
        raise ZeroDivisionError
    drawing._worker.shutdown(wait=True)


@pytest.mark.timeout(60)
def test_whoever_borrows_the_judges_finds_no_verdict_of_others_there():
    stage = stage_of(STEPS, B, G, 1, "continuous")

    class Patient(SlowJudges):
        def drain_submitted(self):
            found = [judged for _, judged in self._late]
            self._late = []
            return found

    fleet = Waiting()
    collector = collector_of(stage, fleet, tasks_of(40), Patient())
    config = collector.by.config
    collector.by = replace(collector.by, config=replace(config, reward=replace(config.reward, max_error_fraction=1.0)))
    drawing = Continuous(collector, stage, lambda step: step, fleet.given)
    with drawing:
        run(drawing, stage, fleet, range(2))
        drawing.lend(2)
        assert not collector.by.judges._late
        run(drawing, stage, fleet, range(2, 4))
