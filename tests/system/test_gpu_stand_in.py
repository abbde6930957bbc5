"""The stand-in for a GPU refuses what a GPU refuses, sees waits and races, and has the host's gradients."""

import copy

import pytest
import torch
from torch.nn import functional as F

from tests.helpers.gpu.stand_in import gpu
from tests.helpers.gpu.streams import RaceError

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")

MIXED = {  # a GPU refuses most of these; a scalar of the host it often takes, and waits for
    "a tensor of the host": lambda x: x + torch.ones(4),
    "a scalar of the host": lambda x: torch.stack([x.sum(), torch.ones(())]),
    "a factor without a device": lambda x: x * torch.tensor(0.5),
    "lists": lambda x: torch._foreach_mul_([x], [torch.ones(4)]),
    "an index of the host": lambda x: x[torch.tensor([1, 2])],
    "another GPU": lambda x: torch.ones(4, device="cuda:1"),
}
if torch.backends.cuda.is_built():  # otherwise nobody knows of kernels
    MIXED["an operation of the host's alone"] = lambda x: torch.histogram(x, 2)
WAITING = {
    "a value": lambda x: x.sum().item(),
    "a copy into the host's memory": lambda x: torch.ones(4).copy_(x),
    "a list": lambda x: x.tolist(),
    "a branch": lambda x: x if x.any() else None,
    "a comparison": lambda x: torch.equal(x, x),
    "a selection": lambda x: x[x > 1],
    "a selection of places": lambda x: x.nonzero(),
    "a masked assignment": lambda x: x.index_put_((x > 1,), x.sum()),
    "an unknown number of classes": lambda x: F.one_hot(x.long()),
    "a copy to the host": lambda x: x.cpu(),
    "a copy to the host, ahead": lambda x: x.to("cpu", non_blocking=True),
    "a number to the device": lambda x: torch.tensor(0.5, device=x.device),
    "a copy from memory that is not pinned": lambda x: torch.ones(4).to(x.device, non_blocking=True),
    "a copy that is not ahead": lambda x: torch.ones(4).pin_memory().to(x.device),
    "an assignment from the host": lambda x: x.copy_(torch.ones(4)),
}


@pytest.mark.parametrize("function", MIXED.values(), ids=MIXED)
def test_what_a_gpu_refuses_is_an_error(function):
    with gpu(), pytest.raises((RuntimeError, NotImplementedError)):
        function(torch.arange(4.0).to("cuda"))


@pytest.mark.parametrize("function", WAITING.values(), ids=WAITING)
def test_where_nothing_may_wait_it_is_an_error(function):
    with gpu() as device:
        x = torch.arange(4.0).to("cuda")
        function(x)
        with device.no_waiting(), pytest.raises(RuntimeError, match="waits for the device"):
            function(x)


def test_what_does_not_wait_is_none():
    with gpu() as device:
        x = torch.arange(4.0).to("cuda")
        with device.no_waiting():
            pinned = torch.ones(4).pin_memory().to("cuda", non_blocking=True)
            y = torch.where(x > 1, x * 0.5, pinned)[torch.arange(3, device="cuda")]
        assert y.tolist() == [1, 1, 1]
        assert str(y.device) == "cuda:0"


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("access", ["read", "write", "overwrite"])
def test_a_stream_has_to_wait_for_another_ones_work(access, waits):
    with gpu():
        side, main = torch.cuda.Stream(), torch.cuda.current_stream(None)
        x = torch.ones(4, device="cuda")
        side.wait_stream(main)
        with torch.cuda.stream(side):
            y = x[1:] * 2 if access == "overwrite" else x.mul_(2)
        y.record_stream(main)
        if waits:
            main.wait_stream(side)
            (x + 1 if access == "read" else x.add_(1)).tolist()
        else:
            with pytest.raises(RaceError):
                x + 1 if access == "read" else x.add_(1)


@pytest.mark.parametrize("recorded", [False, True])
def test_memory_that_is_freed_while_another_stream_may_use_it_is_noticed(recorded):
    def use() -> None:
        side, main = torch.cuda.Stream(), torch.cuda.current_stream(None)
        with torch.cuda.stream(side):
            x = torch.ones(4, device="cuda")
        main.wait_stream(side)
        if recorded:
            x[:2].record_stream(main)
        x + 1

    if recorded:
        with gpu():
            use()
    else:
        with pytest.raises(AssertionError, match="freed"), gpu():
            use()


def test_gradients_are_those_of_autograds_engine():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient

    def gradients(device: str) -> list:
        torch.manual_seed(0)
        x, w, b = torch.randn(4, 3), torch.randn(3, 2), torch.randn(2)
        x, w, b = (t.to(device).requires_grad_() for t in (x, w, b))
        y = Twice.apply((x @ w + b).relu()) * w.sum()
        z, _ = y.split(1, dim=1)
        for _ in range(2):
            loss = (
                torch.where(y > 0.1, y, b**2).logsumexp(1).mean() + z.square().mean() + (x.detach() * w[:, :1].T).mean()
            )
            loss.backward() if device == "cuda" else loss.backward(retain_graph=True)
        (of_x,) = torch.autograd.grad((torch.tanh(x @ w) * x[:, :2]).sum(), x)  # and none is added
        return [t.tolist() for t in (x.grad, w.grad, b.grad, of_x)]

    with gpu():
        assert gradients("cuda") == gradients("cpu")


def test_a_network_is_moved_copied_and_kept():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    expected = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with gpu():
        copied = copy.deepcopy(network.to("cuda"))
        assert all(p.is_cuda and isinstance(p, torch.nn.Parameter) for p in copied.parameters())
        copied[0].weight.data.zero_()
        for name, tensor in network.cpu().state_dict().items():
            assert type(tensor) is torch.Tensor
            assert torch.equal(tensor, expected[name])
