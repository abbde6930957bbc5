"""Does it pay to label what the network is least sure of? `predict.py --uncertain` against images at random.

    python tests/long/what_to_label.py [--draws 5] [--loops 3] [--labels 20] [--method erm] [--warm]

On scikit-learn's handwritten digits, at 16 pixels: a run is trained on two labels of each class, and then `--loops`
times `--labels` images more get their true labels, chosen by the run or at random, and it is trained again. Both ways
begin with the same labels, and all runs of one draw have the same seed. Prints the accuracy on the test images after
each loop, and the differences with their 95 % interval over the draws.
"""

import argparse
import contextlib
import csv
import io
import math
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from PIL import Image
from sklearn.datasets import load_digits

import erm
import fixmatch
import predict

METHODS = {"erm": erm, "fixmatch": fixmatch}
SIZE, FIRST = 16, 2  # pixels; labels of each class at the beginning
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}  # 97.5 % quantile, by draws


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5, choices=STUDENT, help="of the first labels (default: 5)")
    parser.add_argument("--loops", type=int, default=3, help="rounds of labeling (default: 3)")
    parser.add_argument("--labels", type=int, default=20, help="labels of each round (default: 20)")
    parser.add_argument("--steps", type=int, default=200, help="of each training (default: 200)")
    parser.add_argument("--method", choices=METHODS, default="erm", help="what is trained (default: erm)")
    parser.add_argument("--warm", action="store_true", help="train further with --init-from (default: anew)")
    return parser.parse_args(argv)


def write_images(root: Path) -> dict[str, str]:
    """The digits as files. Returns path below the root -> class of all that may be labeled."""
    digits, classes = load_digits(), {}
    for i, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        name = f"test/{label}/{i}.png" if i % 3 == 2 else f"photos/{i}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))
        image.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(root / name)
        if i % 3 != 2:
            classes[name] = str(label)
    return classes


def train(
    root: Path, labels: dict[str, str], log: Path, seed: int, args: argparse.Namespace, start: Path | None
) -> float:
    """The accuracy on the test images after the last step, in percent."""
    with open(log.with_suffix(".csv"), "w", newline="") as file:
        csv.writer(file).writerows([["path", "class"], *labels.items()])
    argv = (
        f"{root} -d ImageFolder --labeled-list {log.with_suffix('.csv')} -a wrn_10_1_half --scratch --train-resizing "
        f"native --val-resizing native --image-size {SIZE} --no-flip --epochs 1 -i {args.steps} -b 16 -j 0 --lr 0.03 "
        f"--ema 0.97 --device cpu --seed {seed} --log {log}"
    ).split()
    argv += ["--init-from", str(start)] if args.warm and start is not None else []
    script = METHODS[args.method]
    with contextlib.redirect_stdout(io.StringIO()):
        return script.main(script.parse_args(argv))["last_top1"]


def asked(run: Path, root: Path, number: int) -> list[str]:
    """The images that a run is least sure of."""
    table = run.with_suffix(".uncertain.csv")
    argv = [str(run), str(root), "--uncertain", str(number), "--out", str(table), "-j", "0", "--device", "cpu"]
    with contextlib.redirect_stderr(io.StringIO()):
        predict.main(predict.parse_args(argv))
    with open(table, newline="") as file:
        return [str(Path(row["path"]).relative_to(root)) for row in csv.DictReader(file)]


def loops(
    root: Path, classes: dict[str, str], folder: Path, seed: int, args: argparse.Namespace
) -> dict[str, list[float]]:
    """The accuracies of one draw, by way of choosing: with the first labels, and after each round of more."""
    rng = np.random.default_rng(seed)
    names = np.array(sorted(classes))
    first = [name for c in range(10) for name in rng.choice([n for n in names if classes[n] == str(c)], FIRST, False)]
    given, beginning = {str(name): classes[name] for name in first}, folder / f"first-{seed}"
    score = train(root, given, beginning, seed, args, None)
    scores: dict[str, list[float]] = {}
    for way in ("uncertain", "random"):
        labels, run, scores[way] = dict(given), beginning, [score]
        for loop in range(1, args.loops + 1):
            free = [name for name in names if name not in labels]
            chosen = asked(run, root, args.labels) if way == "uncertain" else rng.choice(free, args.labels, False)
            labels |= {str(name): classes[name] for name in chosen}
            before, run = run, folder / f"{way}-{seed}-{loop}"
            scores[way].append(train(root, labels, run, seed, args, before))
        print(f"draw {seed}, {way}: " + ", ".join(f"{score:.2f}" for score in scores[way]), flush=True)
    return scores


def main(argv=None):
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "digits"
        classes = write_images(root)
        draws = [loops(root, classes, Path(folder), seed, args) for seed in range(args.draws)]
    print("labels  uncertain     random        difference")
    for loop in range(args.loops + 1):
        ways = {way: [scores[way][loop] for scores in draws] for way in ("uncertain", "random")}
        differences = [a - b for a, b in zip(*ways.values(), strict=True)]
        shown = [f"{statistics.fmean(own):5.2f} ± {statistics.stdev(own):4.2f}" for own in ways.values()]
        half = STUDENT[args.draws] * statistics.stdev(differences) / math.sqrt(args.draws)
        number = 10 * FIRST + loop * args.labels
        print(f"{number:6}  {shown[0]}  {shown[1]}  {statistics.fmean(differences):+5.2f} ± {half:.2f}")


if __name__ == "__main__":
    main()
