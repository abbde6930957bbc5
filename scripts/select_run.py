"""Choose among runs of one method with different flags, without looking at the test set.

    python scripts/select_run.py RUNS [RUNS ...] [--by val|clusters]

Every folder below RUNS that holds an args.json is a run; runs that differ by the seed alone are one setting, with the
mean of their scores. What settings are ranked by:

val       their accuracy after the last epoch on the images that --val-per-class held out; of equals, that with the
          smaller loss is first. A run's maximum over epochs would favor the runs that fluctuate most. Within the chosen
          run the images choose the epoch, too: its best.pth.
clusters  where no label can be spared: how well the predictions after the last epoch agree with k-means clusters of the
          network's features, as many as there are classes, on unlabeled training images; their adjusted mutual
          information, 0 by chance and 100 at most (proposed by Zhang et al., arXiv:2503.09707).

Without --by it is val where all runs held images out, and clusters otherwise. Either choice is uncertain: a 95 %
interval stands beside each score, over the images (Wilson's for an accuracy, otherwise by resampling), and the settings
are counted that may as well be the best one. How well a score stands for the accuracy is another matter: see
docs/choosing.md. The test accuracy is shown of the chosen setting alone.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from common import cli, datasets, trained
from common.errors import UserError
from common.system.devices import find_device
from scripts.results import agreement, tables
from scripts.results.runs import Cell, Run, cells, differing, held_out, known_images, read_runs

FEWEST = 10  # unlabeled images for a class: clusters of fewer say little
Z = 1.959964  # 95 % of a normal distribution are within so many deviations


class Score(NamedTuple):
    """Of a setting, in percent.

    Attributes:
        value: the larger the better.
        low, high: the ends of its interval.
        images: how many the interval comes from.
        loss: decides between equal values; 0 where there is none.
    """

    value: float
    low: float
    high: float
    images: int
    loss: float = 0.0


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="folders to search")
    parser.add_argument("--by", choices=("val", "clusters"), default=None, help="what ranks the runs; see above")
    group = parser.add_argument_group("clusters")
    group.add_argument("--root", type=cli.path, default=None, help="folder of the dataset (default: where it was)")
    group.add_argument(
        "--images", type=cli.positive_int, default=2000, metavar="N", help="unlabeled images to take (default: 2000)"
    )
    group.add_argument("-j", "--workers", type=cli.non_negative_int, default=4, help="loader processes (default: 4)")
    group.add_argument("--device", default=None, help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
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
    try:
        value, loss = (
            statistics.fmean(run.history[-1][key] for run in setting.runs) for key in ("val_top1", "val_loss")
        )
    except (LookupError, TypeError):
        raise UserError(f"'{setting.runs[0].folder / 'metrics.jsonl'}' is damaged: run its command again") from None
    return Score(value, *wilson(value, number), number, loss)


def wilson(percent: float, number: int) -> tuple[float, float]:
    """The 95 % interval of a share that was seen in `number` trials (Wilson, 1927), in percent."""
    share = percent / 100
    middle = share + Z**2 / (2 * number)
    half = Z * math.sqrt(share * (1 - share) / number + Z**2 / (4 * number**2))
    return tuple(100 * (middle + sign * half) / (1 + Z**2 / number) for sign in (-1, 1))


class Clusters:
    """Scores settings by the agreement of their runs' predictions with clusters of the features.

    Args:
        runs: all that are compared; they are of one dataset.
        root, number, workers, device: the flags.

    Raises:
        UserError: the dataset is another now, or has too few unlabeled images.
    """

    def __init__(self, runs: list[Run], root: str | None, number: int, workers: int, device: str | None):
        args = argparse.Namespace(**runs[0].args)
        self.data = datasets.load(
            args.data,
            root or args.root,
            args.any_counts,
            args.generated_split,
            args.labeled_list,
            args.train_resizing,
            args.flip,
        )
        if self.data.sha256 != runs[0].result.get("data_sha256"):
            raise UserError(
                f"'{root or args.root}' holds other images than the runs had: name their folder with --root"
            )
        self.number, self.workers, self.device = number, workers, find_device(device)

    def __call__(self, setting: Cell) -> Score:
        """The mean over the runs. As they need not have the same images, the interval is of the mean of as many."""
        scores = [self._of_run(run) for run in setting.runs]
        value = statistics.fmean(score.value for score in scores)
        half = math.sqrt(sum((score.high - score.value) ** 2 for score in scores)) / len(scores)
        return Score(value, value - half, value + half, scores[0].images)

    def _of_run(self, run: Run) -> Score:
        indices = self._unlabeled(run)
        network = trained.load(run.folder, "latest")
        found = agreement.features_and_predictions(network, self.data.train.subset(indices), self.device, self.workers)
        return Score(*agreement.with_clusters(*found, len(self.data.classes)), len(indices))

    def _unlabeled(self, run: Run) -> np.ndarray:
        """Some of the training images whose label the run did not use; the same for the same labels."""
        free = np.setdiff1d(np.arange(len(self.data.train)), known_images(run))
        if len(free) < FEWEST * len(self.data.classes):
            raise UserError(
                f"'{run.folder}' left {len(free)} images unlabeled, too few for clusters of "
                f"{len(self.data.classes)} classes: choose --by val"
            )
        return np.sort(np.random.default_rng(0).permutation(free)[: self.number])


def ranked(settings: list[Cell], criterion: Callable[[Cell], Score]) -> list[tuple[Score, Cell]]:
    """The best one first."""
    scored = [(criterion(setting), setting) for setting in settings]
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
        "More images or seeds would tell them apart."
    )


def main(args):
    runs = finished(read_runs(args.runs))
    table, notes = cells(runs)
    settings = [setting for several in table.values() for setting in several]
    if len(settings) < 2:
        raise UserError("all these runs have the same settings: there is nothing to choose")
    names = dict(zip(map(id, settings), differing(settings), strict=True))
    by = args.by or ("val" if all("val_top1" in run.result for run in runs) else "clusters")
    clusters = Clusters(runs, args.root, args.images, args.workers, args.device) if by == "clusters" else None
    ranking = ranked(settings, clusters or on_held_out_images)
    what = {"val": "held-out accuracy, %", "clusters": "agreement with clusters, %"}[by]
    rows = [["rank", what, "95 % interval", "seeds", "setting"]]
    for rank, (score, setting) in enumerate(ranking, 1):
        interval = f"{score.low:.1f} to {score.high:.1f}"
        rows.append([str(rank), f"{score.value:.1f}", interval, str(len(setting.runs)), f"[{rank}]"])
    print(f"\n{tables.text(rows)}\n")
    for rank, (_, setting) in enumerate(ranking, 1):
        print(tables.wrapped(f"[{rank}] {names[id(setting)]}"))
    print("".join(f"\n{note}" for note in notes))
    chosen = ranking[0][1]
    print(tables.wrapped(doubt([score for score, _ in ranking])))
    field, file = ("val_best_top1", "best.pth") if by == "val" else ("last_top1", "latest.pth")
    print(tables.wrapped(f"chosen: {names[id(chosen)]}; its test accuracy: {chosen.show(field)}"))
    for run in chosen.runs:
        print(f"    {run.folder / 'checkpoints' / file}")


if __name__ == "__main__":
    cli.launch(parse_args, main)
