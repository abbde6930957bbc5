"""FixMatch's loss and step against NumPy, worked from the paper's equations and not from the script."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import fixmatch
from common.loading.loaders import Batch
from tests.helpers.reference import SpyModel, cross_entropy, cross_entropy_gradient, parameters, softmax

ARGS = {"trade_off_cls_strong": 0.1, "trade_off_self_training": 1.0, "threshold": 0.95, "joint_passes": False}


def logits_with_confidences(*confidences: float) -> torch.Tensor:
    """Two classes; row i gives class i % 2 the probability confidences[i]."""
    rows = [[np.log(c), np.log(1 - c)][:: 1 if i % 2 == 0 else -1] for i, c in enumerate(confidences)]
    return torch.tensor(rows, dtype=torch.float64)


def batches(seed: int = 0, size: int = 6):
    """A labeled and an unlabeled batch of points in the plane; each view is another draw."""
    g = torch.Generator().manual_seed(seed)
    return [
        Batch(
            tuple(torch.randn(size, 2, generator=g) for _ in range(2)),
            torch.randint(3, (size,), generator=g),
            torch.arange(size),
        )
        for _ in range(2)
    ]


def step(model: nn.Module, lr: float = 0.1, **flags):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return fixmatch.train_step(model, optimizer, *batches(), SimpleNamespace(**ARGS | flags))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.7, 0.95, 1.0])
def test_loss_is_numpys(threshold):
    rng = np.random.default_rng(0)
    weak, strong = 3 * rng.normal(size=(2, 32, 5))
    loss, pseudo_labels, mask = fixmatch.self_training_loss(torch.tensor(weak), torch.tensor(strong), threshold)

    confidence, target = softmax(weak).max(axis=1), weak.argmax(axis=1)
    selected = confidence > threshold
    expected = sum(cross_entropy(strong[i], target[i]) for i in range(32) if selected[i]) / 32
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert np.array_equal(pseudo_labels, target)
    assert np.array_equal(mask, selected)


def test_gradient_is_numpys_and_only_the_strong_view_has_one():
    rng = np.random.default_rng(1)
    weak, strong = (torch.tensor(3 * rng.normal(size=(32, 5)), requires_grad=True) for _ in range(2))
    loss, _, mask = fixmatch.self_training_loss(weak, strong, 0.7)
    loss.backward()
    assert 0 < mask.sum() < 32
    expected = cross_entropy_gradient(strong.detach().numpy(), weak.argmax(dim=1).numpy()) * mask.numpy()[:, None] / 32
    assert np.allclose(strong.grad, expected, rtol=1e-6)
    assert weak.grad is None


def test_threshold_is_strict():
    weak = torch.zeros(4, 2)  # the confidence is 1/2 to the last bit
    assert fixmatch.self_training_loss(weak, weak, 0.5)[2].sum() == 0
    assert fixmatch.self_training_loss(weak, weak, np.nextafter(np.float32(0.5), np.float32(0)).item())[2].sum() == 4
    sure = torch.tensor([[200.0, 0.0]])  # and here 1
    assert fixmatch.self_training_loss(sure, sure, 1.0)[2].sum() == 0


def test_mean_is_over_the_batch_with_its_zeros():
    weak = logits_with_confidences(0.99, 0.6, 0.6, 0.6)
    strong = torch.zeros_like(weak)  # each cross-entropy is log 2
    assert fixmatch.self_training_loss(weak, strong, 0.95)[0].item() == pytest.approx(np.log(2) / 4)


@pytest.mark.parametrize(("threshold", "trade_off"), [(0.4, 1.0), (0.4, 0.3), (1.0, 1.0)])
def test_step_is_numpys(threshold, trade_off):
    """One plain SGD step of a linear model, worked by hand."""
    torch.manual_seed(0)
    model = nn.Linear(2, 3).double()
    weight, bias = (p.detach().clone().numpy() for p in model.parameters())
    labeled, unlabeled = (b._replace(views=tuple(v.double() for v in b.views)) for b in batches())
    args = SimpleNamespace(**ARGS | {"trade_off_self_training": trade_off, "threshold": threshold})
    metrics = fixmatch.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), labeled, unlabeled, args)

    (l_weak, l_strong), (u_weak, u_strong) = ([v.numpy() for v in b.views] for b in (labeled, unlabeled))
    confidence, target = softmax(u_weak @ weight.T + bias).max(axis=1), (u_weak @ weight.T + bias).argmax(axis=1)
    passes = [
        (l_weak, labeled.labels.numpy(), np.full(6, 1 / 6)),
        (l_strong, labeled.labels.numpy(), np.full(6, 0.1 / 6)),
        (u_strong, target, trade_off * (confidence > threshold) / 6),
    ]
    loss, d_weight, d_bias = 0.0, 0.0, 0.0
    for x, t, w in passes:
        z = x @ weight.T + bias
        loss += sum(w[i] * cross_entropy(z[i], t[i]) for i in range(6))
        dz = cross_entropy_gradient(z, t) * w[:, None]
        d_weight, d_bias = d_weight + dz.T @ x, d_bias + dz.sum(axis=0)
    assert metrics["loss"].item() == pytest.approx(loss)
    assert np.allclose(model.weight.detach(), weight - 0.1 * d_weight)
    assert np.allclose(model.bias.detach(), bias - 0.1 * d_bias)


def test_passes_are_separate_in_order_and_in_train_mode():
    model = SpyModel()
    step(model)
    (l_weak, l_strong), (u_weak, u_strong) = (b.views for b in batches())
    assert len(model.inputs) == 4
    assert all(map(torch.equal, model.inputs, (l_weak, l_strong, u_weak, u_strong)))
    assert model.modes == [True] * 4
    assert model.with_gradient == [True, True, False, True]


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_all_four_passes_move_the_running_statistics(threshold):
    """Also where the mask is all zero, which spares none of them."""
    model, alone = SpyModel(), SpyModel()
    metrics = step(model, threshold=threshold)
    assert metrics["pseudo_label_ratio"] == (100 if threshold == 0 else 0)
    for batch in batches():
        for view in batch.views:
            alone(view)
    assert torch.equal(model.bn.running_mean, alone.bn.running_mean)
    assert torch.equal(model.bn.running_var, alone.bn.running_var)
    assert model.bn.num_batches_tracked == 4


def test_empty_mask_leaves_the_supervised_step():
    with_mask, without_weight = SpyModel(), SpyModel()
    assert step(with_mask, threshold=1.0)["loss_u"] == 0
    step(without_weight, trade_off_self_training=0.0)
    assert torch.equal(parameters(with_mask), parameters(without_weight))


@pytest.mark.parametrize(
    ("flag", "value"), [("trade_off_cls_strong", 0.5), ("trade_off_self_training", 0.5), ("threshold", 1.0)]
)
def test_every_flag_matters(flag, value):
    plain, changed = SpyModel(), SpyModel()
    step(plain, threshold=0.0)
    step(changed, **{"threshold": 0.0, flag: value})
    assert not torch.equal(parameters(plain), parameters(changed))


def test_the_metrics_of_a_step_by_hand():
    model = nn.Identity()  # the views are the logits
    labeled = Batch((torch.eye(2), torch.eye(2)), torch.tensor([0, 0]), torch.arange(2))
    weak = logits_with_confidences(0.99, 0.99, 0.99, 0.6).float()  # predictions 0, 1, 0, and 1 below the threshold
    strong = torch.zeros(4, 2, requires_grad=True)
    unlabeled = Batch((weak, strong), torch.tensor([0, 1, 1, 1]), torch.arange(4))
    optimizer = torch.optim.SGD([strong], lr=0.1)
    metrics = fixmatch.train_step(model, optimizer, labeled, unlabeled, SimpleNamespace(**ARGS))
    assert metrics["accuracy_l"] == 50
    assert metrics["pseudo_label_ratio"] == 75
    assert [m.item() for m in metrics["pseudo_label_accuracy"]] == [200, 3]
    assert metrics["loss_u"].item() == pytest.approx(0.75 * np.log(2))
    assert metrics["loss"].item() == pytest.approx((metrics["loss_l"] + metrics["loss_u"]).item())


def test_labels_of_unlabeled_images_are_for_the_meters_only():
    plain, other = SpyModel(), SpyModel()
    step(plain, threshold=0.0)
    labeled, unlabeled = batches()
    unknown = unlabeled._replace(labels=torch.full_like(unlabeled.labels, -1))
    args = SimpleNamespace(**ARGS | {"threshold": 0.0})
    fixmatch.train_step(other, torch.optim.SGD(other.parameters(), lr=0.1), labeled, unknown, args)
    assert torch.equal(parameters(plain), parameters(other))
