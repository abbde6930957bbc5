"""Gather finished runs into a table and a plot.

    python scripts/collect_results.py LOGS [LOGS ...] [--plot FILE]

Every folder below LOGS that holds a result.json is a run. Runs that differ by the seed alone are one row: mean and
standard deviation over seeds. `last` is the last epoch; `best` is chosen on the test set, as published tables do.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

mpl.use("Agg")  # no screen needed

# A row is all that these fields tell apart; the seeds within it are averaged.
ROW = ("dataset", "arch", "pretraining", "num_samples_per_class", "oracle", "method")


@dataclass
class FinishedRun:
    """result.json, and the rows of metrics.jsonl."""

    result: dict
    history: list[dict]


def read_runs(roots: list[Path]) -> tuple[list[FinishedRun], list[Path]]:
    """The finished runs below the roots, and the folders of those that are not finished."""
    folders = sorted({file.parent for root in roots for file in root.rglob("args.json")})
    finished, unfinished = [], []
    for folder in folders:
        if (folder / "result.json").is_file():
            history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            finished.append(FinishedRun(json.loads((folder / "result.json").read_text()), history))
        else:
            unfinished.append(folder)
    return finished, unfinished


def group(runs: list[FinishedRun]) -> dict[tuple, list[FinishedRun]]:
    """Row -> its runs, one per seed; the oracle comes last, and otherwise rows are in order of accuracy."""
    rows = defaultdict(list)
    for run in runs:
        rows[tuple(run.result[field] for field in ROW)].append(run)
    return dict(sorted(rows.items(), key=lambda item: (*item[0][:5], mean(item[1], "last_top1"))))


def mean(runs: list[FinishedRun], field: str) -> float:
    return statistics.fmean(run.result[field] for run in runs)


def mean_and_deviation(runs: list[FinishedRun], field: str) -> str:
    """`93.2`, or with several seeds `93.2 ± 0.8` (sample standard deviation)."""
    if len(runs) == 1:
        return f"{mean(runs, field):.1f}"
    return f"{mean(runs, field):.1f} ± {statistics.stdev(run.result[field] for run in runs):.1f}"


def name(row: tuple) -> str:
    *_, oracle, method = row
    return "oracle" if oracle else method


def table(rows: dict[tuple, list[FinishedRun]]) -> str:
    """Markdown: a line per row."""
    header = ["dataset", "network", "method", "labels", "seeds", "last", "best on test", "seconds"]
    lines = [header]
    for row, runs in rows.items():
        dataset, arch, pretraining, labels, oracle, _ = row
        lines.append(
            [
                dataset,
                f"{arch}, {pretraining}",
                name(row),
                "all" if oracle else f"{labels} per class",
                str(len(runs)),
                mean_and_deviation(runs, "last_top1"),
                mean_and_deviation(runs, "best_top1"),
                f"{mean(runs, 'seconds'):.0f}",
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def plot(rows: dict[tuple, list[FinishedRun]], path: Path) -> None:
    """Top-1 accuracy over epochs: a thin line per seed, a thick one for their mean."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for i, (row, runs) in enumerate(rows.items()):
        curves = [[epoch["top1"] for epoch in run.history] for run in runs]
        color = f"C{i % 10}"
        for curve in curves if len(curves) > 1 else []:
            axes.plot(range(1, len(curve) + 1), curve, color=color, linewidth=0.6, alpha=0.5)
        average = [statistics.fmean(values) for values in zip(*curves, strict=False)]
        axes.plot(range(1, len(average) + 1), average, color=color, marker=".", label=name(row))
    axes.set(xlabel="epoch", ylabel="top-1 accuracy on the test set, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", type=Path, help="folders to search")
    parser.add_argument("--plot", type=Path, default=None, help="where the plot goes (default: LOGS/accuracy.png)")
    args = parser.parse_args(argv)
    runs, unfinished = read_runs(args.logs)
    for folder in unfinished:
        print(f"not finished: {folder}", file=sys.stderr)
    if not runs:
        print(f"error: no finished run below {', '.join(map(str, args.logs))}", file=sys.stderr)
        return 2
    rows = group(runs)
    path = args.plot or args.logs[0] / "accuracy.png"
    plot(rows, path)
    print("\nTop-1 accuracy in percent, after the last epoch and in the epoch that is best on the test set:\n")
    print(f"{table(rows)}\n\naccuracy over epochs: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
