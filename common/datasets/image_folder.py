"""ImageFolder: your own images.

ROOT/train/CLASS/*      training images, one folder per class (sub-folders allowed)
ROOT/test/CLASS/*       test images (or ROOT/val)
ROOT/unlabeled/**       optional: more unlabeled images, in any folders
"""

import os
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from common.datasets.images import ImageSet
from common.errors import UserError

EXTENSIONS = (*IMG_EXTENSIONS, ".gif")


def load(root: Path) -> dict:
    """Classes are the folders of `train` in alphabetical order; images are ordered by (class, relative path).

    Raises:
        UserError: a folder is missing or empty, or `test` has a class that `train` lacks.
    """
    train_dir, test_dir = root / "train", root / "test"
    if not os.path.isdir(test_dir) and os.path.isdir(root / "val"):
        test_dir = root / "val"
    for folder in (root, train_dir, test_dir):
        if not os.path.isdir(folder):  # as Path's own, but false for names that are too long
            raise UserError(f"folder '{folder}' is missing: ImageFolder needs ROOT/train/CLASS/* and ROOT/test/CLASS/*")
    classes = _class_names(train_dir)
    extra = sorted(_images_in(root / "unlabeled"))
    train, test = _labeled_images(train_dir, classes), _labeled_images(test_dir, classes)
    return {
        "classes": classes,
        "train": ImageSet([path for path, _ in train] + extra, [label for _, label in train] + [-1] * len(extra)),
        "test": ImageSet([path for path, _ in test], [label for _, label in test]),
        "candidates": len(train),
    }


def _class_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images_in(folder: Path) -> list[str]:
    return [
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(EXTENSIONS)
    ]


def _labeled_images(folder: Path, classes: list[str]) -> list[tuple[str, int]]:
    unknown = sorted(set(_class_names(folder)) - set(classes))
    if unknown:
        raise UserError(f"'{folder}' has the class '{unknown[0]}', which the train folder lacks: add or remove it")
    samples = [(path, c) for c, name in enumerate(classes) for path in sorted(_images_in(folder / name))]
    if not samples:
        raise UserError(f"'{folder}' has no images: put them into one folder per class ({', '.join(EXTENSIONS)})")
    return samples
