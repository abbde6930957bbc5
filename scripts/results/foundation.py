"""The table of foundation models: our accuracies after the last epoch, next to the published ones."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

from scripts.results import tables
from scripts.results.cells import Cell
from scripts.results.published import arguments, commands, differences, read_figures
from scripts.results.runs import CellKey, Run

VOTES = {1: "st", 2: "pet"}  # what the table calls a vote of so many sources; more of them are v_pet
MISREAD = "? may be misread: see docs/foundation.md"


class FoundationKey(NamedTuple):
    """A cell of the table; without an adapter it has no published figure."""

    method: str
    dataset: str
    labels_per_class: int
    network: str
    adapter: str | None


class Figure(NamedTuple):
    """A published accuracy in percent, and why it may be misread, if it may be."""

    accuracy: float
    note: str


@functools.cache
def figures() -> dict[FoundationKey, Figure]:
    """All published figures, in the order of the table."""
    rows = read_figures("published_foundation.csv")
    return {
        FoundationKey(
            row["method"], row["dataset"], int(row["labels_per_class"]), row["network"], row["adapter"]
        ): Figure(float(row["accuracy"]), row["note"])
        for row in rows
    }


def _key(method: str, dataset: str, labels: int, network: str, args: dict[str, Any]) -> FoundationKey:
    sizes = {"LoRA": args.get("lora"), "AdaptFormer": args.get("adapter")}
    name = VOTES.get(len(args.get("sources") or []), method) if method == "v_pet" else method
    return FoundationKey(
        name, dataset, labels, network, next((adapter for adapter, size in sizes.items() if size), None)
    )


def _key_of(run: Run) -> FoundationKey:
    result = run.result
    return _key(result["method"], result["dataset"], result["num_samples_per_class"], result["arch"], run.args)


def _published(key: FoundationKey) -> FoundationKey:
    """The key to compare with: without an adapter, that of LoRA."""
    return key._replace(adapter=key.adapter or "LoRA")


def holds(key: CellKey, run: Run) -> bool:
    """Whether a run belongs to the table, by its network, dataset, number of labels and method."""
    own = FoundationKey(key.row.partition(",")[0], key.dataset, run.result["num_samples_per_class"], key.arch, None)
    return key.pretraining == "supervised" and _published(own) in figures()


def departures(cell: Cell) -> list[str]:
    """The flags in which a cell of the table differs from the command of scripts/foundation.sh."""
    run = cell.runs[0]
    return differences(run.settings, _command(_published(_key_of(run))), depth=3)


@functools.cache
def _command(key: FoundationKey) -> dict[str, Any]:
    """All arguments of the command of scripts/foundation.sh for a cell."""
    for command in commands("foundation", key.method, key.dataset):
        args, method = arguments(command), Path(command[1]).stem
        if _key(method, args["data"], args["num_samples_per_class"], args["arch"], args) == key:
            return args
    return {}


def table(cells: dict[CellKey, list[Cell]], notes: list[str]) -> tables.Table:
    """A row per cell; what differs from the table's own commands is added to the notes."""
    rows = [["dataset", "labels", "network", "adapter", "method", "seeds", "best on test", "last", "published"]]
    keyed = [(_key_of(cell.runs[0]), cell) for several in cells.values() for cell in several]
    for key, cell in sorted(keyed, key=lambda pair: _position(pair[0])):
        departed, theirs = departures(cell), figures().get(key)
        if departed:
            notes.append(f"* {_shown(key)}: {', '.join(departed)}")
        rows.append(
            [
                *(key.dataset, f"{key.labels_per_class} per class", key.network, key.adapter or tables.MISSING),
                *(key.method + ("*" if departed else ""), str(len(cell.runs))),
                *(cell.show("best_top1"), cell.show("last_top1")),
                tables.MISSING if theirs is None else f"{theirs.accuracy:.1f}{' ?' if theirs.note else ''}",
            ]
        )
    if any(row[-1].endswith("?") for row in rows):
        notes.append(MISREAD)
    return rows


def _shown(key: FoundationKey) -> str:
    where = f"{key.dataset}, {key.labels_per_class} labels per class"
    return f"{key.method} on {where} ({key.network}, {key.adapter or 'no adapter'})"


def _position(key: FoundationKey) -> tuple[int, ...]:
    """Where a cell stands in the table; without an adapter first."""
    orders = {field: [*dict.fromkeys(getattr(each, field) for each in figures())] for field in FoundationKey._fields}
    fields = ("dataset", "labels_per_class", "network", "adapter", "method")
    return tuple(orders[field].index(value) if (value := getattr(key, field)) is not None else -1 for field in fields)
