"""Where some classes have ten times as many labels as others: does `--balanced-batches` help?

    python tests/long/uneven_labels.py {fashion_mnist,cifar10} IMAGES [--weights FILE] [--draws 3] [--steps 200]

As label.sh trains, but with a rate that hardly falls, on 3,000 images of ten equally frequent classes, 40 of them
labeled: 10 of one class, 1 of another.
With `--as-uneven` the classes of the photos are as uneven as those of the labels, and there are fewer photos.
Each method is trained with and without the flag on the same labels. Prints the accuracy on the photos without a label,
the largest share that a class has of the predictions, and the mean difference with its 95 % interval over the draws.
IMAGES as in labeling.py.
"""

import argparse
import csv
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np

from scripts import label
from scripts.labeling import planning
from scripts.results import intervals
from tests.long import labeling

LABELS = (10, 8, 6, 4, 3, 3, 2, 2, 1, 1)
METHODS = label.METHODS | {"fixmatch": "--lr 0.01 --threshold 0.7", "softmatch": "--lr 0.01"}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", choices=["fashion_mnist", "cifar10"], help="what is on the photos")
    parser.add_argument("root", type=Path, metavar="IMAGES", help="where they are")
    parser.add_argument("--weights", type=Path, help="backbone file (default: timm downloads it)")
    parser.add_argument("--as-uneven", action="store_true", help="photos whose classes are as uneven as the labels")
    parser.add_argument("--draws", type=int, default=3, help="of photos and labels (default: 3)")
    parser.add_argument("--steps", type=int, default=200, help="of each training (default: 200)")
    return parser.parse_args(argv)


def thinned(folder: Path, draw: int, truth: dict[str, str]) -> dict[str, str]:
    """Remove photos without a label, so that the classes are as frequent as among the labels. Returns what is left."""
    with open(folder / "labels.csv", newline="") as file:
        numbers = Counter(row["class"] for row in csv.DictReader(file))
    rng, kept = np.random.default_rng(draw), {}
    for name, number in numbers.items():
        own = sorted(photo for photo, found in truth.items() if found == name)
        kept |= dict.fromkeys(map(str, rng.choice(own, len(own) * number // max(LABELS), False)), name)
    for photo in truth.keys() - kept.keys():
        (folder / "photos" / photo).unlink()
    return kept


def train(args, folder: Path, method: str, draw: int, truth: dict[str, str], flag: str) -> tuple[float, float]:
    """The accuracy, and the share of the class that is predicted most, in percent."""
    steps = str(args.steps // planning.EPOCHS)
    flags = [*METHODS[method].split(), "--epochs", str(planning.EPOCHS), "-i", steps]
    accuracy = labeling.predicted(labeling.train(args, folder, draw, method, flags, [flag]), folder, truth)
    with open(folder / "table.csv", newline="") as file:
        classes = Counter(row["class"] for row in csv.DictReader(file))
    return accuracy, 100 * max(classes.values()) / classes.total()


def main(argv=None):
    args = parse_args(argv)
    gains: dict[str, list[float]] = {method: [] for method in METHODS}
    with tempfile.TemporaryDirectory() as temporary:
        for draw in range(args.draws):
            folder = Path(temporary) / str(draw)
            truth = labeling.write_photos(args, draw, folder, LABELS)
            if args.as_uneven:
                truth = thinned(folder, draw, truth)
            for method in METHODS:
                plain, share = train(args, folder, method, draw, truth, "--no-balanced-batches")
                balanced, other = train(args, folder, method, draw, truth, "--balanced-batches")
                gains[method].append(balanced - plain)
                print(
                    f"draw {draw}, {method}: {plain:.1f} (largest class: {share:.0f} %), with --balanced-batches "
                    f"{balanced:.1f} ({other:.0f} %)",
                    flush=True,
                )
    for method, own in gains.items():
        print(f"{method}: {statistics.fmean(own):+.1f} ± {intervals.half_width(own):.1f}")


if __name__ == "__main__":
    main()
