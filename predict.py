"""Predict the classes of images with the network of a run.

    python predict.py RUN_FOLDER IMAGES... [--out FILE] [--top K | --all]

IMAGES are files, folders with all below them, and patterns in quotes, such as 'photos/**/*.jpg'. The result is a CSV
table on the standard output or in a file. It has a row for each image, in the order given: `path,class,confidence`, and
further columns where they are asked for.

Images are prepared as those of the run's tests are. On the same machine, the run's test images, in their order and in
batches of 64 as by default, get the predictions of the evaluation to the last digit. Other batches (some of the images,
another order, another --batch-size) round otherwise: confidences may differ in their last digits.

An image that cannot be read has a row, too: no class, and the error in place of the confidence. Such rows are counted
at the end. The exit code is 2 where no image could be read.
"""

import argparse
import contextlib
import csv
import glob
import itertools
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from common import cli, trained
from common.datasets.image_folder import images_in, warn_of_skipped
from common.datasets.images import ImageSet
from common.errors import UserError
from common.loading import augment
from common.loading.loaders import FileBatch, FileLoader
from common.records import progress
from common.system.devices import find_device
from common.system.files import writing

logger = logging.getLogger("common")


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("run_folder", type=cli.path, metavar="RUN_FOLDER", help="what was --log of the training")
    parser.add_argument("images", type=cli.path, nargs="+", metavar="IMAGES", help="files, folders and patterns")
    parser.add_argument("--out", type=cli.path, default=None, metavar="FILE", help="write the table into this file")
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best", help="of the run (default: best)")
    more = parser.add_mutually_exclusive_group()
    more.add_argument(
        "--top", type=cli.positive_int, default=1, metavar="K", help="add the next best classes, K in all (default: 1)"
    )
    more.add_argument("--all", action="store_true", help="add the probabilities of all classes")
    parser.add_argument(
        "-b", "--batch-size", type=cli.positive_int, default=64, metavar="B", help="images per batch (default: 64)"
    )
    parser.add_argument(
        "-j", "--workers", type=cli.non_negative_int, default=4, metavar="N", help="loader processes (default: 4)"
    )
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    return parser.parse_args(argv)


def find(arguments: Sequence[str]) -> dict[str, str | None]:
    """The images that files, folders and patterns mean, in order: path -> None, or why there is no image."""
    found: dict[str, str | None] = {}
    for argument in arguments:
        is_pattern = glob.has_magic(argument) and not os.path.lexists(argument)
        paths = sorted(glob.glob(argument, recursive=True)) if is_pattern else [argument]
        for path in paths:
            for item, error in (_below(path) if os.path.isdir(path) else _named(path)).items():
                found.setdefault(item, error)
        if not paths:
            found.setdefault(argument, "no file matches the pattern")
    return found


def _named(path: str) -> dict[str, str | None]:
    return {path: None if os.path.lexists(path) else "there is no such file"}


def _below(folder: str) -> dict[str, str | None]:
    errors: list[OSError] = []
    skipped: Counter[str] = Counter()
    found = dict.fromkeys(sorted(images_in(Path(folder), skipped, onerror=errors.append)))
    warn_of_skipped(Path(folder), skipped)
    found |= {str(error.filename): str(error.strerror) for error in errors}
    return found or {folder: "the folder holds no images"}


class Images(ImageSet):
    """Files whose classes nobody knows; of `size` pixels, where the network takes them as they are."""

    def __init__(self, paths: Sequence[str], size: int | None):
        super().__init__(paths, np.full(len(paths), -1))
        self.size = size

    def load(self, index: int) -> Image.Image:
        image = super().load(index)
        if self.size is not None and image.size != (self.size, self.size):
            raise UserError(
                f"image '{self.images[index]}' has {image.width} x {image.height} pixels, but the network takes "
                f"{self.size} x {self.size} as they are: resize it"
            )
        return image


class Prediction(NamedTuple):
    """Of one image.

    Attributes:
        index: of the image.
        order: int64 [C], the classes from the best to the worst.
        probabilities: float32 [C].
        error: why there is none.
    """

    index: int
    order: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    error: str | None = None


def predict(model: nn.Module, loader: FileLoader) -> Iterator[Prediction]:
    """Of every image, in order. The device is given the next batch before one is waited for."""
    batches = ((batch, () if batch.images is None else classify(model, batch.images)) for batch in loader)
    for (batch, results), _ in itertools.pairwise(itertools.chain(batches, [None])):
        yield from _apart(batch, results)


@torch.no_grad()
def classify(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Classes from the best to the worst, int64 [B, C], and their probabilities, float32 [B, C]."""
    logits = model(images)
    return logits.argsort(dim=1, descending=True, stable=True), logits.softmax(dim=1)  # stable, as argmax is


def _apart(batch: FileBatch, results: tuple[Tensor, ...]) -> list[Prediction]:
    arrays = [result.cpu().numpy() for result in results]
    found = [Prediction(index, error=error) for index, error in batch.errors.items()]
    found += map(Prediction, batch.indices.tolist(), *arrays) if arrays else []
    return sorted(found, key=lambda prediction: prediction.index)


def header(classes: Sequence[str], args: argparse.Namespace) -> list[str]:
    further = [f"p({name})" for name in classes] if args.all else []
    for rank in range(2, args.top + 1):
        further += [f"class_{rank}", f"confidence_{rank}"]
    return ["path", "class", "confidence", *further]


def row(path: str, prediction: Prediction, classes: Sequence[str], args: argparse.Namespace) -> list[str]:
    if prediction.error is not None:
        return [path, "", f"error: {prediction.error}"]
    values = prediction.probabilities  # as text they have all digits of a float32, and no more
    best = [word for c in prediction.order[: args.top] for word in (classes[c], str(values[c]))]
    return [path, *best, *(map(str, values) if args.all else [])]


def write(stream: TextIO, run: trained.Trained, args: argparse.Namespace) -> tuple[int, dict[str, str]]:
    """Write the table. Returns the number of images, and what could not be read: path -> error."""
    found = find(args.images)
    readable = [path for path, error in found.items() if error is None]
    device = find_device(args.device)
    loader = FileLoader(
        Images(readable, run.args.image_size if run.args.val_resizing == "native" else None),
        augment.test_transform(run.args.val_resizing, run.args.image_size),
        workers=args.workers,
        normalizer=augment.Normalizer(run.args.norm_mean, run.args.norm_std),
        device=device,
        batch_size=args.batch_size,
    )
    table = csv.writer(stream, lineterminator="\n")
    columns = header(run.classes, args)
    table.writerow(columns)
    predicted = predict(run.model.to(device), loader)
    errors = {}
    hidden = True if stream.isatty() else None  # None: where stderr is no terminal; and rows would mix with it
    for path, error in tqdm(found.items(), desc="predicting", unit=" images", leave=False, disable=hidden):
        prediction = next(predicted) if error is None else Prediction(-1, error=error)
        if prediction.error is not None:
            errors[path] = prediction.error
        cells = row(path, prediction, run.classes, args)
        table.writerow(cells + [""] * (len(columns) - len(cells)))
    return len(found), errors


@contextlib.contextmanager
def standard_output() -> Iterator[TextIO]:
    """To be written to as a file is: a full disk is one line, and a reader that has read enough ends the program."""
    try:
        sys.stdout.reconfigure(errors="surrogateescape")  # any file name that there may be
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes in the end
        if isinstance(error, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        raise UserError(f"cannot write the table ({error.strerror}): put that right, and run again") from None


def main(args):
    progress.log_to(None, sys.stderr)
    run = trained.load(Path(args.run_folder), args.checkpoint)
    if args.top > len(run.classes):
        raise UserError(f"--top {args.top} is more than the run's {len(run.classes)} classes: ask for fewer, or --all")
    with standard_output() if args.out is None else writing(Path(args.out)) as stream:
        number, errors = write(stream, run, args)
    if len(errors) == number:
        path, error = next(iter(errors.items()))
        raise UserError(f"none of {number:,} images could be read, not '{path}' for one ({error}): name others")
    if errors:
        logger.warning(f"{len(errors):,} of the {number:,} images could not be read: their rows say why")


if __name__ == "__main__":
    cli.launch(parse_args, main)
