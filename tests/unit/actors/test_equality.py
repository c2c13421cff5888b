import numpy as np
import pytest

from nemo_cascade.actors.sync import _compare
from nemo_cascade.errors import WeightSyncError

A = [np.array([-1.0, -2.0], np.float32), np.array([-3.0], np.float32)]


def test_equal_log_probs_give_their_distance():
    largest, mean = _compare("rollout-0", A, [A[0], A[1] + np.float32(3e-4)], limits=(1e-3, 1e-3))
    assert largest == pytest.approx(3e-4, rel=1e-2)
    assert mean == pytest.approx(1e-4, rel=1e-2)


@pytest.mark.parametrize("wrong", [-3.5, np.nan, -np.inf])
def test_a_wrong_or_broken_value_stops_with_both_sides(wrong):
    with pytest.raises(WeightSyncError, match="rollout-0") as caught:
        _compare("rollout-0", A, [A[0], np.array([wrong], np.float32)], limits=(1e-3, 1e-3))
    assert "trainer -3.0000" in str(caught.value)
