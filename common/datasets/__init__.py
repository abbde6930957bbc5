"""The datasets by name: `SPECS` says what is known without reading a file, and `load` reads.

catalog         SPECS: every dataset, with its counts, source, files and reader
spec            the types: what is known of a dataset before it has been read (`Spec`) and after (`Data`)
from_torchvision, cub200, caltech101, sun397, digits   the readers of published datasets
image_folder    the reader of your own images; labeled_list, near_paths, walk and class_names help it
images          `ImageSet`: images with labels, on disk or in memory
splits          which images are labeled, and which are held out
inventory       what the files of your own images hold, to notice a changed one
download        downloads that are whole or absent

`python -m common.datasets` lists the datasets.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.datasets import download
from common.datasets.catalog import SPECS
from common.datasets.images import ImageSet, one_size, turned
from common.datasets.spec import Counts, Data, Spec
from common.errors import UserError
from common.system import processes

__all__ = ["SPECS", "Counts", "Data", "Spec", "load", "spec_of"]

LOOKED_AT = 1000  # images whose EXIF orientation is looked up: on a network disk each takes a while

logger = logging.getLogger(__name__)


def load(
    name: str,
    root: str | Path,
    *,
    any_counts: bool = False,
    generated_split: bool = False,
    labeled_list: str | Path | None = None,
    resizing: str = "default",
    flip: bool = True,
    min_confidence: float | None = None,
    exif_orientation: bool = False,
) -> Data:
    """Read the dataset `name` (a key of `SPECS`) under the folder `root`, downloading it there where it is missing.

    Args:
        any_counts: accept other numbers of classes and images than the known ones.
        generated_split: split SUN397 without the official lists.
        labeled_list: take labels from this list (ImageFolder).
        resizing: `--train-resizing`. All but `default` need images of one size, which is looked up if it is not known.
        flip: False if a mirrored image no longer shows its class. (For some datasets this is known.)
        min_confidence: rows of the list with a lower confidence leave their images unlabeled.
        exif_orientation: turn your own images as their EXIF orientation says.

    Raises:
        UserError: the name is unknown; files are missing, broken or cannot be downloaded; the counts differ; the
            dataset has no generated split, or takes no list; or the images are not of one size.
    """
    spec = spec_of(name, generated_split=generated_split, listed=labeled_list is not None)
    root = Path(os.path.expanduser(root))
    with processes.first_of_machine_first():
        _provide(name, spec, root)
    if labeled_list is not None and spec.read_listed is not None:
        contents = spec.read_listed(root, Path(labeled_list), min_confidence)
    elif generated_split and spec.read_generated is not None:
        contents = spec.read_generated(root)
    else:
        contents = spec.read(root)
    data = Data(spec=spec, **vars(contents))
    if generated_split:
        logger.warning(f"{name}: the split is generated, NOT official; compare numbers only with others on this split")
    for images in (data.train, data.test):
        _check_files(images)
    if spec.is_own:  # published datasets are never turned: the tables were made so
        _log_turned([*data.train.images, *data.test.images], exif_orientation)
        data = replace(data, train=data.train.oriented(exif_orientation), test=data.test.oriented(exif_orientation))
    data = _with_fingerprints(_check_counts(name, data, any_counts), root)
    if resizing != "default" and spec.native_size is None:
        data = _with_size(data, resizing)
    return replace(data, spec=replace(data.spec, flip=data.spec.flip and flip))


def spec_of(name: str, *, generated_split: bool = False, listed: bool = False) -> Spec:
    """What is known of the dataset `name`.

    Args:
        generated_split: whether it is to be split without the official lists.
        listed: whether its labels are to come from a list.

    Raises:
        UserError: the name is unknown, the dataset has no generated split, or it takes no list.
    """
    if name not in SPECS:
        raise UserError(f"unknown dataset '{name}': choose from {', '.join(SPECS)}")
    spec = SPECS[name]
    if generated_split and spec.read_generated is None:
        raise UserError(f"--generated-split is not for {name}: leave it out")
    if listed and spec.read_listed is None:
        raise UserError(f"--labeled-list is not for {name}, which has labels of its own: leave it out")
    return spec


def _log_turned(paths: Sequence[str], exif_orientation: bool) -> None:
    """Log how many images have an EXIF orientation: cameras store photographs unturned, and note how to turn them."""
    looked_at = paths[:: -(-len(paths) // LOOKED_AT)] if paths else []
    number = processes.once_per_machine(lambda: len(turned(looked_at)))
    if number:
        done = "they are turned" if exif_orientation else "they stay as they are stored, --exif-orientation turns them"
        logger.info(
            f"{number:,} of {len(looked_at):,} images that were looked at are to be turned by their EXIF: {done}"
        )


def _with_size(data: Data, resizing: str) -> Data:
    paths = [*data.train.images, *data.test.images]
    size = processes.once_per_machine(lambda: one_size(paths, f"--train-resizing {resizing}"))
    fingerprint = hashlib.sha256(f"{data.fingerprint} {size}".encode()).hexdigest()
    return replace(data, spec=replace(data.spec, native_size=size), fingerprint=fingerprint)


def _with_fingerprints(data: Data, root: Path) -> Data:
    both = (data.train, data.test)
    train, test = processes.once_per_machine(lambda: tuple(images.fingerprint(root) for images in both))
    fingerprint = hashlib.sha256(b"\0".join(map(os.fsencode, [*data.classes, train, test]))).hexdigest()
    return replace(data, fingerprint=fingerprint, test_fingerprint=test)


def _provide(name: str, spec: Spec, root: Path) -> None:
    if spec.files:
        download.fetch(name, root, spec.files, spec.paths)
    elif not download.is_present(root, spec.paths):
        missing = next(root / path for path in spec.paths if not os.path.exists(root / path))
        raise UserError(
            f"'{missing}' is missing, and {name} cannot be downloaded, for {spec.by_hand.format(root=root)}"
        )


def _check_files(images: ImageSet) -> None:
    """Refuse a dataset with missing images, as after an interrupted unpacking. Each folder is listed once."""
    if isinstance(images.images, np.ndarray):
        return
    by_folder: dict[str, list[str]] = {}
    for path in images.images:
        folder, name = os.path.split(path)
        by_folder.setdefault(folder, []).append(name)
    missing = []
    for folder, names in by_folder.items():
        try:
            present = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        except OSError as error:
            raise UserError(f"folder '{folder}' cannot be read ({error.strerror}): change its permissions") from None
        missing += [os.path.join(folder, name) for name in names if name not in present]
    if missing:
        raise UserError(
            f"image '{missing[0]}' is missing, one of {len(missing):,}: restore them, or remove the dataset's folder "
            "and run again"
        )


def _check_counts(name: str, data: Data, any_counts: bool) -> Data:
    if not len(data.train) or (not data.spec.is_own and not len(data.test)):
        raise UserError(f"{name} has {data.counts} here: restore its lists and images")
    if data.spec.is_own or data.counts == data.spec.counts:
        return data
    difference = f"{name} has {data.counts} here, but should have {data.spec.counts}"
    if not any_counts:
        raise UserError(f"{difference}: restore the missing files, or accept the difference with --any-counts")
    logger.warning(f"{difference}: accepted, for --any-counts was given")
    return replace(data, any_counts=True)
