"""Every method on two processes with a GPU each, none of which is one: they start, train, resume, and are one run.

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
from tests.methods.test_methods import METHODS, stop_in_step
from tests.system.test_processes import VIT, assert_near_runs

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")

SHORT = "--epochs 1 --iters-per-epoch 2"
RUNS = {f"{method} --ema": f"{method} {flags} --ema 0.9 {SHORT}" for method, flags in METHODS.items()} | {
    "fixmatch": f"fixmatch {METHODS['fixmatch']} {SHORT}",
    "mean_teacher": f"mean_teacher {SHORT}",
    "self_tuning": f"self_tuning {METHODS['self_tuning']} {SHORT}",
    "fixmatch --lora": f"fixmatch {METHODS['fixmatch']} {VIT} --lora 2 {SHORT}",
    "mean_teacher --lora --ema": f"mean_teacher {VIT} --lora 2 --ema 0.9 {SHORT}",
}
RESUMED = "self_tuning --ema"


def on_own_gpu(work) -> None:
    with gpu(index=int(os.environ["RANK"]), number=2):
        work()


def all_runs(folder: Path, device: str) -> None:
    for name, words in RUNS.items():
        if "--lora" not in name or find_spec("peft"):
            method, *flags = words.split()
            train_small(method, *flags, "--device", device, log=folder / name)


def stopped(folder: Path) -> None:
    method, *flags = RUNS[RESUMED].split()
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


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with all runs of one process on the CPU, and one with those of two with a GPU each."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))

    def work() -> None:
        with exact():
            all_runs(two, "cuda")
            stopped(two)
        in_bfloat16(two)

    if find_spec("peft"):
        importlib.import_module("peft")  # here once, and not in each process
    with few_images(), math_attention():
        resolved(METHODS["v_pet"].split())  # its sources are one process's
        both = Several(2, lambda: on_own_gpu(work))
        with exact():
            all_runs(one, "cpu")
            both.results(1200)
            method, *flags = RUNS[RESUMED].split()
            train_small(method, *flags, log=two / "resumed")
    return one, two


@pytest.mark.parametrize("name", RUNS)
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
