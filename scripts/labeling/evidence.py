"""What the held-out labels say of the methods: the best one, how far the others are below it, how good it is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.records import estimates
from scripts.results import intervals


class Ranked(NamedTuple):
    """A method's accuracy on the held-out labels, in percent, and how far it is below the first."""

    method: str
    accuracy: float
    below: intervals.Difference


def ranking(right: Mapping[str, Mapping[int, bool]]) -> list[Ranked]:
    """The best one first; of equals the one that is named first.

    Args:
        right: method -> image -> whether it was recognised; the same images for all. No method, no ranking.
    """
    if not right:
        return []
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


def by_the_others(right: Mapping[str, Mapping[int, bool]]) -> dict[int, bool]:
    """Whether each image is recognised by the method that the other images choose.

    The accuracy of the chosen method is too high: of several, that is chosen which had luck with these images. Here, no
    image is scored by a method that it has helped to choose.

    Args:
        right: see `ranking`.
    """
    totals = {method: sum(found.values()) for method, found in right.items()}
    chosen = {}
    for image in next(iter(right.values())):
        best = max(right, key=lambda method: totals[method] - right[method][image])  # of equals the first
        chosen[image] = right[best][image]
    return chosen


def balanced(right: Sequence[bool], classes: Sequence[int]) -> estimates.Estimate:
    """How many photos are probably right, if all classes are equally frequent.

    Classes of which no label was held out do not count.
    """
    numbers = Counter(classes)
    return estimates.weighted(np.array(right), np.array([1 / numbers[each] for each in classes]))
