"""The planned stages and their places on disk."""

import json
from dataclasses import replace

import pytest

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.plan import plan_stages
from nemo_cascade.config.stages.base import PromiseConfig
from nemo_cascade.errors import ConfigError, RunFolderError


def test_the_plan_follows_the_configuration(config, tmp_path):
    folder = RunFolder(tmp_path / "run")
    sft, math, code = plan_stages(config, folder)
    assert (sft.index, sft.name, sft.kind, sft.parent) == (1, "sft1", "sft", "start")
    assert sft.folder == tmp_path / "run" / "stages" / "01-sft1"
    size = sft.stage.size()
    assert (size.steps, size.tokens_per_step) == (None, 8 * 512)
    assert (math.parent, code.parent) == ("sft1", "math_rl")
    size = math.stage.size()
    assert (size.steps, size.tokens_per_step) == (40, 16 * 8 * 256)


def test_a_reward_model_stands_beside_the_policys_line(with_reward_model, tmp_path):
    sft, reward, math, code = plan_stages(with_reward_model, RunFolder(tmp_path))
    assert [p.moves_policy for p in (sft, reward, math, code)] == [True, False, True, True]
    assert [p.parent for p in (sft, reward, math, code)] == ["start", "sft1", "sft1", "math_rl"]
    assert (reward.kind, reward.stage.size().tokens_per_step) == ("reward_model", 4 * 256)


def test_nothing_is_promised_about_a_domain_whose_reward_model_comes_later(with_reward_model, tmp_path):
    config = with_reward_model
    suites = dict(config.evaluation.suites)
    suites["code"] = replace(suites["code"], reward={"kind": "preference"}, reward_model="rm")
    config = replace(config, evaluation=replace(config.evaluation, suites=suites))
    assert len(plan_stages(config, RunFolder(tmp_path))) == 4  # code_rl promises it, and comes behind rm
    early = replace(config.stages["sft1"], promise=PromiseConfig(improve=["code"]))
    with pytest.raises(ConfigError, match="no evaluation suite for the domain by then; got: code"):
        plan_stages(replace(config, stages={**config.stages, "sft1": early}), RunFolder(tmp_path))


def test_all_problems_of_a_plan_are_named_at_once(config, tmp_path):
    bad = replace(config.stages["math_rl"], promise=PromiseConfig(improve=["swe", "code"], hold=["code"]))
    with pytest.raises(ConfigError) as error:
        plan_stages(replace(config, stages={"a/b": bad, "start": bad}), RunFolder(tmp_path))
    text = str(error.value)
    assert len(error.value.violations) == 6
    for expected in (
        "a stage's name is a folder's; got: stages.a/b",
        "got: stages.start",
        "got: swe",
        "promised to improve and to hold; got: code",
    ):
        assert expected in text
    with pytest.raises(ConfigError, match="no stages"):
        plan_stages(replace(config, stages={}), RunFolder(tmp_path))


def test_stage_folders_are_listed_in_order_and_others_ignored(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.stages() == []
    for name in ("10-swe_rl", "02-math-rl.v2", "00-start", "notes", "1-x"):
        (tmp_path / "stages" / name).mkdir(parents=True)
    (tmp_path / "stages" / "03-file").write_text("")
    assert [(s.index, s.name) for s in folder.stages()] == [(0, "start"), (2, "math-rl.v2"), (10, "swe_rl")]
    (tmp_path / "stages" / "02-other").mkdir()
    with pytest.raises(RunFolderError, match="same number"):
        folder.stages()


def test_the_matrix_is_collected_from_the_stages(run_folder):
    matrix = run_folder.collect_scores()
    assert json.loads(run_folder.scores.read_text()) == matrix
    assert list(matrix) == ["start", "sft1", "math_rl"]
    assert set(matrix["sft1"]["math"]) == {"score", "n", "stderr", "samples", "pass_at_k", "mode_obeyed"}
    assert matrix["sft1"]["math"]["n"] == 60
