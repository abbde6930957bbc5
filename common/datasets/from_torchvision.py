"""The datasets that torchvision reads. It never downloads them here. Only this module uses its private attributes.

Files are ordered by (label, relative path), arrays as in their source. So the order does not depend on the machine.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io.matlab import MatReadError
from torchvision import datasets as tv

from common.datasets.images import ImageSet
from common.datasets.spec import Contents
from common.errors import UserError

# What torchvision raises for missing or damaged files.
NOT_WHOLE = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, AssertionError),
    *(MatReadError, zlib.error),
)


def construct(dataset: type, root: Path, **options: Any) -> Any:
    """Construct a dataset of torchvision.

    Args:
        dataset: torchvision's class.
        root: its first argument.
        options: further arguments.

    Raises:
        UserError: the files under `root` are incomplete or damaged.
    """
    try:
        return dataset(str(root), **options)
    except NOT_WHOLE as error:
        reason = " ".join(str(error).split("You can use")[0].split()) or type(error).__name__
        raise UserError(
            f"{dataset.__name__} under '{root}' is incomplete or damaged ({reason}): restore its files, or remove its "
            "own files there and run again"
        ) from None


def ordered(paths: Sequence[str | Path], labels: Sequence[int]) -> ImageSet:
    """Files below one root, sorted by (label, path)."""
    samples = sorted(zip(map(int, labels), map(str, paths), strict=True))
    return ImageSet([path for _, path in samples], [label for label, _ in samples])


def concatenated(first: ImageSet, second: ImageSet) -> ImageSet:
    """Two sets of files, one after the other."""
    return ImageSet([*first.images, *second.images], np.concatenate([first.labels, second.labels]))


# Photographs


def load_food101(root: Path) -> Contents:
    """750 training images per class, which the authors did not clean on purpose, and 250 test images."""
    return _files(*(construct(tv.Food101, root, split=split) for split in ("train", "test")))


def load_aircraft(root: Path) -> Contents:
    """The 100 variants; training and validation images together are the training images."""
    return _files(*(construct(tv.FGVCAircraft, root, split=split) for split in ("trainval", "test")))


def load_stanford_cars(root: Path) -> Contents:
    """196 makes, models and years."""
    train, test = (construct(tv.StanfordCars, root, split=split) for split in ("train", "test"))
    for part in (train, test):
        part._image_files, part._labels = zip(*part._samples, strict=True)
    return _files(train, test)


def load_dtd(root: Path) -> Contents:
    """Partition 1; the validation images are not used."""
    return _files(*(construct(tv.DTD, root, split=split, partition=1) for split in ("train", "test")))


def load_pets(root: Path) -> Contents:
    """37 breeds; training and validation images together are the training images."""
    train, test = (construct(tv.OxfordIIITPet, root, split=split) for split in ("trainval", "test"))
    return _files(train, test, attribute="_images")


def load_flowers(root: Path) -> Contents:
    """Labels are drawn from the training images, 10 per class. The validation images are always unlabeled."""
    train, val, test = (construct(tv.Flowers102, root, split=split) for split in ("train", "val", "test"))
    candidates, extra = (ordered(part._image_files, part._labels) for part in (train, val))
    data = _files(train, test)
    return replace(data, train=concatenated(candidates, extra), candidates=len(candidates))


def _files(train: Any, test: Any, attribute: str = "_image_files") -> Contents:
    if train.classes != test.classes:  # torchvision gathers some from the lists of images
        differing = sorted(set(train.classes) ^ set(test.classes))
        raise UserError(
            f"{type(train).__name__} under '{train.root}' has '{differing[0]}' in the list of one split only: "
            "restore its lists"
        )
    return Contents(
        list(train.classes),
        ordered(getattr(train, attribute), train._labels),
        ordered(getattr(test, attribute), test._labels),
    )


# Small images


def load_cifar10(root: Path) -> Contents:
    """In the order of the official files, whose MD5 torchvision checks."""
    return _arrays(*(construct(tv.CIFAR10, root, train=is_train) for is_train in (True, False)))


def load_cifar100(root: Path) -> Contents:
    """In the order of the official files, whose MD5 torchvision checks."""
    return _arrays(*(construct(tv.CIFAR100, root, train=is_train) for is_train in (True, False)))


def load_fashion_mnist(root: Path) -> Contents:
    """Grey images of clothing, in the order of the official files."""
    train, test = (construct(tv.FashionMNIST, root, train=is_train) for is_train in (True, False))
    return Contents(
        list(train.classes),
        ImageSet(train.data.numpy(), train.targets),
        ImageSet(test.data.numpy(), test.targets),
    )


def load_svhn(root: Path) -> Contents:
    """House numbers without the easier `extra` images. The digit 0 has the label 0 (10 in the files)."""
    train, test = (construct(tv.SVHN, root, split=split) for split in ("train", "test"))
    return Contents(
        [str(digit) for digit in range(10)],
        ImageSet(_channels_last(train.data), train.labels),
        ImageSet(_channels_last(test.data), test.labels),
    )


def load_svhn_extra(root: Path) -> Contents:
    """The house numbers of `load_svhn`, then the 531,131 easier `extra` images. Labels are drawn from all."""
    data, extra = load_svhn(root), construct(tv.SVHN, root, split="extra")
    images = np.concatenate([data.train.images, _channels_last(extra.data)])
    return replace(data, train=ImageSet(images, np.concatenate([data.train.labels, extra.labels])))


def load_stl10(root: Path) -> Contents:
    """5,000 training images that labels are drawn from, then 100,000 without labels."""
    train, test = (construct(tv.STL10, root, split=split) for split in ("train+unlabeled", "test"))
    return Contents(
        ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"],
        ImageSet(_channels_last(train.data), train.labels),
        ImageSet(_channels_last(test.data), test.labels),
        candidates=int(np.count_nonzero(train.labels >= 0)),
    )


def _arrays(train: Any, test: Any) -> Contents:
    return Contents(
        list(train.classes),
        ImageSet(train.data, train.targets),
        ImageSet(test.data, test.targets),
    )


def _channels_last(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 2, 3, 1)
