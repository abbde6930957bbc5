"""What the held-out labels say of the methods: the best one, and how far the others are below it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from scripts.results import intervals


class Ranked(NamedTuple):
    """A method's accuracy on the held-out labels, in percent, and how far it is below the first."""

    method: str
    accuracy: float
    below: intervals.Difference


def ranking(right: Mapping[str, Mapping[int, bool]]) -> list[Ranked]:
    """The best one first; of equals the one that is named first.

    Args:
        right: method -> image -> whether it was recognised; the same images for all.
    """
    images = sorted(next(iter(right.values())))
    outcomes = {method: np.array([found[image] for image in images]) for method, found in right.items()}
    order = sorted(outcomes, key=lambda method: -outcomes[method].sum())
    first = outcomes[order[0]]
    ranked = []
    for method in order:
        own, width = outcomes[method], 0.0
        if method != order[0]:
            width = intervals.quantile(len(order)) * intervals.paired_error(first, own)
        accuracy = 100 * float(own.mean())
        ranked.append(Ranked(method, accuracy, intervals.Difference(100 * float(first.mean()) - accuracy, width)))
    return ranked
