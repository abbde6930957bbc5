"""Predict the classes of images with the network of a run.

    python predict.py RUN_FOLDER IMAGES... [--out FILE] [--top K | --all] [--uncertain N] [--page FILE.html]

IMAGES are files, folders with all below them, and patterns in quotes, such as 'photos/**/*.jpg'. The result is a CSV
table on the standard output or in a file. It has a row for each image, in the order given: `path,class,confidence`, and
further columns where they are asked for. Where the run had labels of some images, the last column, `given`, has them.

Images are prepared as in the run's tests. The run's test images get the same predictions as in its evaluation, to the
last digit, if machine, order and batches are the same (the default is 64). Other batches (some of the images, another
order, another --batch-size) may change the last digits of the confidences.

With --uncertain N the table holds the N images to label next, the best one first. Their two most probable classes are
nearly equally probable (`margin` is the difference), and they are spread over the predicted classes.

--page FILE.html writes a page on which a person corrects the classes. Open it in a browser; it needs no network. It
saves a list for the next training, for `--labeled-list`. The labels that the run had are in the list, too. Both flags
leave out the images for which the run had labels, and those in its folders of test images.

An image that cannot be read has a row, too: no class, and the error in place of the confidence. Such rows are counted
at the end. If no image could be read, the exit code is 2.
"""

import argparse
import contextlib
import csv
import glob
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from common import cli, trained
from common.datasets.images import ImageSet
from common.datasets.walk import Skipped, images_in
from common.errors import UserError
from common.loading.loaders import FileLoader
from common.records import correction_page, known_labels, margin_sampling
from common.records.known_labels import KnownLabels
from common.system import limits, log
from common.system.devices import find_device
from common.system.files import writing
from common.training.predict import Prediction, predict

SHOWN = 10  # classes whose numbers of images are logged

logger = logging.getLogger("common")


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=cli.path, metavar="RUN_FOLDER", help="the training's --log folder")
    parser.add_argument("images", type=cli.path, nargs="+", metavar="IMAGES", help="files, folders and patterns")
    parser.add_argument("--out", type=cli.path, default=None, metavar="FILE", help="write the table into this file")
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best", help="which one (default: best)")
    parser.add_argument(
        "--uncertain", type=cli.positive_int, default=None, metavar="N", help="only the N images to label next"
    )
    parser.add_argument(
        "--page", type=cli.path, default=None, metavar="FILE.html", help="write a page to correct the predictions on"
    )
    parser.add_argument(
        "--root", type=cli.path, default=None, metavar="FOLDER", help="where the run's images are now, if they moved"
    )
    more = parser.add_mutually_exclusive_group()
    more.add_argument(
        "--top", type=cli.positive_int, default=1, metavar="K", help="add the next best classes, K in all (default: 1)"
    )
    more.add_argument("--all", action="store_true", help="add the probabilities of all classes")
    parser.add_argument(
        "-b", "--batch-size", type=cli.positive_int, default=64, metavar="B", help="images per batch (default: 64)"
    )
    parser.add_argument(
        "-j",
        "--workers",
        type=cli.non_negative_int,
        metavar="N",
        help="loader processes (default: by the cores, 4 at most)",
    )
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    args = parser.parse_args(argv)
    if args.page is not None and args.out is not None and os.path.realpath(args.page) == os.path.realpath(args.out):
        raise UserError("--page and --out name the same file: choose another name for one of them")
    return args


def find(arguments: Sequence[str]) -> dict[str, str | None]:
    """The images that files, folders and patterns name, each once: path -> None, or why there is no image."""
    found: dict[str, str | None] = {}
    for argument in arguments:
        is_pattern = glob.has_magic(argument) and not os.path.lexists(argument)
        paths = sorted(glob.glob(argument, recursive=True)) if is_pattern else [argument]
        if not paths:
            found.setdefault(argument, "no file matches the pattern")
        for path in paths:
            named = _in_folder(path) if os.path.isdir(path) else _one_file(path)
            found |= {item: error for item, error in named.items() if item not in found}
    return found


def _one_file(path: str) -> dict[str, str | None]:
    return {path: None if os.path.lexists(path) else "there is no such file"}


def _in_folder(folder: str) -> dict[str, str | None]:
    errors: list[OSError] = []
    skipped = Skipped()
    found = dict.fromkeys(sorted(images_in(Path(folder), skipped, onerror=errors.append)))
    skipped.warn(Path(folder))
    found |= {str(error.filename): str(error.strerror) for error in errors}
    return found or {folder: "the folder holds no images"}


class Images(ImageSet):
    """Image files whose classes are not known.

    Args:
        paths: the files.
        size: the side in pixels that every image must have; None: images are resized, and may have any size.
        upright: turn them as their EXIF orientation says.
    """

    def __init__(self, paths: Sequence[str], size: int | None, upright: bool):
        super().__init__(paths, np.full(len(paths), -1), upright)
        self.size = size

    def load(self, index: int) -> Image.Image:
        image = super().load(index)
        if self.size is not None and image.size != (self.size, self.size):
            raise UserError(
                f"image '{self.images[index]}' has {image.width} x {image.height} pixels, but the network takes "
                f"{self.size} x {self.size} as they are: resize it"
            )
        return image


def header(classes: Sequence[str], top: int, with_all: bool) -> list[str]:
    """The names of the columns."""
    names = ["path", "class", "confidence"]
    for rank in range(2, top + 1):
        names += [f"class_{rank}", f"confidence_{rank}"]
    return names + ([f"p({name})" for name in classes] if with_all else [])


def row(path: str, prediction: Prediction, classes: Sequence[str], top: int, with_all: bool) -> list[str]:
    """The cells for one image. Numbers have all digits of a float32, and no more."""
    if prediction.error is not None:
        empty = len(header(classes, top, with_all)) - 3
        return [path, "", f"error: {prediction.error}", *[""] * empty]
    confidences = [str(value) for value in prediction.probabilities]
    cells = [path]
    for label in prediction.ranking[:top]:
        cells += [classes[label], confidences[label]]
    return cells + (confidences if with_all else [])


class Scored(NamedTuple):
    """An image that a person may be asked about, with its prediction.

    Attributes:
        path: of the file.
        inner: its path below the folder of the run's images; None where it is not there.
        cells: its row of the table.
        label: the predicted class.
        confidence, margin: that class's probability, and the same minus the next class's.
    """

    path: str
    inner: str | None
    cells: list[str]
    label: int
    confidence: float
    margin: float


class Table:
    """The table of predictions, and the log lines about it at the end.

    Args:
        run: the network that predicts, and its flags.
        known: the labels that the run had.
        args: of the command line.
    """

    def __init__(self, run: trained.Trained, known: KnownLabels, args: argparse.Namespace):
        self.run, self.known, self.args = run, known, args
        self.errors: dict[str, str] = {}  # path -> why it could not be read
        self.counts = Counter()  # class -> images
        self.number = self.left_out = 0
        self.scored: list[Scored] = []

    def rows(self) -> Iterator[list[str]]:
        """A row for each image. With `--uncertain` or `--page`, also keep the images to ask about in `scored`."""
        run, args = self.run, self.args
        found = find(args.images)
        self.number = len(found)
        device = find_device(args.device)
        loader = _loader([path for path, error in found.items() if error is None], run, device, args)
        predictions = predict(run.model.to(device), loader)
        is_shown = args.out is None and args.page is None and sys.stdout.isatty()
        hidden = True if is_shown else None  # rows would mix with the bar; None: hidden where stderr is no terminal
        for path, error in tqdm(found.items(), desc="predicting", unit=" images", leave=False, disable=hidden):
            prediction = next(predictions) if error is None else Prediction(-1, error=error)
            cells = row(path, prediction, run.classes, args.top, args.all)
            if prediction.error is not None:
                self.errors[path] = prediction.error
            else:
                self.counts[run.classes[prediction.ranking[0]]] += 1
                if args.uncertain is not None or args.page is not None:
                    self.keep(path, prediction, cells)
            yield cells

    def keep(self, path: str, prediction: Prediction, cells: list[str]) -> None:
        """Note an image, unless the run had a label for it or it is for testing."""
        inner = self.known.below(path)
        if inner is not None and (inner in self.known.labels or self.known.is_for_testing(inner)):
            self.left_out += 1
            return
        label = int(prediction.ranking[0])
        confidence, margin = float(prediction.probabilities[label]), margin_sampling.margin(prediction.probabilities)
        self.scored.append(Scored(path, inner, [*cells, f"{margin:.6g}"], label, confidence, margin))

    def given(self, path: str) -> list[str]:
        """The cell with the label that the run had for an image, or an empty one; none where the run had no labels."""
        return [self.known.labels.get(self.known.below(path) or "", "")] if self.known.labels else []

    def write(self, stream: TextIO | None) -> None:
        """Predict, and write the table to the stream, if there is one. Then `scored` holds the images to ask about.

        Raises:
            UserError: there are images, but none to ask about.
        """
        args, names = self.args, header(self.run.classes, self.args.top, self.args.all)
        writer = None if stream is None else csv.writer(stream, lineterminator="\n")
        is_whole = writer is not None and args.uncertain is None
        if is_whole:
            writer.writerow([*names, *(["given"] if self.known.labels else [])])
        for path, *cells in self.rows():
            if is_whole:
                writer.writerow([path, *cells, *self.given(path)])
        if args.uncertain is not None:
            margins, labels = [one.margin for one in self.scored], [one.label for one in self.scored]
            self.scored = [self.scored[i] for i in margin_sampling.select(margins, labels, args.uncertain)]
            if writer is not None:
                writer.writerows([[*names, "margin"], *(one.cells for one in self.scored)])
        if self.left_out and not self.scored:
            raise UserError(f"all {self.left_out:,} images have labels already, or are for testing: name others")

    def refuse_unread(self) -> None:
        """Raises a `UserError` where no image could be read."""
        if len(self.errors) == self.number:
            path, error = next(iter(self.errors.items()))
            raise UserError(
                f"none of {self.number:,} images could be read, not '{path}' for one ({error}): name others"
            )

    def tell(self) -> None:
        """Log what was predicted, of which network, and what was left out."""
        if self.errors:
            has_table = self.args.out is not None or self.args.page is None
            has_rows = has_table and self.args.uncertain is None
            where = "their rows say why" if has_rows else "they are left out"
            logger.warning(f"{len(self.errors):,} of the {self.number:,} images could not be read: {where}")
        shown = [f"{number:,} {name}" for name, number in self.counts.most_common(SHOWN)]
        more = f" and {len(self.counts) - SHOWN:,} more classes" if len(self.counts) > SHOWN else ""
        place = "" if self.args.out is None else f"'{self.args.out}': "
        logger.info(f"the network is {self.run.origin}")
        logger.info(f"{place}{self.counts.total():,} images: {', '.join(shown)}{more}")
        if self.left_out:
            logger.info(
                f"{self.left_out:,} of them have labels already, or are for testing: nobody is asked about them"
            )
        if self.args.uncertain is not None:
            logger.info(f"to label next: {len(self.scored):,} of the others, the least certain first")
            if self.known.labels and (self.args.out is not None or self.args.page is None):
                logger.warning(
                    f"the table lacks the {len(self.known.labels):,} labels that the run had: add their lines before "
                    "you train with it. A --page saves them, too"
                )


def _labels_from_before(known: KnownLabels) -> list[tuple[str, str]]:
    """Path and label of those that a list can hold. A warning counts the others."""
    listed = [(path, label) for path, label in known.labels.items() if correction_page.can_be_listed(path)]
    if len(listed) < len(known.labels):
        logger.warning(
            f"{len(known.labels) - len(listed):,} labels from before will be missing in the saved list: no list can "
            "hold the names of their images"
        )
    return listed


def write_page(table: Table, run_folder: str, file: Path) -> list[str]:
    """Write the page on which the images of a table are corrected. Returns lines about it, to be logged.

    Raises:
        UserError: none of them can be named by a list; or see `correction_page.write`.
    """
    shown = [one for one in table.scored if correction_page.can_be_listed(one.inner or one.path)]
    if len(shown) < len(table.scored):
        logger.warning(f"{len(table.scored) - len(shown):,} images are not on the page: no list can hold their names")
    if not shown:
        raise UserError("there is no image for the page whose name a list can hold: name others")
    items = [
        correction_page.Shown(i, one.inner or one.path, one.label, one.confidence, one.margin)
        for i, one in enumerate(shown)
    ]
    images = ImageSet([one.path for one in shown], np.full(len(shown), -1))
    run = table.run
    title = f"{os.path.basename(os.path.abspath(run_folder))}, {run.method}"
    title += "" if run.epoch is None else f", epoch {run.epoch}"
    earlier = _labels_from_before(table.known)
    size = correction_page.write(file, images, items, run.classes, earlier, title)
    outside = sum(one.inner is None for one in shown)
    if table.known.root is not None and outside:
        logger.warning(
            f"{outside:,} images of the page are not below '{table.known.root}': put them there before you train with "
            "the list"
        )
    more = f" and the {len(earlier):,} labels from before" if earlier else ""
    return [
        f"'{file}': {len(shown):,} images ({max(size // 1000, 1):,} kB) to correct in a browser",
        f"what the page saves holds them{more}, and is a list for --labeled-list",
    ]


def _loader(paths: list[str], run: trained.Trained, device: torch.device, args: argparse.Namespace) -> FileLoader:
    """A loader that prepares images as in the run's tests."""
    size = run.args.image_size if run.args.val_resizing == "native" else None
    return FileLoader(
        Images(paths, size, run.args.exif_orientation),
        **run.preprocessing,
        workers=limits.workers(sets=1) if args.workers is None else args.workers,
        device=device,
        batch_size=args.batch_size,
    )


def output(args: argparse.Namespace) -> contextlib.AbstractContextManager[TextIO | None]:
    """Where the table goes: a file, the standard output, or with `--page` alone nowhere."""
    if args.out is not None:
        return writing(Path(args.out))
    return standard_output() if args.page is None else contextlib.nullcontext()


@contextlib.contextmanager
def standard_output() -> Iterator[TextIO]:
    """The standard output, encoded as files are: in UTF-8, with the bytes of file names that are no UTF-8."""
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    yield sys.stdout
    sys.stdout.flush()


def main(args):
    log.send_to(None, sys.stderr)
    if args.page is not None and not Path(args.page).absolute().parent.is_dir():
        raise UserError(f"--page '{args.page}': there is no such folder: make it, or name another")
    run = trained.load(Path(args.run_folder), args.checkpoint)
    if args.top > len(run.classes):
        raise UserError(f"--top {args.top} is more than the run's {len(run.classes)} classes: ask for fewer, or --all")
    known = known_labels.load(Path(args.run_folder), args.root)
    if args.root is not None and (known.root is None or not known.root.is_dir()):
        why = "this run has no labels of images of your own" if known.root is None else "there is no such folder"
        raise UserError(f"--root '{args.root}': {why}: leave it out, or name another")
    if (args.page or args.uncertain) and known.are_gone:
        logger.warning(
            f"none of the run's labeled images is below '{known.root}', so they are not recognised among the "
            "others: say with --root where they are now"
        )
    if known.replaced:
        logger.warning(
            f"{len(known.replaced):,} of the run's labeled images are other files now ('{known.replaced[0]}' for one): "
            "their labels are not used"
        )
    table = Table(run, known, args)
    with output(args) as stream:
        table.write(stream)
    table.refuse_unread()
    lines = [] if args.page is None else write_page(table, args.run_folder, Path(args.page))
    table.tell()
    for line in lines:
        logger.info(line)


if __name__ == "__main__":
    cli.launch(parse_args, main)
