"""Turns of samples in scripted environments, with a scripted engine: what is asked, and when it is over."""

from pathlib import Path

import numpy as np
import pytest

from nemo_cascade.config.environments import EnvironmentProcessesConfig
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.environments.hosting.hosts import EnvironmentHosts
from nemo_cascade.errors import RolloutError
from nemo_cascade.rl.episodes import Episodes, turn_seed
from nemo_cascade.types import EnvironmentUse, FinishReason, Question, Task, first_turn

SCRIPTED = Path(__file__).parents[2] / "support" / "scripted_environments.py"
STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


def task(kind, name="p", max_turns=8, **settings):
    use = EnvironmentUse(f"{SCRIPTED}:{kind}", settings, max_turns)
    return Task(name, "x", "math", np.array([5, 6], np.int32), {}, environment=use)


@pytest.fixture(scope="module")
def hosts():
    with EnvironmentHosts(EnvironmentProcessesConfig(processes=1), None, SandboxConfig()) as made:
        yield made


@pytest.fixture
def play(hosts):
    """Answer each question with its length; return the episodes by place, and all questions turn by turn."""

    def played(tasks, samples=2, room=40, deadline_s=20.0, reason=lambda turn: STOP):
        over, asked = {}, []
        with Episodes(tasks, samples, hosts, room, deadline_s) as episodes:
            while questions := episodes.questions():
                asked.append(questions)
                for q in questions:
                    over |= {e.trajectory.place: e for e in episodes.answered(answers(q, len(asked), reason))}
                over |= {e.trajectory.place: e for e in episodes.settled()}
        return over, asked

    return played


def answers(q, version, reason):
    ids = np.array([len(q.token_ids), 2])
    said = (q.token_ids, ids, np.array([-1.0, -2.0]), reason(version), version)
    return [first_turn(q.task_id, s, *said) for s in q.samples]


def test_an_episode_goes_on_from_exactly_the_tokens_that_were_sampled_and_given(play):
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
def test_what_has_no_room_or_no_turn_left_counts_as_truncated_with_the_verdict_it_had(play, limits, room, turns):
    over, asked = play([task("Counting", turns=4, **limits)], room=room)
    ended = over["p", 0]
    assert (len(ended.trajectory.turns), ended.trajectory.finish_reason) == (turns, LENGTH)
    # Nothing is appended that no turn follows.
    assert ended.trajectory.token_ids.size == ended.trajectory.turns[-1].end
    assert ended.verdict.score == turns == len(asked)


def test_a_conversation_that_is_written_anew_becomes_samples_of_their_own_with_one_verdict(play):
    over, asked = play([task("Anew")], samples=1)
    assert [turn[0].token_ids.tolist() for turn in asked] == [[5, 6], [9, 1], [9, 1, 2, 2, 9, 2]]
    first, second = over["p", 0].trajectory.parts
    assert (first.token_ids.tolist(), second.token_ids.tolist()) == ([5, 6, 2, 2], [9, 1, 2, 2, 9, 2, 6, 2])
    assert (over["p", 0].trajectory.num_turns, over["p", 0].trajectory.num_sampled) == (3, 6)
    assert over["p", 0].verdict.score == 3.0


def test_a_sample_over_its_deadline_is_an_error_and_not_asked_again(play):
    use = EnvironmentUse(f"{SCRIPTED}:Counting", {}, 8, None, 1e-6)
    over, asked = play([Task("p", "x", "math", np.array([5, 6], np.int32), {}, environment=use)])
    assert (len(asked), {e.verdict.error for e in over.values()}) == (1, {"deadline"})


def test_a_truncated_answer_is_the_last_one(play):
    over, asked = play([task("Counting", turns=4)], reason=lambda turn: LENGTH if turn == 2 else STOP)
    assert len(asked) == len(over["p", 0].trajectory.turns) == 2


def test_what_an_environment_raises_is_an_error_of_its_sample_and_one_without_a_verdict_goes_to_the_judge(play):
    over, _ = play([task("Broken")], samples=3)
    assert (over["p", 0].verdict.error, over["p", 0].verdict.detail) == ("environment", "OSError: gone")
    assert over["p", 1].verdict.error == "environment"
    assert over["p", 2].verdict is None
    slow, _ = play([task("Slow")], samples=1, deadline_s=0.5)
    assert slow["p", 0].verdict.error == "timeout"


def test_samples_of_a_task_start_alike_and_are_all_answered(play, hosts):
    with pytest.raises(RolloutError, match="starts the samples of a task differently"):
        play([task("Fickle")])
    with pytest.raises(RolloutError, match=r"can't start a task; got: p: .*KeyError: 'world'"):
        play([task("Stuck")])
    with pytest.raises(RolloutError, match="drawn twice"):
        play([task("Counting"), task("Counting")])
    with Episodes([task("Counting")], 2, hosts, 40, 20.0) as episodes:
        episodes.questions()
        with pytest.raises(RolloutError, match="lost answers"):
            episodes.settled()
        [question] = [Question("p", np.array([5, 7], np.int32), range(1))]
        with pytest.raises(RolloutError, match="doesn't begin with what it was asked"):
            episodes.answered(answers(question, 1, lambda turn: STOP))
        [known] = [Question("p", np.array([5, 6], np.int32), range(1, 2))]
        episodes.answered(answers(known, 1, lambda turn: STOP))
        with pytest.raises(RolloutError, match="wasn't asked, or twice"):
            episodes.answered(answers(known, 1, lambda turn: STOP))


def test_each_turn_has_a_seed_of_its_own_and_the_first_is_the_generations():
    assert turn_seed(7, 0) == 7
    assert len({turn_seed(seed, turn) for seed in range(3) for turn in range(4)}) == 12
