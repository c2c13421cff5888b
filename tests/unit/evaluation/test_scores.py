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
    assert domain.summary() == {"score": 0.75, "n": 2, "stderr": 0.25}
    assert domain.pass_at(1) == pytest.approx(0.75)
    assert domain.pass_at(2) == 1.0  # only b has two scored samples
    with pytest.raises(RunFolderError, match="k scored samples"):
        domain.pass_at(3)


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
