"""The average of the weights: by hand, apart from the training, and tested and kept in place of the network."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import erm
from common.networks.ema import ModelEma, copy_buffers
from tests.conftest import assert_equal_states, final_state, read_rows, train_small


def test_five_steps_by_hand():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    network[2].requires_grad_(False)
    frozen = copy.deepcopy(network[2])
    average = ModelEma(network, 0.9)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.5)
    by_hand = {name: p.detach().double().numpy().copy() for name, p in network.named_parameters()}
    for _ in range(5):
        network(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        average.update(network)
        for name, p in network.named_parameters():
            by_hand[name] = 0.9 * by_hand[name] + 0.1 * p.detach().numpy()

    for name, p in average.network.named_parameters():
        np.testing.assert_allclose(p.numpy(), by_hand[name], rtol=1e-5, atol=1e-7)
        assert not p.requires_grad
    assert not torch.equal(average.network[0].weight, network[0].weight)
    for copied, buffer in zip(average.network.buffers(), network.buffers(), strict=True):
        assert torch.equal(copied, buffer)
    assert torch.equal(average.network[2].weight, frozen.weight)  # to the bit: an average of one and the same


def test_without_decay_it_is_the_network():
    network = nn.Linear(3, 4)  # has no buffers
    average = ModelEma(network, 0)
    nn.init.normal_(network.weight)
    average.update(network)
    assert torch.equal(average.network.weight, network.weight)


def test_a_decay_of_0_tests_no_second_network(tmp_path):
    train_small("erm", log=tmp_path / "plain")
    train_small("erm", "--ema", "0", log=tmp_path / "zero")
    assert_equal_states(*(final_state(tmp_path / name)["model"] for name in ("plain", "zero")))
    assert [row.keys() for row in read_rows(tmp_path / "zero")] == [row.keys() for row in read_rows(tmp_path / "plain")]


def test_buffers_are_copied_in_one_piece_for_each_type():
    """Of mixed types PyTorch copies one tensor after the other, all of them."""
    copies = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket is torch.ops.aten._foreach_copy_:
                copies.append({tensor.dtype for tensors in args for tensor in tensors})
            return func(*args, **(kwargs or {}))

    network = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    other = copy.deepcopy(network)
    network(torch.randn(8, 4))
    with Watching():
        copy_buffers(network, other)
    assert copies == [{torch.float32}, {torch.int64}]
    assert_equal_states(dict(other.named_buffers()), dict(network.named_buffers()))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of two runs that differ by --ema alone, and what the one with it returned."""
    folder = tmp_path_factory.mktemp("runs")
    train_small("erm", "--lr", "0.1", log=folder / "without")
    return folder, train_small("erm", "--lr", "0.1", "--ema", "0.7", log=folder / "with")


def test_training_does_not_notice_it(runs):
    folder, result = runs
    states = [final_state(folder / name) for name in ("without", "with")]
    for key, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][key])
    for before, row in zip(*(read_rows(folder / name) for name in ("without", "with")), strict=True):
        raw = {name: row[f"raw_{name}"] for name in ("top1", "top5", "mean_per_class", "test_loss")}
        assert raw == {name: before[name] for name in raw}
        assert row["test_loss"] != row["raw_test_loss"]
    assert result["raw_last_top1"] == row["raw_top1"]
    assert result["last_top1"] == row["top1"]


def test_it_is_what_is_kept_and_tested_again(runs):
    folder, result = runs
    rows, state = read_rows(folder / "with"), final_state(folder / "with")
    best = rows[result["best_epoch"] - 1]
    kept = torch.load(folder / "with" / "checkpoints" / "best.pth", weights_only=True)["model"]
    assert kept.keys() == state["model"].keys()  # as without it: predict.py and others need not know
    again = train_small("erm", "--lr", "0.1", "--ema", "0.7", "--phase", "test", log=folder / "with")
    assert again == {name: best[name] for name in ("top1", "top5", "mean_per_class", "test_loss")}
    flags = ["--lr", "0.1", "--ema", "0.7", "--phase", "test", "--checkpoint", "latest"]
    latest = train_small("erm", *flags, log=folder / "with")
    assert latest == {name: rows[-1][name] for name in latest}
    assert "raw_top1" in latest


def test_a_run_averages_after_every_step(tmp_path, monkeypatch):
    """By hand, over six steps in two epochs, from the first weights on."""
    weights, train_step = [], erm.train_step

    def noting(model, *args):
        if not weights:
            weights.append(model.head.weight.detach().double().numpy())
        metrics = train_step(model, *args)
        weights.append(model.head.weight.detach().double().numpy())
        return metrics

    monkeypatch.setattr(erm, "train_step", noting)
    train_small("erm", "--lr", "0.1", "--ema", "0.7", log=tmp_path / "run")
    expected, *later = weights
    for weight in later:
        expected = 0.7 * expected + 0.3 * weight
    assert len(later) == 6
    found = final_state(tmp_path / "run")["ema"]["network.head.weight"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-7)
