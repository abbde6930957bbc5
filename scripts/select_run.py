"""Choose among runs of one method with different flags, without looking at the test set.

    python scripts/select_run.py RUNS [RUNS ...]

Every folder below RUNS that holds an args.json is a run, trained with --val-per-class; runs that differ by the seed
alone are one setting, with the mean of their scores. Settings are ranked by their accuracy on the images that were held
out, each run in the epoch that they choose (whose network is its best.pth); of equals, that with the smaller loss is
first.

As the images are few, the choice is uncertain: the 95 % interval of the accuracy stands beside it (Wilson's), and the
settings are counted that may as well be the best one. The test accuracy is shown of the chosen setting alone.
"""

import argparse
import math
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from common import cli
from common.errors import UserError
from scripts.results import tables
from scripts.results.runs import Cell, Run, cells, differing, held_out, read_runs

Z = 1.959964  # 95 % of a normal distribution are within so many deviations


class Score(NamedTuple):
    """Of a setting, in percent.

    Attributes:
        value: the larger the better.
        low, high: the ends of its interval.
        images: how many the interval comes from.
        loss: decides between equal values.
    """

    value: float
    low: float
    high: float
    images: int
    loss: float


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="folders to search")
    return parser.parse_args(argv)


def finished(runs: list[Run]) -> list[Run]:
    """Those that can be compared.

    Raises:
        UserError: there is nothing to choose between, or the runs are of several methods or problems.
    """
    for run in runs:
        if run.result is None:
            print(f"not finished, left out: {run.folder}", file=sys.stderr)
    runs = [run for run in runs if run.result is not None]
    if len(runs) < 2:
        raise UserError(f"{len(runs)} finished runs are no choice: name the folders of two or more")
    facts = [_problem(run) for run in runs]
    for run, fact in zip(runs, facts, strict=True):
        for key, value in fact.items():
            if value != facts[0][key]:
                raise UserError(
                    f"'{run.folder}' has {key} {value}, but '{runs[0].folder}' has {facts[0][key]}: "
                    "name runs of one method with the same images and labels"
                )
    return runs


def _problem(run: Run) -> dict[str, object]:
    """What has to be the same in runs that are compared."""
    keys = ("method", "dataset", "num_samples_per_class", "oracle", "data_sha256")
    return {key: run.result.get(key) for key in keys} | {"val_per_class": run.args.get("val_per_class", 0)}


def on_held_out_images(setting: Cell) -> Score:
    """The mean over the runs. Those with one split seed have the same images, which count once."""
    missing = [run for run in setting.runs if "val_top1" not in run.result]
    if missing:
        raise UserError(f"'{missing[0].folder}' held no images out to choose by: train with --val-per-class N")
    number = sum({run.result["split_seed"]: held_out(run) for run in setting.runs}.values())
    value = setting.mean("val_top1")
    loss = statistics.fmean(run.history[run.result["val_best_epoch"] - 1]["val_loss"] for run in setting.runs)
    return Score(value, *wilson(value, number), number, loss)


def wilson(percent: float, number: int) -> tuple[float, float]:
    """The 95 % interval of a share that was seen in `number` trials (Wilson, 1927), in percent."""
    share = percent / 100
    middle = share + Z**2 / (2 * number)
    half = Z * math.sqrt(share * (1 - share) / number + Z**2 / (4 * number**2))
    return tuple(100 * (middle + sign * half) / (1 + Z**2 / number) for sign in (-1, 1))


def ranked(settings: list[Cell]) -> list[tuple[Score, Cell]]:
    """The best one first."""
    scored = [(on_held_out_images(setting), setting) for setting in settings]
    return sorted(scored, key=lambda pair: (-pair[0].value, pair[0].loss))


def doubt(scores: list[Score]) -> str:
    """How much the first score says over the others."""
    first, *others = scores
    near = sum(score.value >= first.low for score in others)
    if near == 0:
        return f"No other setting is within the first one's interval, over {first.images:,} images."
    of = f"{near} of the {len(others)} others" if len(others) > 1 else "The other setting"
    return (
        f"{of} may as well be the best: within the first one's interval, over {first.images:,} images. "
        "More images (--val-per-class) or seeds would tell them apart."
    )


def main(args):
    table, notes = cells(finished(read_runs(args.runs)))
    settings = [setting for several in table.values() for setting in several]
    if len(settings) < 2:
        raise UserError("all these runs have the same settings: there is nothing to choose")
    names = dict(zip(map(id, settings), differing(settings), strict=True))
    ranking = ranked(settings)
    rows = [["rank", "held-out accuracy, %", "95 % interval", "seeds", "setting"]]
    for rank, (score, setting) in enumerate(ranking, 1):
        interval = f"{score.low:.1f} to {score.high:.1f}"
        rows.append([str(rank), f"{score.value:.1f}", interval, str(len(setting.runs)), f"[{rank}]"])
    print(f"\n{tables.text(rows)}\n")
    for rank, (_, setting) in enumerate(ranking, 1):
        print(tables.wrapped(f"[{rank}] {names[id(setting)]}"))
    print("".join(f"\n{note}" for note in notes))
    chosen = ranking[0][1]
    print(tables.wrapped(doubt([score for score, _ in ranking])))
    print(tables.wrapped(f"chosen: {names[id(chosen)]}; its test accuracy: {chosen.show('val_best_top1')}"))
    for run in chosen.runs:
        print(f"    {run.folder / 'checkpoints' / 'best.pth'}")


if __name__ == "__main__":
    cli.launch(parse_args, main)
