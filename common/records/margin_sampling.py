"""Margin sampling: which images a person should label next (Scheffer et al., 2001, and spread over the classes)."""

from collections.abc import Sequence

import numpy as np


def margin(probabilities: np.ndarray) -> float:
    """The probability of an image's most probable class minus that of the second.

    Args:
        probabilities: float32 [C].
    """
    second, first = np.partition(probabilities, -2)[-2:]
    return float(first - second)


def select(margins: Sequence[float], predicted: Sequence[int], number: int) -> list[int]:
    """Choose images with small margins, spread over the predicted classes.

    The classes take turns: first the image with the smallest margin of each class, then the second of each, and so on.
    Within a turn, smaller margins come first. So a choice of fewer images is the beginning of a choice of more. A class
    whose images are all chosen is skipped.

    Args:
        margins: of N images.
        predicted: their predicted classes.
        number: how many to choose; if there are fewer, all are chosen.

    Returns:
        Indices, in the order in which the images were chosen.
    """
    by_margin = sorted(range(len(margins)), key=lambda i: (margins[i], i))
    taken: dict[int, int] = {}
    turns = {}
    for i in by_margin:
        turns[i] = taken[predicted[i]] = taken.get(predicted[i], -1) + 1
    return sorted(by_margin, key=turns.__getitem__)[:number]
