"""Every method on a GPU that is none: nothing mixes host and device, no step waits, and the numbers are the CPU's.

tests/system/test_cuda.py asks the same of a GPU, where there is one.
"""

import contextlib
import functools
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import export
import predict
from common.loading.loaders import TrainLoader
from common.networks.ema import ModelEma
from common.run import Run
from common.system import seeding
from common.training.confusion import Confusion
from common.training.meters import Meters
from tests.conftest import assert_equal_states, final_state, read_rows, train_small
from tests.helpers.few_images import few_images
from tests.helpers.gpu.stand_in import gpu, math_attention
from tests.helpers.stops import stop_in_step
from tests.methods.test_methods import METHODS

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there: see tests/system/test_cuda.py")

VIT = "-a test_vit --bottleneck-dim 1024 --no-bottleneck"
SHORT = "--epochs 1 --iters-per-epoch 2"
RUNS = {method: f"{method} {flags} {SHORT}" for method, flags in METHODS.items()} | {
    "precision": f"fixmatch --threshold 0.2 --precision bf16 --val-per-class 1 --workers 2 {SHORT}",
    "labeled statistics": f"pseudo_label --threshold 0.2 --labeled-statistics {SHORT}",
    "teacher": f"mean_teacher --eval-teacher {SHORT}",
    "rounds": f"noisy_student --rounds 2 --clean-teacher --balance {SHORT}",
    "lora": f"fixmatch {VIT} --lora 2 --ema 0.9 --optimizer adamw --lr 0.001 --layer-decay 0.7 {SHORT}",
}
RESUMED = {("cuda", "cuda"): "self_tuning", ("cuda", "cpu"): "mean_teacher", ("cpu", "cuda"): "flexmatch"}


@pytest.fixture(autouse=True, scope="module")
def _short():
    with few_images(), math_attention():
        yield


@contextlib.contextmanager
def a_gpu():
    """Within, there is one, and neither a step, nor what happens after it, nor a batch on its way, waits."""
    with gpu() as device, contextlib.ExitStack() as stack:
        steps = Run.steps

        def steps_without_waiting(*args):
            for batches in steps(*args):
                with device.no_waiting():
                    yield batches

        def without_waiting(function):
            @functools.wraps(function)
            def wrapped(*args):
                with device.no_waiting():
                    return function(*args)

            return wrapped

        stack.enter_context(mock.patch.object(Run, "steps", steps_without_waiting))
        for owner, name in ((ModelEma, "update"), (Confusion, "update"), (TrainLoader, "_on_device")):
            stack.enter_context(mock.patch.object(owner, name, without_waiting(getattr(owner, name))))
        yield device


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    """A function: the name of a run -> its folder, with what it is on the CPU."""
    folder = tmp_path_factory.mktemp("cpu")

    def trained_on_cpu(name: str) -> Path:
        if not (folder / name).exists():
            train(name, folder / name, "cpu")
        return folder / name

    return trained_on_cpu


def train(name: str, log: Path, device: str) -> None:
    method, *flags = RUNS[name].split()
    train_small(method, *flags, "--device", device, log=log)


def assert_same_numbers(log: Path, other: Path) -> None:
    states = [final_state(folder) for folder in (log, other)]
    best = [torch.load(folder / "checkpoints" / "best.pth", weights_only=True) for folder in (log, other)]
    assert_equal_states(best[0]["model"], best[1]["model"])
    for state in states:
        for key in ("args", "rng", "seconds", "sessions"):
            del state[key]
    assert_equal_states(*states)
    assert read_rows(log) == read_rows(other)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_the_cpus_numbers_and_no_step_waits(name, on_cpu, tmp_path):
    if "--lora" in RUNS[name]:
        pytest.importorskip("peft")
    expected = on_cpu(name)
    with a_gpu():
        train(name, tmp_path, "cuda")
    assert_same_numbers(tmp_path, expected)


@pytest.mark.parametrize("devices", RESUMED)
def test_a_run_goes_on_on_any_device(devices, on_cpu, tmp_path):
    """On the CPU it goes on where there is no GPU."""
    method, *flags = RUNS[RESUMED[devices]].split()
    with a_gpu():
        stop_in_step(1, method, *flags, "--device", devices[0], log=tmp_path)
    with a_gpu() if devices[1] == "cuda" else contextlib.nullcontext():
        train_small(method, *flags, "--device", devices[1], log=tmp_path)
    assert_same_numbers(tmp_path, on_cpu(RESUMED[devices]))


def test_predictions_and_tests_are_the_cpus(on_cpu, tmp_path):
    run = on_cpu("erm")
    pixels = np.random.default_rng(0).integers(256, size=(3, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")

    def found(device: str) -> tuple[str, dict]:
        flags = f"{tmp_path}/*.png --all --device {device} -j 0 -b 2 --out {tmp_path}/table.csv".split()
        predict.main(predict.parse_args([str(run), *flags]))
        tested = train_small("erm", *SHORT.split(), "--phase", "test", "--device", device, log=run)
        return (tmp_path / "table.csv").read_text(), tested

    expected = found("cpu")
    with a_gpu():
        assert found("cuda") == expected


def test_what_is_exported_is_the_cpus(on_cpu, tmp_path):
    with a_gpu():
        train("fixmatch", tmp_path, "cuda")
    for run, name in ((tmp_path, "cuda"), (on_cpu("fixmatch"), "cpu")):
        export.main(export.parse_args([str(run), str(tmp_path / f"{name}.safetensors")]))
    assert_equal_states(*(load_file(tmp_path / f"{name}.safetensors") for name in ("cuda", "cpu")))


def test_shared_random_numbers_do_not_wait():
    expected = seeding.SharedRandom(0, "mixing").permutation(5).tolist()
    with gpu() as device:
        drawn = seeding.SharedRandom(0, "mixing").to("cuda")
        with device.no_waiting():
            order = drawn.permutation(5)
            drawn.beta(0.75, 3) * drawn.uniform(3)
        assert order.is_cuda
        assert order.tolist() == expected


def test_meters_do_not_wait():
    with gpu() as device:
        meters, loss = Meters(torch.device("cuda")), torch.ones((), device="cuda")
        with device.no_waiting():
            for step in (1, 2):
                meters.update({"loss": loss, "accuracy": (loss, loss)}, step)
        assert meters.averages() == {"loss": 1.0, "accuracy": 1.0}
