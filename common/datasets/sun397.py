"""SUN397: scenes. The host of the images and of the official lists is gone, so both must be provided by hand.

torchvision's class is not used: it has no split, and its order depends on the file system.

SUN397/ClassName.txt                            `/a/abbey`, in label order; some are nested (`/b/bakery/shop`)
SUN397/LETTER/CLASS[/SUBCLASS]/sun_*.jpg
SUN397/Partitions/{Training,Testing}_01.txt     `/a/abbey/sun_aaa.jpg`; Partitions/ may also lie next to SUN397/
"""

import os
from pathlib import Path

from common.datasets.caltech101 import hash_order
from common.datasets.from_torchvision import ordered
from common.datasets.images import ImageSet
from common.datasets.spec import Contents
from common.errors import UserError, reason

NUM_PER_CLASS = 50  # training and test images, each, as in the official partitions


def load(root: Path) -> Contents:
    """The official partition 1: 50 training and 50 test images per class.

    Raises:
        UserError: the lists of partition 1 are missing, or do not fit the classes.
    """
    partitions, names = _partitions(root), _class_names(root)
    train, test = (_read_lines(partitions / file) for file in ("Training_01.txt", "Testing_01.txt"))
    return Contents(_shown(names), _images(root, train, names), _images(root, test, names))


def load_generated(root: Path) -> Contents:
    """A split that is not official: of each class, in `hash_order`, 50 training images, then 50 test images.

    Raises:
        UserError: a class has no folder.
    """
    names = _class_names(root)
    train: list[str] = []
    test: list[str] = []
    for name in names:
        try:
            files = os.listdir(root / "SUN397" / name)
        except OSError as error:
            raise UserError(f"class '{name}' cannot be read ({reason(error)}): restore its folder") from None
        paths = hash_order([f"{name}/{file}" for file in files if file.startswith("sun_") and file.endswith(".jpg")])
        train += paths[:NUM_PER_CLASS]
        test += paths[NUM_PER_CLASS : 2 * NUM_PER_CLASS]
    return Contents(_shown(names), _images(root, train, names), _images(root, test, names), official_split=False)


def _class_names(root: Path) -> list[str]:
    """The classes' folders below `SUN397/` in label order, such as `b/bakery/shop`."""
    return _read_lines(root / "SUN397" / "ClassName.txt")


def _shown(names: list[str]) -> list[str]:
    return [name[2:] for name in names]  # without the folder of the first letter


def _partitions(root: Path) -> Path:
    folders = (root / "SUN397" / "Partitions", root / "Partitions")
    for folder in folders:
        if folder.is_dir():
            return folder
    raise UserError(
        f"SUN397's official split is missing: put Training_01.txt and Testing_01.txt of Partitions.zip into "
        f"'{folders[0]}', or take a split that is not official with --generated-split"
    )


def _read_lines(path: Path) -> list[str]:
    """Read paths below `SUN397/`. In the file they begin with a slash."""
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read ({reason(error)}): restore it from Partitions.zip") from None
    return [line.removeprefix("/") for line in lines]


def _images(root: Path, paths: list[str], names: list[str]) -> ImageSet:
    label = {name: i for i, name in enumerate(names)}
    unknown = [path for path in paths if path.rpartition("/")[0] not in label]
    if unknown:
        raise UserError(f"'{root / 'SUN397' / 'ClassName.txt'}' lacks the class of '{unknown[0]}': restore it")
    folder = root / "SUN397"
    return ordered([f"{folder}/{path}" for path in paths], [label[path.rpartition("/")[0]] for path in paths])
