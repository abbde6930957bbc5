"""List the datasets, or check or download one.

python -m common.datasets                          what there is
python -m common.datasets ROOT                     ... and what of it is under ROOT
python -m common.datasets ROOT --download NAME     download it ahead, for machines without a network
python -m common.datasets ROOT --check NAME        its counts, and that every image can be decoded
python -m common.datasets ROOT --check ImageFolder --labeled-list FILE     ... and that every line of a list is right
"""

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import cli, datasets
from common.datasets import SPECS, Counts, Spec, download, image_folder
from common.datasets.images import ImageSet
from common.datasets.walk import Skipped, images_in
from common.errors import UserError
from common.system import log


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(prog="python -m common.datasets", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("root", nargs="?", type=cli.path, help="folder that holds the datasets")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", metavar="NAME", choices=SPECS, help="verify this dataset")
    action.add_argument("--download", metavar="NAME", choices=SPECS, help="download this dataset, and count it")
    parser.add_argument("--any-counts", action="store_true", help="accept other counts than the known ones")
    parser.add_argument("--generated-split", action="store_true", help="SUN397: without the official lists")
    parser.add_argument("--labeled-list", type=cli.path, metavar="FILE", help="ImageFolder: the list of labeled images")
    args = parser.parse_args(argv)
    if args.labeled_list is not None and args.check != "ImageFolder":
        raise UserError("--labeled-list is for --check ImageFolder: leave it out")
    if args.root is None and (args.check or args.download):
        raise UserError("--check and --download need the folder that holds the datasets: name it first")
    return args


def main(args: argparse.Namespace) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(log.Marked())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    name = args.check or args.download
    if name is None:
        return print_table(None if args.root is None else Path(args.root))
    root = Path(args.root)
    if args.check and not _is_present(SPECS[name], root):
        remedy = SPECS[name].by_hand.format(root=root) if SPECS[name].by_hand else f"try --download {name}"
        raise UserError(f"{name} is not under '{root}': {remedy}")
    if args.labeled_list is not None:
        check_list(Path(os.path.expanduser(root)), Path(args.labeled_list))
    data = datasets.load(
        name,
        root,
        any_counts=args.any_counts,
        generated_split=args.generated_split,
        labeled_list=args.labeled_list,
    )
    split = "" if data.spec.is_own else "; the official split" if data.official_split else "; no official split"
    print(f"{name}: {data.counts}{split}")
    if args.check:
        unreadable = [problem for images in (data.train, data.test) for problem in images.unreadable()]
        print("\n".join(unreadable) or f"all {len(data.train) + len(data.test):,} images can be read")
        if unreadable:
            raise UserError(
                f"{len(unreadable):,} images of {name} cannot be read: replace or remove them (listed above)"
            )


def check_list(root: Path, file: Path) -> None:
    """Print the broken lines of a list. If there are any, also print which images below the root cannot be read.

    Raises:
        UserError: a line is broken.
    """
    problems = image_folder.list_problems(root, file)
    if not problems:
        return
    paths = list(images_in(root, Skipped()))
    unreadable = ImageSet(paths, np.full(len(paths), -1)).unreadable()
    print("\n".join([*problems, *unreadable]))
    more = f"; {len(unreadable):,} images cannot be read" if unreadable else ""
    raise UserError(f"'{file}' has {len(problems):,} broken lines: correct them, or remove them (listed above){more}")


def print_table(root: Path | None) -> None:
    """Print one row per dataset: what is known of it, and whether it is under `root`."""
    header = ["dataset", "classes", "train", "test", "download", "present", "license", "source"]
    rows = [header] + [_row(name, spec, spec.counts, root) for name, spec in SPECS.items() if spec.counts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(
        "ImageFolder reads your own images: ROOT/train/CLASS/*, and if you like ROOT/test/CLASS/* and ROOT/unlabeled/**"
    )


def _row(name: str, spec: Spec, counts: Counts, root: Path | None) -> list[str]:
    present = "?" if root is None and spec.paths else "yes" if _is_present(spec, root or Path()) else "no"
    classes, _, test, _ = counts
    size = f"{spec.size} by hand" if spec.by_hand else spec.size
    return [name, str(classes), _with_extra(counts), f"{test:,}", size, present, spec.license, spec.source]


def _with_extra(counts: Counts) -> str:
    return f"{counts.train:,}" + (f" + {counts.extra:,}" if counts.extra else "")


def _is_present(spec: Spec, root: Path) -> bool:
    return download.is_present(root, spec.paths)


if __name__ == "__main__":
    cli.launch(parse_args, main)
