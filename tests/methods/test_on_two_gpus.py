"""Methods on two processes with a stand-in for a GPU each: they start, train, resume, and are one run.

In float64 and without dropout, as `tests.helpers.several.exact` has it: what is left is rounding.
"""

import importlib
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from common.networks import batch_norm
from tests.conftest import resolved, train_small
from tests.helpers.few_images import few_images
from tests.helpers.gpu.stand_in import gpu, math_attention
from tests.helpers.several import Several, exact
from tests.helpers.stops import stop_in_step
from tests.methods.test_methods import METHODS
from tests.system.test_processes import VIT, assert_near_runs

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")

SHORT = "--epochs 1 --iters-per-epoch 2"
KINDS = {"plain": "", "--ema": "--ema 0.9", "--lora": f"{VIT} --lora 2"}
# What differs on several GPUs: copies of a network, gathers, passes with frozen statistics, adapters. The rest of each
# method is tested on two processes without GPUs; tests/long/two_gpus.py has all methods in all kinds.
NAMES = ["fixmatch plain", "mean_teacher --ema", "mean_teacher --lora", "self_tuning plain", "self_tuning --ema"]
RESUMED = "self_tuning --ema"


def words(name: str) -> list[str]:
    """Method and flags of a run."""
    method, kind = name.split()
    return f"{method} {METHODS[method]} {KINDS[kind]} {SHORT}".split()


def on_own_gpu(work) -> None:
    with gpu(index=int(os.environ["RANK"]), number=2):
        work()


def train_all(names: list[str], folder: Path, device: str) -> None:
    for name in names:
        if "--lora" not in name or find_spec("peft"):
            method, *flags = words(name)
            train_small(method, *flags, "--device", device, log=folder / name)


def stopped(folder: Path) -> None:
    method, *flags = words(RESUMED)
    stop_in_step(1, method, *flags, "--device", "cuda", log=folder / "resumed")


def in_bfloat16(folder: Path) -> None:
    """And a look at what takes the statistics: a network that was not converted would train on its shares."""
    kinds, normalize = set(), torch.nn.SyncBatchNorm.forward

    def forward(norm, x):
        kinds.add(type(norm))
        assert norm.process_group is not None
        return normalize(norm, x)

    torch.nn.SyncBatchNorm.forward = forward
    train_small("fixmatch", "--precision", "bf16", *SHORT.split(), "--device", "cuda", log=folder / "bf16")
    assert kinds <= set(batch_norm.KINDS_ON_GPUS.values())
    assert len(kinds) == 1


def train_on_both(names: list[str], one: Path, two: Path) -> None:
    """Train the runs in folder `one` by one process on the CPU, and in `two` by two with a GPU each.

    In `two` there are also a run in bfloat16, and one that two processes began and one has ended.
    """

    def work() -> None:
        with exact():
            train_all(names, two, "cuda")
            stopped(two)
        in_bfloat16(two)

    if find_spec("peft"):
        importlib.import_module("peft")  # here once, and not in each process
    with few_images(), math_attention():
        resolved(METHODS["v_pet"].split())  # its sources are one process's
        both = Several(2, lambda: on_own_gpu(work))
        with exact():
            train_all(names, one, "cpu")
            both.results(3600)
            method, *flags = words(RESUMED)
            train_small(method, *flags, log=two / "resumed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    train_on_both(NAMES, one, two)
    return one, two


@pytest.mark.parametrize("name", NAMES)
def test_two_gpus_train_the_run_of_one_process(name, runs):
    if "--lora" in name:
        pytest.importorskip("peft")
    one, two = runs
    assert_near_runs(two / name, one / name)


def test_one_process_goes_on_where_two_were_stopped(runs):
    one, two = runs
    assert_near_runs(two / "resumed", one / RESUMED)
    assert "the checkpoint is of 2 processes" in (two / "resumed" / "log.txt").read_text()


def test_in_bfloat16_they_train(runs):
    assert (runs[1] / "bf16" / "result.json").exists()
