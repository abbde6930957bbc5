"""SUN397: scenes. Both hosts of the images and of the official lists are dead, so files come by hand.

SUN397/ClassName.txt                            `/a/abbey`, in label order; some are nested (`/b/bakery/shop`)
SUN397/LETTER/CLASS[/SUBCLASS]/sun_*.jpg
SUN397/Partitions/{Training,Testing}_01.txt     `/a/abbey/sun_aaa.jpg`; Partitions/ may also lie beside SUN397/
"""

from pathlib import Path

from torchvision.datasets import SUN397

from common.datasets.caltech101 import hash_order
from common.datasets.from_torchvision import construct, ordered
from common.datasets.images import ImageSet
from common.errors import UserError

NUM_PER_CLASS = 50  # training and test images, each, as in the official partitions


def load(root: Path) -> dict:
    """The official partition 1: 50 training and 50 test images per class.

    Raises:
        UserError: there are no lists of partition 1, or they do not fit.
    """
    folder = _partitions(root)
    classes, labels = _index(root)
    return {
        "classes": classes,
        "train": _listed(root, folder / "Training_01.txt", labels),
        "test": _listed(root, folder / "Testing_01.txt", labels),
    }


def load_generated(root: Path) -> dict:
    """Not an official split: of each class, in `hash_order`, 50 training images, then 50 test images."""
    classes, labels = _index(root)
    paths = [[] for _ in classes]
    for path, label in labels.items():
        paths[label].append(path)
    train, test = [], []
    for of_class in paths:
        in_order = hash_order(of_class)
        train += in_order[:NUM_PER_CLASS]
        test += in_order[NUM_PER_CLASS : 2 * NUM_PER_CLASS]
    return {
        "classes": classes,
        "train": _images(root, train, labels),
        "test": _images(root, test, labels),
        "official_split": False,
    }


def _index(root: Path) -> tuple[list[str], dict[str, int]]:
    """The class names, and the label of every image by its path below `SUN397/`."""
    found = construct(SUN397, root)
    prefix = len(str(root / "SUN397")) + 1
    paths = [path.as_posix()[prefix:] for path in found._image_files]
    return list(found.classes), dict(zip(paths, found._labels, strict=True))


def _partitions(root: Path) -> Path:
    folders = (root / "SUN397" / "Partitions", root / "Partitions")
    for folder in folders:
        if folder.is_dir():
            return folder
    raise UserError(
        f"SUN397's official split is missing: put Training_01.txt and Testing_01.txt of Partitions.zip into "
        f"'{folders[0]}', or take a split that is not official with --generated-split"
    )


def _listed(root: Path, path: Path, labels: dict[str, int]) -> ImageSet:
    try:
        paths = [line.strip().lstrip("/") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read ({error}): restore it from Partitions.zip") from None
    missing = [name for name in paths if name not in labels]
    if missing:
        first = root / "SUN397" / missing[0]
        raise UserError(f"image '{first}' is missing, one of {len(missing):,} that '{path}' names: restore them")
    return _images(root, paths, labels)


def _images(root: Path, paths: list[str], labels: dict[str, int]) -> ImageSet:
    return ordered([root / "SUN397" / path for path in paths], [labels[path] for path in paths])
