"""ReMixMatch: alignment, rotations, the four losses and what they reach, against numbers by hand and NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

import remixmatch
from common.loading.loaders import Batch
from tests.helpers import steps

SHARPENED = [[0.629125, 0.326138, 0.044738], [0.050710, 0.657201, 0.292089]]


def matrix(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def alignment(window: int = 128, momentum: float = 0.999) -> remixmatch.Alignment:
    return remixmatch.Alignment(3, window, momentum).double()


def test_predictions_become_as_frequent_as_labels():
    ours = alignment(window=2)
    ours.p_labeled.copy_(matrix([0.5, 0.3, 0.2]))
    ours.window.copy_(matrix([[0.8, 0.1, 0.1], [0.4, 0.4, 0.2]]))  # mean .6 .25 .15
    aligned = ours(matrix([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]]))
    assert np.allclose(aligned, [[0.503356, 0.362416, 0.134228], [0.142857, 0.514286, 0.342857]], atol=2e-6)
    assert np.allclose(remixmatch.sharpen(aligned, 0.5), SHARPENED, atol=2e-6)


def test_the_state_begins_uniform_and_follows_the_batches():
    ours = alignment()
    p, labels = matrix([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]]), matrix([[0.5, 0.25, 0.25], [0, 0.5, 0.5]])
    assert torch.equal(ours(p), p / p.sum(dim=1, keepdim=True))
    for mean, frequencies, window, p_labeled in (
        (p[0], labels[0], [0.335417, 0.333073, 0.331510], [0.333500, 0.333250, 0.333250]),
        (p[1], labels[1], [0.334375, 0.334375, 0.331250], [0.333166, 0.333417, 0.333417]),
    ):
        spread = torch.tensor([[0.1, -0.1, 0], [-0.1, 0.1, 0]])  # two images with that mean
        ours.update(mean + spread, frequencies + spread)
        assert np.allclose(ours.window.mean(dim=0), window, atol=1e-6)
        assert np.allclose(ours.p_labeled, p_labeled, atol=1e-6)


def test_the_window_forgets_the_oldest():
    ours, batches = alignment(window=3, momentum=0.5), torch.rand(7, 4, 3).double()
    for p in batches:
        ours.update(p, p)
    assert torch.allclose(ours.window, batches[-3:].mean(dim=1))
    expected = torch.full((3,), 1 / 3)
    for p in batches:
        expected = 0.5 * expected + 0.5 * p.mean(dim=0)
    assert torch.allclose(ours.p_labeled, expected)


def test_images_are_turned_to_the_left():
    image = torch.tensor([[1.0, 2], [3, 4]]).expand(6, 3, 2, 2)
    turned, turns = remixmatch.rotated(image)
    assert turns.tolist() == [0, 1, 2, 3, 0, 1]
    by_hand = [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    for x, k in zip(turned, turns.tolist(), strict=True):
        assert x.tolist() == [by_hand[k]] * 3
    images = torch.rand(5, 3, 4, 4)
    for k, (x, original) in enumerate(zip(remixmatch.rotated(images)[0], images, strict=True)):
        assert torch.equal(x, torch.rot90(original, k, (1, 2)))


MIXED = [[1.0, 0, -1], [0, 2, 0], [0, 1, 0], [1, 1, 0], [2, 0, 0], [0, 0, 1]]  # logits; the first two are labeled
TARGETS = [[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.2, 0.6, 0.2], [0.5, 0.4, 0.1], [0.8, 0.1, 0.1], [0.1, 0.2, 0.7]]
UNMIXED = [[1.0, 0, 0], [0, 1, 0.5]]
TURNED = [[1.0, 0, 0, 0], [0, 0, 2, 0]]  # of images that were turned by 0 and 180 degrees


class Network(nn.Module):
    """Logits are the rows themselves, times a weight; those of rotations are TURNED, times one of their own."""

    def __init__(self):
        super().__init__()
        self.weight, self.of_rotation = (nn.Parameter(torch.ones(()).double()) for _ in range(2))

    def forward(self, x):
        return self.weight * x

    def rotations(self, x):
        return self.of_rotation * matrix(TURNED)


class Prepared:
    """Stands in for MixUp: keeps what it was given, and gives MIXED."""

    def __call__(self, views, targets):
        self.views, self.targets = views, targets
        return matrix(MIXED), matrix(TARGETS)


class Aligned:
    """Stands in for Alignment: gives what is SHARPENED once it is, and notes when it is updated, and with what."""

    def __init__(self, network):
        self.network, self.updates = network, []

    def __call__(self, p):
        return matrix(SHARPENED).sqrt()

    def update(self, p, targets_l):
        self.updates.append((p, targets_l, self.network.weight.item()))


def taken(monkeypatch, ramp: float = 0.5, *flags: str):
    monkeypatch.setattr(remixmatch, "rotated", lambda x: (x, torch.tensor([0, 2])))
    args, labels, network = steps.arguments("remixmatch", *flags), torch.tensor([0, 2]), Network()
    views_u = matrix([[3, 2, 1], [1, 2, 3]]), matrix(UNMIXED), matrix([[7, 7, 7], [8, 8, 8]])
    data = Batch((matrix([[9, 8, 7], [6, 5, 4]]),), labels, labels), Batch(views_u, torch.tensor([1, 1]), labels)
    mixup, aligned = Prepared(), Aligned(network)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    return remixmatch.train_step(network, aligned, mixup, optimizer, *data, ramp, args), network, mixup, aligned


def test_the_four_losses(monkeypatch):
    metrics, *_ = taken(monkeypatch)
    found = [metrics[name].item() for name in ("loss_l", "loss_u", "loss_unmixed", "loss_rotation")]
    assert found == pytest.approx([0.673575, 0.851107, 0.899672, 0.542211], abs=1e-5)
    assert metrics["loss"].item() == pytest.approx(1.807929, abs=1e-5)


@pytest.mark.parametrize(
    ("flags", "weights"),
    [
        ("--trade-off-self-training 3", (3, 0.5, 0.5)),
        ("--trade-off-unmixed 2", (1.5, 2, 0.5)),
        ("--trade-off-rotation 4", (1.5, 0.5, 4)),
    ],
)
def test_each_loss_has_its_weight_and_the_rotations_have_no_ramp(monkeypatch, flags, weights):
    for ramp in (0.0, 0.25, 1.0):
        metrics, *_ = taken(monkeypatch, ramp, *flags.split())
        expected = 0.673575 + ramp * (weights[0] * 0.851107 + weights[1] * 0.899672) + weights[2] * 0.542211
        assert metrics["loss"].item() == pytest.approx(expected, abs=1e-5)


def test_what_is_mixed_and_what_moves_the_state(monkeypatch):
    """All views of an image have one guess. The state takes predictions before alignment, after the step."""
    metrics, network, mixup, aligned = taken(monkeypatch)
    first = [x.tolist() for x in mixup.views]
    assert first == [[[9, 8, 7], [6, 5, 4]], [[3, 2, 1], [1, 2, 3]], UNMIXED, [[7, 7, 7], [8, 8, 8]]]
    assert mixup.targets[0].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert all(np.allclose(guesses, SHARPENED) for guesses in mixup.targets[1:])
    ((p, targets_l, weight),) = aligned.updates
    assert torch.allclose(p, matrix([[3, 2, 1], [1, 2, 3]]).softmax(dim=1))
    assert torch.equal(targets_l, mixup.targets[0])
    assert weight == network.weight.item() != 1
    assert [x.item() for x in metrics["pseudo_label_accuracy"]] == [100, 2]  # the guesses are of classes 0 and 1


def test_gradients_of_the_losses(monkeypatch):
    """By differences, of a network whose guesses are given."""
    found = {}
    for scale in (1.0, 1.0 + 1e-6):
        monkeypatch.setattr(Network, "forward", lambda self, x, scale=scale: self.weight * scale * x)
        metrics, network, *_ = taken(monkeypatch)
        found[scale] = metrics["loss"].item()
    slope = (found[1.0 + 1e-6] - found[1.0]) / 1e-6
    assert network.weight.grad.item() == pytest.approx(slope, rel=1e-4)
    p = torch.tensor(TURNED).softmax(dim=1)
    expected = 0.5 * ((p * torch.tensor(TURNED)).sum() - 1 - 2) / 2
    assert network.of_rotation.grad.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_head_of_rotations_reads_the_features_and_learns_at_the_heads_rate():
    args = steps.arguments("remixmatch", "--bottleneck-dim", "8", "--finetune", "--lr", "0.2")
    model = steps.build("remixmatch", args, dropout=0.0).model
    x = torch.randn(8, 3, 4, 4)
    assert torch.equal(model.rotations(x), model.rotation_head(model.features(x)))
    assert model.rotations(x).shape == (8, 4)
    model.rotations(x).sum().backward()
    assert model.head.weight.grad is None
    assert model.backbone.net[0].weight.grad is not None
    rates = {id(p): group["lr"] for group in model.parameter_groups(0.2, finetune=True) for p in group["params"]}
    assert rates.keys() == {id(p) for p in model.parameters()}
    assert rates[id(model.rotation_head.weight)] == rates[id(model.head.weight)] == 0.2


def test_all_views_are_in_one_pass_of_mixed_rows():
    args = steps.arguments("remixmatch", *steps.small_flags("remixmatch"), "--strong-views", "3")
    setup = steps.build("remixmatch", args)
    labeled, unlabeled = steps.batches("remixmatch", size=4)[0], steps.batches("remixmatch", size=10)[1]
    views = (*unlabeled.views, *(torch.randn(10, 3, 4, 4) for _ in range(2)))
    steps.train_step(setup, args, labeled, unlabeled._replace(views=views))
    assert [len(p.x) for p in setup.model.backbone.passes] == [10, 10, 10, 44]
    assert torch.equal(setup.model.backbone.passes[2].x, remixmatch.rotated(views[1])[0])


def test_the_guess_uses_the_state_before_the_step():
    args = steps.arguments("remixmatch", *"--bottleneck-dim 8 --window 1 --momentum 0".split())
    setup = steps.build("remixmatch", args, dropout=0.0)
    state, given = setup.state[0], []
    state.register_forward_hook(lambda module, p, aligned: given.append((p[0], aligned, module.window.clone())))
    for step in range(2):
        steps.train_step(setup, args, *steps.batches("remixmatch", step))
    (p, aligned, window), (_, _, next_window) = given
    assert window.tolist() == [pytest.approx([1 / 3] * 3)]
    assert torch.allclose(aligned, p)
    assert torch.allclose(next_window[0], p.mean(dim=0))


@pytest.mark.parametrize(("step", "ramp"), [(0, 0.0), (3, 0.75), (4, 1.0), (7, 1.0)])
def test_the_ramp_of_a_step(step, ramp):
    args = steps.arguments("remixmatch", *"--warm-up-epochs 2 --iters-per-epoch 2".split())
    row = steps.losses_of("remixmatch", args, step=step)
    risen = row["loss"] - row["loss_l"] - 0.5 * row["loss_rotation"]
    assert risen == pytest.approx(ramp * (1.5 * row["loss_u"] + 0.5 * row["loss_unmixed"]), abs=1e-5)
    assert remixmatch.ramp_up(0, 0) == 1
