"""The recipes and the paper: no difference without a reason, no value of the paper left out, no reason out of date."""

import re
from dataclasses import asdict
from fnmatch import fnmatchcase

import pytest

from nemo_cascade.cli import main as command
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.reading.origins import flatten
from nemo_cascade.papers.compare import RUN, compare, paper_stages, read_papers, recipes

RECIPES = sorted(recipes())
SHARED = ["sft_16k", "sft_32k", "reward_model", "rlhf", "if_rl_1", "if_rl_2"]
ACEREASON = ["math_rl_8k", "math_rl_16k", "math_rl_24k", "code_rl_24k", "code_rl_32k", "math_rl_32k"]
NEMOTRON_4 = ["reward_model", "code_sft", "general_sft", "dpo", "rpo_1", "rpo_2", "rpo_3"]
ORDER = {
    "nemotron_cascade/8b": [
        *SHARED, "math_rl_24k", "math_rl_32k", "math_rl_40k", "code_rl_44k", "code_rl_48k", "swe_rl_16k", "swe_rl_24k",
    ],
    "nemotron_cascade/8b_thinking": [
        *SHARED, "math_rl_24k", "math_rl_32k", "math_rl_40k", "code_rl_44k", "swe_rl_16k", "swe_rl_24k",
    ],
    "nemotron_cascade/14b_thinking": [*SHARED, "math_rl_28k", "math_rl_40k", "code_rl_56k", "swe_rl_32k"],
    "nemotron_4/340b": NEMOTRON_4,
    "nemotron_4/15b": NEMOTRON_4,
    "nemotron_nano_2/12b": ["sft_1", "sft_2", "sft_3", "if_rl", "dpo", "rlhf", "merge"],
    "nemotron_nano_2/9b": ["dpo", "if_rl", "rlhf", "merge"],
    "acereason/1_0_7b": ACEREASON,
    "acereason/1_0_14b": ACEREASON,
    "acereason/1_1_7b": ["sft", *ACEREASON],
    "nemotron_cascade_2/30b_a3b": [
        "sft", "if_rl", "multi_domain", "rlhf_teacher", "mopd", "rlhf", "long_context", "code_rl", "swe_agentless",
        "swe_agent",
    ],
    "nemotron_3_nano/30b_a3b": ["sft", "rlvr", "rlhf", "rlvr_2"],
    "nemotron_3_nano/4b": ["sft", "rlvr", "rlhf", "rlvr_2"],
}  # fmt: skip


@pytest.fixture(scope="module", params=RECIPES)
def recipe(request):
    config, provenance = compose([f"cascade={request.param}"])
    return request.param, config, provenance["origins"]


def test_the_stages_are_the_papers_in_its_order(recipe):
    name, config, _ = recipe
    assert list(config.stages) == ORDER[name]
    assert set(recipes()[name].recipes[name.partition("/")[2]]) == {RUN, *config.stages}


def test_every_hyperparameter_is_the_papers_or_has_a_reason(recipe):
    name, config, origins = recipe
    rows = compare(config, name, origins)
    # A new key of a stage: say in papers/PAPER.yaml what the paper gives, or under not_given why it is so.
    assert [(row.stage, row.key) for row in rows if row.why is None] == []
    assert [row for row in rows if row.differs and (not row.why or row.why.startswith("set by "))] == []
    assert {row.stage for row in rows} == {RUN, *config.stages}


def test_every_value_of_the_paper_has_its_key_and_no_reason_is_out_of_date(recipe):
    name, config, _ = recipe
    for stage, given in paper_stages(config, name).items():
        values = flatten(asdict(config if stage == RUN else config.stages[stage]))
        for key, entry in given.values.items():
            assert key in values, (stage, key)
            same = values[key] == entry.paper
            assert (entry.ours is None) == (entry.why is None) == same, (stage, key)
            assert same or values[key] == entry.ours, (stage, key)
            assert re.match(r"tables? \d|section \d|appendix|extracts$|not given", entry.where), (stage, key)
        for missing in given.unkeyed:
            assert missing.why, (stage, missing.what)


def test_nothing_is_called_not_given_that_no_recipe_has_or_the_paper_gives_everywhere():
    used = set()
    for name in RECIPES:
        config, _ = compose([f"cascade={name}"])
        paper = name.partition("/")[0]
        for stage, given in paper_stages(config, name).items():
            if stage != RUN:
                kind = config.stages[stage].kind
                silent = [key for key in flatten(asdict(config.stages[stage])) if key not in given.values]
                for scope in ("all", kind):
                    patterns = recipes()[name].not_given[scope]
                    used |= {(paper, scope, p) for p in patterns if any(fnmatchcase(key, p) for key in silent)}
    declared = {
        (name, scope, pattern)
        for name, paper in read_papers().items()
        for scope, patterns in paper.not_given.items()
        for pattern in patterns
    }
    assert declared - used == set()


def test_a_dry_run_prints_the_table_and_marks_ones_own_changes(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change = "stages.math_rl_40k.sampling.temperature=0.9"
    silent = "stages.math_rl_40k.optimizer.clip_grad=0.5"
    assert command.main(["run", "cascade=nemotron_cascade/8b", "--dry", change, silent]) == 0
    told = " ".join(capsys.readouterr().out.split())  # a long reason goes on in its column's next line
    assert f"sampling.temperature 0.9 ! 0.8 table 17 set by command line: {change}" in told
    assert f"optimizer.clip_grad 0.5 math_rl_40k set by command line: {silent}" in told
    assert "optimizer.lr 2.5e-06 2.5e-06 table 20" in told
    assert list(tmp_path.iterdir()) == []
    assert command.main(["run", "cascade=nano", "--dry"]) == 0
    assert "beside the paper" not in capsys.readouterr().out
