"""Passes that leave BatchNorm's running statistics: against numbers worked out by hand, for every kind of BatchNorm.

BatchNorm over several processes is in tests/system/test_processes.py.
"""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from common.networks import adapters, batch_norm
from common.networks.batch_norm import WholeBatchNorm, WholeBatchNormAct, frozen_statistics
from common.networks.ema import ModelEma
from common.system import processes
from common.system.processes import groups
from tests.conftest import assert_equal_states
from tests.helpers.several import Several


def on_gpus(norm: nn.Module) -> nn.Module:
    norm.__class__ = batch_norm.KINDS_ON_GPUS[type(norm)]
    return norm


KINDS = {
    "1d": lambda: nn.BatchNorm1d(3),
    "2d, cumulative": lambda: nn.BatchNorm2d(3, momentum=None),
    "timm's": lambda: BatchNormAct2d(3, apply_act=False),
    "torch's for several GPUs": lambda: on_gpus(nn.BatchNorm2d(3)),
    "timm's for several GPUs": lambda: on_gpus(BatchNormAct2d(3, apply_act=False)),
    "ours for several processes": lambda: WholeBatchNorm(3),
    "ours for several processes, as timm's": lambda: WholeBatchNormAct(3, apply_act=False),
}


def batch(kind: str) -> torch.Tensor:
    shape = (8, 3) if kind == "1d" else (8, 3, 5, 2)
    return 2 + 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_batch_is_normalised_by_its_own_statistics_which_leave_no_trace(kind):
    model, x = nn.Sequential(KINDS[kind]()), batch(kind)
    before = copy.deepcopy(model.state_dict())
    with frozen_statistics(model, True):
        y = model(x)
    assert_equal_states(before, model.state_dict())

    wide, dims = x.double().numpy(), (0, *range(2, x.ndim))
    mean, variance = wide.mean(dims, keepdims=True), wide.var(dims, keepdims=True)
    np.testing.assert_allclose(y.detach().numpy(), (wide - mean) / np.sqrt(variance + 1e-5), rtol=1e-5, atol=1e-6)

    model(x)
    assert model[0].num_batches_tracked == 1
    momentum = 0.1 if model[0].momentum else 1
    np.testing.assert_allclose(model[0].running_mean.numpy(), momentum * mean.ravel(), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same_bits(kind):
    gradients = []
    for kept in (False, True):
        model, x = nn.Sequential(KINDS[kind]()), batch(kind).requires_grad_()
        with frozen_statistics(model, kept):
            model(x).pow(3).sum().backward()
        gradients.append([x.grad, *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_in_eval_mode_the_running_statistics_are_read(kind):
    """Also by a single one that stays in eval mode in a network that trains, as under adapters."""
    model, x = nn.Sequential(KINDS[kind]()), batch(kind)
    model(x)
    expected = model.eval()(x)
    model.training = True
    with frozen_statistics(model, True):
        assert torch.equal(model(x), expected)


def test_one_without_running_statistics_stays_without():
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3))
    with frozen_statistics(model, True):
        model(batch("1d"))
    assert [norm.track_running_stats for norm in model] == [False, True]


def test_an_error_within_leaves_the_network_as_it_was():
    model = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="expected 2D"), frozen_statistics(model, True):
        model(torch.zeros(2, 3, 4, 5))
    assert model[0].track_running_stats


class Mobile(nn.Module):
    """A backbone with BatchNorms of both kinds, and a place for LoRA."""

    def __init__(self):
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(3), BatchNormAct2d(3)
        self.block = nn.ModuleDict({"qkv": nn.Linear(3, 6)})

    def forward(self, x):
        return self.block["qkv"](self.act(self.norm(x)).mean((2, 3)))


def converted(lora: bool) -> list:
    """Over two processes that take their group for one of GPUs; the network, and a copy of it, with its state."""
    processes.join()
    groups._State.nccl_group = dist.group.WORLD
    torch.manual_seed(0)
    backbone = Mobile()
    if lora:
        adapters.insert(backbone, 8, lora=2)
    before = {name: tensor.clone() for name, tensor in (*backbone.named_parameters(), *backbone.named_buffers())}
    batch_norm.over_processes(backbone)
    network = ModelEma(backbone, 0.9).network
    after = dict((*network.named_parameters(), *network.named_buffers()))
    groups._State.nccl_group = None
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    return [type(norm).__name__ for norm in (network.norm, network.act)]


@pytest.mark.parametrize("lora", [False, True])
def test_on_several_gpus_a_network_can_be_copied_and_what_is_frozen_stays(lora):
    if lora:
        pytest.importorskip("peft")
    kinds = ["BatchNorm2d", "BatchNormAct2d"] if lora else ["GpuBatchNorm", "GpuBatchNormAct"]
    assert Several(2, lambda: converted(lora)).results() == [kinds, kinds]


@pytest.mark.parametrize("kind", ["torch's for several GPUs", "timm's for several GPUs"])
def test_on_gpus_it_talks_over_their_group(monkeypatch, kind):
    """Over the default one, which goes through the host, a pass would fail."""
    monkeypatch.setattr(groups._State, "nccl_group", "their group")
    assert KINDS[kind]().process_group == "their group"
