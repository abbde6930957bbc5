"""Which images a person had best label next."""

from collections.abc import Sequence

import numpy as np


def margin(probabilities: np.ndarray) -> float:
    """How much more probable the first class of an image is than the second.

    Args:
        probabilities: float32 [C], of all classes.
    """
    second, first = np.partition(probabilities, -2)[-2:]
    return float(first - second)


def most(margins: Sequence[float], predicted: Sequence[int], number: int) -> list[int]:
    """Choose images with small margins, spread over the predicted classes.

    The classes take turns: first the image with the smallest margin of each class, then the second of each, and so on.
    Within a turn, smaller margins come first. So the choice of fewer images is the beginning of this one. A class whose
    images are all chosen leaves its turns to the others.

    Args:
        margins: of N images.
        predicted: the class of each.
        number: how many to choose; all, where there are no more.

    Returns:
        Indices, in the order in which they were chosen.
    """
    by_margin = sorted(range(len(margins)), key=lambda i: (margins[i], i))
    taken: dict[int, int] = {}
    turns = {}
    for i in by_margin:
        turns[i] = taken[predicted[i]] = taken.get(predicted[i], -1) + 1
    return sorted(by_margin, key=turns.__getitem__)[:number]
