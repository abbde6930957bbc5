"""A plot of the last epochs: a row per method, a dot per seed."""

import math
from collections import defaultdict
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.results import plots
from scripts.results.cells import Cell, differing, marked
from scripts.results.runs import CellKey

COLUMNS = 3  # of panels
SEED_STYLE = {"marker": "o", "s": 16, "alpha": 0.35, "linewidths": 0}
MEAN_STYLE = {"marker": "|", "s": 160, "linewidths": 2.5}


def draw(cells: dict[CellKey, list[Cell]], path: Path, numbers: dict[str, int]) -> bool:
    """Draw `dot_plot_figure` into a file; whether there was anything to draw."""
    figure = dot_plot_figure(cells, numbers)
    if figure is not None:
        figure.savefig(path, dpi=150)
        plt.close(figure)
    return figure is not None


def dot_plot_figure(cells: dict[CellKey, list[Cell]], numbers: dict[str, int]) -> Figure | None:
    """A panel for each dataset, network and number of labels: the accuracy of the last epoch for each method, the best
    on top. None where no cell has been tested.

    Args:
        numbers: see `cells.footnotes`.
    """
    panels = _panels(cells, numbers)
    if not panels:
        return None
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    height = 1.2 + 0.24 * max(map(len, panels.values()))
    figure, axes = plt.subplots(
        rows, columns, figsize=(5.5 * columns, height * rows), layout="constrained", squeeze=False
    )
    for each, (title, named) in zip(axes.flat, panels.items(), strict=False):
        _draw_panel(each, title, named)
    for each in axes.flat[len(panels) :]:
        each.axis("off")
    return figure


def _panels(cells: dict[CellKey, list[Cell]], numbers: dict[str, int]) -> dict[str, dict[str, Cell]]:
    """By title: name -> cell. The oracle is in each panel of its dataset and network."""
    panels, oracles = defaultdict(dict), defaultdict(dict)
    for key, several in cells.items():
        title = ", ".join(key[:3]).replace("$", r"\$")  # which would begin a formula
        for cell, difference in zip(several, differing(several), strict=True):
            if cell.has("last_top1"):
                row = oracles[title] if cell.method == "oracle" else panels[f"{title}\nlabels: {cell.labels}"]
                row[marked(cell.method, difference, numbers)] = cell
    return {title: named | oracles[title.rpartition("\n")[0]] for title, named in panels.items()}


def _draw_panel(axes: Axes, title: str, named: dict[str, Cell]) -> None:
    worst_first = sorted(named, key=lambda name: plots.last(named[name]))
    for y, name in enumerate(worst_first):
        cell, color = named[name], plots.color(named[name].method)
        scores = [run.result["last_top1"] for run in cell.runs]
        if len(scores) > 1:
            axes.scatter(scores, [y] * len(scores), color=color, **SEED_STYLE)
        axes.scatter([plots.last(cell)], [y], color=color, **MEAN_STYLE)
        if cell.method == "erm":  # what labels alone give
            axes.axvline(plots.last(cell), color=color, linestyle=":", linewidth=1, zorder=0)
    labels = [f"{name} {plots.last(named[name]):.1f}" for name in worst_first]
    dots = "\n(a dot is a seed, the bar their mean)" if any(len(cell.runs) > 1 for cell in named.values()) else ""
    axes.set(yticks=range(len(labels)), yticklabels=labels)
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(f"top-1 accuracy on the test set after the last epoch, %{dots}", fontsize="small")
    axes.grid(axis="x", alpha=0.3)
