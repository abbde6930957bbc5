"""VAT: the search for the direction, the losses and what they reach, and what passes share, against numbers by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import vat
from common.loading.loaders import Batch
from common.system import seeding
from tests.helpers import steps
from tests.helpers.reference import cross_entropy_gradient, softmax

W = [[1.0, 0], [-1, 2], [0.5, -1]]  # of a linear network with three classes
X = [[1.0, 2], [-0.5, 0.3]]
START = [[3.0, 4], [0, -2]]


def matrix(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def linear(weight=W) -> nn.Linear:
    model = nn.Linear(len(weight[0]), len(weight), bias=False).double()
    model.weight.data = matrix(weight)
    return model


def sought(xi: float, iterations: int, model: nn.Module | None = None) -> torch.Tensor:
    model, x = model or linear(), matrix(X)
    return vat.direction(model, x, model(x).softmax(dim=1).detach(), matrix(START), xi, iterations)


@pytest.mark.parametrize(
    ("xi", "iterations", "expected"),
    [
        (0.1, 0, [[0.6, 0.8], [0, -1]]),
        (0.1, 1, [[-0.640797, 0.767710], [0.535580, -0.844484]]),
        (1e-6, 1, [[-0.637840, 0.770169], [0.540107, -0.841596]]),
        (0.1, 5, [[-0.684435, 0.729074], [0.557525, -0.830160]]),
    ],
)
def test_directions_of_a_linear_network(xi, iterations, expected):
    assert np.allclose(sought(xi, iterations), expected, atol=2e-6)


def test_the_iteration_ends_in_the_direction_of_the_largest_curvature():
    """The top eigenvector of W^T (diag(p) - p p^T) W, up to its sign."""
    found = sought(1e-4, 60).numpy()
    for x, d in zip(X, found, strict=True):
        p = softmax(np.array(W) @ x)
        top = np.linalg.eigh(np.array(W).T @ (np.diag(p) - np.outer(p, p)) @ W)[1][:, -1]
        assert abs(top @ d) == pytest.approx(1, abs=1e-4)


def test_the_divergence_is_from_the_clean_prediction_to_the_moved_one():
    clean, moved = matrix([[2, 0, -1], [0, 1, 3]]), matrix([[1, 0.5, 0], [0.5, 0.5, 2]])
    found = vat.divergence(clean.softmax(dim=1), moved)
    assert found.tolist() == pytest.approx([0.255111, 0.079022], abs=1e-6)  # the other way round .323018 .109426
    assert vat.divergence(matrix([[1, 0, 0]]), matrix([[0, 0, 0]])).item() == pytest.approx(np.log(3))
    assert vat.entropy(clean).item() == pytest.approx(0.524267, abs=1e-6)


def test_the_gradient_of_the_entropy_is_numpys():
    y = np.random.default_rng(0).normal(size=(4, 3))
    logits = torch.tensor(y, requires_grad=True)
    vat.entropy(logits).backward()
    p = softmax(y)
    h = -(p * np.log(p)).sum(axis=1, keepdims=True)
    assert np.allclose(logits.grad, -p * (np.log(p) + h) / 4)


def test_the_weights_ramp_by_hand():
    assert [vat.ramp_up(step, 4) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert vat.ramp_up(0, 0) == 1


def test_unit_vectors_of_small_and_of_no_values():
    x = torch.tensor([[3e-30, -4e-30], [0, 0], [30, 40]])[:, :, None]
    assert np.allclose(vat.unit(x)[..., 0], [[0.6, -0.8], [0, 0], [0.6, 0.8]])


@pytest.mark.parametrize("entropy", [0.0, 0.7])
def test_the_step_has_the_gradient_of_its_losses_by_hand(entropy):
    """Of a linear network: that of loss_u flows through the moved pass alone, and neither through p nor through d."""
    flags = f"--trade-off-cls-strong 0 --trade-off-entropy {entropy} --eps 2 --xi 0.1"
    args, model, labels = steps.arguments("vat", *flags.split()), linear(), torch.tensor([2, 0])
    random = Fixed(START)
    x_l = np.array([[0.5, -1], [1, 1]])
    data = Batch((matrix(x_l),), labels, labels), Batch((matrix(X),), labels, labels)
    metrics = vat.train_step(model, random, torch.optim.SGD(model.parameters(), 0.1), *data, 3.0, args)

    d = np.array([[-0.640797, 0.767710], [0.535580, -0.844484]])
    w, x = np.array(W), np.array(X)
    p, moved = softmax(x @ w.T), x + 2 * d
    q = softmax(moved @ w.T)
    gradient = cross_entropy_gradient(x_l @ w.T, labels.numpy()).T @ x_l / 2 + 3 * (q - p).T @ moved / 2
    h = -(p * np.log(p)).sum(axis=1, keepdims=True)
    gradient += entropy * (-p * (np.log(p) + h)).T @ x / 2
    assert np.allclose(model.weight.grad, gradient, atol=1e-5)
    assert metrics["loss_u"].item() == pytest.approx(1.928055, abs=1e-5)
    losses = metrics["loss_l"] + 3 * metrics["loss_u"] + entropy * metrics["loss_entropy"]
    assert metrics["loss"].item() == pytest.approx(losses.item())


class Fixed:
    """Draws the same numbers each time, in place of `seeding.SharedRandom`."""

    def __init__(self, numbers):
        self.numbers = torch.tensor(numbers)

    def normal(self, *shape: int) -> torch.Tensor:
        assert shape == self.numbers.shape
        return self.numbers


def test_the_search_leaves_the_weights_without_gradients():
    model = linear()
    sought(0.1, 2, model)
    assert model.weight.grad is None
    model.weight.grad = torch.ones(3, 2).double()
    sought(0.1, 2, model)
    assert model.weight.grad.eq(1).all()


def setup(*flags: str):
    args = steps.arguments("vat", *steps.small_flags("vat"), *flags)
    return args, steps.build("vat", args)


def test_the_unlabeled_passes_of_a_step_share_their_dropout_masks():
    """Hardly moved, the predictions stay; other masks would move them. The next step has others."""
    args, built = setup("--eps", "1e-6")
    masks = []
    built.model.bottleneck[3].register_forward_hook(lambda module, x, y: masks.append(y == 0))
    built.model.bottleneck[2] = nn.Identity()  # not ReLU, whose zeros would be among them
    for step in range(2):
        metrics = vat.train_step(
            *(built.model, *built.state, built.optimizer, *steps.batches("vat", step), *built.weight_u, args)
        )
        assert metrics["loss_u"] < 1e-5
    _, _, clean, searched, moved, l_weak, l_strong, next_clean, *_ = masks
    assert torch.equal(clean, searched)
    assert torch.equal(clean, moved)
    assert not any(torch.equal(clean, others) for others in (l_weak, l_strong, next_clean, masks[0], masks[1]))


def test_the_direction_that_is_found_moves_more_than_a_random_one():
    losses = []
    for iterations in ("0", "1"):
        args, built = setup("--eps", "1", "--power-iterations", iterations)
        losses.append(steps.train_step(built, args)["loss_u"].item())
    assert losses[1] > 2 * losses[0]


def test_the_perturbation_has_the_length_that_the_flag_says():
    args, built = setup("--eps", "2.5", "--xi", "0.3")
    steps.train_step(built, args)
    clean, searched, moved = (p.x.detach() for p in built.model.backbone.passes[2:])
    for x, length in ((searched, 0.3), (moved, 2.5)):
        assert (x - clean).flatten(1).norm(dim=1).tolist() == pytest.approx([length] * 8, rel=1e-5)


def test_each_step_begins_in_another_random_direction_of_its_seed():
    args, built = setup("--power-iterations", "0", "--seed", "5")
    for step in (0, 1):
        steps.train_step(built, args, *steps.batches("vat", step))
    passes = built.model.backbone.passes
    found = [passes[i + 1].x - passes[i].x for i in (2, 6)]
    drawn = seeding.SharedRandom(5, "perturbation")
    for d in found:
        assert torch.allclose(d.detach(), args.eps * vat.unit(drawn.normal(8, 3, 4, 4)), atol=1e-5)


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (3, 1.5), (4, 2.0), (7, 2.0)])
def test_the_weight_of_a_step(step, weight):
    args, _ = setup("--trade-off-con", "2", "--warm-up-epochs", "2", "--iters-per-epoch", "2")
    row = steps.losses_of("vat", args, step=step)
    rest = row["loss"] - row["loss_l"] - 0.06 * row["loss_entropy"]
    assert rest == pytest.approx(weight * row["loss_u"], abs=1e-5)


def test_on_a_gpu_the_generator_of_that_gpu_is_put_back(monkeypatch):
    """Dropout draws from it there."""
    device, put_back = torch.device("cuda", 1), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: f"of {device}, before")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: put_back.append((state, device)))
    with vat.same_masks(SimpleNamespace(is_cuda=True, device=device)):
        assert not put_back
    assert put_back == [("of cuda:1, before", device)]
