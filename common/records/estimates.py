"""How far an accuracy on a few images may be from that on all."""

import math
from typing import NamedTuple

import numpy as np

Z = 1.96  # of a 95 % interval


class Estimate(NamedTuple):
    """An accuracy in percent and its 95 % interval."""

    accuracy: float
    low: float
    high: float


def estimate(right: float, number: int) -> Estimate:
    """An accuracy by images that were not trained on.

    Args:
        right: how many were recognised; where several networks were asked, the mean over them.
        number: of images.
    """
    return _wilson(right / number, number)


def weighted(right: np.ndarray, weights: np.ndarray) -> Estimate:
    """The same where images count more or less, as if there were (sum w)^2 / sum w^2 of equal weight (Kish, 1965).

    Args:
        right: whether each image was recognised, or by which share of several networks [images].
        weights: at least 0, of any scale [images].
    """
    return _wilson(float((weights * right).sum() / weights.sum()), float(weights.sum() ** 2 / (weights**2).sum()))


def _wilson(share: float, number: float) -> Estimate:
    """Wilson's interval, which few images and 100 % do not mislead."""
    spread = Z**2 / number
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / number + spread / (4 * number))
    return Estimate(100 * share, 100 * max(middle - half, 0.0), 100 * min(middle + half, 1.0))
