"""The stream of an RL stage's prompts: its order, its filter, and that its state is all it goes on from."""

import json
from dataclasses import replace

import numpy as np
import pytest

from nemo_cascade.config.stages.rollout_rules import PromptFilterConfig
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.prompts.prompt_stream import PromptStream, drawn
from nemo_cascade.errors import DataError
from nemo_cascade.types import Task

OFF = PromptFilterConfig()
ON = PromptFilterConfig(enabled=True)


def stream(size, rules=OFF, seed=1, least=1, state=None):
    prompts = PromptSet([Task(f"rows/{i}", "math", "math", np.array([i], np.int32), {}) for i in range(size)])
    return PromptStream(prompts, seed, rules, least, state)


def ids(batch):
    return [prompt.task_id for prompt in batch]


def judge(source, batch):
    """Of every three prompts one is solved by all rollouts and one by none; rows/6 and rows/7 change with the epoch."""
    for prompt in batch:
        number = int(prompt.task_id.partition("/")[2])
        kind = number % 3 if number > 7 else (number + source.epoch) % 3
        source.note(prompt.task_id, solved_all=kind == 1, solved_none=kind == 2)


def test_every_epoch_has_every_prompt_once_in_an_order_of_its_own():
    first = stream(20)
    epochs = [[i for _ in range(4) for i in ids(first.take(5))] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(ids(first.prompts.prompts))
    assert epochs[0] != epochs[1]
    assert epochs[0][:5] != ids(stream(20, seed=2).take(5))


def test_a_batch_across_the_epochs_border_has_no_prompt_twice():
    for n in (3, 7):
        source = stream(7)
        for _ in range(100):
            assert len(set(ids(source.take(n)))) == n
    with pytest.raises(DataError, match="more prompts are asked for than there are; got: 8; allowed: 7 in "):
        stream(7).take(8)


def test_what_gave_no_signal_leaves_and_comes_back_with_the_rules_probabilities():
    source = stream(3000, ON)
    judge(source, source.take(3000))
    assert source.metrics() == {
        "epoch": 0,
        "prompt_filter": {"prompts": 3000, "easy": 0, "hard": 0, "readmitted": 0},
    }
    second = ids(source.take(1))
    told = source.metrics()["prompt_filter"]
    assert (told["easy"], told["hard"]) == (1000, 1000)
    assert told["prompts"] == 1000 + told["readmitted"]
    second += ids(source.take(told["prompts"] - 1))
    easy = [i for i in second if int(i[5:]) % 3 == 1 and int(i[5:]) > 7]
    hard = [i for i in second if int(i[5:]) % 3 == 2 and int(i[5:]) > 7]
    # Binomial: 10 +- 3.1 and 100 +- 9.5; five standard deviations.
    assert 1 <= len(easy) <= 26
    assert 53 <= len(hard) <= 147
    assert len(second) == len(set(second)) == told["prompts"]
    # Another seed or another epoch admits others.
    assert {drawn(1, 1, i) < 0.1 for i in hard} == {True}
    assert {drawn(1, 2, i) < 0.1 for i in hard} == {drawn(2, 1, i) < 0.1 for i in hard} == {True, False}


def test_a_readmitted_prompt_stays_where_its_rollouts_differ_by_then():
    source = stream(4, PromptFilterConfig(enabled=True, readmit_easy=1.0, readmit_hard=0.0))
    for prompt in source.take(4):
        source.note(prompt.task_id, solved_all=prompt.task_id == "rows/0", solved_none=prompt.task_id == "rows/1")
    assert sorted(ids(source.take(3))) == ["rows/0", "rows/2", "rows/3"]
    assert source.metrics()["prompt_filter"] == {"prompts": 3, "easy": 1, "hard": 1, "readmitted": 1}
    source.note("rows/0", solved_all=False, solved_none=False)
    assert sorted(ids(source.take(3))) == ["rows/0", "rows/2", "rows/3"]
    assert source.metrics()["prompt_filter"] == {"prompts": 3, "easy": 0, "hard": 1, "readmitted": 0}


@pytest.mark.parametrize("rules", [OFF, ON])
def test_from_any_state_a_new_stream_goes_on_as_the_old_one(rules):
    whole, states, batches = stream(40, rules, least=6), [], []
    for _ in range(30):
        states.append(json.dumps(whole.state()))
        batches.append(whole.take(6))
        judge(whole, batches[-1])
    assert whole.epoch > 3
    for start in range(30):
        resumed = stream(40, rules, least=6, state=json.loads(states[start]))
        for expected in batches[start:]:
            batch = resumed.take(6)
            assert ids(batch) == ids(expected)
            judge(resumed, batch)
        assert resumed.state() == whole.state()


def test_a_filter_that_leaves_too_few_and_prompts_that_changed_are_refused():
    source = stream(10, ON, least=4)
    for prompt in source.take(10):
        source.note(prompt.task_id, solved_all=False, solved_none=True)
    with pytest.raises(DataError, match=r"fewer prompts to epoch 2 .* of 10 prompts .* 10 by none.*prompts_per_step=4"):
        source.take(4)
    with pytest.raises(DataError, match="changed since the checkpoint; got: 11 prompts in prompts; allowed: the 10 "):
        stream(11, ON, state=source.state())
    # As many of the same names, but one asks something else.
    other = stream(10, ON).prompts
    other.prompts[3] = replace(other.prompts[3], token_ids=np.array([99], np.int32))
    with pytest.raises(DataError, match="changed since the checkpoint"):
        PromptStream(other, 1, ON, 4, source.state())
