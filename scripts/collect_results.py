"""Gather runs into tables and plots.

    python scripts/collect_results.py LOGS [LOGS ...] [--against METHOD] [--markdown FILE] [--plots FOLDER]

Every folder below LOGS that holds an args.json is a run. Runs that differ by the seed alone are one cell. It shows the
mean and the sample standard deviation over seeds. Runs of other settings are never averaged with them.

last             test accuracy after the last epoch
best on test     ... of the epoch that is best on the test set, as in published tables
chosen on val    ... of the epoch that is best on the images that --val-per-class held out
held-out         accuracy after the last epoch on the images that --val-per-class or --val-fold held out
--against METHOD adds the mean difference of `last` from that method's, over the seeds that both have, with Student's
                 95 % interval
--pseudo-labels  adds how many of the pseudo-labels are right, and how many images have one, in the last epoch

Your own images have their folder's name. If runs of one method have different settings, numbered footnotes say which.
Cells of the published tables (the methods' shell files, scratch.sh, foundation.sh) stand next to the published figures.
Those marked * were run with other settings than their shell file's.
"""

import argparse
import csv
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from common import cli
from common.errors import UserError
from common.system.files import write_whole
from scripts.results import dot_plot, foundation, from_scratch, plots, published, tables
from scripts.results.cells import Cell, cells, differing, footnotes
from scripts.results.runs import CellKey, Run, image_root_above, read_runs


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", type=cli.filepath, metavar="LOGS", help="folders to search")
    parser.add_argument("--csv", type=cli.filepath, metavar="FILE", help="write a line per cell, with full precision")
    parser.add_argument("--markdown", type=cli.filepath, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument(
        "--plots", type=cli.filepath, metavar="FOLDER", help="where the plots go (default: the first LOGS)"
    )
    parser.add_argument(
        "--against",
        metavar="METHOD",
        help="add the paired differences from a method",
    )
    parser.add_argument("--pseudo-labels", action="store_true", help="add how good the pseudo-labels are")
    return parser.parse_args(argv)


def choose(table: dict[CellKey, list[Cell]]) -> tuple[dict[CellKey, Cell], set[CellKey], list[str]]:
    """The cell that the published table shows for each of its keys, the keys where it has other settings than the
    published ones, and notes on both kinds of choice.
    """
    chosen, departed, notes = {}, set(), []
    for key, several in table.items():
        departures = [published.departures(cell) for cell in several]
        best = min(range(len(several)), key=lambda i: len(departures[i]) > 0)
        chosen[key] = several[best]
        if departures[best]:
            departed.add(key)
            notes.append(f"* {key}: {', '.join(departures[best])}")
        for i, difference in enumerate(differing(several)):
            if i != best:
                notes.append(f"not in the table: {key} with {difference}: best {several[i].show('best_top1')}")
    return chosen, departed, notes


def published_tables(chosen: dict[CellKey, Cell], departed: set[CellKey]) -> dict[str, tables.Table]:
    """Title -> table, for each pretraining that was run."""
    titled = {}
    for pretraining in published.PRETRAININGS.values():
        ours = [key for key in chosen if key.pretraining == pretraining]
        if ours:
            wanted = len(published.rows()) * len(published.datasets())
            missing = wanted - sum(key.row in published.rows() for key in ours)
            title = f"{published.ARCH}, {pretraining}: top-1 accuracy in percent ({missing} of {wanted} cells missing)"
            titled[title] = tables.published_table(pretraining, chosen, departed)
    return titled


def progress(run: Run) -> str:
    done, total = len(run.history), run.args["epochs"] * (1 + run.args.get("rounds", 0))
    return f"not finished: {run.folder} ({done} of {total} epochs)"


def refuse_among_images(folder: Path, runs: list[Run]) -> None:
    """Refuse to put plots among the images of a run: the next training would take them for images, too.

    Raises:
        UserError: the folder lies below one that holds the images.
    """
    for run in runs:
        root = image_root_above(run, folder)
        if root is not None:
            raise UserError(
                f"plots in '{folder}' would be taken for images, since '{root}' holds those of '{run.folder}': name a "
                "folder elsewhere with --plots"
            )


def main(args):
    runs = read_runs(args.logs)
    for run in runs:
        if run.result is None:
            print(progress(run), file=sys.stderr)
    refuse_among_images(args.plots or args.logs[0], runs)
    finished = [run for run in runs if run.result is not None]
    if not finished:
        raise UserError(f"no finished run below {', '.join(map(str, args.logs))}: finish one, or name another folder")
    table, notes = cells(finished)
    ours = {key: several for key, several in table.items() if published.holds(key)}
    scratch, adapted = (
        {key: several for key, several in table.items() if module.holds(key, several[0].runs[0])}
        for module in (from_scratch, foundation)
    )
    others = {key: several for key, several in table.items() if key not in ours | scratch | adapted}
    others = tables.in_order(others)
    known = sorted({cell.method for several in others.values() for cell in several})
    if args.against in {cell.method for several in table.values() for cell in several} - {*known}:
        raise UserError(
            "--against compares runs that are in none of the published tables: use scripts/compare_runs.py for these"
        )
    if args.against not in (None, *known):
        raise UserError(f"no run of '{args.against}' to compare with: --against takes {', '.join(known)}")
    shown = others | ours | scratch | adapted
    numbers = footnotes(shown)
    chosen, departed, more = choose(ours)
    titled = published_tables(chosen, departed)
    if scratch:
        titled["from scratch: error in percent, and the published best"] = from_scratch.table(scratch, more)
    if adapted:
        titled["foundation models: top-1 accuracy in percent; published: after the last epoch, arXiv:2503.09707"] = (
            foundation.table(adapted, more)
        )
    if others:
        titled["top-1 accuracy in percent, after the last epoch and in the epoch that is best on the test set"] = (
            tables.other_table(others, numbers, args.against, args.pseudo_labels)
        )
        more += tables.footnotes(others, numbers)
        if args.against:
            more += tables.notes_on_pairs(others, args.against)
    for title, each in titled.items():
        print(f"\n{title}:\n\n{tables.text(each)}")
    print("".join(f"\n{note}" for note in [*notes, *map(tables.wrapped, more)]))
    write(args, table, titled, notes + more)
    plots_folder = args.plots or args.logs[0]
    try:
        draw(plots_folder, shown, chosen, numbers)
    except OSError as error:
        raise UserError(f"cannot draw in '{plots_folder}' ({error.strerror}): name another with --plots") from None


def write(args, table: dict[CellKey, list[Cell]], titled: dict[str, tables.Table], notes: list[str]) -> None:
    if args.csv:
        rows, text = tables.csv_rows(table), io.StringIO()
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        write_whole(args.csv, text.getvalue().encode())
        print(f"CSV: {args.csv}")
    if args.markdown:
        parts = [f"**{title}**\n\n{tables.markdown(each)}\n" for title, each in titled.items()]
        write_whole(args.markdown, "\n".join([*parts, *(f"- {note}" for note in notes), ""]).encode())
        print(f"Markdown: {args.markdown}")


def draw(folder: Path, table: dict[CellKey, list[Cell]], chosen: dict[CellKey, Cell], numbers: dict[str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if dot_plot.draw(table, folder / "last_epoch.png", numbers):
        print(f"accuracy after the last epoch, by method: {folder / 'last_epoch.png'}")
    for kind, files in plots.over_epochs(table, folder, numbers).items():
        shown = files[0] if len(files) == 1 else f"{folder / kind}_*.png ({len(files)} datasets and networks)"
        print(f"{kind.replace('_', ' ')} over epochs: {shown}")
    for name, pretraining in published.PRETRAININGS.items():
        if any(key.pretraining == pretraining for key in chosen):
            path = folder / f"published_{name}.png"
            plots.against_published(pretraining, chosen, path)
            print(f"against the published table: {path}")


if __name__ == "__main__":
    cli.launch(parse_args, main)
