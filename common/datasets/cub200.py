"""CUB200: Caltech-UCSD Birds-200-2011, 200 species, with the official split.

CUB_200_2011/images.txt                 `1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg`
CUB_200_2011/image_class_labels.txt     `1 1`, counted from 1
CUB_200_2011/train_test_split.txt       `1 0`; 1 is train
CUB_200_2011/classes.txt                `1 001.Black_footed_Albatross`
CUB_200_2011/images/CLASS/*.jpg
"""

from pathlib import Path

from common.datasets.from_torchvision import ordered
from common.datasets.images import ImageSet
from common.datasets.spec import Contents
from common.errors import UserError, reason


def load(root: Path) -> Contents:
    """5,994 training and 5,794 test images. The lists are joined by image id, not by line.

    Raises:
        UserError: a list is missing or malformed, or lacks an image that another list has.
    """
    folder = root / "CUB_200_2011"
    paths, labels, is_train, names = (
        _read_table(folder / name)
        for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    )
    for name, table in (("image_class_labels.txt", labels), ("train_test_split.txt", is_train)):
        differing = sorted(paths.keys() ^ table.keys())
        if differing:
            raise UserError(f"'{folder / name}' and images.txt differ in image {differing[0]}: restore them")
    classes = sorted(names, key=int)
    index = {class_id: i for i, class_id in enumerate(classes)}
    unknown = sorted(set(labels.values()) - set(index))
    if unknown:
        raise UserError(f"'{folder / 'classes.txt'}' lacks class {unknown[0]}, which images have: restore it")

    def part(flag: str) -> ImageSet:
        ids = [image_id for image_id in paths if is_train[image_id] == flag]
        return ordered([folder / "images" / paths[i] for i in ids], [index[labels[i]] for i in ids])

    return Contents([names[class_id] for class_id in classes], part("1"), part("0"))


def _read_table(path: Path) -> dict[str, str]:
    """Read lines `ID VALUE` into a dictionary."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        table = dict(line.split(" ", 1) for line in lines if line)
        if not all(key.isdecimal() for key in table):
            raise ValueError("lines must begin with a number")
        return table
    except (OSError, ValueError) as error:
        raise UserError(
            f"'{path}' cannot be read ({reason(error)}): restore it, or remove CUB_200_2011 and run again"
        ) from None
