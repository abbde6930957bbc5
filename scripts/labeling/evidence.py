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


def near(ranked: Sequence[Ranked]) -> list[str]:
    """The methods that may as well be the best: the first one, and those that are not clearly below it."""
    return [ranked[0].method, *(each.method for each in ranked[1:] if not each.below.is_clear)]


def mean_of_near(right: Mapping[str, Mapping[int, bool]]) -> dict[int, float]:
    """For each image, which share of the methods that may as well be the best recognises it.

    The accuracy of the chosen method is too high: of several, that is chosen which had luck with these images. The mean
    of those that are not clearly below it has no such luck. It is a little low where one is better, but not clearly so.

    Args:
        right: see `ranking`.
    """
    methods = near(ranking(right))
    return {image: float(np.mean([right[method][image] for method in methods])) for image in right[methods[0]]}


def balanced(right: Sequence[float], classes: Sequence[int]) -> estimates.Estimate:
    """How many photos are probably right, if all classes are equally frequent.

    Classes of which no label was held out do not count.
    """
    numbers = Counter(classes)
    return estimates.weighted(np.array(right), np.array([1 / numbers[each] for each in classes]))
