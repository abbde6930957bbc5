"""Run folders, and the cells that they make up: runs that differ by their seed and nothing else."""

import csv
import functools
import importlib
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from common import cli
from common.datasets.walk import is_run
from common.errors import UserError

ROOT = Path(__file__).parent.parent.parent

# Flags that do not tell settings apart. Some change no number. Over seeds a cell averages. The file that a run began
# with is known by its hash.
NOT_SETTINGS = cli.FREE | {"seed", "split_seed", "pretrained_backbone", "init_from"}
NOT_MEASURED = "not measured"

REQUIRED = {"v_pet": ["--sources", "a run"]}  # flags without which a script refuses its command line

# What the tables need to know of a result.
FIELDS = {
    **dict.fromkeys(("method", "dataset", "arch", "pretraining"), str),
    "num_samples_per_class": int | str,  # a number, or all
    **dict.fromkeys(("seed", "split_seed", "epochs", "iters_per_epoch"), int),
    "seconds": int | float,
    "oracle": bool,
}
SCORES = dict.fromkeys(("last_top1", "best_top1"), int | float | None)  # None: there is no image to test with
OPTIONAL = {"val_best_top1": int | float | None, "val_top1": int | float}  # of runs that held images out


class Place(NamedTuple):
    """Where in the tables a run belongs."""

    dataset: str
    arch: str
    pretraining: str
    row: str

    def __str__(self) -> str:
        return f"{self.row} on {self.dataset} ({self.arch}, {self.pretraining})"


@dataclass(frozen=True)
class Run:
    """A run folder. The result is None where the run is not finished."""

    folder: Path
    args: dict[str, Any]
    result: dict[str, Any] | None
    history: list[dict[str, Any]]

    @property
    def place(self) -> Place:
        result = self.result
        row = result["method"]
        if result["oracle"]:
            row = "oracle"
        elif row == "erm" or result["num_samples_per_class"] != 4:
            row = f"{row}, {result['num_samples_per_class']} labels"
        return Place(self.dataset, result["arch"], result["pretraining"], row)

    @property
    def draw(self) -> tuple[int, str]:
        """What tells it from other runs of its settings: the seed, and the part of the labels that it held out."""
        return self.result["seed"], self.args.get("val_fold") or ""

    @property
    def dataset(self) -> str:
        """The dataset's name. Own images have their folder's name and a slash, which no dataset's name has."""
        if self.result["dataset"] != "ImageFolder":
            return self.result["dataset"]
        name = self.result.get("data_folder") or Path(str(self.args.get("root", ""))).name
        return "".join(c if c.isprintable() else "?" for c in name) + "/" if name else "ImageFolder"

    @property
    def settings(self) -> dict[str, Any]:
        """All flags that can change a number, without the seeds. Source runs are named as those of seed 0.

        A cell also averages over the parts of the labels that are held out in turn, so only their number counts.
        Images of one's own have no official split, though older runs say so.
        """
        settings = {key: value for key, value in self.args.items() if key not in NOT_SETTINGS}
        if settings.get("val_fold"):
            settings["val_fold"] = f"K/{settings['val_fold'].partition('/')[2]}"
        if settings.get("sources"):
            own = f"_seed{self.result['seed']}"  # as the shell files name the folders of another seed
            settings["sources"] = [str(source).removesuffix(own) for source in settings["sources"]]
        recorded = ("pretraining_sha256", "official_split", "data_sha256", "content_sha256")
        own = {"official_split": None} if self.result["dataset"] == "ImageFolder" else {}
        return settings | {key: self.result.get(key) for key in recorded} | own


@dataclass(frozen=True)
class Cell:
    """Runs of equal settings, one per seed."""

    place: Place
    runs: list[Run]

    @property
    def method(self) -> str:
        """The method's name, or `oracle`."""
        result = self.runs[0].result
        return "oracle" if result["oracle"] else result["method"]

    @property
    def labels(self) -> str:
        """`4 per class`, or `all (24)` with the number of labeled images, where it is recorded."""
        result = self.runs[0].result
        if not result["oracle"] and result["num_samples_per_class"] != "all":
            return f"{result['num_samples_per_class']} per class"
        found = [run for run in self.runs if (run.folder / "labeled.json").exists()]
        if not found:
            return "all"
        numbers = [len(known_images(run)) - len(held_out(run)) for run in found]
        ends = dict.fromkeys(f"{number:,}" for number in (min(numbers), max(numbers)))
        return f"all ({' to '.join(ends)})"

    @property
    def seeds(self) -> list[int]:
        return [run.result["seed"] for run in self.runs]

    @property
    def draws(self) -> list[str]:
        """The seeds in words, `0` or `0 (part 1/4)`."""
        return [f"{seed} (part {part})" if part else str(seed) for seed, part in (run.draw for run in self.runs)]

    @property
    def size(self) -> str:
        """The number of seeds, `3`; and that of the parts of the labels that were held out in turn, `1 (4 parts)`."""
        return number_of_seeds(self.runs)

    def has(self, field: str) -> bool:
        """Whether all its runs have measured that."""
        return all(run.result.get(field) is not None for run in self.runs)

    @property
    def held_out(self) -> list[float]:
        """The accuracies on held-out images after the last epoch; none where not all runs held images out."""
        return self.final("val_top1")

    def final(self, metric: str) -> list[float]:
        """A metric of the last epoch for each run; none where not all runs have it."""
        found = [run.history[-1].get(metric) if run.history else None for run in self.runs]
        return [value for value in found if isinstance(value, int | float)] if None not in found else []

    def mean(self, field: str) -> float:
        return statistics.fmean(run.result[field] for run in self.runs)

    def deviation(self, field: str) -> float | None:
        """The sample standard deviation over seeds; None for a single one."""
        return statistics.stdev(run.result[field] for run in self.runs) if len(self.runs) > 1 else None

    def show(self, field: str) -> str:
        """`93.2`, or with several seeds `93.2 ± 0.8`."""
        return shown([run.result[field] for run in self.runs]) if self.has(field) else NOT_MEASURED


def number_of_seeds(runs: Sequence[Run]) -> str:
    """See `Cell.size`."""
    seeds = len({run.result["seed"] for run in runs})
    return str(seeds) if len(runs) == seeds else f"{seeds} ({len(runs)} parts)"


def shown(values: Sequence[float]) -> str:
    """The mean of values over seeds, and where there are several their sample standard deviation."""
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def read_runs(roots: Iterable[Path]) -> list[Run]:
    """All runs below the folders, finished or not.

    Raises:
        UserError: a folder does not exist, or a file in it is damaged.
    """
    folders = set()
    for root in roots:
        if not os.path.isdir(root):
            raise UserError(f"folder '{root}' does not exist: name one that holds runs")
        folders.update(file.parent for file in root.rglob("args.json"))
    return [_read_run(folder) for folder in sorted(folders)]


def _read_run(folder: Path) -> Run:
    args = _read(folder / "args.json", lambda text: _arguments(json.loads(text)))
    result, rows = folder / "result.json", folder / "metrics.jsonl"
    result = (
        _read(result, lambda text: _scored(_typed(json.loads(text), FIELDS, OPTIONAL))) if result.exists() else None
    )
    history = (
        _read(rows, lambda text: [_typed(json.loads(line)) for line in text.splitlines()]) if rows.exists() else []
    )
    return Run(folder, args, result, history)


def held_out(run: Run) -> list[int]:
    """The training images that a run held out; none where it did not.

    Raises:
        UserError: its labeled.json does not say.
    """
    if not (run.args.get("val_per_class") or run.args.get("val_fold")):
        return []
    return _read(run.folder / "labeled.json", lambda text: [int(index) for index in json.loads(text)["held_out"]])


def outcomes(run: Run) -> dict[int, bool] | None:
    """Whether the last epoch's network is right for each held-out image; None if the run did not record it.

    Raises:
        UserError: the record is damaged.
    """
    file = run.folder / "held_out.csv"
    if not file.exists():
        return None
    return _read(
        file, lambda text: {int(r["index"]): r["label"] == r["predicted"] for r in csv.DictReader(text.splitlines())}
    )


def known_images(run: Run) -> list[int]:
    """The training images whose labels a run used, to train or to choose by.

    Raises:
        UserError: its labeled.json does not say.
    """

    def parse(text: str) -> list[int]:
        content = json.loads(text)
        return [int(index) for index in content["indices"] + content.get("held_out", [])]

    return _read(run.folder / "labeled.json", parse)


def image_root_above(run: Run, folder: Path) -> Path | None:
    """The folder of a run's own images, if a search there would find images in `folder`.

    It is recognised by the run's first labeled image, since the recorded path may be relative to another folder. Older
    runs do not name their images; then the path is taken as it is.

    Raises:
        UserError: its labeled.json is damaged.
    """
    if run.args.get("data") != "ImageFolder" or is_run(folder):
        return None
    file, root = run.folder / "labeled.json", Path(str(run.args.get("root"))).expanduser().resolve()
    names = _read(file, lambda text: json.loads(text).get("names", [])) if file.exists() else []
    above = [folder.resolve(), *folder.resolve().parents]
    return next((each for each in above if ((each / names[0]).is_file() if names else each == root)), None)


def _arguments(content: dict[str, Any]) -> dict[str, Any]:
    """What `args.json` records. Flags newer than the run have their defaults: the run did the same."""
    saved = _typed(content["args"], {"epochs": int}, {"sources": list})
    known = _default_arguments(content.get("method"))
    try:
        return saved if known is None else vars(cli.completed(known, saved))
    except UserError as error:
        raise ValueError(str(error)) from None


@functools.cache
def _default_arguments(method: str | None) -> cli.Arguments | None:
    """A method's default arguments; None if there is none. The name is from a file: only our scripts are imported."""
    if method not in {file.stem for file in ROOT.glob("*.py") if "def train_step(" in file.read_text()}:
        return None
    return importlib.import_module(method).parse_args(["data", "-d", "ImageFolder", *REQUIRED.get(method, [])])


def _typed(
    content: Any, fields: dict[str, type] | None = None, optional: dict[str, type] | None = None
) -> dict[str, Any]:
    """The content of a JSON file. Raises a `ValueError` if it is not an object with these fields."""
    if not isinstance(content, dict):
        raise ValueError("not an object")
    present = {name: kind for name, kind in (optional or {}).items() if name in content}
    for name, kind in ((fields or {}) | present).items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"'{name}' is missing, or of another type")
    return content


def _scored(content: dict[str, Any]) -> dict[str, Any]:
    """The content. Raises a `ValueError` if it lacks the scores on the test set, which may be None: not measured."""
    for name, kind in SCORES.items():
        if name not in content or not isinstance(content[name], kind):
            raise ValueError(f"'{name}' is missing, or of another type")
    return content


def _read(file: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"'{file}' is damaged ({error}): run its command again, or remove it") from None


def cells(runs: Iterable[Run]) -> tuple[dict[Place, list[Cell]], list[str]]:
    """The finished runs by place, and notes for the reader of the tables.

    Runs of different settings are never averaged: a place has a cell for each, the one with the most seeds first.
    If runs read the same images of your own from different folders, all get the first folder's name. Images are the
    same if their files are. Older runs do not record that; then the paths and labels count.
    """
    by_place, notes, names = defaultdict(list), [], {}
    for run in _with_known_contents(list(runs)):
        same = run.result.get("content_sha256") or run.result.get("data_sha256") or run.dataset
        name = names.setdefault(same, run.dataset)
        by_place[run.place._replace(dataset=name)].append(run)
    table = {}
    for place, members in by_place.items():
        groups = defaultdict(list)
        for run in members:
            groups[_frozen(run.settings), _split(run, members)].append(run)
        table[place] = [Cell(place, _one_per_seed(group, notes)) for group in groups.values()]
        table[place].sort(key=lambda cell: -len(cell.runs))
        notes += [note for cell in table[place] for note in _of_several_scripts(cell)]
    return table, notes + _of_several_commits([cell for several in table.values() for cell in several])


def _with_known_contents(runs: list[Run]) -> list[Run]:
    """The runs; an older one that names the same images as a younger one is taken to have read the same files."""
    known = defaultdict(set)
    for run in runs:
        if run.result.get("content_sha256"):
            known[run.result.get("data_sha256")].add(run.result["content_sha256"])
    found = []
    for run in runs:
        contents = known[run.result.get("data_sha256")]
        older = "content_sha256" not in run.result and run.result.get("data_sha256") and len(contents) == 1
        found.append(replace(run, result=run.result | {"content_sha256": min(contents)}) if older else run)
    return found


def differing(cells: list[Cell]) -> list[str]:
    """What tells the cells of one place apart: for each, `epochs 60, lr 0.01`."""
    settings = [cell.runs[0].settings | {"split_seed": _split(cell.runs[0], _all(cells))} for cell in cells]
    keys = sorted(set().union(*settings))
    keys = [key for key in keys if len({_frozen(each.get(key)) for each in settings}) > 1]
    if {"train_resizing", "data_sha256"} <= {*keys}:
        # Some resizings look up the images' size, which is then in the fingerprint. Naming the resizing is enough.
        hashes = {(each["train_resizing"], each["data_sha256"]) for each in settings}
        if len(hashes) == len({resizing for resizing, _ in hashes}):
            keys.remove("data_sha256")
    return [", ".join(f"{key} {_shown(key, each.get(key))}" for key in keys) for each in settings]


def footnotes(table: dict[Place, list[Cell]]) -> dict[str, int]:
    """A number for everything that tells cells of one place apart, in the table's order. Equal settings share one."""
    found = dict.fromkeys(difference for cells in table.values() for difference in differing(cells) if difference)
    return {difference: number for number, difference in enumerate(found, 1)}


def marked(name: str, difference: str, numbers: dict[str, int]) -> str:
    """The name with the number of its footnote, if it has one: `fixmatch [2]`."""
    return f"{name} [{numbers[difference]}]" if difference else name


def _shown(key: str, value: Any) -> str:
    return str(value)[:8] if key.endswith("sha256") else str(value)  # the first digits tell hashes apart


def _all(cells: list[Cell]) -> list[Run]:
    return [run for cell in cells for run in cell.runs]


def _split(run: Run, others: list[Run]) -> str | int:
    """How a cell's seeds draw labels: each its own, or all the same. Deviations of the two mean different things."""
    if len({other.result["split_seed"] for other in others}) == 1:
        return run.result["split_seed"]
    return "the seed" if run.result["split_seed"] == run.result["seed"] else run.result["split_seed"]


def _one_per_seed(runs: list[Run], notes: list[str]) -> list[Run]:
    first = {}
    for run in runs:
        kept = first.setdefault(run.draw, run)
        if kept is not run:
            notes.append(f"left out, the same settings and seed as '{kept.folder}': '{run.folder}'")
    return [first[seed] for seed in sorted(first)]


def _of_several_scripts(cell: Cell) -> list[str]:
    """A note where the script changed from one run to the next. Older runs do not say which script they had."""
    hashes = {run.result.get("script_sha256") for run in cell.runs} - {None}
    if len(hashes) < 2:
        return []
    return [f"{cell.method}.py has changed between these runs: {', '.join(str(run.folder) for run in cell.runs)}"]


def _of_several_commits(cells: list[Cell]) -> list[str]:
    """One note where the seeds of a cell, or of several cells, are of several versions of the whole suite."""
    by_cell = [{run.result.get("git_commit") for run in cell.runs} - {None} for cell in cells]
    several = [commits for commits in by_cell if len(commits) > 1]
    if not several:
        return []
    commits = ", ".join(sorted(commit[:7] + commit[40:] for commit in set().union(*several)))  # [40:] is -dirty
    rows = "1 row" if len(several) == 1 else f"{len(several)} rows"
    return [f"the seeds of {rows} are of several versions of this suite: git commits {commits}"]


def _frozen(value: Any) -> Hashable:
    return json.dumps(value, sort_keys=True)
