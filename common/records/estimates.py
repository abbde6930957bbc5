"""How far an accuracy on a few images may be from that on all."""

import math
from typing import NamedTuple

Z = 1.96  # of a 95 % interval


class Estimate(NamedTuple):
    """An accuracy in percent and its 95 % interval."""

    accuracy: float
    low: float
    high: float


def estimate(right: int, number: int) -> Estimate:
    """An accuracy by images that were not trained on (Wilson's interval, which few images and 100 % do not mislead)."""
    share, spread = right / number, Z**2 / number
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / number + spread / (4 * number))
    return Estimate(100 * share, 100 * max(middle - half, 0.0), 100 * min(middle + half, 1.0))
