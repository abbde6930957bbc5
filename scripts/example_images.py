"""Write a small folder of images to try the scripts with: tiles of photographs that installed packages bring along.

    python scripts/example_images.py FOLDER [--size PIXELS]

FOLDER/photos/*.png         tiles of the left two thirds of three photographs, shuffled
FOLDER/labels.csv           labels of some: 2 tiles of the first photograph, 7 of the second and 31 of the third
FOLDER/test/CLASS/*.png     tiles of the right thirds
"""

import argparse
import csv
import os
import random
import sys
from pathlib import Path

os.environ["MPLBACKEND"] = "agg"  # without a notebook's own backend, matplotlib cannot be imported

import matplotlib as mpl
from PIL import Image
from sklearn.datasets import load_sample_image

sys.path.insert(0, str(Path(__file__).parent.parent))

from common import cli
from common.errors import UserError

LABELS = {"dahlia": 2, "officer": 7, "palace": 31}
LARGEST = 71  # pixels of a tile; of larger ones the palace has too few to label 31


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=cli.filepath, metavar="FOLDER", help="where to write; must not exist")
    parser.add_argument("--size", type=cli.positive_int, default=32, metavar="PIXELS", help="of a tile (default: 32)")
    args = parser.parse_args(argv)
    if args.size > LARGEST:
        raise UserError(f"--size {args.size} leaves too few tiles of the photographs: take {LARGEST} or less")
    return args


def photographs() -> dict[str, Image.Image]:
    return {
        "dahlia": Image.fromarray(load_sample_image("flower.jpg")),
        "officer": Image.open(Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"),
        "palace": Image.fromarray(load_sample_image("china.jpg")),
    }


def tiles(photograph: Image.Image, size: int) -> tuple[list[Image.Image], list[Image.Image]]:
    """The tiles that end in the left two thirds, and those that begin in the right third."""
    corners = [(x, y) for y in range(0, photograph.height - size + 1, size) for x in range(0, photograph.width, size)]
    border = photograph.width * 2 // 3
    left = [(x, y) for x, y in corners if x + size <= border]
    right = [(x, y) for x, y in corners if border <= x <= photograph.width - size]
    return tuple([photograph.crop((x, y, x + size, y + size)) for x, y in part] for part in (left, right))


def main(args):
    if os.path.lexists(args.folder):
        raise UserError(f"'{args.folder}' exists: choose another folder")
    try:
        (args.folder / "photos").mkdir(parents=True)
        write(args.folder, args.size)
    except OSError as error:
        raise UserError(f"cannot write '{error.filename}' ({error.strerror}): choose another folder") from None


def write(folder: Path, size: int) -> None:
    generator, photos = random.Random(0), []
    for name, photograph in photographs().items():
        train, test = tiles(photograph, size)
        photos += [(name, tile) for tile in train]
        (folder / "test" / name).mkdir(parents=True)
        for i, tile in enumerate(test):
            tile.save(folder / "test" / name / f"{i:03d}.png")
    generator.shuffle(photos)
    rows, left = [("path", "class")], dict(LABELS)
    for i, (name, tile) in enumerate(photos):
        tile.save(folder / "photos" / f"{i:03d}.png")
        if left[name] > 0:
            left[name] -= 1
            rows.append((f"photos/{i:03d}.png", name))
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    number = len(list(folder.glob("test/*/*")))
    print(f"'{folder}': {len(photos)} photos, {len(rows) - 1} of them labeled in labels.csv, and {number} to test with")


if __name__ == "__main__":
    cli.launch(parse_args, main)
