"""Cells: runs that differ by their seed and nothing else. What tells cells apart, in words."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.records import session
from common.records.results import NOT_MEASURED
from scripts.results.runs import CellKey, Run, held_out, known_images


@dataclass(frozen=True)
class Cell:
    """Runs of equal settings, one per seed."""

    key: CellKey
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
        return mean_and_deviation([run.result[field] for run in self.runs]) if self.has(field) else NOT_MEASURED


def number_of_seeds(runs: Sequence[Run]) -> str:
    """See `Cell.size`."""
    seeds = len({run.result["seed"] for run in runs})
    return str(seeds) if len(runs) == seeds else f"{seeds} ({len(runs)} parts)"


def mean_and_deviation(values: Sequence[float], digits: int = 1) -> str:
    """The mean of values over seeds, and where there are several their sample standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{deviation}"


def cells(runs: Iterable[Run]) -> tuple[dict[CellKey, list[Cell]], list[str]]:
    """The finished runs by key, and notes for the reader of the tables.

    Runs of different settings are never averaged: a key has a cell for each, the one with the most seeds first.
    If runs read the same images of your own from different folders, all get the first folder's name. Images are the
    same if their files are. Older runs do not record that; then the paths and labels count.
    """
    by_key, notes, names = defaultdict(list), [], {}
    runs = _completed(list(runs), "content_sha256", lambda result: result.get("data_sha256"))
    runs = _completed(runs, "pretraining_weights", lambda r: r["arch"] if r["pretraining"] == "supervised" else None)
    for run in runs:
        same = run.result.get("content_sha256") or run.result.get("data_sha256") or run.dataset
        name = names.setdefault(same, run.dataset)
        by_key[run.key._replace(dataset=name)].append(run)
    table = {}
    for key, members in by_key.items():
        alike, groups = defaultdict(list), defaultdict(list)
        for run in members:
            alike[_frozen(run.settings)].append(run)
        for settings, runs_alike in alike.items():
            for run in runs_alike:
                groups[settings, _split(run, runs_alike)].append(run)
        table[key] = [Cell(key, _one_per_seed(group, notes)) for group in groups.values()]
        table[key].sort(key=lambda cell: -len(cell.runs))
        notes += [note for cell in table[key] for note in _of_several_scripts(cell)]
    return table, notes + _of_several_commits([cell for several in table.values() for cell in several])


def _completed(runs: list[Run], name: str, same: Callable[[dict[str, Any]], Any]) -> list[Run]:
    """The runs; an older one that does not record a fact has that of the younger ones, if these have but one.

    So an older run that names the same images as a younger one is taken to have read the same files.

    Args:
        name: of the fact.
        same: result -> what runs must share; None for those that have no such fact.
    """
    known = defaultdict(set)
    for run in runs:
        if run.result.get(name):
            known[same(run.result)].add(run.result[name])
    found = []
    for run in runs:
        shared = same(run.result)
        is_older = name not in run.result and shared and len(known[shared]) == 1
        found.append(replace(run, result=run.result | {name: min(known[shared])}) if is_older else run)
    return found


def differing(cells: list[Cell]) -> list[str]:
    """What tells the cells of one key apart: for each, `epochs 60, lr 0.01`."""
    settings = [
        # One run alone does not tell whether it would draw other labels with another seed.
        cell.runs[0].settings | {"split_seed": _split(cell.runs[0], cell.runs if cell.runs[1:] else _all(cells))}
        for cell in cells
    ]
    keys = sorted(set().union(*settings))
    keys = [key for key in keys if len({_frozen(each.get(key)) for each in settings}) > 1]
    if {"train_resizing", "data_sha256"} <= {*keys}:
        # Some resizings look up the images' size, which is then in the fingerprint. Naming the resizing is enough.
        hashes = {(each["train_resizing"], each["data_sha256"]) for each in settings}
        if len(hashes) == len({resizing for resizing, _ in hashes}):
            keys.remove("data_sha256")
    return [", ".join(f"{key} {_shown(key, each.get(key))}" for key in keys) for each in settings]


def footnotes(table: dict[CellKey, list[Cell]]) -> dict[str, int]:
    """A number for everything that tells cells of one key apart, in the table's order. Equal settings share one."""
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
    """A note where the script changed from one run to the next, or within one. Older runs do not say which it was."""
    if len(_versions(cell, "script_sha256")) < 2:
        return []
    folders = ", ".join(str(run.folder) for run in cell.runs)
    return [f"{cell.method}.py has changed between or within these runs: {folders}"]


def _versions(cell: Cell, name: str) -> set[str]:
    """What the sessions of a cell's runs record under a name, of those that made a step."""
    found = set()
    for run in cell.runs:
        steps = run.history[-1].get("step", math.inf) if run.history else math.inf
        worked = session.at_work(run.result.get("sessions", []), steps)
        found |= {each.get(name) for each in worked or [run.result]}
    return found - {None}


def _of_several_commits(cells: list[Cell]) -> list[str]:
    """One note where the seeds of a cell, or of several cells, are of several versions of the whole suite."""
    by_cell = [_versions(cell, "git_commit") for cell in cells]
    several = [commits for commits in by_cell if len(commits) > 1]
    if not several:
        return []
    commits = ", ".join(sorted(commit[:7] + commit[40:] for commit in set().union(*several)))  # [40:] is -dirty
    rows = "1 row" if len(several) == 1 else f"{len(several)} rows"
    return [f"the seeds of {rows} are of several versions of this suite: git commits {commits}"]


def _frozen(value: Any) -> Hashable:
    return json.dumps(value, sort_keys=True)
