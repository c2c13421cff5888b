"""Turns of samples in scripted environments, with a scripted engine: what is asked, and when it is over."""

import time

import numpy as np
import pytest

from nemo_cascade.environments.environment import Step
from nemo_cascade.errors import RolloutError
from nemo_cascade.rl.episodes import Episodes, turn_seed
from nemo_cascade.types import EnvironmentUse, FinishReason, Task, Verdict, first_turn

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


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


class Broken(Counting):
    def step(self, trajectory):
        if trajectory.sample == 0:
            raise OSError("gone")
        return Step(np.zeros(0, np.int32)) if trajectory.sample == 1 else Step()


class Slow(Counting):
    def step(self, trajectory):
        time.sleep(0.4)
        return Step()


class Stuck(Counting):
    def start(self, task):
        raise KeyError("world")


class Fickle(Counting):
    started = 0

    def start(self, task):
        Fickle.started += 1
        return np.array([Fickle.started], np.int32)


def task(kind, name="p", max_turns=8, **settings):
    use = EnvironmentUse(f"{__file__}:{kind}", settings, max_turns)
    return Task(name, "x", "math", np.array([5, 6], np.int32), {}, environment=use)


def play(tasks, samples=2, room=40, deadline_s=5.0, reason=lambda turn: STOP):
    """Answer each question with its length; return the episodes by place, and all questions turn by turn."""
    over, asked = {}, []
    with Episodes(tasks, samples, None, room, deadline_s) as episodes:
        while questions := episodes.questions():
            asked.append(questions)
            for q in questions:
                ids, version = np.array([len(q.token_ids), 2]), len(asked)
                answers = [
                    first_turn(q.task_id, s, q.token_ids, ids, np.array([-1.0, -2.0]), reason(len(asked)), version)
                    for s in q.samples
                ]
                over |= {e.trajectory.place: e for e in episodes.answered(answers)}
            over |= {e.trajectory.place: e for e in episodes.settled()}
    return over, asked


def test_an_episode_goes_on_from_exactly_the_tokens_that_were_sampled_and_given():
    over, asked = play([task("Counting"), task("Counting", "q", turns=1)])
    assert [[(q.task_id, q.samples) for q in turn] for turn in asked] == [
        [("p", range(2)), ("q", range(2))],
        [("p", range(1)), ("p", range(1, 2))],
        [("p", range(1)), ("p", range(1, 2))],
    ]
    said = over["p", 1].trajectory
    assert said.token_ids.tolist() == [5, 6, 2, 2, 8, 1, 6, 2, 8, 2, 10, 2]
    assert said.trained.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]
    assert said.versions.tolist() == [-1, -1, 1, 1, -1, -1, 2, 2, -1, -1, 3, 3]
    assert said.logprobs[said.trained > 0].tolist() == [-1.0, -2.0] * 3
    assert (over["p", 1].verdict.score, over["q", 0].verdict.score, said.finish_reason) == (3.0, 1.0, STOP)


@pytest.mark.parametrize(("limits", "room", "turns"), [({}, 5, 1), ({}, 6, 2), ({}, 9, 2), ({"max_turns": 2}, 40, 2)])
def test_what_has_no_room_or_no_turn_left_counts_as_truncated_with_the_verdict_it_had(limits, room, turns):
    over, asked = play([task("Counting", turns=4, **limits)], room=room)
    ended = over["p", 0]
    assert (len(ended.trajectory.turns), ended.trajectory.finish_reason) == (turns, LENGTH)
    # Nothing is appended that no turn follows.
    assert ended.trajectory.token_ids.size == ended.trajectory.turns[-1].end
    assert ended.verdict.score == turns == len(asked)


def test_a_truncated_answer_is_the_last_one():
    over, asked = play([task("Counting", turns=4)], reason=lambda turn: LENGTH if turn == 2 else STOP)
    assert len(asked) == len(over["p", 0].trajectory.turns) == 2


def test_what_an_environment_raises_is_an_error_of_its_sample_and_one_without_a_verdict_goes_to_the_judge():
    over, _ = play([task("Broken")], samples=3)
    assert (over["p", 0].verdict.error, over["p", 0].verdict.detail) == ("environment", "OSError: gone")
    assert over["p", 1].verdict.error == "environment"
    assert over["p", 2].verdict is None
    slow, _ = play([task("Slow")], samples=1, deadline_s=0.05)
    assert slow["p", 0].verdict.error == "timeout"


def test_samples_of_a_task_start_alike_and_are_all_answered():
    with pytest.raises(RolloutError, match="starts the samples of a task differently"):
        play([task("Fickle")])
    with pytest.raises(RolloutError, match=r"can't start a task; got: p: .*KeyError: 'world'"):
        play([task("Stuck")])
    with pytest.raises(RolloutError, match="drawn twice"):
        play([task("Counting"), task("Counting")])
    with Episodes([task("Counting")], 2, None, 40, 1.0) as episodes:
        episodes.questions()
        with pytest.raises(RolloutError, match="lost answers"):
            episodes.settled()


def test_each_turn_has_a_seed_of_its_own_and_the_first_is_the_generations():
    assert turn_seed(7, 0) == 7
    assert len({turn_seed(seed, turn) for seed in range(3) for turn in range(4)}) == 12
