"""ImageFolder: your own images.

ROOT/train/CLASS/*      training images, one folder per class (sub-folders allowed)
ROOT/test/CLASS/*       test images (or ROOT/val)
ROOT/unlabeled/**       optional: more unlabeled images, in any folders
"""

import logging
import os
from collections import Counter
from pathlib import Path
from typing import NoReturn

from torchvision.datasets.folder import IMG_EXTENSIONS

from common.datasets.images import ImageSet
from common.errors import UserError

EXTENSIONS = (*IMG_EXTENSIONS, ".gif", ".jfif", ".avif")

logger = logging.getLogger(__name__)


def load(root: Path) -> dict:
    """Classes are the folders of `train` in alphabetical order; images are ordered by (class, relative path).

    Hidden files and folders are left out, and so are files of other kinds, of which a warning tells.

    Raises:
        UserError: a folder is missing, empty or not readable, there is one class only, or `test` has one that `train`
            lacks.
    """
    train_dir, test_dir = root / "train", root / "test"
    if not os.path.isdir(test_dir) and os.path.isdir(root / "val"):
        test_dir = root / "val"
    for folder in (root, train_dir, test_dir):
        if not os.path.isdir(folder):  # as Path's own, but false for names that are too long
            raise UserError(f"folder '{folder}' is missing: ImageFolder needs ROOT/train/CLASS/* and ROOT/test/CLASS/*")
    classes = _class_names(train_dir)
    if len(classes) == 1:
        raise UserError(f"'{train_dir}' has one class, '{classes[0]}': add others, or remove a folder that is too many")
    skipped = Counter()
    extra = sorted(_images_in(root / "unlabeled", skipped)) if os.path.isdir(root / "unlabeled") else []
    train, test = (_labeled_images(folder, classes, skipped) for folder in (train_dir, test_dir))
    if skipped:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in sorted(skipped.items()))
        logger.warning(f"'{root}' has files that are not taken for images ({kinds}): they are skipped")
    return {
        "classes": classes,
        "train": ImageSet([path for path, _ in train] + extra, [label for _, label in train] + [-1] * len(extra)),
        "test": ImageSet([path for path, _ in test], [label for _, label in test]),
        "candidates": len(train),
    }


def _class_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images_in(folder: Path, skipped: Counter) -> list[str]:
    """The images in a folder and all folders below it, each folder once, however many links lead to it."""
    images, seen = [], set()
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()  # no further down
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.startswith("."):
                continue
            if name.lower().endswith(EXTENSIONS):
                images.append(os.path.join(parent, name))
            else:
                skipped[os.path.splitext(name)[1] or name] += 1
    return images


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"folder '{error.filename}' cannot be read ({error.strerror}): change its permissions") from None


def _labeled_images(folder: Path, classes: list[str], skipped: Counter) -> list[tuple[str, int]]:
    unknown = sorted(set(_class_names(folder)) - set(classes))
    if unknown:
        raise UserError(f"'{folder}' has the class '{unknown[0]}', which the train folder lacks: add or remove it")
    folders = [(c, folder / name) for c, name in enumerate(classes) if os.path.isdir(folder / name)]
    samples = [(path, c) for c, images in folders for path in sorted(_images_in(images, skipped))]
    if not samples:
        raise UserError(f"'{folder}' has no images: put them into one folder per class ({', '.join(EXTENSIONS)})")
    return samples
