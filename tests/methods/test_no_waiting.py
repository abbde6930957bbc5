"""No step of any method waits for its device: tried on PyTorch's device `meta`, whose tensors have no values.

There, on any machine, it is an error to ask for a value: `.item()`, `if tensor:`, a boolean mask as an index.
tests/system/test_cuda.py asks the same of a CUDA device, where there is one.
"""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.training.confusion import Confusion
from common.training.meters import Meters
from tests.helpers import steps


class NoWaiting(TorchDispatchMode):
    """Refuses what `meta` lets pass although a GPU would be waited for: tensors of the host, masks as indices."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        assert all(tensor.is_meta for tensor in tensors), f"{func} has a tensor of the host"
        if func.overloadpacket in (torch.ops.aten.index_put, torch.ops.aten.index_put_):
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            assert not masks, f"{func} has a mask as an index"
        return result


@pytest.fixture
def no_waiting(monkeypatch):
    """From the call of what it gives on, waiting is an error."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # unknown to `meta`

    def copies(*args, **kwargs):
        raise AssertionError("a value of the host is copied to the device, and waited for")

    def begin():
        for name in ("tensor", "as_tensor"):
            monkeypatch.setattr(torch, name, copies)
        return NoWaiting()

    return begin


WITH_FLAGS = [
    *(("pseudo_label", "--labeled-statistics"), ("pi_model", "--labeled-statistics --one-sided")),
    *(("mean_teacher", "--labeled-statistics"), ("fixmatch", "--joint-passes")),
]


@pytest.mark.parametrize(("method", "flags"), [*((method, "") for method in steps.METHODS), *WITH_FLAGS])
def test_no_step_waits_for_its_device(no_waiting, method, flags):
    args = steps.arguments(method, *steps.small_flags(method), *flags.split())
    setup = steps.build(method, args, device="meta")
    meters, data = Meters(torch.device("meta")), steps.on_device(steps.batches(method), "meta")
    with no_waiting():
        for step in (1, 2, 3):
            meters.update(steps.train_step(setup, args, *data), step)


def test_counting_confusions_does_not_wait(no_waiting):
    meta = torch.device("meta")
    confusion, logits = Confusion(10, torch.arange(64), meta), torch.empty(32, 10, device=meta)
    labels = torch.empty(32, dtype=torch.int64, device=meta)
    with no_waiting():
        for _ in range(2):
            confusion.update(logits, labels)


VECTOR = torch.ones(4, device="meta")
WAITING = {
    "value": lambda: VECTOR.sum().item(),
    "branch": lambda: bool(VECTOR.any()),
    "selection": lambda: VECTOR[VECTOR > 0],
    "masked assignment": lambda: VECTOR.index_put_((VECTOR > 0,), VECTOR),
    "copy to the host": VECTOR.cpu,
    "copy to the device": lambda: torch.ones(4).to("meta"),
    "number to the device": lambda: torch.tensor(0.5, device="meta"),
    "host's scalar": lambda: VECTOR * torch.ones(()),
    "unknown number of classes": lambda: torch.nn.functional.one_hot(VECTOR.long()),
}


@pytest.mark.parametrize("function", WAITING.values(), ids=WAITING)
def test_whatever_waits_is_noticed(no_waiting, function):
    with pytest.raises((RuntimeError, NotImplementedError, AssertionError)), no_waiting():
        function()
