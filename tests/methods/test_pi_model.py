"""Pi Model's loss and its ramp, by hand; Mean Teacher's ramp is the same, and Pseudo Label's its linear one."""

import numpy as np
import pytest
import torch

import mean_teacher
import pi_model
import pseudo_label
from common.loading.loaders import Batch
from tests.helpers import steps
from tests.helpers.reference import cross_entropy_gradient, softmax

RAMP = [0.0067, 0.0174, 0.0408, 0.0863, 0.165, 0.287, 0.449, 0.638, 0.819, 0.951, 1, 1, 1]


@pytest.mark.parametrize("script", [pi_model, mean_teacher])
def test_the_weights_ramp_by_hand(script):
    assert [script.ramp_up(epoch, 10, "exp") for epoch in range(13)] == pytest.approx(RAMP, rel=1e-2)
    assert script.ramp_up(0, 0, "exp") == script.ramp_up(3, 0, "linear") == 1
    assert [script.ramp_up(epoch, 4, "linear") for epoch in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert [pseudo_label.ramp_up(epoch, 4) for epoch in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert pseudo_label.ramp_up(0, 0) == 1


EXP, LINEAR = [np.exp(-5), np.exp(-1.25), 1], [0, 0.5, 1]


@pytest.mark.parametrize(
    ("method", "flags", "weights"),
    [
        ("pi_model", "--trade-off-con 3", EXP),
        ("pi_model", "--trade-off-con 3 --ramp-up linear", LINEAR),
        ("mean_teacher", "--trade-off-con 3", EXP),
        ("mean_teacher", "--trade-off-con 3 --ramp-up linear", LINEAR),
        ("pseudo_label", "--trade-off-self-training 3 --threshold 0.4", LINEAR),
    ],
)
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_weight_of_an_epoch(method, flags, weights, epoch):
    args = steps.arguments(method, "--warm-up-epochs", "2", *flags.split())
    row = steps.losses_of(method, args, epoch)
    assert row["loss_u"] > 1e-3
    assert row["loss"] - row["loss_l"] == pytest.approx(3 * weights[epoch] * row["loss_u"], abs=1e-6)


def test_loss_and_gradient_through_both_branches():
    rng = np.random.default_rng(0)
    y1, y2 = 2 * rng.normal(size=(2, 6, 4))
    logits = [torch.tensor(y, requires_grad=True) for y in (y1, y2)]
    loss = pi_model.consistency_loss(*logits)
    loss.backward()

    p, q = softmax(y1), softmax(y2)
    assert loss.item() == pytest.approx(((p - q) ** 2).sum() / 6)  # over classes a sum, over images a mean
    for leaf, a, b in ((logits[0], p, q), (logits[1], q, p)):
        d = 2 * (a - b) / 6
        assert np.allclose(leaf.grad, a * (d - (a * d).sum(axis=1, keepdims=True)))


@pytest.mark.parametrize("flags", [[], ["--one-sided"]])
def test_the_step_has_the_gradient_of_both_views_or_of_the_first(flags):
    """Of a linear model, W: logits = x W^T."""
    rng = np.random.default_rng(0)
    x_l, x1, x2 = rng.normal(size=(3, 6, 5))
    labels, indices = torch.tensor([0, 1, 2, 3, 0, 1]), torch.arange(6)
    model = torch.nn.Linear(5, 4, bias=False).double()
    w = model.weight.detach().numpy().copy()
    batches = [
        Batch((torch.tensor(x_l),), labels, indices),
        Batch((torch.tensor(x1), torch.tensor(x2)), labels, indices),
    ]
    args, weight = steps.arguments("pi_model", "--trade-off-cls-strong", "0", *flags), 3.0
    metrics = pi_model.train_step(model, torch.optim.SGD(model.parameters(), 0.1), *batches, weight, args)

    p, q = softmax(x1 @ w.T), softmax(x2 @ w.T)
    gradient = cross_entropy_gradient(x_l @ w.T, labels.numpy()).T @ x_l / 6
    for x, a, b in ((x1, p, q), (x2, q, p))[: 1 if flags else 2]:
        d = 2 * (a - b) / 6
        gradient += weight * (a * (d - (a * d).sum(axis=1, keepdims=True))).T @ x
    assert np.allclose(model.weight.grad, gradient)
    assert metrics["loss_u"].item() == pytest.approx(((p - q) ** 2).sum() / 6)
