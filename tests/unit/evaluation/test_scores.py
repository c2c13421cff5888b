"""Scores on disk: exact, errors kept apart, damage refused."""

import math

import pytest

from nemo_cascade.errors import RunFolderError
from nemo_cascade.evaluation.scores import Scores


def test_scores_come_back_to_the_same_bits(tmp_path):
    third = 1 / 3
    scores = Scores({"math": {"m/0": [third, 0.1 + 0.2], "m/1": [None, 1.0]}}, {"math": {"truncation_rate": third}})
    scores.save(tmp_path / "stage" / "scores.json")
    assert Scores.load(tmp_path / "stage" / "scores.json") == scores


def test_a_verifier_error_is_no_score():
    domain = Scores({"math": {"a": [1.0, None], "b": [0.0, 1.0], "c": [None, None]}}).domain("math")
    assert domain.errors == 3
    assert domain.score_n[:2].tolist() == [1.0, 0.5]
    assert math.isnan(domain.score_n[2])
    # Only b has two scored samples, one of which passes.
    assert domain.summary() == {"score": 0.75, "n": 2, "stderr": 0.25, "samples": 2, "pass_at_k": 1.0}
    assert domain.pass_at(1) == pytest.approx(0.75)
    assert domain.pass_at(3) is None


def test_pass_at_k_is_told_of_several_samples_that_pass_or_fail():
    prompts = {"a": [1.0, 0.0, 0.0], "b": [0.0, 0.0, 0.0], "c": [1.0, 1.0, 1.0], "d": [0.0, 1.0, 1.0]}
    whole = Scores({"math": prompts}).summary()["math"]
    assert (whole["score"], whole["samples"], whole["pass_at_k"]) == (0.5, 3, 0.75)
    assert Scores({"math": prompts}).domain("math").pass_at(2) == pytest.approx((2 / 3 + 0 + 1 + 1) / 4)
    graded = {name: [0.5 * score for score in row] for name, row in prompts.items()}
    assert Scores({"chat": graded}).summary()["chat"]["pass_at_k"] is None
    once = {name: row[:1] for name, row in prompts.items()}
    assert Scores({"math": once}).summary()["math"]["pass_at_k"] is None


def test_how_many_obey_the_mode_stands_beside_the_score_where_it_was_measured():
    scores = Scores({"math": {"a": [1.0]}, "code": {"b": [1.0]}}, {"math": {"mode_obeyed": 0.5}})
    assert {name: line["mode_obeyed"] for name, line in scores.summary().items()} == {"math": 0.5, "code": None}


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"a": [1.0], "b": [1.0, 0.0]}, "different numbers of samples"),
        ({"a": [math.nan]}, "prompt a of the domain math"),
    ],
)
def test_ragged_or_non_finite_samples_are_refused(samples, message):
    with pytest.raises(RunFolderError, match=message):
        Scores({"math": samples})


@pytest.mark.parametrize("content", ["", "[]", '{"samples": 3}', '{"samples": {"math": {"a": ["x"]}}, "details": {}}'])
def test_a_damaged_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "scores.json"
    path.write_text(content)
    with pytest.raises(RunFolderError, match=r"scores\.json"):
        Scores.load(path)
