"""The datasets by name. `SPECS` holds what is known without reading a file; `load` reads."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.datasets import cifar, digits, image_folder
from common.datasets.images import ImageSet
from common.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Spec:
    """What a dataset's name says: its reader and the defaults of the resizing and normalisation flags.

    Attributes:
        read: root -> the fields of `Data`.
        resizing: `default` (crops of photographs) or `cifar` (small images, enlarged).
        mean, std: per channel, of pixels in [0, 1].
        native_size: side in pixels, where all the images are squares of one size.
        flip: whether a mirrored image is still an image of its class.
    """

    read: Callable[[Path], dict]
    resizing: str = "default"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    native_size: int | None = None
    flip: bool = True


@dataclass(frozen=True)
class Data:
    """A dataset that has been read.

    Attributes:
        spec: what was known before.
        classes: the class names; a label is an index into them.
        train, test: the images. `train` holds all that a method may see, labeled or not.
        candidates: labels are drawn from the first so many images of `train` (None: from all of them).
        official_split: whether train and test are as the dataset's authors, or custom, have them.
    """

    spec: Spec
    classes: list[str]
    train: ImageSet
    test: ImageSet
    candidates: int | None = None
    official_split: bool = True


SPECS = {
    "CIFAR10": Spec(
        cifar.load_cifar10, "cifar", mean=(0.4912, 0.4824, 0.4467), std=(0.2471, 0.2435, 0.2616), native_size=32
    ),
    "CIFAR100": Spec(
        cifar.load_cifar100, "cifar", mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761), native_size=32
    ),
    "Digits": Spec(digits.load, "cifar", mean=(0.3092,) * 3, std=(0.3490,) * 3, native_size=digits.SIZE, flip=False),
    "ImageFolder": Spec(image_folder.load),
}


def load(name: str, root: str | Path) -> Data:
    """Read the dataset `name` (a key of `SPECS`) under the folder `root`.

    Raises:
        UserError: the name is unknown, or files are missing or broken.
    """
    if name not in SPECS:
        raise UserError(f"unknown dataset '{name}': choose from {', '.join(SPECS)}")
    return Data(SPECS[name], **SPECS[name].read(Path(root)))
