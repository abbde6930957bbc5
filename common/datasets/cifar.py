"""CIFAR-10 and CIFAR-100 through torchvision, which downloads them and checks the MD5 of every file.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from pathlib import Path

from torchvision.datasets import CIFAR10, CIFAR100

from common.datasets.images import ImageSet
from common.errors import UserError


def load_cifar10(root: Path) -> dict:
    """50,000 training and 10,000 test images of 32 x 32 pixels, 10 classes, in the order of the official files."""
    return _load(CIFAR10, root)


def load_cifar100(root: Path) -> dict:
    """50,000 training and 10,000 test images of 32 x 32 pixels, 100 classes, in the order of the official files."""
    return _load(CIFAR100, root)


def _load(dataset: type[CIFAR10], root: Path) -> dict:
    try:
        train, test = (dataset(str(root), train=is_train, download=True) for is_train in (True, False))
    except (OSError, RuntimeError) as error:  # no network, or an MD5 that differs
        reason = " ".join(str(error).split())
        raise UserError(
            f"{dataset.__name__} is not whole under '{root}' and could not be downloaded ({reason}): "
            f"put {dataset.url} there and run again"
        ) from None
    return {
        "classes": list(train.classes),
        "train": ImageSet(train.data, train.targets),
        "test": ImageSet(test.data, test.targets),
    }
