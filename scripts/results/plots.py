"""Plots: metrics over epochs, and our figures against the published ones."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.results import published, tables
from scripts.results.runs import Cell, Place, differing, marked

mpl.use("Agg")  # no screen needed

COLORS = [*(f"C{i}" for i in range(10)), "black", "gold"]  # one for each row of the table; then other lines
LINES = ["-", "--", ":", "-."]
IN_A_COLUMN = 14  # names of the legend
PUBLISHED_STYLE = {"marker": "o", "color": "0.4", "fillstyle": "none"}
OURS_STYLE = {"marker": ".", "color": "C0"}
METRICS = {
    "accuracy": {"top1": "top-1 accuracy on the test set, %"},
    "pseudo_labels": {
        "pseudo_label_accuracy": "accuracy of the pseudo-labels, %",
        "pseudo_label_ratio": "images with a pseudo-label, %",
    },
}


def over_epochs(cells: dict[Place, list[Cell]], folder: Path, numbers: dict[str, int]) -> dict[str, list[Path]]:
    """Draw each kind of `METRICS` for each dataset and network; the files by kind.

    Args:
        numbers: see `runs.footnotes`.
    """
    experiments = defaultdict(dict)
    for place, several in cells.items():
        experiments[place[:3]][place] = several
    files = defaultdict(list)
    for experiment, places in experiments.items():
        for kind, metrics in METRICS.items():
            path = folder / ("_".join([kind, *experiment] if len(experiments) > 1 else [kind]) + ".png")
            figure = over_epochs_figure(places, metrics, ", ".join(experiment), numbers)
            if figure is not None:
                figure.savefig(path, dpi=150)
                plt.close(figure)
                files[kind].append(path)
    return files


def over_epochs_figure(
    places: dict[Place, list[Cell]], metrics: dict[str, str], title: str, numbers: dict[str, int]
) -> Figure | None:
    """A panel per metric, a row of them per number of labels, the footnotes below; None where no run has any metric."""
    rows = _by_labels(places, metrics, numbers)
    if not rows:
        return None
    names = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    styles = {name: _style(i) for i, name in enumerate(names)}
    columns = math.ceil(len(names) / (IN_A_COLUMN * len(rows)))
    width = 6.5 * len(metrics) + 2 * columns
    notes = [tables.wrapped(note, 16 * width) for note in tables.footnotes(places, numbers)]
    height = 4.5 * len(rows) + 0.15 * sum(note.count("\n") + 1 for note in notes)
    figure, panels = plt.subplots(len(rows), len(metrics), figsize=(width, height), layout="constrained", squeeze=False)
    for row, (labels, cells) in zip(panels, rows.items(), strict=True):
        for axes, (metric, ylabel) in zip(row, metrics.items(), strict=True):
            for name, cell in cells.items():
                _draw_curves(axes, curves(cell, metric), name, styles[name])
            axes.set(xlabel="epoch", ylabel=ylabel, title=f"{title}; labels: {labels}" if len(rows) > 1 else title)
            axes.grid(alpha=0.3)
    handles = {}  # not every panel has them all
    for axes in panels.flat:
        handles |= {name: handle for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    shown = [name for name in names if name in handles]
    figure.legend([handles[name] for name in shown], shown, ncols=columns, loc="outside right upper")
    if notes:
        figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize=8)  # the layout makes room for it
    return figure


def _by_labels(
    places: dict[Place, list[Cell]], metrics: Iterable[str], numbers: dict[str, int]
) -> dict[str, dict[str, Cell]]:
    """By number of labels, the fewest first, the cells that have a metric, by name. The oracle's are beside all."""
    rows, oracle = defaultdict(dict), {}
    for several in places.values():
        for cell, difference in zip(several, differing(several), strict=True):
            if any(curves(cell, metric) for metric in metrics):
                row = oracle if cell.method == "oracle" else rows[cell.labels]
                row[marked(cell.method, difference, numbers)] = cell
    if not rows and oracle:
        return {"all": oracle}
    return {labels: rows[labels] | oracle for labels in sorted(rows, key=_number)}


def _number(labels: str) -> float:
    return math.inf if labels == "all" else int(labels.split(maxsplit=1)[0])


def _style(i: int) -> dict[str, str]:
    line, color = divmod(i, len(COLORS))
    return {"color": COLORS[color], "linestyle": LINES[line % len(LINES)]}


def curves(cell: Cell, metric: str) -> list[list[float]]:
    """A metric over epochs for each seed that has it; nan where an epoch had nothing to measure.

    Of a run in rounds it is the last round, whose scores are the result.
    """
    histories = [[row for row in run.history if row.get("round") == run.history[-1].get("round")] for run in cell.runs]
    histories = [rows for rows in histories if any(row.get(metric) is not None for row in rows)]
    return [[math.nan if row.get(metric) is None else row[metric] for row in history] for history in histories]


def _draw_curves(axes: Axes, curves: list[list[float]], label: str, style: dict[str, str]) -> None:
    """A thin line per seed, a thick one for their mean."""
    if not curves:
        return
    for curve in curves if len(curves) > 1 else []:
        axes.plot(range(1, len(curve) + 1), curve, **style, linewidth=0.6, alpha=0.5)
    average = [statistics.fmean(values) for values in zip(*curves, strict=False)]
    axes.plot(range(1, len(average) + 1), average, **style, marker=".", label=label)


def against_published(pretraining: str, cells: dict[Place, Cell], path: Path) -> None:
    """A panel per dataset: for each method the published figure as a ring, ours as a dot with its deviation."""
    columns = 4
    figure, panels = plt.subplots(
        math.ceil(len(published.datasets()) / columns), columns, figsize=(14, 10), layout="constrained"
    )
    for axes, dataset in zip(panels.flat, published.datasets(), strict=False):
        _draw_column(axes, dataset, lambda row, d=dataset: Place(d, published.ARCH, pretraining, row), cells)
    for axes in panels.flat[len(published.datasets()) :]:
        axes.axis("off")
    rings, dots = PUBLISHED_STYLE | {"label": "published"}, OURS_STYLE | {"label": "ours"}
    panels.flat[0].legend(handles=[Line2D([], [], ls="", **rings), Line2D([], [], ls="", **dots)], fontsize="small")
    figure.suptitle(f"top-1 accuracy, best epoch on the test set, %: {published.ARCH}, {pretraining}")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_column(axes: Axes, title: str, place: Callable[[str], Place], cells: dict[Place, Cell]) -> None:
    rows = published.rows()
    for y, row in enumerate(rows):
        theirs, cell = published.accuracies().get(place(row)), cells.get(place(row))
        if theirs is not None:
            axes.plot(theirs, y, **PUBLISHED_STYLE)
        if cell is not None:
            x, deviation = cell.mean("best_top1"), cell.deviation("best_top1")
            axes.errorbar(x, y, xerr=deviation, **OURS_STYLE)
    axes.set(title=title, yticks=range(len(rows)), yticklabels=rows)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
