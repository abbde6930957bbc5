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


def plain(held_out: Sequence[tuple[str, str]]) -> estimates.Estimate:
    """How many of the photos are probably right, if their classes are as frequent as among the labels.

    Args:
        held_out: true and predicted class of each held-out label.
    """
    return estimates.estimate(sum(true == found for true, found in held_out), len(held_out))


def balanced(held_out: Sequence[tuple[str, str]]) -> estimates.Estimate:
    """The same, if all classes are equally frequent; those of which no label was held out do not count."""
    numbers = Counter(true for true, _ in held_out)
    right = np.array([true == found for true, found in held_out])
    return estimates.weighted(right, np.array([1 / numbers[true] for true, _ in held_out]))
