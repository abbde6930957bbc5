"""The interval of an accuracy on a few images, against SciPy's."""

import pytest
from scipy import stats

from common.records import estimates


@pytest.mark.parametrize(("right", "number"), [(30, 40), (40, 40), (0, 7), (190, 200)])
def test_the_interval_is_wilsons(right, number):
    expected = stats.binomtest(right, number).proportion_ci(0.95, method="wilson")
    found = estimates.estimate(right, number)
    assert found.accuracy == pytest.approx(100 * right / number)
    assert (found.low, found.high) == pytest.approx((100 * expected.low, 100 * expected.high), abs=0.01)
