"""Intervals of differences, by hand and against SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from scripts.results import intervals

NO_IMAGES = np.zeros((2, 3))


def test_students_half_width():
    assert intervals.half_width([1, 2, 1]) == pytest.approx(4.302653 / 3, rel=1e-6)
    assert intervals.half_width([1]) == math.inf


def test_the_quantile_is_students_for_two_and_grows_with_the_settings():
    for freedom in (1, 2, 9, math.inf):
        assert intervals.quantile(2, freedom) == pytest.approx(stats.t.ppf(0.975, freedom))
    assert intervals.quantile(8) == pytest.approx(4.286 / 2**0.5, abs=1e-3)  # from a table of the studentized range
    assert intervals.quantile(3, 4) == pytest.approx(5.040 / 2**0.5, abs=1e-3)


def test_two_settings_have_the_interval_of_compare_runs():
    scores = np.array([[60.0, 70.0, 80.0], [59.0, 68.0, 79.0]])
    first, other = intervals.to_first(scores, NO_IMAGES, shared=False)
    assert (first.mean, other.mean) == pytest.approx((0, 4 / 3))
    assert other.half_width == pytest.approx(intervals.half_width([1, 2, 1]))
    assert not other.is_clear


def test_of_several_settings_the_residual_variance_is_that_of_blocks():
    """Residuals of the table less its row and column means, by hand: (0, 1, -1), (0, 1, -1), (0, -2, 2)."""
    scores = np.array([[10.0, 21.0, 29.0], [9.0, 20.0, 28.0], [8.0, 16.0, 30.0]])
    error = math.sqrt(2 * (4 * 1 + 2 * 4) / 4 / 3)
    first, second, _ = intervals.to_first(scores, np.zeros((3, 3)), shared=False)
    assert (first.mean, second.mean) == (0, 1)
    assert second.half_width == pytest.approx(5.040 / 2**0.5 * error, rel=1e-3)


def test_a_setting_that_varies_more_than_the_others_has_its_own_interval():
    scores = np.array([[50.0, 51, 52], [50, 51, 51.9], [49.9, 51, 52], [60, 40, 40]])
    *_, wild = intervals.to_first(scores, np.zeros((4, 3)), shared=False)
    assert wild.half_width == pytest.approx(intervals.half_width([-10, 11, 12]))


def test_the_images_are_a_lower_limit_or_are_added_where_the_seeds_share_them():
    scores, errors = np.array([[60.0, 70.0, 80.0], [55.0, 65.0, 75.0]]), np.array([[0.0] * 3, [3.0] * 3])
    over_images = 1.959964 * 3
    _, equal = intervals.to_first(scores, errors, shared=False)
    assert equal == pytest.approx((5, over_images / 3**0.5))
    scores[1] = (59.0, 68.0, 79.0)
    over_seeds = intervals.half_width([1, 2, 1])
    _, shared = intervals.to_first(scores, errors, shared=True)
    assert shared.half_width == pytest.approx(math.hypot(over_seeds, over_images))
    _, one = intervals.to_first(scores[:, :1], errors[:, :1], shared=True)
    assert one == pytest.approx((1, over_images))


def test_the_error_over_images_by_hand():
    """Of 10 images 3 are right in the first alone and 1 in the other: shares of 4/12 and 2/12."""
    first, other = (np.array(list(bits)) == "1" for bits in ("1111110000", "1110001000"))
    assert intervals.paired_error(first, other) == pytest.approx(100 * math.sqrt((0.5 - (1 / 6) ** 2) / 12))
    assert intervals.paired_error(first, first) == pytest.approx(100 * math.sqrt(2 / 12 / 12))
    assert intervals.least_error(60, 40, 10) == pytest.approx(100 * math.sqrt((4 / 12 - (2 / 12) ** 2) / 12))
    assert intervals.least_error(40, 60, 10) == intervals.least_error(60, 40, 10)
    assert intervals.unpaired_error(60, 40, 10) == pytest.approx(100 * math.sqrt((7 * 5 + 5 * 7) / 12**3))
