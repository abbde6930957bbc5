"""Time one training step of every method, in one process and in turn, on batches prepared before.

    python scripts/benchmark.py [--arch wrn_10_1] [--image-size 32] [--rounds 15] [--methods fixmatch uda ...]

`ratio` is to FixMatch, as the median over rounds of the two times of one round, so that a machine whose speed drifts
does not matter. `images` is what the method's forward and backward passes alone would cost by the number of images
(a backward pass counts as two forward passes), again relative to FixMatch.
"""

import argparse
import importlib
import inspect
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

# Images that pass forward and backward in a step, for batches of 32 + 32.
IMAGES = {
    "fixmatch": (128, 96),
    "erm": (64, 64),
    "pseudo_label": (96, 96),
    "pi_model": (128, 128),
    "mean_teacher": (128, 96),
    "uda": (128, 96),
    "self_tuning": (160, 64),
    "flexmatch": (128, 96),
    "debiasmatch": (128, 96),
    "dst": (128, 128),
}


class Captured(Exception):  # noqa: N818 (no error: it carries the arguments out of main)
    """What a script's main hands to train_one_epoch, by name."""

    def __init__(self, values: dict):
        super().__init__()
        self.values = values


def prepared_step(method: str, argv: list[str]) -> Callable[[], None]:
    """One training step of the script, with everything that its own `main` builds and a batch drawn once."""
    script = importlib.import_module(method)
    signature = inspect.signature(script.train_one_epoch)

    def capture(*arguments):
        raise Captured(signature.bind(*arguments).arguments)

    original, script.train_one_epoch = script.train_one_epoch, capture
    try:
        script.main(script.parse_args(argv))
    except Captured as captured:
        values = captured.values
    finally:
        script.train_one_epoch = original
    values["model"].train()
    for name in ("l", "u"):
        if f"loader_{name}" in values:
            values[f"batch_{name}"] = next(values[f"loader_{name}"].batches(0))
    values["weight_u"] = torch.tensor(0.1, device=values["run"].device)
    arguments = [values[name] for name in inspect.signature(script.train_step).parameters]
    return lambda: script.train_step(*arguments)


def seconds(step: Callable[[], None], steps: int) -> float:
    """Seconds per step, with the device's work done."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def expected(method: str) -> float:
    """The method's passes relative to FixMatch's."""
    forward, backward = IMAGES[method]
    return (forward + 2 * backward) / (IMAGES["fixmatch"][0] + 2 * IMAGES["fixmatch"][1])


def measure(methods: list[str], flags: list[str], rounds: int, steps: int) -> dict[str, list[float]]:
    """method -> seconds per step in each round; the first round only warms up."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = {name: prepared_step(name, [*flags, "--log", f"{folder}/{name}"]) for name in methods}
    times = {name: [] for name in methods}
    for _ in range(rounds + 1):
        for name, step in prepared.items():
            times[name].append(seconds(step, steps))
    return {name: values[1:] for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="wrn_10_1", help="default: %(default)s")
    parser.add_argument("--image-size", default="32", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=2, help="per method and round (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=IMAGES, default=list(IMAGES), help="default: all")
    args = parser.parse_args()
    methods = ["fixmatch", *(name for name in args.methods if name != "fixmatch")]
    flags = f"data -d Digits --scratch --workers 0 -a {args.arch} --image-size {args.image_size}".split()
    times = measure(methods, flags, args.rounds, args.steps)

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    print(f"\n{args.arch}, {args.image_size} px, 32 + 32 images; {device}, torch {torch.__version__}\n")
    print("| method       | ms per step | ratio | images |\n| ------------ | ----------- | ----- | ------ |")
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["fixmatch"], strict=True))
        print(f"| {name:12} | {1000 * statistics.median(values):11.1f} | {ratio:5.2f} | {expected(name):6.2f} |")


if __name__ == "__main__":
    main()
