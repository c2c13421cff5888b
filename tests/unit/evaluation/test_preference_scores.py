import numpy as np
import pytest

from nemo_cascade.errors import RunFolderError
from nemo_cascade.evaluation.preference import PreferenceScores, preference_scores


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
