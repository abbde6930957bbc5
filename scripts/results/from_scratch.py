"""The classic table from scratch: our errors beside the published ones."""

import functools
import statistics
from typing import Any, NamedTuple

from scripts.results import tables
from scripts.results.cells import Cell, mean_and_deviation
from scripts.results.published import arguments, commands, differences, read_figures
from scripts.results.runs import CellKey, Run

NAMES = {"SVHNExtra": "SVHN"}  # of datasets, in the table
LAST = 20  # epochs whose median is shown, as FixMatch's paper reports


class Figure(NamedTuple):
    """A published error in percent, and its deviation over seeds."""

    error: float
    deviation: float


@functools.cache
def errors() -> dict[tuple[str, str, int], Figure]:
    """(method or oracle, dataset, number of labels) -> the published figure, in the order of the table."""
    rows = read_figures("published_scratch.csv")
    return {
        (row["method"], row["dataset"], int(row["labels"])): Figure(float(row["error"]), float(row["deviation"]))
        for row in rows
    }


def figure(run: Run) -> Figure | None:
    """The published figure of a run's cell, if it has one; the oracle's is that of the fewest labels."""
    method, dataset, labels = _cell(run)
    if method == "oracle":
        return next((each for key, each in errors().items() if key[:2] == (method, dataset)), None)
    return errors().get((method, dataset, labels))


def _cell(run: Run) -> tuple[str, str, int]:
    result = run.result
    number = result["num_samples_per_class"]
    labels = number * (100 if result["dataset"] == "CIFAR100" else 10) if isinstance(number, int) else 0
    return "oracle" if result["oracle"] else result["method"], NAMES.get(result["dataset"], result["dataset"]), labels


def holds(key: CellKey, run: Run) -> bool:
    """Whether a run belongs to the table: from scratch, with the network that its cell has there."""
    if key.pretraining != "scratch" or figure(run) is None:
        return False
    command = _command(*_cell(run))
    return command is not None and command["arch"] == key.arch


def departures(cell: Cell) -> list[str]:
    """The flags in which a cell of the table differs from the command of scripts/scratch.sh."""
    return differences(cell.runs[0].settings, _command(*_cell(cell.runs[0])) or {})


@functools.cache
def _command(method: str, dataset: str, labels: int) -> dict[str, Any] | None:
    """All arguments of the command of scripts/scratch.sh for a cell."""
    found = commands("scratch", method, dataset, *([] if method == "oracle" else [str(labels)]))
    return arguments(found[0]) if len(found) == 1 else None


def table(cells: dict[CellKey, list[Cell]], notes: list[str]) -> tables.Table:
    """A row per cell; what differs from the protocol is added to the notes."""
    rows = [["dataset", "labels", "method", "seeds", "best on test", f"median of {LAST}", "last", "published"]]
    order = list(errors())
    for _place, several in sorted(cells.items(), key=lambda item: _position(item[1][0].runs[0], order)):
        for cell in several:
            method, dataset, labels = _cell(cell.runs[0])
            departed = departures(cell)
            label = "all" if method == "oracle" else str(labels)
            if departed:
                notes.append(f"* {method} on {dataset}, {label} labels: {', '.join(departed)}")
            theirs = figure(cell.runs[0])
            rows.append(
                [
                    *(dataset, label, method + ("*" if departed else ""), str(len(cell.runs))),
                    mean_and_deviation([100 - run.result["best_top1"] for run in cell.runs], 2),
                    mean_and_deviation([statistics.median(_last_errors(run)) for run in cell.runs], 2),
                    mean_and_deviation([100 - run.result["last_top1"] for run in cell.runs], 2),
                    f"{theirs.error:.2f} ± {theirs.deviation:.2f}",
                ]
            )
    return rows


def _position(run: Run, order: list[tuple[str, str, int]]) -> tuple[int, int, int]:
    method, dataset, labels = _cell(run)
    methods, datasets = ([*dict.fromkeys(key[i] for key in order)] for i in (0, 1))
    return datasets.index(dataset), labels * (method != "oracle"), methods.index(method)


def _last_errors(run: Run) -> list[float]:
    return [100 - row["top1"] for row in run.history[-LAST:]]
