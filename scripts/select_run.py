"""Choose among runs of different methods or flags, without looking at the test set: one leaderboard.

    python scripts/select_run.py RUNS [RUNS ...] [--by val|clusters]

Every folder below RUNS that holds an args.json is a run. Runs that differ by the seed alone are one setting. So are
runs that hold out one part of the labels after the other (--val-fold): the parts count as seeds. Settings are ranked by
the mean of their scores over the seeds that all of them have. The score is one of two:

val       the accuracy after the last epoch on the images that --val-per-class held out. Of equals, the one with the
          smaller loss is first. A run's maximum over epochs would favor the runs that fluctuate most. Within the chosen
          run, the same images choose the epoch of best.pth.
clusters  if you can spare no labels: how well the predictions after the last epoch agree with k-means clusters of the
          network's features on unlabeled training images, with one cluster per class. It is their adjusted mutual
          information, 0 by chance and 100 at most (proposed by Zhang et al., arXiv:2503.09707).

Without --by it is val if all runs held images out, and otherwise clusters.

For each setting you see how far it is below the first, with a 95 % interval. With several seeds the interval is over
the seeds: Student's t of the paired differences, as in compare_runs.py, or Tukey's for more than two settings. With
one seed it is over the images, and says nothing about another seed. If a setting's interval contains 0, it may as well
be the best.
docs/choosing.md says how often equal settings are told apart, and how well a score stands for the accuracy. The test
accuracy is shown only for the chosen setting.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from common import cli, trained
from common.errors import UserError
from common.records import best_epoch
from common.run import load_as
from common.system import limits
from common.system.devices import find_device
from scripts.results import agreement, intervals, tables
from scripts.results.cells import Cell, cells, differing
from scripts.results.runs import Run, held_out, known_images, outcomes, read_runs

MIN_PER_CLASS = 10  # unlabeled images for a class: clusters of fewer say little


class Criterion(Protocol):
    """What settings are ranked by.

    Attributes:
        discrete: whether scores have few values, so that differences may be equal over the seeds by chance.
        paired: False once an error was too large, because a run did not record which images it has right.
    """

    discrete: bool
    paired: bool

    def score(self, run: Run) -> tuple[float, float]:
        """A score in percent, the larger the better; and a loss that decides between equal scores."""

    def images(self, run: Run) -> np.ndarray:
        """The training images that the score comes from, as indices; the same for the same labels."""

    def error(self, first: Run, other: Run, least: bool) -> float:
        """The standard error of the difference of two scores on the same images, in points.

        Args:
            least: if the error cannot be known, give its lower limit, not the upper one.
        """


class Ranked(NamedTuple):
    """A setting, its mean score and loss, and how far it is below the first."""

    setting: Cell
    score: float
    loss: float
    below: intervals.Difference


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=cli.filepath, metavar="RUNS", help="folders to search")
    parser.add_argument("--by", choices=("val", "clusters"), default=None, help="what ranks the runs; see above")
    group = parser.add_argument_group("clusters")
    group.add_argument("--root", type=cli.path, default=None, help="folder of the dataset (default: where it was)")
    group.add_argument(
        "--images", type=cli.positive_int, default=2000, metavar="N", help="unlabeled images to take (default: 2000)"
    )
    group.add_argument("-j", "--workers", type=cli.non_negative_int, help="loader processes (default: by the cores)")
    group.add_argument("--device", default=None, help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    return parser.parse_args(argv)


def finished(runs: list[Run]) -> list[Run]:
    """The finished runs that can be compared.

    Raises:
        UserError: there is nothing to choose between, or the runs are of several problems.
    """
    for run in runs:
        if run.result is None:
            print(f"not finished, left out: {run.folder}", file=sys.stderr)
    runs = [run for run in runs if run.result is not None]
    if len(runs) < 2:
        raise UserError(f"{len(runs)} finished runs are no choice: name the folders of two or more")
    for run in runs:
        _compare(runs[0], run, ("dataset", "num_samples_per_class", "oracle", "test_sha256"))
        # This fingerprint holds the images' size, too, where --train-resizing looks it up.
        alike = next(other for other in runs if other.args["train_resizing"] == run.args["train_resizing"])
        _compare(alike, run, ("data_sha256",))
        of_own = [other for other in runs if "content_sha256" in other.result]  # older runs do not record it
        if run in of_own:
            _compare(of_own[0], run, ("content_sha256",))
    return runs


def _compare(first: Run, run: Run, keys: tuple[str, ...]) -> None:
    facts = [{key: each.result.get(key) for key in keys} for each in (first, run)]
    if "dataset" in keys:
        facts = [
            fact | {"val_per_class": r.args.get("val_per_class", 0)}
            for fact, r in zip(facts, (first, run), strict=True)
        ]
    for key in facts[0]:
        here, there = (str(fact[key])[:8] if key.endswith("sha256") else fact[key] for fact in facts)
        if facts[0][key] != facts[1][key]:
            raise UserError(
                f"'{run.folder}' has {key} {there}, but '{first.folder}' has {here}: "
                "name runs with the same images and labels"
            )


def on_common_seeds(settings: list[Cell]) -> list[Cell]:
    """The settings with the runs of the seeds that all have. Prints what is left out.

    Raises:
        UserError: no seed is common to all; or runs of one seed have other labels, or held other images out.
    """
    common = set.intersection(*(set(setting.draws) for setting in settings))
    if not common:
        seeds = "; ".join(sorted({", ".join(setting.draws) for setting in settings}))
        raise UserError(f"the settings have no seed in common ({seeds}): run all with the same seeds, or name fewer")
    kept = []
    for setting in settings:
        draws = dict(zip(setting.draws, setting.runs, strict=True))
        kept.append(Cell(setting.key, [run for draw, run in draws.items() if draw in common]))
        for draw, run in draws.items():
            if draw not in common:
                print(f"left out, not all settings have seed {draw}: {run.folder}", file=sys.stderr)
    for setting in kept[1:]:
        for first, run in zip(kept[0].runs, setting.runs, strict=True):
            if known_images(first) != known_images(run):
                raise UserError(
                    f"'{run.folder}' has other labeled or held-out images than '{first.folder}' of the same seed: "
                    "name runs with the same --split-seed"
                )
    return kept


class HeldOut:
    """Ranks by the accuracy on the images that were held out."""

    discrete = True

    def __init__(self):
        self.paired = True

    def score(self, run: Run) -> tuple[float, float]:
        if "val_top1" not in run.result:
            raise UserError(f"'{run.folder}' held no images out to choose by: train with --val-per-class N")
        try:
            last = run.history[-1]
            return float(last["val_top1"]), float(last["val_loss"])
        except (LookupError, TypeError, ValueError):
            raise UserError(f"'{run.folder / 'metrics.jsonl'}' is damaged: run its command again") from None

    def images(self, run: Run) -> np.ndarray:
        return np.array(held_out(run))

    def error(self, first: Run, other: Run, least: bool) -> float:
        images = held_out(first)
        right = [outcomes(run) for run in (first, other)]
        if None not in right:
            try:
                return intervals.paired_error(*(np.array([each[image] for image in images]) for each in right))
            except KeyError:
                raise UserError(
                    f"'{other.folder}' or '{first.folder}' has a held_out.csv of other images: remove it"
                ) from None
        scores = (self.score(first)[0], self.score(other)[0])
        if least:
            return intervals.least_error(*scores, len(images))
        self.paired = False
        return intervals.unpaired_error(*scores, len(images))


class Clusters:
    """Ranks by the agreement of predictions with clusters of the features.

    Args:
        runs: all that are compared; they are of one dataset.
        root, number, workers, device: the flags.

    Raises:
        UserError: the dataset is another now, or has too few unlabeled images.
    """

    discrete, paired = False, True

    def __init__(self, runs: list[Run], root: str | None, number: int, workers: int, device: str | None):
        args = argparse.Namespace(**{"min_confidence": None} | runs[0].args)
        args.exif_orientation = False  # each network turns the images as it was trained
        self.data = load_as(args, root)
        if self.data.fingerprint != runs[0].result.get("data_sha256"):
            raise UserError(
                f"'{root or args.root}' holds other images than the runs had: name their folder with --root"
            )
        self.number, self.workers, self.device = number, workers, find_device(device)
        self.found: dict[Path, agreement.Agreement] = {}

    def score(self, run: Run) -> tuple[float, float]:
        return self._of(run).value, 0.0

    def error(self, first: Run, other: Run, least: bool) -> float:
        return agreement.error_over_images(self._of(first), self._of(other))

    def _of(self, run: Run) -> agreement.Agreement:
        if run.folder not in self.found:
            network = trained.load(run.folder, "latest")
            images = self.data.train.oriented(network.args.exif_orientation).subset(self.images(run))
            features, predictions = agreement.features_and_predictions(network, images, self.device, self.workers)
            if not np.isfinite(features).all():
                raise UserError(f"'{run.folder}': the network's outputs are NaN or infinite: leave this run out")
            self.found[run.folder] = agreement.Agreement(features, predictions, len(self.data.classes))
        return self.found[run.folder]

    def images(self, run: Run) -> np.ndarray:
        """Some training images whose labels the run did not use."""
        free = np.setdiff1d(np.arange(len(self.data.train)), known_images(run))
        if len(free) < MIN_PER_CLASS * len(self.data.classes):
            raise UserError(
                f"'{run.folder}' left {len(free)} images unlabeled, too few for clusters of "
                f"{len(self.data.classes)} classes: choose --by val"
            )
        return np.sort(np.random.default_rng(0).permutation(free)[: self.number])


def ranked(settings: list[Cell], criterion: Criterion) -> list[Ranked]:
    """The best one first.

    Args:
        settings: with the same seeds; see `on_common_seeds`.
    """
    scored = []
    for setting in settings:
        scores, losses = zip(*map(criterion.score, setting.runs), strict=True)
        scored.append((statistics.fmean(scores), statistics.fmean(losses), scores, setting))
    scored.sort(key=lambda each: (-each[0], each[1]))
    first, *others = [setting.runs for *_, setting in scored]
    shared = have_the_same_images([criterion.images(run) for run in first])
    errors = np.zeros((len(scored), len(first)))
    if criterion.discrete or shared:
        pairs = [zip(first, runs, strict=True) for runs in others]
        errors[1:] = [[criterion.error(*pair, least=not shared) for pair in each] for each in pairs]
    below = intervals.to_first(np.array([scores for _, _, scores, _ in scored]), errors, shared)
    return [Ranked(setting, *means, each) for (*means, _, setting), each in zip(scored, below, strict=True)]


def have_the_same_images(by_seed: list[np.ndarray]) -> bool:
    """Whether the seeds share more than half of their images; True for one seed."""
    common = set.intersection(*(set(images.tolist()) for images in by_seed))
    return 2 * len(common) > len(by_seed[0])


def doubt(ranking: list[Ranked], images: int, paired: bool = True) -> list[str]:
    """How much the ranking says, in sentences."""
    first, *others = ranking
    draws, seeds = first.setting.draws, {*first.setting.seeds}
    near = sum(not each.below.is_clear for each in others)
    of = f"{near} of the {len(others)} others" if len(others) > 1 else "The other setting"
    together = ", and hold for all settings together" if len(others) > 1 else ""
    alone = f"Seed {first.setting.seeds[0]} is the only one. Another seed may change more than the intervals say. "
    if len(seeds) > 1:
        lines = [f"Means over the seeds {', '.join(draws)}. The 95 % intervals are over these seeds{together}."]
        more = "More seeds or images may tell them apart."
    elif len(draws) > 1:
        lines = [
            f"Means over the seeds {', '.join(draws)}. The 95 % intervals are over these parts{together}. Their runs "
            f"share most of their labels. {alone}Train each setting with several seeds."
        ]
        more = "More seeds or images may tell them apart."
    else:
        lines = [
            f"The 95 % intervals are over {images:,} images{together}. {alone}Train each setting with several seeds."
        ]
        more = "More images or seeds may tell them apart."
    if not paired:
        lines.append(
            "Not all runs have a held_out.csv, which says which images they have right. So the intervals treat their "
            "images as different ones, and are too wide."
        )
    lines.append(f"{of} may as well be the best. {more}" if near else "No other setting may as well be the best.")
    return lines


def main(args):
    runs = finished(read_runs(args.runs))
    table, notes = cells(runs)
    settings = [setting for several in table.values() for setting in several]
    if len(settings) < 2:
        raise UserError("all these runs have the same settings: there is nothing to choose")
    by = args.by or ("val" if all("val_top1" in run.result for run in runs) else "clusters")
    workers = limits.workers(sets=1) if args.workers is None else args.workers
    criterion = HeldOut() if by == "val" else Clusters(runs, args.root, args.images, workers, args.device)
    names = named(settings)
    settings = on_common_seeds(settings)
    names = {id(setting): name for setting, name in zip(settings, names, strict=True)}
    ranking = ranked(settings, criterion)
    show(ranking, [names[id(each.setting)] for each in ranking], by)
    print("".join(f"\n{note}" for note in notes))
    first = ranking[0].setting
    for line in doubt(ranking, len(criterion.images(first.runs[0])), criterion.paired):
        print(tables.wrapped(line))
    field, file, when = {
        "val": ("val_best_top1", "best.pth", "in the epoch that the held-out images choose"),
        "clusters": ("last_top1", "latest.pth", "after the last epoch"),
    }[by]
    if all(run.result.get("chosen_by") == best_epoch.LAST for run in first.runs):
        when = "after the last epoch"
    print(tables.wrapped(f"chosen: {names[id(first)]}; its test accuracy {when}: {first.show(field)}"))
    for run in first.runs:
        print(f"    {run.folder / 'checkpoints' / file}")


def named(settings: list[Cell]) -> list[str]:
    """What tells the settings apart: the method, where there are several, and the flags that differ within it."""
    by_method = defaultdict(list)
    for setting in settings:
        by_method[setting.method].append(setting)
    flags = {
        id(s): words for several in by_method.values() for s, words in zip(several, differing(several), strict=True)
    }
    if len(by_method) == 1:
        return [flags[id(setting)] for setting in settings]
    return [", ".join(filter(None, [setting.method, flags[id(setting)]])) for setting in settings]


def show(ranking: list[Ranked], names: list[str], by: str) -> None:
    """Print the ranking, and what its settings are."""
    rows = [
        [
            "rank",
            {"val": "held-out accuracy, %", "clusters": "agreement with clusters, %"}[by],
            "below the first",
            "setting",
        ]
    ]
    for rank, each in enumerate(ranking, 1):
        below = tables.MISSING if rank == 1 else f"{each.below.mean:.1f} ± {each.below.half_width:.1f}"
        rows.append([str(rank), f"{each.score:.1f}", below, f"[{rank}]"])
    print(f"\n{tables.text(rows)}\n")
    for rank, name in enumerate(names, 1):
        print(tables.wrapped(f"[{rank}] {name}"))


if __name__ == "__main__":
    cli.launch(parse_args, main)
