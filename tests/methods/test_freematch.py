"""FreeMatch: its running means and thresholds by hand, the sign of its fairness loss, and where gradients flow."""

import numpy as np
import pytest
import torch

import freematch
from tests.helpers.reference import cross_entropy, cross_entropy_gradient, softmax


def curriculum(num_classes: int = 2, momentum: float = 0.999, max_tau: float = 1.0, **state) -> freematch.Curriculum:
    made = freematch.Curriculum(num_classes, momentum, max_tau)
    for name, value in state.items():
        getattr(made, name).copy_(torch.tensor(value))
    return made.double()


def logits(*rows: list[float]) -> torch.Tensor:
    """With these probabilities."""
    return torch.tensor(rows, dtype=torch.float64).log()


def mask_of(weak: torch.Tensor, state: freematch.Curriculum) -> list[float]:
    return freematch.self_training_loss(weak, weak, state)[2].tolist()


def test_thresholds_over_five_steps_by_hand():
    """Momentum 1/2, and the same two images in each step: (0.9, 0.1) and (0.7, 0.3), which are both class 0."""
    ours = curriculum(momentum=0.5)
    images = logits([0.9, 0.1], [0.7, 0.3])
    tau = [0.65, 0.725, 0.7625, 0.78125, 0.790625]  # halfway from 0.5 to 0.8, and so on
    q = [0.65, 0.725, 0.7625, 0.78125, 0.790625]  # of class 0, whose mean prediction is 0.8, too
    histogram = [0.75, 0.875, 0.9375, 0.96875, 0.984375]
    masks = [[1, 1], [1, 0], [1, 0], [1, 0], [1, 0]]  # 0.7 is above the first threshold, and below all others
    for step in range(5):
        assert mask_of(images, ours) == masks[step]
        assert ours.tau.item() == pytest.approx(tau[step])
        assert ours.q_hat.tolist() == pytest.approx([q[step], 1 - q[step]])
        assert ours.histogram.tolist() == pytest.approx([histogram[step], 1 - histogram[step]])
        assert ours.thresholds().tolist() == pytest.approx([tau[step], tau[step] * (1 - q[step]) / q[step]])


def test_it_begins_at_one_over_c_and_the_mask_takes_equals():
    ours = curriculum(4)
    assert ours.tau == 0.25
    assert ours.thresholds().tolist() == [0.25] * 4
    assert mask_of(torch.zeros(3, 4, dtype=torch.float64), ours) == [1, 1, 1]


def test_the_thresholds_are_those_after_the_batch():
    """The second image's confidence is above tau before the batch (0.5), and below it after (0.75)."""
    ours = curriculum(momentum=0.0)
    assert mask_of(logits([0.9, 0.1], [0.6, 0.4]), ours) == [1, 0]


def test_tau_has_a_limit_that_stays_in_the_state():
    ours = curriculum(momentum=0.0, max_tau=0.6)
    mask_of(logits([0.9, 0.1], [0.8, 0.2]), ours)
    assert ours.tau.item() == pytest.approx(0.6)
    assert ours.q_hat.tolist() == pytest.approx([0.85, 0.15])


def test_loss_and_gradient_are_numpys():
    rng = np.random.default_rng(0)
    y_weak, y_strong = 2 * rng.normal(size=(2, 32, 3))
    weak, strong = (torch.tensor(y, requires_grad=True) for y in (y_weak, y_strong))
    ours = curriculum(3, momentum=1.0, tau=0.8, q_hat=[0.5, 0.3, 0.2])
    loss, pseudo_labels, mask = freematch.self_training_loss(weak, strong, ours)
    loss.backward()

    target = y_weak.argmax(axis=1)
    selected = softmax(y_weak).max(axis=1) >= np.array([0.8, 0.48, 0.32])[target]
    assert 0 < selected.sum() < 32
    terms = [selected[i] * cross_entropy(y_strong[i], target[i]) for i in range(32)]
    assert loss.item() == pytest.approx(np.mean(terms))
    assert np.allclose(strong.grad, cross_entropy_gradient(y_strong, target) * selected[:, None] / 32)
    assert weak.grad is None
    assert np.array_equal(pseudo_labels, target)
    assert np.array_equal(mask, selected)


def fairness(strong: torch.Tensor, mask: list[float], state: freematch.Curriculum) -> torch.Tensor:
    return freematch.fairness_loss(strong, torch.tensor(mask, dtype=strong.dtype), state)


def test_fairness_by_hand():
    """Selected are (0.8, 0.2), (0.6, 0.4), (0.7, 0.3), (0.1, 0.9): three predicted as class 0, one as class 1."""
    strong = logits([0.8, 0.2], [0.6, 0.4], [0.5, 0.5], [0.7, 0.3], [0.1, 0.9])
    ours = curriculum(q_hat=[0.6, 0.4], histogram=[0.75, 0.25])
    a = np.array([0.8, 1.6]) / 2.4  # 0.6 / 0.75 and 0.4 / 0.25
    b = np.array([0.55 / 0.75, 0.45 / 0.25]) / (0.55 / 0.75 + 0.45 / 0.25)
    assert fairness(strong, [1, 1, 0, 1, 1], ours).item() == pytest.approx((a * np.log(b)).sum(), rel=1e-5)


def test_classes_without_a_prediction_are_left_out():
    """Only class 0 is predicted: b is (1, 0, 0), and the others count with log(1e-12)."""
    strong = logits([0.8, 0.1, 0.1], [0.6, 0.3, 0.1])
    ours = curriculum(3, q_hat=[0.5, 0.3, 0.2], histogram=[0.5, 0.5, 0.0])
    a = np.array([1, 0.6, 0]) / 1.6  # and a class without pseudo-labels has no part in a
    assert fairness(strong, [1, 1], ours).item() == pytest.approx(a[1] * np.log(1e-12), rel=1e-5)


def test_its_sign_is_that_of_minus_a_cross_entropy():
    """It is never positive, and is lower the farther the batch is from the target: as published."""
    ours = curriculum(q_hat=[0.5, 0.5], histogram=[0.5, 0.5])
    fair, unfair = logits([0.7, 0.3], [0.3, 0.7]), logits([0.9, 0.1], [0.4, 0.6])
    assert fairness(fair, [1, 1], ours).item() == pytest.approx(np.log(0.5))
    assert fairness(unfair, [1, 1], ours).item() == pytest.approx(np.mean(np.log([0.65, 0.35])))
    assert fairness(unfair, [1, 1], ours) < fairness(fair, [1, 1], ours) < 0


def test_fairness_has_a_gradient_through_the_mean_prediction_of_the_selected_alone():
    """Against differences of the formula, in which the histogram is a constant."""
    rng = np.random.default_rng(2)
    y, mask = rng.normal(size=(6, 3)), np.array([1, 1, 0, 1, 1, 1])
    ours = curriculum(3, q_hat=[0.5, 0.3, 0.2], histogram=[0.6, 0.3, 0.1])
    strong = torch.tensor(y, requires_grad=True)
    fairness(strong, mask.tolist(), ours).backward()

    histogram = np.bincount(y[mask == 1].argmax(axis=1), minlength=3)
    assert (histogram > 0).all()
    a = np.array([0.5 / 0.6, 0.3 / 0.3, 0.2 / 0.1])

    def formula(y: np.ndarray) -> float:
        b = softmax(y)[mask == 1].mean(axis=0) / histogram
        return (a / a.sum() * np.log(b / b.sum())).sum()

    for i, c in np.ndindex(y.shape):
        step = np.zeros_like(y)
        step[i, c] = 1e-5
        assert strong.grad[i, c].item() == pytest.approx((formula(y + step) - formula(y - step)) / 2e-5, abs=1e-7)
    assert (strong.grad[2] == 0).all()
    assert not any(buffer.requires_grad for buffer in ours.buffers())


def test_nothing_selected_is_no_loss_and_no_gradient():
    strong = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    loss = fairness(strong, [0, 0, 0, 0], curriculum(3))
    loss.backward()
    assert loss == 0
    assert (strong.grad == 0).all()
