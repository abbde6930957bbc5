"""MixMatch: guesses, what is mixed with what, losses and gradients, against numbers by hand and NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

import mixmatch
from common.loading.loaders import Batch
from tests.helpers import steps
from tests.helpers.reference import softmax

GUESSES = [[0.782609, 0.195652, 0.021739], [0.259928, 0.521661, 0.218412]]
LAMBDA, ORDER = [0.3, 0.9, 0.5, 0.2, 0.75, 1.0], [3, 0, 5, 1, 2, 4]
MIXED = [[0.777978, 0.156498, 0.065523], [0.1, 0, 0.9], [0.521268, 0.358656, 0.120075], [0.207942, 0.417329, 0.374729]]
MIXED += GUESSES
LOGITS = [[1.0, 0, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 2, 0], [1, 1, 1], [-1, 0, 1]]  # of the mixed rows


def matrix(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


class Drawn:
    """Gives what it is told, in place of `seeding.SharedRandom`."""

    def beta(self, alpha: float, *shape: int) -> torch.Tensor:
        return matrix(LAMBDA[: shape[0]])

    def permutation(self, number: int) -> torch.Tensor:
        assert number == 6
        return torch.tensor(ORDER)


def mixing(one_lambda: bool = False) -> mixmatch.MixUp:
    made = mixmatch.MixUp(0, 0.75, one_lambda)
    made.random = nn.Module()
    made.random.beta, made.random.permutation = Drawn().beta, Drawn().permutation
    return made


def test_a_guess_is_the_mean_of_two_predictions_and_sharpened_then():
    p1, p2 = matrix([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]]), matrix([[0.5, 0.4, 0.1], [0.2, 0.5, 0.3]])
    assert np.allclose(mixmatch.sharpen((p1 + p2) / 2, 0.5), GUESSES, atol=1e-6)
    assert np.allclose(mixmatch.sharpen(p1, 1.0), p1)
    assert mixmatch.sharpen(torch.tensor([[0.3, 0.2, 0.5]]), 1e-3).tolist() == [[0, 0, 1]]  # not 0 / 0


def test_rows_of_all_views_are_mixed_with_their_labels():
    views = [matrix([[10], [20]]), matrix([[1], [2]]), matrix([[3], [4]])]
    x, targets = mixing()(views, [matrix([[1, 0, 0], [0, 0, 1]]), matrix(GUESSES), matrix(GUESSES)])
    assert x.flatten().tolist() == pytest.approx([7.6, 19, 2.5, 5.6, 2.5, 4])
    assert np.allclose(targets, MIXED, atol=1e-6)


def test_one_lambda_is_that_of_all_rows():
    x, _ = mixing(one_lambda=True)(
        [matrix([[10], [20]]), matrix([[1], [2]]), matrix([[3], [4]])], [matrix([[1.0]])] * 6
    )
    pool = np.array([10, 20, 1, 2, 3, 4])
    assert x.flatten().tolist() == pytest.approx((0.7 * pool + 0.3 * pool[ORDER]).tolist())


def test_lambda_is_of_a_beta_distribution_and_at_least_a_half():
    """Each row is 1 for itself and 0 for the others."""
    for beta, mean in ((0.75, 0.778), (0.5, 0.818)):
        rows = torch.eye(600)
        x, _ = mixmatch.MixUp(0, beta, False)(list(rows.split(200)), list(rows.split(200)))
        own = x.diagonal()
        assert own.min() >= 0.5
        assert own.mean().item() == pytest.approx(mean, abs=0.02)
        assert x.sum(dim=1).tolist() == pytest.approx([1] * 600)
        assert x.fill_diagonal_(0).count_nonzero(dim=0).max() <= 1  # each row is another one's once


def test_each_step_draws_anew_and_of_the_seed():
    rows = [torch.eye(6)]
    mixup, again, other = mixmatch.MixUp(0, 0.75, False), mixmatch.MixUp(0, 0.75, False), mixmatch.MixUp(1, 0.75, False)
    first, second = mixup(rows, rows)[0], mixup(rows, rows)[0]
    assert not torch.equal(first, second)
    assert torch.equal(again(rows, rows)[0], first)
    assert not torch.equal(other(rows, rows)[0], first)
    again.load_state_dict(mixup.state_dict())
    assert torch.equal(again(rows, rows)[0], mixup(rows, rows)[0])


class Prepared:
    """Stands in for MixUp: keeps what it was given, and gives rows whose logits are LOGITS."""

    def __call__(self, views, targets):
        self.views, self.targets = views, targets
        return matrix(LOGITS), matrix(MIXED)


def taken(mixup, x_u=((0.3, 0.1, 0), (0, 0.4, 0.2)), weight=18.75, T="0.5"):
    """A step of the linear network whose weights are the identity, with two images in each view."""
    model, labels = nn.Linear(3, 3, bias=False).double(), torch.tensor([0, 2])
    nn.init.eye_(model.weight)
    args = steps.arguments("mixmatch", "--T", T)
    views_u = matrix(x_u), matrix(x_u) + 0.5 * torch.eye(3)[:2]
    data = Batch((matrix([[9, 8, 7], [6, 5, 4]]),), labels, labels), Batch(views_u, torch.tensor([1, 1]), labels)
    metrics = mixmatch.train_step(model, mixup, torch.optim.SGD(model.parameters(), 0.1), *data, weight, args)
    return metrics, model, views_u


def test_losses_of_mixed_rows():
    metrics, _, _ = taken(Prepared())
    assert metrics["loss_l"].item() == pytest.approx(0.712456, abs=3e-6)
    assert metrics["loss_u"].item() == pytest.approx(0.072853, abs=1e-6)  # .218558, were it a sum over classes
    assert metrics["loss"].item() == pytest.approx(2.078446, abs=1e-5)


def test_the_gradient_flows_through_the_mixed_rows_alone():
    """Of loss_l and loss_u, by hand; none flows through the guesses, which depend on the weights, too."""
    _, model, _ = taken(Prepared())
    y, t = np.array(LOGITS), np.array(MIXED)
    p = softmax(y)
    d = 2 * (p - t)[2:] / 12
    gradient = (p - t)[:2].T @ y[:2] / 2
    gradient += 18.75 * (p[2:] * (d - (p[2:] * d).sum(axis=1, keepdims=True))).T @ y[2:]
    assert np.allclose(model.weight.grad, gradient, atol=1e-5)


def test_what_is_mixed():
    mixup = Prepared()
    metrics, _, views_u = taken(mixup)
    q = (softmax(views_u[0].numpy()) + softmax(views_u[1].numpy())) / 2
    guesses = q**2 / (q**2).sum(axis=1, keepdims=True)
    assert [x.tolist() for x in mixup.views] == [[[9, 8, 7], [6, 5, 4]], views_u[0].tolist(), views_u[1].tolist()]
    assert mixup.targets[0].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert np.allclose(mixup.targets[1], guesses)
    assert np.allclose(mixup.targets[2], guesses)
    assert not any(t.requires_grad for t in mixup.targets)
    assert [x.item() for x in metrics["pseudo_label_accuracy"]] == [100 * (guesses.argmax(axis=1) == 1).sum(), 2]


def test_batches_of_different_sizes():
    args = steps.arguments("mixmatch", *steps.small_flags("mixmatch"))
    setup = steps.build("mixmatch", args)
    labeled, unlabeled = steps.batches("mixmatch", size=4)[0], steps.batches("mixmatch", size=10)[1]
    steps.train_step(setup, args, labeled, unlabeled)
    assert [len(p.x) for p in setup.model.backbone.passes] == [10, 10, 24]


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (3, 15.0), (4, 20.0), (7, 20.0)])
def test_the_weight_of_a_step(step, weight):
    args = steps.arguments("mixmatch", *"--trade-off-con 20 --warm-up-epochs 2 --iters-per-epoch 2".split())
    row = steps.losses_of("mixmatch", args, step=step)
    assert row["loss"] - row["loss_l"] == pytest.approx(weight * row["loss_u"], abs=1e-5)
    assert mixmatch.ramp_up(0, 0) == 1
