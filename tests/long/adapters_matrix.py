"""Train every script in ViTs without and with adapters, in both precisions, and see whether anything differs.

    python tests/long/adapters_matrix.py [--methods fixmatch dst ...]

Each combination of script, network, adapter and precision trains for three steps on a hundred of the digits and tests
on forty, once undisturbed and once interrupted within the epoch and continued. Both must end with the same bits, and
`--phase test` must give the scores that the run recorded: exactly, but for LoRA merged into the weights of best.pth,
which rounds. Exit code 1 if anything differs.
"""

import argparse
import contextlib
import io
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from common import datasets
from tests import conftest
from tests.conftest import assert_same_run, read_rows, train_small
from tests.helpers.stops import stop_in_step
from tests.methods.test_methods import METHODS

NETWORKS = ("test_vit", "vit_tiny_patch16_224")
ADAPTERS = ("", "--lora 2", "--adapter 4")
ROUNDING = {"float32": 1e-4, "bf16": 1e-2}  # of the loss, once LoRA is merged
STEPS = "--optimizer adamw --lr 0.001 --epochs 1 --iters-per-epoch 3".split()
EACH = {"train": 10, "test": 4}  # images per class: bfloat16 is slow on many a CPU


def write_digits(root: Path) -> None:
    """A folder of a few digits, as ImageFolder reads them."""
    data = datasets.load("Digits", "data")
    for part, images in (("train", data.train), ("test", data.test)):
        for number, name in enumerate(data.classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in (images.labels == number).nonzero()[0][: EACH[part]]:
                images.load(int(index)).save(folder / f"{index}.png")


def combinations(methods: list[str]) -> Iterator[tuple[str, str]]:
    """(method, flags) of each."""
    for method, network, adapter, precision in itertools.product(methods, NETWORKS, ADAPTERS, ROUNDING):
        yield method, " ".join(f"-a {network} {adapter} --precision {precision}".split())


def check(method: str, flags: list[str], folder: Path) -> None:
    """Train, interrupt, continue and test.

    Raises:
        AssertionError: two runs differ, or a score is not the one that was recorded.
    """
    whole, parts = folder / "whole", folder / "parts"
    train_small(method, *flags, log=whole)
    stop_in_step(2, method, *flags, log=parts)
    train_small(method, *flags, log=parts)
    assert_same_run(whole, parts)
    recorded = read_rows(whole)[-1]
    latest, best = (train_small(method, *flags, *testing(name), log=whole) for name in ("latest", "best"))
    assert {name: recorded[name] for name in latest} == latest
    rounding = ROUNDING[flags[flags.index("--precision") + 1]] if "--lora" in flags else 0
    assert best["test_loss"] == pytest.approx(recorded["test_loss"], rel=rounding, abs=0)


def testing(checkpoint: str) -> tuple[str, ...]:
    return "--phase", "test", "--checkpoint", checkpoint


def failure(method: str, flags: str) -> str | None:
    """What went wrong with a combination, in a line; None where nothing did."""
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            check(method, [*STEPS, *METHODS[method].split(), *flags.split()], Path(folder))
    except (Exception, pytest.fail.Exception) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # sums split over another number of threads differ in the last bit
    with tempfile.TemporaryDirectory() as root:
        write_digits(Path(root))
        small = [root, "-d", "ImageFolder", *conftest.SMALL[conftest.SMALL.index("-a") :], "--image-size", "32"]
        with mock.patch.object(conftest, "SMALL", small):
            passed = [report(method, flags) for method, flags in combinations(args.methods)]
    print(f"{sum(passed)} of {len(passed)} combinations train, continue to the same bits, and test as recorded")
    return int(not all(passed))


def report(method: str, flags: str) -> bool:
    """Whether all is well with a combination; a line says what is not."""
    wrong = failure(method, flags)
    if wrong is not None:
        print(f"{method} {flags} FAILED: {wrong[:500]}", flush=True)
    return wrong is None


if __name__ == "__main__":
    sys.exit(main())
