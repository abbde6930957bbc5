"""Which epoch's network to keep: the one that a few held-out images choose, or the last one?

    python tests/long/which_epoch.py [--draws 5] [--subsets 500]

On Digits, with 4 labels of each class: ERM and FixMatch with four learning rates, 8 epochs of 25 steps, and 10 images
of each class held out. Every epoch's predictions of them are kept. Then 1, 2, 5 or all 10 images of each class choose
an epoch, of equal ones the latest, in `--subsets` random subsets each. Prints the accuracy on the test images of the
chosen epoch less that of the last: its mean over all runs, with the 95 % interval over the draws of labels, and how
often the chosen epoch is worse and better. Takes fifteen minutes of CPU time.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import erm
import fixmatch
from common.training import confusion, evaluate
from scripts.results import intervals

METHODS, RATES = (erm, fixmatch), ("0.003", "0.01", "0.03", "0.1")
HELD_OUT, NUMBERS = 10, (1, 2, 5, 10)  # images of each class: kept, and choosing


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5, help="of labels and held-out images (default: 5)")
    parser.add_argument("--subsets", type=int, default=500, help="of the held-out images (default: 500)")
    return parser.parse_args(argv)


def train(script: Any, rate: str, seed: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Train once.

    Returns:
        The test accuracy after each epoch in percent [epochs]; and whether each held-out image was recognised, bool
        [epochs, classes, HELD_OUT].
    """
    tested, recognised = [], []
    original = evaluate.evaluate

    def noting(model, loader, num_classes, *counters):
        own = confusion.Predictions(loader.number, loader.order, loader.device)
        scores = original(model, loader, num_classes, own, *counters)
        if loader.number == HELD_OUT * num_classes:
            labels = np.concatenate([labels.numpy() for _, labels in loader])
            order = np.argsort(loader.order.numpy())
            recognised.append((own.read() == labels[order], labels[order]))
        else:
            tested.append(scores["top1"])
        return scores

    argv = (
        f"unused -d Digits -a wrn_10_1_half --scratch --train-resizing native --val-resizing native --epochs 8 -i 25 "
        f"--val-per-class {HELD_OUT} --lr {rate} --seed {seed} -j 0 --device cpu "
        f"--log {folder / f'{script.__name__}{rate}{seed}'}"
    ).split()
    with contextlib.redirect_stdout(io.StringIO()), mock.patch.object(evaluate, "evaluate", noting):
        script.main(script.parse_args(argv))
    by_class = np.argsort(recognised[0][1], kind="stable")
    return np.array(tested), np.stack([right[by_class].reshape(-1, HELD_OUT) for right, _ in recognised])


def gains(
    tested: np.ndarray, recognised: np.ndarray, number: int, subsets: int, rng: np.random.Generator
) -> np.ndarray:
    """Test accuracy of the epoch that `number` images of each class choose, less that of the last: [subsets]."""
    found = []
    for _ in range(subsets):
        chosen = rng.permuted(np.broadcast_to(np.arange(HELD_OUT), recognised.shape[1:]), axis=1)[:, :number]
        scores = np.take_along_axis(recognised, chosen[None], axis=2).sum(axis=(1, 2))
        epoch = len(scores) - 1 - int(scores[::-1].argmax())
        found.append(tested[epoch] - tested[-1])
    return np.array(found)


def main(argv=None):
    args = parse_args(argv)
    rng = np.random.default_rng(0)
    found: dict[int, list[np.ndarray]] = {number: [] for number in NUMBERS}  # a row of runs x subsets for each draw
    best = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.draws):
            runs = [train(script, rate, seed, Path(folder)) for script in METHODS for rate in RATES]
            for number in NUMBERS:
                found[number].append(np.stack([gains(*run, number, args.subsets, rng) for run in runs]))
            best.append(np.mean([tested.max() - tested[-1] for tested, _ in runs]))
            print(f"draw {seed}: last epochs {', '.join(f'{tested[-1]:.1f}' for tested, _ in runs)}", flush=True)
    print("images of each class  chosen less last, points  worse by 1  better by 1")
    for number, draws in found.items():
        means = [draw.mean() for draw in draws]
        half = intervals.quantile(2, args.draws - 1) * np.std(means, ddof=1) / np.sqrt(args.draws)
        every = np.concatenate(draws)
        shown = f"{np.mean(means):+5.2f} ± {half:.2f}"
        print(f"{number:20}  {shown:>24}  {100 * (every <= -1).mean():8.1f} %  {100 * (every >= 1).mean():9.1f} %")
    print(f"the best epoch on the test images: {np.mean(best):+.2f}")


if __name__ == "__main__":
    main()
