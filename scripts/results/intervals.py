"""95 % intervals of differences between settings: over seeds, over images, and of several settings at once."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Difference(NamedTuple):
    """How much lower a setting scores than the first one, in points; its interval is `mean` ± `half_width`."""

    mean: float
    half_width: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return abs(self.mean) > self.half_width


def half_width(values: Sequence[float]) -> float:
    """The half width of the mean's interval, by Student's t; infinite for one value."""
    if len(values) < 2:
        return math.inf
    return float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def quantile(settings: int, freedom: float = math.inf) -> float:
    """How many standard errors an interval reaches, so that the intervals of all differences hold together.

    It is Tukey's studentized range over sqrt(2). For two settings this is Student's quantile. For more it is larger,
    since the first was picked as the best of them.

    Args:
        settings: how many are compared.
        freedom: degrees of freedom that the standard error comes from.
    """
    return float(stats.studentized_range.ppf(0.95, settings, freedom)) / math.sqrt(2)


def to_first(scores: np.ndarray, image_errors: np.ndarray, shared: bool) -> list[Difference]:
    """The differences of all settings from the first.

    With several seeds the intervals are over the seeds, and paired. For two settings they are Student's. For more they
    are Tukey's, from the residual variance of all, but never narrower than Student's: some settings vary more than
    others.
    The error over the images counts, too. If each seed has its own images, it is a lower limit: scores on few images
    have few values, so differences may be equal by chance. If the seeds share the images, it is added: more seeds do
    not reduce it. With one seed the intervals are over the images alone.

    Args:
        scores: in percent, [settings, seeds], of the same seeds for all.
        image_errors: [settings, seeds], the standard errors of the differences from the first over the images; 0 where
            the images are left out.
        shared: whether the seeds have the same images.
    """
    number, seeds = scores.shape
    differences = scores[0].mean() - scores.mean(axis=1)
    if seeds == 1:
        widths = quantile(number) * image_errors[:, 0]
    else:
        residuals = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
        freedom = (number - 1) * (seeds - 1)
        over_seeds = np.array([half_width(list(scores[0] - each)) for each in scores])
        over_seeds[1:] = over_seeds[1:].clip(
            quantile(number, freedom) * math.sqrt(2 * (residuals**2).sum() / freedom / seeds)
        )
        if shared:
            widths = np.hypot(over_seeds, quantile(number) * image_errors.mean(axis=1))
        else:
            widths = np.maximum(over_seeds, quantile(number) * np.sqrt((image_errors**2).sum(axis=1)) / seeds)
    return [Difference(*map(float, pair)) for pair in zip(differences, widths, strict=True)]


def paired_error(first: np.ndarray, other: np.ndarray) -> float:
    """The standard error of a difference of two accuracies on the same images, in points.

    The two differ on two kinds of images: only the first is right, or only the other. One image is added to each kind.
    This keeps the interval honest for few images (Bonett and Price, 2012).

    Args:
        first, other: bool [N], which images are right.
    """
    return _paired_error(np.sum(first & ~other), np.sum(other & ~first), len(first))


def _paired_error(gained: float, lost: float, number: int) -> float:
    gained, lost = (gained + 1) / (number + 2), (lost + 1) / (number + 2)
    return 100 * math.sqrt((gained + lost - (gained - lost) ** 2) / (number + 2))


def least_error(first: float, other: float, number: int) -> float:
    """The least value that `paired_error` can have if it is not known which images are right.

    Args:
        first, other: the accuracies in percent.
        number: of images.
    """
    difference = (first - other) / 100 * number
    return _paired_error(max(difference, 0), max(-difference, 0), number)


def unpaired_error(first: float, other: float, number: int) -> float:
    """`paired_error` if it is not known which images are right. It is too large: that of two different sets of images.

    One right and one wrong image are added to each (Agresti and Caffo, 2000).

    Args:
        first, other: the accuracies in percent.
        number: of images.
    """
    shares = [(percent / 100 * number + 1) / (number + 2) for percent in (first, other)]
    return 100 * math.sqrt(sum(share * (1 - share) for share in shares) / (number + 2))
