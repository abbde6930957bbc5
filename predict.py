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
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from common import cli, trained
from common.datasets.images import ImageSet
from common.datasets.walk import Skipped, images_in
from common.errors import UserError
from common.loading import augment
from common.loading.loaders import FileBatch, FileLoader
from common.records import progress
from common.system import limits
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
        "-j",
        "--workers",
        type=cli.non_negative_int,
        metavar="N",
        help="loader processes (default: by the cores, 4 at most)",
    )
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    return parser.parse_args(argv)


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


class Prediction(NamedTuple):
    """The prediction for one image, or why there is none.

    Attributes:
        index: the image's number.
        ranking: int64 [C], the classes from the best to the worst.
        probabilities: float32 [C], of the classes in the run's order.
        error: why there is no prediction; then the ranking and the probabilities are None.
    """

    index: int
    ranking: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    error: str | None = None


def predict(model: nn.Module, loader: FileLoader) -> Iterator[Prediction]:
    """Yield the prediction for every image, in order.

    A batch's results are read only when the next batch is on the device, so that the device need not wait.
    """
    previous = None
    for batch in loader:
        results = () if batch.images is None else classify(model, batch.images)
        if previous is not None:
            yield from _of_batch(*previous)
        previous = batch, results
    if previous is not None:
        yield from _of_batch(*previous)


@torch.no_grad()
def classify(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Classes from the best to the worst, int64 [B, C], and the probabilities of all classes, float32 [B, C].

    Of classes with equal logits the first is the better one, as in the evaluation's argmax.
    """
    logits = model(images)
    return logits.argsort(dim=1, descending=True, stable=True), logits.softmax(dim=1)


def _of_batch(batch: FileBatch, results: tuple[Tensor, ...]) -> list[Prediction]:
    """Wait for a batch's results. There are none where no image of the batch could be read."""
    predictions = [Prediction(index, error=error) for index, error in batch.errors.items()]
    if results:
        rankings, probabilities = (result.cpu().numpy() for result in results)
        predictions += map(Prediction, batch.indices.tolist(), rankings, probabilities)
    return sorted(predictions, key=lambda prediction: prediction.index)


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


def write(stream: TextIO, run: trained.Trained, args: argparse.Namespace) -> tuple[int, dict[str, str]]:
    """Write the table. Returns the number of images, and what could not be read: path -> error."""
    found = find(args.images)
    device = find_device(args.device)
    loader = _loader([path for path, error in found.items() if error is None], run, device, args)
    predictions = predict(run.model.to(device), loader)
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(header(run.classes, args.top, args.all))
    errors = {}
    hidden = True if stream.isatty() else None  # rows would mix with the bar; None: hidden where stderr is no terminal
    for path, error in tqdm(found.items(), desc="predicting", unit=" images", leave=False, disable=hidden):
        prediction = next(predictions) if error is None else Prediction(-1, error=error)
        table.writerow(row(path, prediction, run.classes, args.top, args.all))
        if prediction.error is not None:
            errors[path] = prediction.error
    return len(found), errors


def _loader(paths: list[str], run: trained.Trained, device: torch.device, args: argparse.Namespace) -> FileLoader:
    """Images prepared as those of the run's tests are."""
    size = run.args.image_size if run.args.val_resizing == "native" else None
    return FileLoader(
        Images(paths, size, run.args.exif_orientation),
        augment.test_transform(run.args.val_resizing, run.args.image_size),
        workers=limits.workers(sets=1) if args.workers is None else args.workers,
        normalizer=augment.Normalizer(run.args.norm_mean, run.args.norm_std),
        device=device,
        batch_size=args.batch_size,
    )


@contextlib.contextmanager
def standard_output() -> Iterator[TextIO]:
    """The standard output, encoded as files are: in UTF-8, with the bytes of file names that are no UTF-8.

    A reader that closes it early ends the program, as in `predict.py ... | head`.

    Raises:
        UserError: it cannot be written to; its disk is full, say.
    """
    try:
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        if isinstance(error, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        raise UserError(f"cannot write the table ({error.strerror}): give another place with --out FILE") from None


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
    logger.info(f"the network is {run.origin}")
    if errors:
        logger.warning(f"{len(errors):,} of the {number:,} images could not be read: their rows say why")


if __name__ == "__main__":
    cli.launch(parse_args, main)
