"""What only a CUDA device shows: no step waits for it, and its numbers are the CPU's."""

import copy
from collections.abc import Iterator

import pytest
import torch

from common import augment
from common.meters import Meters
from tests import steps
from tests.conftest import final_state, read_rows, train_small

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
    setup.model.precision = precision
    meters, data = Meters(CUDA), steps.on_device(steps.batches(method), "cuda")
    meters.update(steps.train_step(setup, args, *data), 1)  # libraries set themselves up
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    for step in (2, 3):
        meters.update(steps.train_step(setup, args, *data), step)


@pytest.mark.parametrize("method", steps.METHODS)
def test_a_step_has_the_cpus_numbers(method):
    """Without dropout, whose masks differ."""
    args = steps.arguments(method, *steps.small_flags(method))
    cpu, cuda = (steps.build(method, args, dropout=0.0, device=device) for device in ("cpu", "cuda"))
    for own, other in zip(cuda.state, cpu.state, strict=True):
        own.load_state_dict(copy.deepcopy(other.state_dict()))
    data = steps.batches(method)
    on_cpu = steps.train_step(cpu, args, *data)
    on_cuda = steps.train_step(cuda, args, *steps.on_device(data, "cuda"))
    for name in on_cpu:
        torch.testing.assert_close(on_cuda[name], on_cpu[name], rtol=1e-3, atol=1e-4, check_device=False)


def test_the_normalizer_is_bit_equal_to_the_cpus():
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    normalizer = augment.Normalizer((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = normalizer(images)
    assert torch.equal(normalizer.to(CUDA)(images.to(CUDA)).cpu(), expected)


@pytest.mark.parametrize("method", ["fixmatch", "self_tuning"])
def test_a_run_trains_and_resumes(tmp_path, method):
    log = tmp_path / "run"
    own = ("--K", "4", "--projection-dim", "6") if method == "self_tuning" else ()
    for device in ("cuda", "cpu"):  # the same checkpoint goes on elsewhere
        train_small(method, *own, "--device", device, "--workers", "2", log=log)
        assert len(read_rows(log)) == 2
        assert final_state(log)["step"] == 6
        (log / "result.json").unlink()
