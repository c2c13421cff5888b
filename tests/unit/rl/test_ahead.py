"""Batches ahead of their step, with scripted engines; the real ones run in tests/e2e/test_cascade_resume.py."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nemo_cascade.config.reading.compose import compose
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.prompts.prompt_stream import PromptStream
from nemo_cascade.errors import RolloutError
from nemo_cascade.rl.ask import Answerers
from nemo_cascade.rl.collect import Collector
from nemo_cascade.rl.drawing.ahead import Ahead
from nemo_cascade.rl.drawing.base import ROLLOUTS_AHEAD
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.types import FinishReason, Task, Verdict, first_turn

STEPS = 6


class Engine:
    """Answers with the weights that it holds; waits at `gate` where that is shut."""

    def __init__(self):
        self.version, self.restore, self.fails, self.dies = 0, None, None, None
        self.restored = []
        self.gate, self.busy = threading.Event(), threading.Event()
        self.gate.set()

    def hold(self, version, restore):
        self.version, self.restore = version, restore

    def given(self, member, version):
        self.restored.append((member.name, version))
        self.version = version

    def generate(self, questions, sampling, seed):
        self.busy.set()
        if self.dies is not None:
            dies, self.dies = self.dies, None
            self.restore(dies)
        for question in questions:
            assert self.gate.wait(10)
            if self.fails is not None:
                raise self.fails
            ids = np.array([seed % 97, self.version], np.int32)
            logprobs, reason = np.zeros(2, np.float32), FinishReason.STOP
            yield [first_turn(question.task_id, s, question.token_ids, ids, logprobs, reason, self.version)
                   for s in question.samples]  # fmt: skip
        self.busy.clear()


class Judges:
    group_size, places = 2, ()

    def submit(self, samples):
        self.places = [*self.places, *(answer.place for _, answer in samples)]

    def drain(self):
        places, self.places = self.places, ()
        return [(place, Verdict(float(place[1]))) for place in places]


def stage_of(staleness):
    stage = compose(["cascade=nano"])[0].stages["math_rl"]
    return replace(stage, prompts_per_step=2, num_generations=2, steps=STEPS, max_staleness=staleness)


def ahead_of(staleness, engine, checkpoint=None, first=0, stream_state=None):
    config, stage = compose(["cascade=nano"])[0], stage_of(staleness)
    prompts = PromptSet([Task(f"t{i}", "math", "math", np.array([i], np.int32), {}) for i in range(5)])
    stream = PromptStream(prompts, config.seed, stage.prompt_filter, 2, stream_state)
    collector = Collector(stream, Answerers(engine, Judges(), SimpleNamespace(), config, None), stage)
    return Ahead(collector, stage, lambda step: step, engine.given, checkpoint, first), stream, stage


def run(ahead, stage, engine, steps, seen):
    """Play the stage's loop: `seen` hears which prompts each step trains, and the weights that drew them."""
    for step in steps:
        ahead.settle(step)
        engine.hold(step, None)
        ahead.draw(step, lambda _: stage, PhaseTimer())
        drawn = ahead.take(step)
        answers = [answer for group in drawn.batch.groups for answer in group.answers]
        seen.append((sorted({a.task_id for a in answers}), {a.turns[0].version for a in answers}, answers[0].token_ids))


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_each_batch_is_drawn_by_the_weights_that_its_number_says(staleness):
    engine, seen = Engine(), []
    ahead, _, stage = ahead_of(staleness, engine)
    with ahead:
        run(ahead, stage, engine, range(STEPS), seen)
    assert [versions for _, versions, _ in seen] == [{max(0, step - staleness)} for step in range(STEPS)]
    in_turns = []
    ahead, _, stage = ahead_of(0, engine)
    run(ahead, stage, engine, range(STEPS), in_turns)
    assert [prompts for prompts, _, _ in seen] == [prompts for prompts, _, _ in in_turns]


def test_engines_draw_while_the_policy_trains_and_say_how_old_their_rollouts_are():
    engine = Engine()
    ahead, _, stage = ahead_of(1, engine)
    with ahead:
        run(ahead, stage, engine, range(1), [])
        ahead.settle(1)
        engine.gate.clear()
        engine.hold(1, None)
        ahead.draw(1, lambda _: stage, PhaseTimer())
        drawn = ahead.take(1)  # of the weights before: nobody waits for what is being drawn
        assert engine.busy.wait(10)
        assert drawn.said["staleness_mean"] == drawn.said["staleness_max"] == 1
        assert set(drawn.said["seconds_ahead"]) <= {"generate", "verify", "other"}
        engine.gate.set()


def test_what_a_checkpoint_holds_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    engine, whole = Engine(), []
    ahead, _, stage = ahead_of(2, engine)
    with ahead:
        run(ahead, stage, engine, range(STEPS), whole)
    before, after = [], []
    ahead, stream, stage = ahead_of(2, engine)
    with ahead:
        run(ahead, stage, engine, range(3), before)
        ahead.settle(3)
        state = stream.state()
        ahead.write(tmp_path)
    ahead, _, stage = ahead_of(2, engine, tmp_path, 3, state)
    assert len(ahead._drawn) == 2
    with ahead:
        run(ahead, stage, engine, range(3, STEPS), after)
    for one, other in zip(whole, before + after, strict=True):
        assert one[:2] == other[:2]
        assert np.array_equal(one[2], other[2])


def test_a_stage_in_turns_has_nothing_beside_its_weights(tmp_path):
    ahead, _, _ = ahead_of(0, Engine())
    ahead.write(tmp_path)
    assert not (tmp_path / ROLLOUTS_AHEAD).exists()
    ahead, _, _ = ahead_of(0, Engine(), tmp_path, 3)
    assert ahead._drawn == {}


def test_what_ends_the_drawing_ends_the_stage():
    engine = Engine()
    ahead, _, stage = ahead_of(1, engine)
    run(ahead, stage, engine, range(1), [])
    engine.fails = RolloutError("out of memory")
    with pytest.raises(RolloutError, match="out of memory"), ahead:
        run(ahead, stage, engine, range(1, 3), [])


def test_after_an_error_what_is_being_drawn_is_given_up():
    engine = Engine()
    ahead, _, stage = ahead_of(1, engine)
    run(ahead, stage, engine, range(1), [])
    ahead.settle(1)
    engine.gate.clear()
    ahead.draw(1, lambda _: stage, PhaseTimer())
    assert engine.busy.wait(10)
    being_drawn = ahead._drawn[2]
    threading.Timer(0.2, engine.gate.set).start()
    with pytest.raises(ZeroDivisionError), ahead:
        raise ZeroDivisionError
    with pytest.raises(RolloutError, match="at an end"):
        being_drawn.result()


def test_a_new_engine_waits_for_the_policy_and_draws_with_its_weights():
    engine, seen = Engine(), []
    ahead, _, stage = ahead_of(1, engine)
    with ahead:
        run(ahead, stage, engine, range(1), seen)  # begins the batch of step 1
        ahead.settle(1)
        engine.hold(1, None)
        engine.dies = SimpleNamespace(name="rollout-0")
        ahead.draw(1, lambda _: stage, PhaseTimer())  # of step 2
        ahead.take(1)
        assert engine.restored == []  # step 1 is trained meanwhile
        ahead.settle(2)
        assert engine.restored == [("rollout-0", 2)]
        assert ahead.take(2).said["staleness_max"] == 0


def test_an_error_of_the_policy_does_not_leave_a_new_engine_waiting():
    engine = Engine()
    ahead, _, stage = ahead_of(1, engine)
    run(ahead, stage, engine, range(1), [])
    ahead.settle(1)
    engine.dies = SimpleNamespace(name="rollout-0")
    ahead.draw(1, lambda _: stage, PhaseTimer())
    being_drawn = ahead._drawn[2]
    assert engine.busy.wait(10)
    with pytest.raises(ZeroDivisionError), ahead:
        raise ZeroDivisionError
    with pytest.raises(RolloutError, match="at an end"):
        being_drawn.result()


@pytest.mark.parametrize("age", [-1, 2])
def test_rollouts_of_other_weights_are_refused(age):
    engine = Engine()
    ahead, _, stage = ahead_of(1, engine)
    with ahead:
        engine.hold(5, None)
        ahead.draw(0, lambda _: stage, PhaseTimer())
        ahead._version_of = lambda step: 5 + age
        with pytest.raises(RolloutError, match="max_staleness=1"):
            ahead.take(0)


def test_stale_rollouts_are_weighed_unless_the_stage_says_otherwise():
    loss = stage_of(1).trained_loss
    assert (loss.correction, loss.correction_min, loss.correction_max) == ("truncated", 0.2, 5.0)
    assert stage_of(0).trained_loss.correction == "none"
    assert replace(stage_of(1), correct_staleness=False).trained_loss.correction == "none"
    own = replace(stage_of(1), loss=replace(loss, correction="icepop", correction_max=2.0))
    assert own.trained_loss.correction_max == 2.0
