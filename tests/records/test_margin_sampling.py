"""Which images are worth a label: small margins, all predicted classes in turn."""

import numpy as np
import pytest

from common.records import margin_sampling


def test_the_margin_is_between_the_two_best():
    assert margin_sampling.margin(np.float32([0.125, 0.5, 0.25, 0.125])) == 0.25
    assert margin_sampling.margin(np.float32([0.5, 0.5])) == 0


def test_the_classes_take_turns():
    margins = [0.9, 0.1, 0.2, 0.3, 0.05, 0.8]
    predicted = [0, 1, 1, 1, 1, 0]
    assert margin_sampling.select(margins, predicted, 6) == [4, 5, 1, 0, 2, 3]


@pytest.mark.parametrize("number", [1, 7, 30, 99])
def test_no_class_is_asked_about_twice_more_than_one_with_images_left(number):
    rng = np.random.default_rng(number)
    margins, predicted = rng.random(40).tolist(), (rng.random(40) ** 3 * 5).astype(int).tolist()
    chosen = margin_sampling.select(margins, predicted, number)
    assert len(set(chosen)) == len(chosen) == min(number, 40)
    assert chosen == margin_sampling.select(margins, predicted, 40)[:number]
    counts = np.bincount([predicted[i] for i in chosen], minlength=5)
    has_more = counts < np.bincount(predicted, minlength=5)
    assert all(counts.max() - counts[has_more] <= 1)
    for c in range(5):
        own = sorted(margins[i] for i in range(40) if predicted[i] == c)
        assert [margins[i] for i in chosen if predicted[i] == c] == own[: counts[c]]
