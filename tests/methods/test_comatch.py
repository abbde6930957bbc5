"""CoMatch's window, bank, targets, graph and contrast by hand, and where gradients flow."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import comatch
from tests.helpers import steps
from tests.helpers.reference import near, softmax, tensor, unit

FIRST = tensor([0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.05, 0.9, 0.05])
Q = ([0.562914, 0.099338, 0.337748], [0.275081, 0.339806, 0.385113], [0.061283, 0.681327, 0.257390])
Z = unit([1, 0], [1, 1], [0, 1])
BANK = unit([1, 0.2], [-1, 1], [0.1, 1], [0, -1]), tensor([1, 0, 0], [0.2, 0.6, 0.2], [0, 1, 0], [0, 0, 1])
SMOOTHED = ([0.604680, 0.090614, 0.304706], [0.304440, 0.348755, 0.346805], [0.060397, 0.704172, 0.235430])


def bank_of(z: torch.Tensor, p: torch.Tensor, more: int = 0) -> comatch.Bank:
    """Filled with these, and with room for more."""
    made = comatch.Bank(len(z) + more, z.shape[1], p.shape[1]).double()
    made.write(z, p)
    return made


def test_predictions_are_divided_by_their_mean():
    window = comatch.Window(3, 32).double()
    near(window.align(FIRST), *Q)
    q = window.align(tensor([0.2, 0.2, 0.6], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3]))  # the mean is [.291667 .5 .208333]
    near(q[:1], [0.172911, 0.100865, 0.726225])
    assert window.steps == 2


def test_the_window_forgets_the_oldest_batch():
    window = comatch.Window(2, 2).double()
    batches = [[0.9, 0.1], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8]]
    means = [0.9, 0.8, 0.4, 0.15]
    for (p, r), mean in zip(batches, means, strict=True):
        a, b = p / mean, r / (1 - mean)
        near(window.align(tensor([p, r])), [a / (a + b), b / (a + b)])


def test_a_class_that_no_batch_predicts_stays_at_zero():
    q = comatch.Window(3, 4).align(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))
    assert q.isfinite().all()
    assert q[:, 2].tolist() == [0, 0]


def test_smoothing_by_hand():
    near(bank_of(*BANK).smooth(tensor(*Q), Z, 0.2, 0.9), *SMOOTHED, atol=2e-6)


def test_without_a_full_bank_there_is_no_smoothing():
    """With one entry missing, rows would sum to less than 1."""
    bank = bank_of(*BANK, more=1)
    assert torch.equal(bank.smooth(tensor(*Q), Z, 0.2, 0.9), tensor(*Q))
    bank.write(unit([3, 1]), tensor([0, 0, 1]))
    smoothed = bank.smooth(tensor(*Q), Z, 0.2, 0.9)
    assert not torch.equal(smoothed, tensor(*Q))
    torch.testing.assert_close(smoothed.sum(dim=1), torch.ones(3, dtype=torch.float64), rtol=0, atol=3e-6)


def test_a_cold_bank_gives_the_nearest_entrys_prediction():
    """At a low temperature, and where nothing is kept of the own one."""
    bank = bank_of(*BANK)
    near(bank.smooth(tensor(*Q)[::2], Z[::2], 0.01, 0.0), [1, 0, 0], [0, 1, 0])


def test_the_ring_goes_around():
    bank = comatch.Bank(10, 1, 2)
    for step, slots in enumerate([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]):
        z = torch.arange(4.0)[:, None] + 10 * step
        bank.write(z, torch.cat([z, -z], dim=1))
        assert torch.equal(bank.embeddings[slots], z)
        assert torch.equal(bank.probabilities[slots], torch.cat([z, -z], dim=1))
    assert bank.embeddings.flatten().tolist() == [22, 23, 2, 3, 10, 11, 12, 13, 20, 21]
    assert bank.written == 12


def test_soft_targets_and_their_mask_by_hand():
    logits = tensor([1, 0, 0], [0, 1, 0], [0, 2, 0]).requires_grad_()
    targets = tensor(*SMOOTHED)
    loss, pseudo_labels, mask = comatch.self_training_loss(targets, logits, 0.6)
    assert loss.item() == pytest.approx(0.592655, abs=1e-6)  # 0.946765 and 0.831200 over three
    assert mask.tolist() == [1, 0, 1]
    assert pseudo_labels.tolist() == [0, 1, 1]
    loss.backward()
    expected = (softmax(logits.detach().numpy()) - targets.numpy()) * np.array([[1], [0], [1]]) / 3
    np.testing.assert_allclose(logits.grad, expected, atol=1e-6)
    assert comatch.self_training_loss(targets, logits, targets.max().item())[2].tolist() == [0, 0, 1]  # equals count


Z_1, Z_2 = unit([1, 0.1], [0.5, 1], [-0.2, 1]), unit([0.9, 0], [0.2, 1], [0, 1])


@pytest.mark.parametrize(("graph_threshold", "expected"), [(0.3, 0.892406), (0.8, 0.392512)])
def test_contrast_by_hand(graph_threshold, expected):
    """At 0.8 the graph is the identity, at 0.3 the second image is like both others."""
    loss = comatch.contrastive_loss(tensor(*SMOOTHED), Z_1, Z_2, 0.2, graph_threshold)
    assert loss.item() == pytest.approx(expected, abs=2e-6)


def numpys_contrast(targets: np.ndarray, z_1: np.ndarray, z_2: np.ndarray, T: float, threshold: float) -> float:
    losses = []
    for i in range(len(targets)):
        row = np.array([1.0 if i == j else targets[i] @ targets[j] for j in range(len(targets))])
        row[row < threshold] = 0
        similar = softmax(np.array([z_1[i] @ z_2[j] / T for j in range(len(targets))]))
        losses.append(-(row / row.sum() * np.log(similar + 1e-7)).sum())
    return np.mean(losses)


def test_contrast_and_both_its_gradients_are_those_of_differences():
    rng = np.random.default_rng(0)
    targets = softmax(3 * rng.normal(size=(5, 3)))
    values = [rng.normal(size=(5, 4)) for _ in range(2)]
    leaves = [torch.tensor(value, requires_grad=True) for value in values]
    loss = comatch.contrastive_loss(torch.tensor(targets), *leaves, 0.5, 0.4)
    assert loss.item() == pytest.approx(numpys_contrast(targets, *values, 0.5, 0.4))
    loss.backward()
    for which, leaf in enumerate(leaves):
        for place in [(0, 0), (2, 3), (4, 1)]:
            ends = []
            for step in (1e-5, -1e-5):
                moved = [value.copy() for value in values]
                moved[which][place] += step
                ends.append(numpys_contrast(targets, *moved, 0.5, 0.4))
            assert leaf.grad[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-7)


def test_the_graph_takes_equals_and_its_diagonal_is_one():
    """Two images of one uncertain class are linked at 0.5, and not above; an image is always linked to itself."""
    targets = tensor([0.5, 0.5], [0.5, 0.5])
    z = unit([1, 0], [-1, 0])
    linked, alone = (comatch.contrastive_loss(targets, z, z, 1.0, threshold).item() for threshold in (0.5, 0.51))
    own, other = -np.log(softmax(np.array([1.0, -1.0])))
    assert alone == pytest.approx(own)
    assert linked == pytest.approx((2 * own + other) / 3)  # rows are (1, 1/2) / 1.5


def taken(*flags: str, number: int = 1):
    """A setup after so many steps, and the metrics of the last one."""
    args = steps.arguments("comatch", *"--bottleneck-dim 8 --projection-dim 4 --bank-batches 2".split(), *flags)
    setup = steps.build("comatch", args, dropout=0)
    for step in range(number):
        metrics = steps.train_step(setup, args, *steps.batches("comatch", step))
    return setup, metrics


def test_the_bank_holds_the_unlabeled_images_and_then_the_labeled_ones():
    """As they were aligned; the first step's predictions are smoothed by nothing."""
    args = steps.arguments("comatch", *"--bottleneck-dim 8 --projection-dim 4 --bank-batches 2".split())
    setup = steps.build("comatch", args, dropout=0)
    model, (labeled, unlabeled) = setup.model, steps.batches("comatch")
    with torch.no_grad():
        features_l, features_u = model.features(labeled.views[0]), model.features(unlabeled.views[0])
        z = torch.cat([model.project(features_u), model.project(features_l)])
        q = comatch.Window(steps.CLASSES, 1).align(model.head(features_u).softmax(dim=1))
        p = torch.cat([q, F.one_hot(labeled.labels, steps.CLASSES)])
    steps.train_step(setup, args)
    _, bank = setup.state
    torch.testing.assert_close(bank.embeddings[:16], z)
    torch.testing.assert_close(bank.probabilities[:16], p)
    assert bank.written == 16
    assert (bank.embeddings[16:] == 0).all()


def test_what_is_stored_was_not_smoothed_and_the_bank_is_read_before_it_is_written(monkeypatch):
    seen, smooth = [], comatch.Bank.smooth

    def spy(bank, q, z, *others):
        seen.append((bank.written.item(), q, smooth(bank, q, z, *others)))
        return seen[-1][-1]

    monkeypatch.setattr(comatch.Bank, "smooth", spy)
    setup, _ = taken("--smoothing", "0.5", number=3)
    assert [written for written, *_ in seen] == [0, 16, 32]
    assert [torch.equal(q, targets) for _, q, targets in seen] == [True, True, False]
    assert torch.equal(setup.state[1].probabilities[:8], seen[2][1])


def gradients(*flags: str, weights: dict[str, str]):
    """After the first step, of each part of the network that has any."""
    words = [word for name, value in weights.items() for word in (f"--{name}", value)]
    setup, _ = taken(*flags, *words, "--threshold", "0.2")
    found = {name: p.grad for name, p in setup.model.named_parameters()}
    return {name.split(".")[0] for name, grad in found.items() if grad is not None and grad.abs().max() > 0}


def test_what_learns_from_which_loss():
    """The projector from the contrast alone, the head from the others."""
    assert gradients(weights={"trade-off-contrast": "0"}) == {"backbone", "bottleneck", "head"}
    assert gradients(weights={"trade-off-contrast": "1"}) == {"backbone", "bottleneck", "head", "projector"}


def test_which_view_has_which_part():
    """The weak one makes targets, the first strong one is classified, and both strong ones are compared."""
    flags = "--bottleneck-dim 8 --projection-dim 4 --threshold 0.3 --graph-threshold 0.3".split()
    args = steps.arguments("comatch", *flags)
    setup = steps.build("comatch", args, dropout=0)
    features = [setup.model.features(view).detach() for view in steps.batches("comatch")[1].views]
    with torch.no_grad():
        targets = comatch.Window(steps.CLASSES, 1).align(setup.model.head(features[0]).softmax(dim=1))
        loss_u, _, _ = comatch.self_training_loss(targets, setup.model.head(features[1]), 0.3)
        loss_contrast = comatch.contrastive_loss(targets, *map(setup.model.project, features[1:]), args.T, 0.3)
    setup.model.backbone.passes.clear()
    metrics = steps.train_step(setup, args)
    torch.testing.assert_close(metrics["loss_u"].detach(), loss_u)
    torch.testing.assert_close(metrics["loss_contrast"].detach(), loss_contrast)
    assert [p.grad for p in setup.model.backbone.passes] == [True, False, True, True]
    assert not any(buffer.requires_grad for module in setup.state for buffer in module.buffers())


def test_a_joint_pass_holds_all_four_views():
    setup, _ = taken("--joint-passes")
    (joint,) = setup.model.backbone.passes
    assert len(joint.x) == 32


def test_losses_add_up_with_their_weights():
    _, metrics = taken("--trade-off-self-training", "2", "--trade-off-contrast", "3", "--threshold", "0.3")
    assert metrics["loss_u"] > 0
    total = metrics["loss_l"] + 2 * metrics["loss_u"] + 3 * metrics["loss_contrast"]
    torch.testing.assert_close(metrics["loss"], total)


def test_embeddings_are_unit_vectors_of_a_projector_of_two_layers():
    setup, _ = taken()
    model = setup.model
    first, slope, last = model.projector
    assert (first.in_features, first.out_features, last.in_features, last.out_features) == (8, 8, 8, 4)
    assert slope(torch.tensor(-1.0)).item() == pytest.approx(-0.1)
    features = torch.randn(5, 8)
    torch.testing.assert_close(model.project(features).norm(dim=1), torch.ones(5))
    groups = model.parameter_groups(0.5, True)
    assert [group["lr"] for group in groups] == pytest.approx([0.05, 0.5, 0.5, 0.5])
    assert {id(p) for group in groups for p in group["params"]} == set(map(id, model.parameters()))
