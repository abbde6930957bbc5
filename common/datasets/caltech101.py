"""Caltech101: 101 categories and the background. There is no official split, so we define one.

caltech101/101_ObjectCategories/CLASS/*.jpg

The folder of the background also holds a file that is not an image (`tmp`).
"""

import hashlib
from pathlib import Path

from torchvision.datasets import ImageFolder

from common.datasets.from_torchvision import construct, ordered
from common.datasets.images import ImageSet
from common.datasets.spec import Contents

NUM_TRAIN = 30  # per class, as is customary


def load(root: Path) -> Contents:
    """102 classes, ordered by lower-cased name. The first 30 images of each, by `hash_order`, are for training.

    The smallest class has 31 images, and so only one test image: read the mean over classes with care.
    """
    folder = root / "caltech101" / "101_ObjectCategories"
    found = construct(ImageFolder, folder)
    classes = sorted(found.classes, key=str.lower)
    images: dict[str, list[str]] = {name: [] for name in classes}
    for path, label in found.samples:
        images[found.classes[label]].append(Path(path).relative_to(folder).as_posix())
    images = {name: hash_order(paths) for name, paths in images.items()}

    def part(chosen: slice) -> ImageSet:
        samples = [(folder / path, label) for label, name in enumerate(classes) for path in images[name][chosen]]
        return ordered([path for path, _ in samples], [label for _, label in samples])

    train, test = part(slice(NUM_TRAIN)), part(slice(NUM_TRAIN, None))
    return Contents(classes, train, test, official_split=False)


def hash_order(paths: list[str]) -> list[str]:
    """Sort relative POSIX paths by their SHA-1: as good as random, and the same on every machine."""
    return sorted(paths, key=lambda path: hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest())
