"""Two settings compared on the same seeds."""

import math
import statistics
from typing import NamedTuple

from common.errors import UserError
from scripts.results.intervals import half_width
from scripts.results.runs import Cell


class Comparison(NamedTuple):
    """A setting compared with the base, over the seeds that both have.

    Attributes:
        seeds: how many they are.
        base: mean of the base's scores, in percent.
        mean: of the setting's scores, in percent.
        difference: of the means, in points; positive where the setting is better.
        half_width: of its interval; infinite with one seed.
        time: seconds of a step, relative to the base's.
    """

    seeds: int
    base: float
    mean: float
    difference: float
    half_width: float
    time: float


def compare(base: Cell, other: Cell, score: str) -> Comparison:
    """The paired comparison.

    Raises:
        UserError: they have no seed in common, or a run lacks the score.
    """
    pairs = paired(base, other, score, "steps_per_second")
    found = [b[score] - a[score] for a, b in pairs]
    times = [a["steps_per_second"] / b["steps_per_second"] for a, b in pairs]
    means = [statistics.fmean(pair[i][score] for pair in pairs) for i in (0, 1)]
    return Comparison(len(pairs), *means, statistics.fmean(found), half_width(found), statistics.median(times))


def paired(base: Cell, other: Cell, *scores: str) -> list[tuple[dict, dict]]:
    """The results of both for each seed that both have; with `--val-fold`, for each part of the labels.

    Raises:
        UserError: they have no seed in common, or a run lacks one of the scores.
    """
    pairs = [(a.result, b.result) for a in base.runs for b in other.runs if a.draw == b.draw]
    folders = f"'{base.runs[0].folder.parent}' and '{other.runs[0].folder.parent}'"
    if not pairs:
        raise UserError(f"the runs of {folders} have no seed in common: run both with the same SEEDS")
    for name in scores:
        if not all(isinstance(result.get(name), int | float) for pair in pairs for result in pair):
            raise UserError(
                f"not all runs of {folders} have a number '{name}' in their result.json: name another --score"
            )
    return pairs


def differences(base: Cell, other: Cell, score: str) -> list[float]:
    """How much higher the other scores, for each seed that both have.

    Raises:
        UserError: as `paired`.
    """
    return [b[score] - a[score] for a, b in paired(base, other, score)]


def in_words(difference: float, half_width: float) -> str:
    """A mean difference with its 95 % interval, such as `+1.3 ± 1.4`; with one seed there is no interval."""
    return f"{difference:+.1f}" + ("" if math.isinf(half_width) else f" ± {half_width:.1f}")
