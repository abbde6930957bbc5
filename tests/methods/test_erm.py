"""ERM's step against NumPy, and the oracle's data."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import erm
from common.loading.loaders import Batch
from tests.conftest import assert_equal_states, final_state
from tests.helpers.few_images import TRAIN
from tests.helpers.reference import SpyModel, cross_entropy, cross_entropy_gradient, parameters


def batch(size: int = 6) -> Batch:
    g = torch.Generator().manual_seed(0)
    views = tuple(torch.randn(size, 2, generator=g) for _ in range(2))
    return Batch(views, torch.randint(3, (size,), generator=g), torch.arange(size))


def step(model: nn.Module, data: Batch, weight_of_strong: float = 0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return erm.train_step(model, optimizer, data, SimpleNamespace(trade_off_cls_strong=weight_of_strong))


@pytest.mark.parametrize("weight_of_strong", [0.0, 0.1, 2.0])
def test_step_is_numpys(weight_of_strong):
    """One plain SGD step of a linear model, worked by hand."""
    torch.manual_seed(0)
    model = nn.Linear(2, 3).double()
    weight, bias = (p.detach().clone().numpy() for p in model.parameters())
    data = batch()._replace(views=tuple(v.double() for v in batch().views))
    metrics = step(model, data, weight_of_strong)

    loss, d_weight, d_bias = 0.0, 0.0, 0.0
    labels = data.labels.numpy()
    for x, factor in zip((v.numpy() for v in data.views), (1, weight_of_strong), strict=True):
        z = x @ weight.T + bias
        loss += factor * np.mean([cross_entropy(z[i], labels[i]) for i in range(6)])
        dz = factor * cross_entropy_gradient(z, labels) / 6
        d_weight, d_bias = d_weight + dz.T @ x, d_bias + dz.sum(axis=0)
    assert metrics["loss"].item() == pytest.approx(loss)
    assert np.allclose(model.weight.detach(), weight - 0.1 * d_weight)
    assert np.allclose(model.bias.detach(), bias - 0.1 * d_bias)
    accuracy = 100 * np.mean((data.views[0].numpy() @ weight.T + bias).argmax(axis=1) == labels)
    assert metrics["accuracy_l"].item() == pytest.approx(accuracy)


def test_passes_are_separate_in_order_and_in_train_mode():
    model, alone = SpyModel(), SpyModel()
    step(model, batch())
    assert len(model.inputs) == 2
    assert all(map(torch.equal, model.inputs, batch().views))
    assert model.modes == [True, True]
    for view in batch().views:
        alone(view)
    assert torch.equal(model.bn.running_mean, alone.bn.running_mean)
    assert torch.equal(model.bn.running_var, alone.bn.running_var)


def test_strong_weight_matters():
    a, b = SpyModel(), SpyModel()
    step(a, batch(), 0.1)
    step(b, batch(), 0.2)
    assert not torch.equal(parameters(a), parameters(b))


def test_gradients_of_the_step_before_are_forgotten():
    model, fresh = SpyModel(), SpyModel()
    model(batch().views[0]).sum().backward()
    fresh(batch().views[0])  # moves its running statistics alike
    step(model, batch())
    step(fresh, batch())
    assert_equal_states(dict(model.state_dict()), dict(fresh.state_dict()))


@pytest.mark.parametrize(("flags", "images"), [((), 40), (("--oracle",), TRAIN)], ids=["erm", "oracle"])
def test_images_of_erm_and_of_the_oracle(small_run, tmp_path, monkeypatch, flags, images):
    seen = []
    loader = erm.TrainLoader
    monkeypatch.setattr(erm, "TrainLoader", lambda data, *a, **k: seen.append(data) or loader(data, *a, **k))
    result = small_run("erm", *flags, "--epochs", "1", "--iters-per-epoch", "1")
    assert len(seen[0]) == images
    assert (seen[0].labels >= 0).all()
    assert result["oracle"] is bool(flags)
    assert final_state(tmp_path / "run")["step"] == 1


def test_the_oracle_draws_no_labels(small_run):
    """So that a class may have fewer images than --num-samples-per-class."""
    assert small_run("erm", "--oracle", "--num-samples-per-class", "500", "--epochs", "1")["oracle"]


def test_all_labels_are_the_oracles(small_run, tmp_path):
    results = [
        small_run("erm", *flags, "--epochs", "1", log=tmp_path / str(i))
        for i, flags in enumerate([("--oracle",), ("--num-samples-per-class", "all")])
    ]
    assert results[0]["labeled_sha256"] == results[1]["labeled_sha256"]
    assert results[1]["num_samples_per_class"] == "all"
