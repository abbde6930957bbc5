"""Cells as tables: rows of words, which are shown aligned or as Markdown; and as records."""

import statistics
import textwrap
from typing import Any

from common.errors import UserError
from common.records import best_epoch
from scripts.results import published
from scripts.results.cells import Cell, differing, marked, mean_and_deviation
from scripts.results.paired import differences, half_width, in_words, left_out, with_other_labels
from scripts.results.runs import CellKey

MISSING = "–"
WIDTH = 120  # of a terminal
Table = list[list[str]]  # the first row is the header


def published_table(pretraining: str, cells: dict[CellKey, Cell], departed: set[CellKey]) -> Table:
    """A row per method, a column per dataset: ours, published, difference, and last.

    Args:
        pretraining: as `CellKey` has it.
        cells: our cell for each key that we have.
        departed: the keys whose cell has other settings than the published one; they are marked.
    """
    own = [key.row for key in cells if key.pretraining == pretraining and key.row not in published.rows()]
    table = [["method", "top-1", *published.datasets(), "Avg"]]
    for row in [*published.rows(), *dict.fromkeys(own)]:
        keys = [CellKey(dataset, published.ARCH, pretraining, row) for dataset in published.datasets()]
        theirs = [published.accuracies().get(key) for key in keys]
        ours = [cells.get(key) for key in keys]
        best = [cell and cell.mean("best_top1") for cell in ours]
        if any(ours):
            marks = ["*" if key in departed else "" for key in keys]
            own_best = [MISSING if cell is None else cell.show("best_top1") for cell in ours]
            last = [MISSING if cell is None else cell.show("last_top1") for cell in ours]
            less = [None if None in pair else pair[0] - pair[1] for pair in zip(best, theirs, strict=True)]
            table.append([row, "best on test", *map(str.__add__, own_best, marks), _average(best)])
            table.append(["", "published", *map(_show, theirs), _average(theirs)])
            table.append(["", "difference", *(_show(x, "+.1f") for x in less), _average(less, "+.1f")])
            table.append(["", "last epoch", *last, _average([cell and cell.mean("last_top1") for cell in ours])])
            if any(cell and _is_chosen_on_val(cell) for cell in ours):
                table.append(["", "chosen on val", *(_show_val(cell) for cell in ours), MISSING])
        else:
            table.append([row, "published", *map(_show, theirs), _average(theirs)])
    return table


def _show_val(cell: Cell | None) -> str:
    return cell.show("val_best_top1") if cell and _is_chosen_on_val(cell) else MISSING


def _is_chosen_on_val(cell: Cell) -> bool:
    """With --val-fold, `val_best_top1` is of the last epoch, which nothing chose."""
    return cell.has("val_best_top1") and all(run.result.get("chosen_by") != best_epoch.LAST for run in cell.runs)


def _show(value: float | None, form: str = ".1f") -> str:
    return MISSING if value is None else format(value, form)


def _average(values: list[float | None], form: str = ".1f") -> str:
    """The average over all datasets; `–` if one is missing: averages over different datasets cannot be compared."""
    return MISSING if None in values else format(statistics.fmean(values), form)


def in_order(cells: dict[CellKey, list[Cell]]) -> dict[CellKey, list[Cell]]:
    """The cells by dataset and network, and there by accuracy, the oracle last."""
    return {key: cells[key] for key in sorted(cells, key=lambda p: (*p[:3], p.row == "oracle", _score(cells[p][0])))}


def _score(cell: Cell) -> float:
    """On the test set after the last epoch, or where there is none on the images that are held out."""
    if cell.has("last_top1"):
        return cell.mean("last_top1")
    return statistics.fmean(cell.held_out) if cell.held_out else 0.0


def other_table(
    cells: dict[CellKey, list[Cell]], numbers: dict[str, int], against: str | None = None, pseudo_labels: bool = False
) -> Table:
    """A row per cell that is in none of the published tables. Columns that nothing was measured for are left out.

    Args:
        numbers: see `cells.footnotes`.
        against: a method; each cell has the paired difference of its last epoch from this method's.
        pseudo_labels: add how many of the pseudo-labels are right, and how many images have one, in the last epoch.
    """
    rows = []
    for key, several in cells.items():
        for cell, difference in zip(several, differing(several), strict=True):
            row = {
                "dataset": key.dataset,
                "network": f"{key.arch}, {key.pretraining}",
                "method": marked(cell.method, difference, numbers),
                "labels": cell.labels,
                "seeds": cell.size,
                "last": cell.show("last_top1"),
            }
            if against is not None:
                row[f"minus {against}"] = _difference(cell, against, cells)
            row |= {
                "held-out": _measured(cell.held_out),
                "chosen on val": _show_val(cell),
                "best on test": cell.show("best_top1"),
            }
            if pseudo_labels:
                row["pseudo-labels right"] = _measured(cell.final("pseudo_label_accuracy"))
                row["images with one"] = _measured(cell.final("pseudo_label_ratio"))
            rows.append(row | {"seconds": f"{cell.mean('seconds'):.0f}"})
    columns = [name for name in rows[0] if any(row[name] != MISSING for row in rows)]
    return [columns, *([row[name] for name in columns] for row in rows)]


def _measured(values: list[float]) -> str:
    return mean_and_deviation(values) if values else MISSING


def _difference(cell: Cell, against: str, cells: dict[CellKey, list[Cell]]) -> str:
    """The cell's last epoch minus that method's, over the seeds that both have.

    Raises:
        UserError: as `_base`.
    """
    base = _base(cell, against, cells)
    if base is None:
        return MISSING
    found = differences(base, cell, "last_top1")
    return in_words(statistics.fmean(found), half_width(found))


def notes_on_pairs(cells: dict[CellKey, list[Cell]], against: str) -> list[str]:
    """Where the differences from a method are of fewer seeds than a row has, or of runs with other labels.

    Raises:
        UserError: as `_base`.
    """
    notes = []
    for cell in (cell for several in cells.values() for cell in several):
        base = _base(cell, against, cells)
        if base is None:
            continue
        unpaired, unlike = left_out(base, cell), with_other_labels(base, cell)
        if unpaired:
            notes.append(f"minus {against}, {cell.key}: not both have seed {', '.join(unpaired)}")
        if unlike and cell.method != "oracle":
            notes.append(
                f"minus {against}, {cell.key}: not the same labels, so the pairs differ by their draw, too: seed "
                f"{', '.join(unlike)}"
            )
    return notes


def _base(cell: Cell, against: str, cells: dict[CellKey, list[Cell]]) -> Cell | None:
    """The method's cell for the same images, network and number of labels.

    The oracle has all labels. It is compared only if the method was run with a single number of labels. Without a seed
    in common, or where the test images differ or are missing, nothing is compared.

    Raises:
        UserError: the method has several settings there.
    """
    bases = [
        base
        for key, several in cells.items()
        if key[:3] == cell.key[:3]
        for base in several
        if base.method == against and (base.labels == cell.labels or cell.method == "oracle")
    ]
    tests = {run.result.get("test_sha256") for each in (*bases, cell) for run in each.runs} - {None}
    which = len({base.labels for base in bases}) if cell.method == "oracle" else 1
    if not bases or cell in bases or which > 1 or len(tests) > 1:
        return None
    if len(bases) > 1:
        raise UserError(
            f"{bases[0].key} was run with several settings ({'; '.join(differing(bases))}): name folders that hold "
            f"one, or leave out --against"
        )
    has_pairs = {run.draw for run in bases[0].runs} & {run.draw for run in cell.runs}
    return bases[0] if has_pairs and bases[0].has("last_top1") and cell.has("last_top1") else None


def text(table: Table) -> str:
    """Aligned columns with a line under the header."""
    widths = _widths(table)
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def footnotes(cells: dict[CellKey, list[Cell]], numbers: dict[str, int]) -> list[str]:
    """The footnotes of these cells: `[1] epochs 60, lr 0.01`."""
    shown = {difference for several in cells.values() for difference in differing(several)}
    return [f"[{number}] {difference}" for difference, number in numbers.items() if difference in shown]


def wrapped(note: str, width: int = WIDTH) -> str:
    """The text in lines of at most so many characters, broken at spaces."""
    return textwrap.fill(note, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def markdown(table: Table) -> str:
    table = [[word.replace("|", r"\|") for word in row] for row in table]
    widths = _widths(table)
    lines = [" | ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) for row in table]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def _widths(table: Table) -> list[int]:
    return [max(len(row[i]) for row in table) for i in range(len(table[0]))]


def _mean(cell: Cell, field: str) -> float | None:
    return cell.mean(field) if cell.has(field) else None


def csv_rows(cells: dict[CellKey, list[Cell]]) -> list[dict[str, Any]]:
    """A row per cell, with full precision; where a key has several, their settings tell them apart."""
    rows = []
    for key, several in cells.items():
        for cell, difference in zip(several, differing(several), strict=True):
            result, theirs = cell.runs[0].result, published.accuracies().get(key)
            best = _mean(cell, "best_top1")
            rows.append(
                key._asdict()
                | {key: result[key] for key in ("method", "num_samples_per_class", "epochs", "iters_per_epoch")}
                | {
                    "seeds": " ".join(map(str, cell.seeds)),
                    "best_mean": best,
                    "best_deviation": None if best is None else cell.deviation("best_top1"),
                    "last_mean": _mean(cell, "last_top1"),
                    "last_deviation": None if best is None else cell.deviation("last_top1"),
                    "held_out_mean": statistics.fmean(cell.held_out) if cell.held_out else None,
                    "val_best_mean": _mean(cell, "val_best_top1"),
                    "val_best_deviation": cell.deviation("val_best_top1") if cell.has("val_best_top1") else None,
                    "published": theirs,
                    "difference": None if None in (theirs, best) else best - theirs,
                    "settings": difference,
                    "departures": ", ".join(published.departures(cell)) if published.holds(key) else "",
                }
            )
    return rows
