"""What all tests share: a run small enough for seconds, on the real digits that ship with scikit-learn."""

import atexit
import functools
import importlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from common import cli, datasets
from common.system import log as logs
from tests.helpers import leftovers
from tests.helpers.few_images import few_images

ROOT = Path(__file__).parent.parent
UNPACKS = hasattr(tarfile, "data_filter")  # Python 3.11.4 or later
needs_tar_filter = pytest.mark.skipif(not UNPACKS, reason="this Python cannot unpack archives safely")
SMALL = (
    "data -d Digits -a wrn_10_1_half --scratch --train-resizing native --val-resizing native --bottleneck-dim 16 "
    "--epochs 2 --iters-per-epoch 3 --batch-size 8 --print-freq 2 --workers 0 --device cpu"
).split()


def pytest_addoption(parser):
    parser.addoption("--shuffle", metavar="SEED", help="run the files, and the tests of each, in another order")


def pytest_configure(config):
    leftovers.watch()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell starts with `&`; tests send the signal
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    """Tests of one file stay together when they are shuffled, since they share fixtures."""
    seed = config.getoption("shuffle")

    def place(item) -> list[float]:
        return [random.Random(f"{seed} {name}").random() for name in (item.nodeid.partition("::")[0], item.nodeid)]

    if seed is not None:
        items.sort(key=place)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)  # sums split over another number of threads differ in the last bit


@pytest.fixture(autouse=True, scope="session")
def _few_images():
    """Digits has 144 images, in this process and in those that are forked from it, but within `all_images`."""
    with few_images():
        yield


@pytest.fixture(autouse=True, scope="session")
def _quick_pictures():
    """Each run writes two PNG files; packed as small as usual, they would take a third of its time."""
    Image.init()
    save = Image.SAVE["PNG"]

    def save_quickly(image, *args):
        image.encoderinfo.setdefault("compress_level", 1)
        save(image, *args)

    with mock.patch.dict(Image.SAVE, {"PNG": save_quickly}):
        yield


@pytest.fixture(autouse=True)
def _console_of_each_test():
    """What logged to a test's own stderr is not left to log there when pytest has closed it."""
    yield
    for handler in logging.getLogger("common").handlers:
        if isinstance(handler, logs._Console):
            handler.stream = None


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """What a test draws without a generator of its own does not depend on the tests before it."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def resolved(flags: Iterable[str]) -> list[str]:
    """The flags, with the folder of a finished run of another method for `@METHOD`."""
    return [_finished(flag[1:], datasets.load) if flag.startswith("@") else flag for flag in flags]


@functools.cache
def _finished(method: str, load: Callable) -> str:
    """Its folder. `load` is what reads the images: runs of a dataset cut short are no sources of whole ones."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    train_small(method, log=Path(folder))
    return folder


def train_small(method: str, *flags: str, log: Path) -> dict:
    """Train for six steps into `log` as `python METHOD.py` would, in this process, and return the result."""
    script = importlib.import_module(method)
    argv = [*SMALL, "--log", str(log), *resolved(flags)]
    with mock.patch.object(sys, "argv", [f"{method}.py", *argv]):
        return script.main(script.parse_args(argv))


@pytest.fixture
def small_run(tmp_path):
    """`small_run("fixmatch", "--threshold", "0.1")` trains for six steps into tmp_path/run and returns the result."""

    def run(method: str, *flags: str, log: Path = tmp_path / "run") -> dict:
        return train_small(method, *flags, log=log)

    return run


@pytest.fixture
def lock_folder(monkeypatch):
    """After `lock_folder(name)`, folders of that name may not be read."""

    def lock(name: str) -> None:
        scandir = os.scandir

        def refuse(path):
            if Path(path).name == name:
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)

    return lock


@pytest.fixture
def log(monkeypatch, caplog):
    """`log.messages` are the lines logged so far; a run that went before has cut them off from pytest."""
    monkeypatch.setattr(logging.getLogger("common"), "propagate", True)
    return caplog


def read_rows(log: Path) -> list[dict]:
    """The rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (log / "metrics.jsonl").read_text().splitlines()]


def contents(log: Path) -> dict[Path, bytes]:
    """All files of a run but those that `--phase test` writes anew."""
    reports = {"report.png", "per_class.csv"}
    return {path: path.read_bytes() for path in log.rglob("*") if path.is_file() and path.name not in reports}


def final_state(log: Path) -> dict:
    """All that the latest checkpoint of a run holds."""
    return torch.load(log / "checkpoints" / "latest.pth", weights_only=True)


def assert_equal_states(a, b) -> None:
    """Bit-for-bit equality of nested dictionaries, lists and tensors."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal_states(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal_states(x, y)
    else:
        assert a == b


def assert_same_run(a: Path, b: Path) -> None:
    """Two finished runs wrote the same, but for times and for flags that change no number."""
    for name in ("latest.pth", "best.pth"):
        states = [torch.load(folder / "checkpoints" / name, weights_only=True) for folder in (a, b)]
        for state in states:
            for key in ("seconds", "sessions"):
                state.pop(key, None)
            state["args"] = {key: value for key, value in state["args"].items() if key not in cli.FREE}
        assert_equal_states(*states)
    assert read_rows(a) == read_rows(b)
    results = [json.loads((folder / "result.json").read_text()) for folder in (a, b)]
    for result in results:
        for key in ("seconds", "steps_per_second", "command", "sessions"):
            del result[key]
    assert results[0] == results[1]
    assert (a / "labeled.json").read_bytes() == (b / "labeled.json").read_bytes()
