import numpy as np
import pytest

from nemo_cascade.errors import RunFolderError
from nemo_cascade.evaluation.preference import PreferenceScores, correlation, preference_scores


def test_a_calibrated_model_has_no_calibration_error_and_an_overconfident_one_has(tmp_path):
    rng = np.random.default_rng(0)
    size = rng.normal(size=20000) * 2
    # A pair of margin m is ordered right with probability sigmoid(|m|): that is what the model claims.
    sign = np.where(rng.random(size.size) < 1 / (1 + np.exp(-np.abs(size))), 1, -1)
    honest = preference_scores(np.abs(size) * sign)
    assert honest.calibration_error < 0.01
    assert honest.accuracy == pytest.approx(float((sign > 0).mean()))
    assert honest.loss == pytest.approx(float(np.log1p(np.exp(-np.abs(size) * sign)).mean()))
    assert sum(b.n for b in honest.bins) == honest.n == 20000
    assert [b.predicted for b in honest.bins] == sorted(b.predicted for b in honest.bins)
    boastful = preference_scores(np.abs(size) * sign * 5)
    assert boastful.accuracy == honest.accuracy
    assert boastful.calibration_error > 0.1
    honest.save(tmp_path / "p.json")
    assert PreferenceScores.load(tmp_path / "p.json") == honest
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(RunFolderError, match="reward model's scores"):
        PreferenceScores.load(tmp_path / "p.json")


def test_a_tie_is_half_right():
    scores = preference_scores([0.0, 1.0])
    assert (scores.accuracy, scores.margin) == (0.75, 0.5)


def test_accuracy_is_told_by_the_labels_gap_and_length_bias_by_what_is_longer(tmp_path):
    margin = np.array([1.0, -1.0, 2.0, 3.0, -0.5, 1.0])
    gap = np.array([1, 1, 1, 3, 3, 3.0])
    # The model scores the longer reply higher in all five pairs that differ, the labels prefer it in three.
    longer = np.array([5, -2, 7, 0, -1, 3.0])
    scores = preference_scores(margin, gap, longer, {"helpfulness": 0.25})
    assert [(b.gap, b.n) for b in scores.by_gap] == [(1.0, 3), (3.0, 3)]
    assert [b.accuracy for b in scores.by_gap] == pytest.approx([2 / 3, 2 / 3])
    assert (scores.length.n, scores.length.longer_chosen, scores.length.longer_scored) == (5, 0.6, 1.0)
    assert (scores.length.accuracy_longer, scores.length.accuracy_shorter) == (1.0, 0.0)
    assert scores.length.correlation == pytest.approx(np.corrcoef(margin, longer)[0, 1])
    scores.save(tmp_path / "p.json")
    assert PreferenceScores.load(tmp_path / "p.json") == scores
    assert preference_scores(margin, longer=np.zeros(6)).length is None


def test_many_gaps_are_told_in_a_few_bins_of_about_as_many_pairs():
    gap = np.random.default_rng(0).random(1000)
    bins = preference_scores(gap - 0.3, gap).by_gap
    assert [b.n for b in bins] == [200] * 5
    assert [b.gap for b in bins] == sorted(b.gap for b in bins)
    assert bins[0].accuracy == 0.0
    assert bins[-1].accuracy == 1.0


def test_ratings_that_are_missing_or_all_the_same_have_no_part_in_a_correlation():
    told, given = np.array([0.0, 1.0, 2.0, 9.0]), np.array([1.0, 2.0, 3.0, np.nan])
    assert correlation(told, given) == pytest.approx(1.0)
    assert correlation(told, -given) == pytest.approx(-1.0)
    assert correlation(told, np.array([1.0, 1.0, 1.0, np.nan])) is None
    assert correlation(told, np.full(4, np.nan)) is None
