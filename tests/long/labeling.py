"""Does label.sh keep its word? Its minutes, its estimate, and its choice, against labels that it never sees.

    python tests/long/labeling.py {fashion_mnist,cifar10} IMAGES [--weights FILE] [--minutes 20] [--draws 1] [--kill]
        [--singles] [--bottleneck]

For each draw, a folder of 3,000 images gets 40 labels, of one class 8 and of another 1, and `label.sh` is called for so
many minutes. IMAGES is FashionMNIST's root, as the training scripts take it, or a folder CLASS/*.jpg of CIFAR-10.

--kill       kill it after a third of the minutes, and call it again
--singles    then train every method alone on all labels, with as many steps as the final run
--bottleneck the same with a bottleneck, which label.sh leaves out

Prints for each draw how long it took, the method, the accuracy that it estimates with its interval, and the true one on
the photos without a label; the true one of the methods' trials; and at the end, how often the interval held it.
"""

import argparse
import contextlib
import csv
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from torchvision.datasets import FashionMNIST

import predict
from common import datasets
from scripts import label
from scripts.labeling import planning

PROJECT = Path(__file__).resolve().parent.parent.parent
PHOTOS = 3000
LABELS = (8, 7, 6, 5, 4, 3, 2, 2, 2, 1)  # of the classes, in a random order


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", choices=["fashion_mnist", "cifar10"], help="what is on the photos")
    parser.add_argument("root", type=Path, metavar="IMAGES", help="where they are")
    parser.add_argument("--weights", type=Path, help="backbone file (default: timm downloads it)")
    parser.add_argument("--minutes", type=float, default=20, help="for each call (default: 20)")
    parser.add_argument("--draws", type=int, default=1, help="of photos and labels (default: 1)")
    parser.add_argument("--first", type=int, default=0, help="number of the first draw (default: 0)")
    parser.add_argument("--kill", action="store_true", help="after a third of the minutes, and go on")
    parser.add_argument("--singles", action="store_true", help="train every method alone, too")
    parser.add_argument("--bottleneck", action="store_true", help="the same with a bottleneck")
    parser.add_argument("--out", type=Path, default=Path("labeling"), help="where all goes (default: labeling)")
    return parser.parse_args(argv)


def write_photos(args, draw: int, folder: Path, numbers: Sequence[int] = LABELS) -> dict[str, str]:
    """Photos, and a list of labels beside them. Returns name -> class of those without a label.

    Args:
        numbers: of labels of the classes, in a random order.
    """
    rng = np.random.default_rng(draw)
    photos, truth = folder / "photos", {}
    photos.mkdir(parents=True)
    if args.images == "fashion_mnist":
        source = FashionMNIST(args.root, train=True)
        for i in rng.choice(len(source), PHOTOS, False):
            image, target = source[i]
            image.save(photos / f"{i}.png")
            truth[f"{i}.png"] = source.classes[target].replace("/", "-")
    else:
        files = sorted(args.root.glob("*/*.jpg"))
        for i in rng.choice(len(files), PHOTOS, False):
            name = f"{i}.jpg"
            shutil.copy(files[i], photos / name)
            truth[name] = files[i].parent.name
    labels = {}
    for name, number in zip(rng.permutation(sorted(set(truth.values()))), numbers, strict=True):
        own = [photo for photo, found in truth.items() if found == name]
        labels |= dict.fromkeys(map(str, rng.choice(own, number, False)), str(name))
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "class"], *labels.items()])
    return {name: found for name, found in truth.items() if name not in labels}


def call(args, folder: Path, draw: int) -> float:
    """Call label.sh, twice if it is to be killed. Returns the seconds of both."""
    words = ["bash", "scripts/label.sh", folder / "photos", folder / "labels.csv", f"{args.minutes:g}"]
    words += ["--out", folder / "labeled", "--seed", str(draw)]
    environment = os.environ | {"PYTHON": sys.executable}
    if args.weights:
        environment["WEIGHTS"] = str(args.weights.resolve())
    started = time.monotonic()
    with open(folder / "log.txt", "a") as log:
        process = subprocess.Popen(
            list(map(str, words)), cwd=PROJECT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        if args.kill:
            try:
                process.wait(20 * args.minutes)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process = subprocess.Popen(list(map(str, words)), cwd=PROJECT, env=environment, stdout=log, stderr=log)
        if process.wait():
            raise SystemExit(f"label.sh failed: see '{folder / 'log.txt'}'")
    return time.monotonic() - started


def score(table: Path, truth: dict[str, str]) -> float:
    """The share of photos without a label that a table of predictions names rightly, in percent."""
    with open(table, newline="") as file:
        found = {Path(row["path"]).name: row["class"] for row in csv.DictReader(file)}
    return 100 * float(np.mean([found[name] == true for name, true in truth.items()]))


def estimated(reported: str) -> list[tuple[float, float, float]]:
    """The accuracies and their intervals, by a line of label.sh: for the labels' classes, and for even ones."""
    plain = re.search(r"probably (\d+) % .*interval: (\d+) to (\d+)\)", reported)
    even = re.search(r"; (\d+) % \((\d+) to (\d+)\) if all classes", reported) or plain
    if plain is None:
        raise SystemExit(f"no estimate: {reported}")
    return [(float(x[1]), float(x[2]), float(x[3])) for x in (plain, even)]


def tried(folder: Path, methods: list[str], truth: dict[str, str]) -> dict[str, float]:
    """method -> the mean accuracy of the networks of its trials, in percent."""
    found = {}
    for method in methods:
        parts = sorted((folder / "labeled" / "runs" / "trials" / method).iterdir())
        found[method] = float(np.mean([predicted(part, folder, truth) for part in parts]))
    return found


def predicted(run: Path, folder: Path, truth: dict[str, str]) -> float:
    """The accuracy of a run's network, in percent."""
    table = folder / "table.csv"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        predict.main(predict.parse_args([str(run), str(folder / "photos"), "--out", str(table)]))
    return score(table, truth)


def train(
    args, folder: Path, draw: int, method: str, flags: Sequence[str], more: Sequence[str] = (), bottleneck: bool = False
) -> Path:
    """Train a method on all labels, as label.sh does. Returns the folder of the run.

    Args:
        flags: of the training: the method's own, epochs and steps.
        more: flags of label.sh.
        bottleneck: which label.sh leaves out.
    """
    words = [str(folder / "photos"), str(folder / "labels.csv"), "--seed", str(draw), *more]
    asked = label.parse_args(words + (["--weights", str(args.weights.resolve())] if args.weights else []))
    data = datasets.load("ImageFolder", folder / "photos", labeled_list=folder / "labels.csv")
    name = "-".join([method, *more, *(["bottleneck"] if bottleneck else [])])
    run, script = folder / "alone" / name, importlib.import_module(method)
    shared = [
        word
        for word in label.common_flags(asked, label.size_flags(asked, data))
        if not bottleneck or word != "--no-bottleneck"
    ]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        script.main(script.parse_args([*shared, *flags, "--log", str(run)]))
    return run


def singles(
    args, folder: Path, draw: int, steps: int, truth: dict[str, str], bottleneck: bool = False
) -> dict[str, float]:
    """method -> the accuracy that it reaches on all labels, in percent."""
    flags = {method: label.training([], method, planning.EPOCHS, steps) for method in label.METHODS}
    runs = {method: train(args, folder, draw, method, own, bottleneck=bottleneck) for method, own in flags.items()}
    return {method: predicted(run, folder, truth) for method, run in runs.items()}


def main(argv=None):
    args = parse_args(argv)
    inside = np.zeros(2, dtype=int)
    for draw in range(args.first, args.first + args.draws):
        folder = args.out.resolve() / f"{args.images}-{draw}"
        truth = write_photos(args, draw, folder)
        seconds = call(args, folder, draw)
        facts = json.loads((folder / "labeled" / "label.json").read_text())
        found, true = estimated(facts["reported"][2]), score(folder / "labeled" / "predictions.csv", truth)
        inside += [low <= true <= high for _, low, high in found]
        said = ", for even classes ".join(f"{accuracy:.0f} ({low:.0f} to {high:.0f})" for accuracy, low, high in found)
        print(
            f"draw {draw}: {seconds / 60:.1f} minutes, {facts['chosen']} of {', '.join(facts['plan']['methods'])}, "
            f"{facts['done']} parts, {facts['final_steps']} steps, estimated {said}, true {true:.1f}",
            flush=True,
        )
        accuracies = tried(folder, facts["plan"]["methods"], truth)
        print("  trials: " + ", ".join(f"{method} {each:.1f}" for method, each in accuracies.items()), flush=True)
        for bottleneck in [False] * args.singles + [True] * args.bottleneck:
            alone = singles(args, folder, draw, facts["final_steps"], truth, bottleneck)
            shown = ", ".join(f"{method} {each:.1f}" for method, each in alone.items())
            print(f"  alone{', with a bottleneck' if bottleneck else ''}: {shown}", flush=True)
    print(f"the intervals held the true accuracy in {inside[0]} and, for even classes, {inside[1]} of {args.draws}")


if __name__ == "__main__":
    main()
