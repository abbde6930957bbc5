"""What only a CUDA device shows: no step waits for it, and its numbers are the CPU's."""

import copy
from collections.abc import Iterator

import pytest
import torch

from common import augment
from common.loaders import Batch
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


def on_device(batches: tuple[Batch, ...]) -> tuple[Batch, ...]:
    return tuple(
        Batch(tuple(view.to(CUDA) for view in batch.views), batch.labels.to(CUDA), batch.indices.to(CUDA))
        for batch in batches
    )


def flags(method: str) -> list[str]:
    return ["--bottleneck-dim", "8"] + (["--K", "4", "--projection-dim", "6"] if method == "self_tuning" else [])


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("method", steps.METHODS)
def test_no_step_waits_for_the_device(no_waiting, method, precision):
    args = steps.arguments(method, *flags(method))
    setup = steps.build(method, args)
    setup.model.precision = precision
    for module in (setup.model, *setup.state):
        module.to(CUDA)
    meters, data = Meters(CUDA), on_device(steps.batches(method))
    meters.update(steps.train_step(setup, args, *data), 1)  # libraries set themselves up
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    for step in (2, 3):
        meters.update(steps.train_step(setup, args, *data), step)


@pytest.mark.parametrize("method", steps.METHODS)
def test_a_step_has_the_cpus_numbers(method):
    """Without dropout, whose masks differ."""
    args = steps.arguments(method, *flags(method))
    setups = [steps.build(method, args, dropout=0.0) for _ in range(2)]
    for own, other in zip(setups[1].state, setups[0].state, strict=True):
        own.load_state_dict(copy.deepcopy(other.state_dict()))
    for module in (setups[1].model, *setups[1].state):
        module.to(CUDA)
    data = steps.batches(method)
    on_cpu, on_cuda = steps.train_step(setups[0], args, *data), steps.train_step(setups[1], args, *on_device(data))
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
