"""Pass rates of prompts: kept by what is asked, used as a filter, and as a curriculum from easy to hard."""

import json

import numpy as np
import pytest

from nemo_cascade.config.stages.rollout_rules import CurriculumConfig
from nemo_cascade.config.stages.tasks import ProfileConfig
from nemo_cascade.data.prompts.curriculum import CurriculumStream
from nemo_cascade.data.prompts.profiles import PassRate, ProfileFile, admitted, question_key, read_profile
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.errors import DataError
from nemo_cascade.types import Task


def tasks(count, name="p"):
    records = [{"messages": [{"role": "user", "content": f"{i}?"}], "answer": i} for i in range(count)]
    return [Task(f"{name}/{i}", "x", "math", np.array([i], np.int32), record) for i, record in enumerate(records)]


def test_a_profile_is_named_by_what_it_depends_on_and_goes_on_where_it_stopped(tmp_path):
    recipe = {"model": "abc", "samples": 16}
    some = tasks(4)
    file = ProfileFile(tmp_path, recipe)
    assert file.open() == {}
    file.add(some[:2], {"p/0": PassRate(16, 16), "p/1": PassRate(3, 15)})
    with file.path.open("ab") as cut:
        cut.write(b'{"key": "torn')
    again = ProfileFile(tmp_path, recipe)
    assert again.path == file.path != ProfileFile(tmp_path, {**recipe, "samples": 8}).path
    known = again.open()
    assert known[question_key(some[1].record)].rate == 0.2
    again.add(some[2:], {"p/2": PassRate(0, 16), "p/3": PassRate(6, 16)})
    assert len(read_profile(file.path)) == 4
    # Other ids and tokens, the same questions.
    kept = PromptSet(tasks(4, "other")).profiled(ProfileConfig(path=str(file.path), at_most=6 / 16))
    assert ([t.task_id for t in kept.prompts], kept.rates) == (["other/1", "other/2", "other/3"], [0.2, 0.0, 0.375])
    with pytest.raises(DataError, match="doesn't hold all prompts; got: 1 of 5"):
        PromptSet(tasks(5)).profiled(ProfileConfig(path=str(file.path)))
    (tmp_path / "no.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="not a profile"):
        read_profile(tmp_path / "no.jsonl")


def test_solved_prompts_and_those_out_of_bounds_are_left_out():
    rates = [0.0, 0.5, 1.0]
    assert admitted(rates, ProfileConfig(path="x")) == [0, 1, 2]
    assert admitted(rates, ProfileConfig(path="x", drop_solved=True)) == [0, 1]
    assert admitted(rates, ProfileConfig(samples=8, at_least=0.25)) == [1, 2]
    for wrong in ({"drop_solved": True}, {"path": "x", "samples": 8}):
        with pytest.raises(ValueError, match="path"):
            ProfileConfig(**wrong)


def stream(rates, state=None, **config):
    prompts = PromptSet(tasks(len(rates)))
    prompts.rates = list(rates)
    return CurriculumStream(prompts, 0, CurriculumConfig(enabled=True, **config), state)


def test_the_mean_pass_rate_of_batches_slides_from_easy_to_hard():
    made = stream(np.linspace(0, 1, 4000), steps=20, mean_from=0.8, mean_to=0.2, spread=0.1)
    drawn, spreads = [], []
    for step in range(21):
        made.at(step)
        batch = [int(t.task_id[2:]) / 3999 for t in made.take(64)]
        assert len(set(batch)) == 64
        drawn.append(np.mean(batch))
        spreads.append(np.std(batch))
    np.testing.assert_allclose(drawn, np.linspace(0.8, 0.2, 21), atol=0.06)
    assert 0.07 < np.mean(spreads) < 0.13
    told = made.metrics()["curriculum"]
    assert told["target_pass_rate"] == pytest.approx(0.2)
    assert told["drawn_pass_rate"] == pytest.approx(drawn[-1])


def test_it_goes_on_as_if_it_had_not_been_stopped_and_begins_anew_with_new_rates():
    rates = np.linspace(0, 1, 200)
    made = stream(rates, steps=10)
    for step in range(3):
        made.at(step)
        made.take(16)
    again = stream(rates, json.loads(json.dumps(made.state())), steps=10)
    for one in (made, again):
        one.at(3)
    assert [t.task_id for t in again.take(16)] == [t.task_id for t in made.take(16)]
    made.profiled(rates[::-1])
    assert made.mean == 0.8
    batch = [1 - int(t.task_id[2:]) / 199 for t in made.take(32)]
    assert np.mean(batch) == pytest.approx(0.8, abs=0.1)
    assert len({t.task_id for t in made.take(200)}) == 200
    with pytest.raises(DataError, match="changed since the checkpoint"):
        stream(rates[:5], made.state())
