"""What only a CUDA device shows: no step waits for it, and its numbers are the CPU's."""

import copy
import importlib
import itertools
import os
import signal
from collections.abc import Iterator

import pytest
import torch

from common.errors import Interrupted
from common.loading import augment
from common.system import seeding
from common.training.meters import Meters
from tests.conftest import final_state, read_rows, train_small
from tests.helpers import steps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CUDA = torch.device("cuda")


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """From `torch.cuda.set_sync_debug_mode("error")` in the test on, waiting for the device is an error."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("method", steps.METHODS)
def test_no_step_waits_for_the_device(no_waiting, method, precision):
    args = steps.arguments(method, *steps.small_flags(method))
    setup = steps.build(method, args, device="cuda")
    for network in (setup.model, *setup.state):
        for module in network.modules():
            if hasattr(module, "precision"):
                module.precision = precision
    meters, data = Meters(CUDA), steps.on_device(steps.batches(method), "cuda")
    meters.update(steps.train_step(setup, args, *data), 1)  # libraries set themselves up
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    for step in (2, 3):
        meters.update(steps.train_step(setup, args, *data), step)


@pytest.mark.parametrize("method", steps.METHODS)
def test_two_steps_have_the_cpus_numbers(monkeypatch, method):
    """Without dropout, whose masks differ, and without TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    args = steps.arguments(method, *steps.small_flags(method))
    cpu, cuda = (steps.build(method, args, dropout=0.0, device=device) for device in ("cpu", "cuda"))
    for own, other in zip(cuda.state, cpu.state, strict=True):
        own.load_state_dict(copy.deepcopy(other.state_dict()))
    for step in range(2):
        data = steps.batches(method, step)
        on_cpu = steps.train_step(cpu, args, *data)
        on_cuda = steps.train_step(cuda, args, *steps.on_device(data, "cuda"))
        torch.testing.assert_close(on_cuda, on_cpu, rtol=1e-3, atol=1e-4, check_device=False)
    expected = steps.everything(cpu)
    torch.testing.assert_close(steps.everything(cuda), expected, rtol=1e-3, atol=1e-4, check_device=False)


def test_the_normalizer_is_bit_equal_to_the_cpus():
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    normalizer = augment.Normalizer((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = normalizer(images)
    assert torch.equal(normalizer.to(CUDA)(images.to(CUDA)).cpu(), expected)


@pytest.mark.parametrize(("first", "second"), [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")])
@pytest.mark.parametrize("method", ["fixmatch", "self_tuning"])
def test_a_run_goes_on_where_it_was_stopped(tmp_path, monkeypatch, method, first, second):
    own = ("--K", "4", "--projection-dim", "6") if method == "self_tuning" else ()
    script, done = importlib.import_module(method), itertools.count(1)
    train_step = script.train_step

    def stopping_at_the_second(*args):
        if next(done) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(script, "train_step", stopping_at_the_second)
        with pytest.raises(Interrupted):
            train_small(method, *own, "--device", first, "--workers", "2", log=tmp_path / "run")
    train_small(method, *own, "--device", second, "--workers", "2", log=tmp_path / "run")
    assert len(read_rows(tmp_path / "run")) == 2
    assert final_state(tmp_path / "run")["step"] == 6


def test_the_devices_generator_is_restored_to_whichever_device_goes_on():
    generators = seeding.Generators(CUDA)
    torch.cuda.manual_seed_all(0)
    state = generators.state_dict()
    drawn = torch.rand(4, device=CUDA)
    generators.load_state_dict(state)
    assert torch.equal(torch.rand(4, device=CUDA), drawn)
    seeding.Generators(torch.device("cpu")).load_state_dict(state)
