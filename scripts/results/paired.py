"""Two settings compared on the same seeds."""

import math
import statistics
from typing import NamedTuple

from common.errors import UserError
from scripts.results import intervals
from scripts.results.cells import Cell, number_of_seeds
from scripts.results.runs import Run


class Comparison(NamedTuple):
    """A setting compared with the base, over the seeds that both have.

    Attributes:
        seeds: how many they are; see `Cell.size`.
        base: mean of the base's scores, in percent.
        mean: of the setting's scores, in percent.
        difference: of the means, in points; positive where the setting is better.
        half_width: of its interval; see `half_width`.
        time: seconds of a step, relative to the base's.
    """

    seeds: str
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
    found = [b.result[score] - a.result[score] for a, b in pairs]
    times = [a.result["steps_per_second"] / b.result["steps_per_second"] for a, b in pairs]
    means = [statistics.fmean(pair[i].result[score] for pair in pairs) for i in (0, 1)]
    seeds = number_of_seeds([run for run, _ in pairs])
    return Comparison(seeds, *means, statistics.fmean(found), half_width(found), statistics.median(times))


def paired(base: Cell, other: Cell, *scores: str) -> list[tuple[Run, Run]]:
    """The runs of both for each seed that both have; with `--val-fold`, for each part of the labels.

    Raises:
        UserError: they have no seed in common, or a run lacks one of the scores.
    """
    pairs = [(a, b) for a in base.runs for b in other.runs if a.draw == b.draw]
    folders = f"'{base.runs[0].folder.parent}' and '{other.runs[0].folder.parent}'"
    if not pairs:
        raise UserError(f"the runs of {folders} have no seed in common: run both with the same SEEDS")
    for name in scores:
        if not all(isinstance(run.result.get(name), int | float) for pair in pairs for run in pair):
            raise UserError(
                f"not all runs of {folders} have a number '{name}' in their result.json: name another --score"
            )
    return pairs


def differences(base: Cell, other: Cell, score: str) -> list[float]:
    """How much higher the other scores, for each seed that both have.

    Raises:
        UserError: as `paired`.
    """
    return [b.result[score] - a.result[score] for a, b in paired(base, other, score)]


def half_width(differences: list[float]) -> float:
    """The half width of their mean's interval; infinite with one seed, or where all are equal.

    Scores on few images have few values, so differences may be equal by chance. An interval of no width would say more
    than is known.
    """
    return intervals.half_width(differences) if max(differences) - min(differences) > 1e-9 else math.inf


def with_other_labels(base: Cell, other: Cell) -> list[str]:
    """The seeds, in words, of which the two runs learned from different labels."""
    ours, theirs = (
        {draw: run.result.get("labeled_sha256") for draw, run in zip(cell.draws, cell.runs, strict=True)}
        for cell in (base, other)
    )
    return [draw for draw in ours if len({ours[draw], theirs.get(draw)} - {None}) == 2]


def left_out(base: Cell, other: Cell) -> list[str]:
    """The seeds, in words, that only one of the two has."""
    return sorted({*base.draws} ^ {*other.draws})


def in_words(difference: float, half_width: float) -> str:
    """A mean difference with its 95 % interval, such as `+1.3 ± 1.4`; without one where it is infinite."""
    return f"{difference:+.1f}" + ("" if math.isinf(half_width) else f" ± {half_width:.1f}")
