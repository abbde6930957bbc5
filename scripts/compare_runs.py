"""Compare settings on the same seeds: paired differences of their scores, with 95 % intervals, and of their time.

    python scripts/compare_runs.py BASE OTHER [OTHER ...] [--score last_top1] [--markdown FILE]

BASE and OTHER are folders with the finished runs of one setting each, one run per seed. Two runs of one seed have the
same labels and the same first weights, so the draw of these favours neither. Means and differences are
over the seeds that both settings have. The interval is Student's t over these seeds; it holds for these data and this
schedule. Where all differences are equal there is none. Parts of the labels (--val-fold) are paired like seeds, but
share most of their labels: several parts of one seed say little about another. Time is that of a step, evaluations
included, relative to the base's: the median over the seeds. On a busy machine it says little.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from common import cli
from common.errors import UserError
from common.system.files import write_whole
from scripts.results import tables
from scripts.results.cells import Cell, cells, differing
from scripts.results.paired import compare, in_words, left_out, with_other_labels
from scripts.results.runs import held_out, read_runs


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=cli.filepath, metavar="BASE", help="folder with the runs to compare with")
    parser.add_argument("others", nargs="+", type=cli.filepath, metavar="OTHER", help="folders with runs to compare")
    parser.add_argument(
        "--score", default="last_top1", metavar="NAME", help="a percentage of result.json (default: %(default)s)"
    )
    parser.add_argument("--markdown", type=cli.filepath, metavar="FILE", help="write the table as Markdown")
    return parser.parse_args(argv)


def setting(folder: Path) -> Cell:
    """The finished runs below a folder.

    Raises:
        UserError: there are none, or they have more than one setting.
    """
    runs = read_runs([folder])
    table, notes = cells(run for run in runs if run.result is not None)
    found = [cell for several in table.values() for cell in several]
    for note in [*notes, *(f"not finished: {run.folder}" for run in runs if run.result is None)]:
        print(note, file=sys.stderr)
    if not found:
        raise UserError(f"no finished run below '{folder}': finish one, or name another folder")
    if len(found) > 1:
        settings = "; ".join(filter(None, differing(found))) or ", ".join(str(cell.key) for cell in found)
        raise UserError(f"the runs below '{folder}' have several settings ({settings}): name a folder that holds one")
    return found[0]


def were_tested_alike(base: Cell, other: Cell) -> bool:
    """Whether the runs were tested on the same images, as far as they record it."""
    runs = [*base.runs, *other.runs]
    return all(len({run.result.get(key) for run in runs} - {None}) < 2 for key in ("dataset", "test_sha256"))


def held_out_alike(base: Cell, other: Cell) -> bool:
    """Whether the two runs of each pair held the same images out, as far as they record it."""
    pairs = [(a, b) for a in base.runs for b in other.runs if a.draw == b.draw]
    same_files = all(len({run.result.get("content_sha256") for run in pair} - {None}) < 2 for pair in pairs)
    return same_files and all(held_out(a) == held_out(b) for a, b in pairs)


def main(args):
    base, notes = setting(args.base), []
    rows = [["setting", "seeds", args.score, f"{args.base.name}'s", "difference, 95 %", "time"]]
    for folder in args.others:
        other = setting(folder)
        if not were_tested_alike(base, other):
            raise UserError(
                f"'{args.base}' and '{folder}' were tested on different images: compare runs on the same images"
            )
        if args.score.startswith("val_") and not held_out_alike(base, other):
            raise UserError(f"'{args.base}' and '{folder}' held other images out: compare runs on the same images")
        found = compare(base, other, args.score)
        means = [f"{found.mean:.1f}", f"{found.base:.1f}", in_words(found.difference, found.half_width)]
        rows.append([folder.name, found.seeds, *means, f"{found.time:.2f}"])
        was, now = differing([base, other])
        notes.append(f"* {folder.name}: {now or 'the same settings'} ({args.base.name}: {was or 'the same'})")
        unlike = with_other_labels(base, other)
        if unlike:
            notes.append(f"  not the same labels, so the pairs differ by their draw, too: seed {', '.join(unlike)}")
        unpaired = left_out(base, other)
        if unpaired:
            notes.append(f"  left out, not both have it: seed {', '.join(unpaired)}")
    print("\n".join([tables.text(rows), "", *map(tables.wrapped, notes)]))
    if args.markdown:
        write_whole(args.markdown, (tables.markdown(rows) + "\n").encode())
        print(f"Markdown: {args.markdown}")


if __name__ == "__main__":
    cli.launch(parse_args, main)
