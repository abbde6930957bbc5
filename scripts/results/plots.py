"""Plots: metrics over epochs, and our figures against the published ones."""

import math
import statistics
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from scripts.results import published, tables
from scripts.results.cells import Cell, differing, marked
from scripts.results.runs import CellKey

mpl.use("Agg")  # where matplotlib was imported before; no screen needed

# A method has one colour in all plots. A name that is not here gets one of SPARE.
COLORS = {
    "oracle": "black",
    "erm": "tab:brown",
    "pseudo_label": "darkkhaki",
    "pi_model": "tab:pink",
    "mean_teacher": "maroon",
    "uda": "tab:orange",
    "fixmatch": "tab:blue",
    "self_tuning": "navy",
    "flexmatch": "tab:green",
    "debiasmatch": "tab:red",
    "dst": "tab:purple",
    "noisy_student": "tab:olive",
    "freematch": "tab:cyan",
    "softmatch": "deeppink",
    "v_pet": "gold",
    "adamatch": "darkviolet",
    "comatch": "lightseagreen",
    "simmatch": "sienna",
    "vat": "olivedrab",
    "mixmatch": "royalblue",
    "remixmatch": "salmon",
}
SPARE = ("teal", "limegreen", "mediumorchid", "coral", "steelblue", "darkgoldenrod", "indigo")
LINES = ["-", "--", ":", "-."]  # settings of a method
MARKERS = [".", "x", "^"]  # and where these do not suffice
HIGHLIGHTED = 8  # curves of a panel; the others are grey
ALWAYS = ("oracle", "erm")  # what the others are compared with is among them
GREY = {"color": "0.8", "zorder": 1}
IN_A_COLUMN = 20  # names of a legend
PUBLISHED_STYLE = {"marker": "o", "color": "0.4", "fillstyle": "none"}
OURS_STYLE = {"marker": "."}
METRICS = {
    "accuracy": {"top1": "top-1 accuracy on the test set, %"},
    "pseudo_labels": {
        "pseudo_label_accuracy": "accuracy of the pseudo-labels, %",
        "pseudo_label_ratio": "images with a pseudo-label, %",
    },
}


def over_epochs(cells: dict[CellKey, list[Cell]], folder: Path, numbers: dict[str, int]) -> dict[str, list[Path]]:
    """Draw each kind of `METRICS` for each dataset and network; the files by kind.

    Args:
        numbers: see `cells.footnotes`.
    """
    experiments = defaultdict(dict)
    for key, several in cells.items():
        experiments[key[:3]][key] = several
    files = defaultdict(list)
    for experiment, table in experiments.items():
        for kind, metrics in METRICS.items():
            words = [kind, *experiment] if len(experiments) > 1 else [kind]
            path = folder / f"{'_'.join(words).replace('/', '_')}.png"
            title = ", ".join(experiment).replace("$", r"\$")  # which would begin a formula
            figure = over_epochs_figure(table, metrics, title, numbers)
            if figure is not None:
                figure.savefig(path, dpi=150)
                plt.close(figure)
                files[kind].append(path)
    return files


def over_epochs_figure(
    table: dict[CellKey, list[Cell]], metrics: dict[str, str], title: str, numbers: dict[str, int]
) -> Figure | None:
    """A panel per metric that a run has, a row of them per number of labels, and the footnotes of what is shown.

    None where no run has any of the metrics.
    """
    every_cell = [cell for several in table.values() for cell in several]
    metrics = {name: ylabel for name, ylabel in metrics.items() if any(curves(cell, name) for cell in every_cell)}
    rows = _by_labels(table, metrics, numbers)
    if not rows:
        return None
    looks = _looks(rows.values())
    columns = math.ceil(max(map(len, rows.values())) / IN_A_COLUMN)
    width = (6.5 + 2 * columns) * len(metrics)
    notes = [
        tables.wrapped(note, round(14 * width))
        for note in tables.footnotes(table, numbers)
        if any(name.endswith(note.split()[0]) for name in looks)  # its number, in brackets
    ]
    height = 4.5 * len(rows) + 0.15 * sum(note.count("\n") + 1 for note in notes)
    figure, panels = plt.subplots(len(rows), len(metrics), figsize=(width, height), layout="constrained", squeeze=False)
    everything = _by_labels(table, [name for kind in METRICS.values() for name in kind], numbers)
    for row, (labels, cells) in zip(panels, rows.items(), strict=True):
        bright = highlighted(everything.get(labels, cells))  # the same in all plots
        for axes, (metric, ylabel) in zip(row, metrics.items(), strict=True):
            _draw_panel(axes, cells, metric, {name: looks[name] | ({} if name in bright else GREY) for name in cells})
            axes.set(ylabel=ylabel, title=f"{title}; labels: {labels}" if len(rows) > 1 else title)
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", ncols=columns)
    if notes:
        figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize=8)  # the layout makes room for it
    return figure


def _by_labels(
    table: dict[CellKey, list[Cell]], metrics: Iterable[str], numbers: dict[str, int]
) -> dict[str, dict[str, Cell]]:
    """By number of labels, the fewest first: name -> cell, for cells that have a metric. Each has the oracle."""
    rows, oracle = defaultdict(dict), {}
    for several in table.values():
        for cell, difference in zip(several, differing(several), strict=True):
            if any(curves(cell, metric) for metric in metrics):
                row = oracle if cell.method == "oracle" else rows[cell.labels]
                row[marked(cell.method, difference, numbers)] = cell
    if not rows and oracle:
        return {"all": oracle}
    return {labels: rows[labels] | oracle for labels in sorted(rows, key=_number)}


def _number(labels: str) -> float:
    return math.inf if labels.startswith("all") else int(labels.split(maxsplit=1)[0])


def _looks(rows: Iterable[dict[str, Cell]]) -> dict[str, dict[str, str]]:
    """name -> look: the color is the method's; lines and markers tell its settings apart."""
    methods = {name: cell.method for cells in rows for name, cell in cells.items()}
    looks, seen = {}, defaultdict(int)
    for name, method in methods.items():
        number = seen[method]
        seen[method] += 1
        marker = MARKERS[number // len(LINES) % len(MARKERS)]
        looks[name] = {"color": color(method), "linestyle": LINES[number % len(LINES)], "marker": marker}
    return looks


def color(method: str) -> str:
    """The method's colour, the same in every plot."""
    return COLORS.get(method) or SPARE[zlib.crc32(method.encode()) % len(SPARE)]


def last(cell: Cell) -> float:
    """Its accuracy after the last epoch; 0 where nobody has measured it."""
    return cell.mean("last_top1") if cell.has("last_top1") else 0.0


def highlighted(cells: dict[str, Cell]) -> set[str]:
    """The names of the curves that are not grey: the best after the last epoch, and what they are compared with."""
    ranked = sorted(cells, key=lambda name: (cells[name].method not in ALWAYS, -last(cells[name])))
    return set(ranked[:HIGHLIGHTED])


def curves(cell: Cell, metric: str) -> list[list[float]]:
    """A metric over epochs for each seed that has it; nan where an epoch had nothing to measure.

    Of a run in rounds it is the last round, whose scores are the result.
    """
    histories = [[row for row in run.history if row.get("round") == run.history[-1].get("round")] for run in cell.runs]
    histories = [rows for rows in histories if any(row.get(metric) is not None for row in rows)]
    return [[math.nan if row.get(metric) is None else row[metric] for row in history] for history in histories]


def _draw_panel(axes: Axes, cells: dict[str, Cell], metric: str, looks: dict[str, dict]) -> None:
    """A line per cell, the mean over its seeds, with a band from the lowest to the highest seed unless it is grey.

    The legend has the value of the last epoch and is sorted by it.
    """
    found = {name: each for name, cell in cells.items() if (each := curves(cell, metric))}
    means = {name: [statistics.fmean(column) for column in zip(*each, strict=False)] for name, each in found.items()}
    best_first = sorted(means, key=lambda name: -math.inf if math.isnan(means[name][-1]) else means[name][-1])[::-1]
    for rank, name in enumerate(best_first):
        mean, epochs = means[name], range(1, len(means[name]) + 1)
        look = {"zorder": 3 - rank / len(means)} | looks[name]  # the best lie on top
        if len(found[name]) > 1 and look["color"] != GREY["color"]:
            low, high = zip(*((min(column), max(column)) for column in zip(*found[name], strict=False)), strict=True)
            axes.fill_between(epochs, low, high, color=look["color"], alpha=0.12, linewidth=0, zorder=1.5)
        axes.plot(epochs, mean, **look, label=f"{name} {mean[-1]:.1f}")
    band = "; mean over the seeds, band: lowest to highest" if any(len(each) > 1 for each in found.values()) else ""
    axes.set(xlabel=f"epoch{band}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    _limit(axes, list(means.values()))


def _limit(axes: Axes, means: list[list[float]]) -> None:
    """Show the range of the last two thirds of the epochs. The beginnings of the curves would squeeze the rest."""
    longest = max(map(len, means), default=0)
    if longest == 1:
        axes.set_xlim(0.5, 1.5)
    values = [value for mean in means for value in mean[len(mean) // 3 :] if not math.isnan(value)]
    if values:
        margin = max(0.05 * (max(values) - min(values)), 0.5)
        axes.set_ylim(min(values) - margin, max(values) + margin)


def against_published(pretraining: str, cells: dict[CellKey, Cell], path: Path) -> None:
    """Draw `against_published_figure` into a file."""
    figure = against_published_figure(pretraining, cells)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def against_published_figure(pretraining: str, cells: dict[CellKey, Cell]) -> Figure:
    """A panel per dataset that was run: for each method the published figure as a ring, ours as a dot with its
    deviation.
    """
    run = {key.dataset for key in cells if key.pretraining == pretraining}
    datasets = [dataset for dataset in published.datasets() if dataset in run]
    columns = min(4, len(datasets))
    rows = math.ceil(len(datasets) / columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(3.5 * columns + 1, 3.2 * rows + 1), layout="constrained", squeeze=False
    )
    for axes, dataset in zip(panels.flat, datasets, strict=False):
        _draw_column(axes, dataset, lambda row, d=dataset: CellKey(d, published.ARCH, pretraining, row), cells)
    for axes in panels.flat[len(datasets) :]:
        axes.axis("off")
    rings, dots = PUBLISHED_STYLE | {"label": "published"}, OURS_STYLE | {"label": "ours", "color": "black"}
    handles = [Line2D([], [], ls="", **rings), Line2D([], [], ls="", **dots)]
    figure.legend(handles=handles, fontsize="small", loc="outside lower center", ncols=2)
    figure.suptitle(
        f"top-1 accuracy, best epoch on the test set, %\n{published.ARCH}, {pretraining}", fontsize="medium"
    )
    return figure


def _draw_column(axes: Axes, title: str, key_of: Callable[[str], CellKey], cells: dict[CellKey, Cell]) -> None:
    rows = published.rows()
    for y, row in enumerate(rows):
        theirs, cell = published.accuracies().get(key_of(row)), cells.get(key_of(row))
        if theirs is not None:
            axes.plot(theirs, y, **PUBLISHED_STYLE)
        if cell is not None:
            x, deviation = cell.mean("best_top1"), cell.deviation("best_top1")
            axes.errorbar(x, y, xerr=deviation, color=color(cell.method), **OURS_STYLE)
    axes.set(title=title, yticks=range(len(rows)), yticklabels=rows)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
