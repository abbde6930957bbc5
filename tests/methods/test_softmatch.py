"""SoftMatch: what its Gaussian follows, and the weights and the loss that come of it, against NumPy."""

import numpy as np
import pytest
import torch

import softmatch
from tests.helpers.reference import cross_entropy, cross_entropy_gradient, softmax


def batch(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def gaussian(num_classes: int = 2, momentum: float = 0.999, n_sigma: float = 2.0, **state) -> softmatch.Gaussian:
    made = softmatch.Gaussian(num_classes, momentum, n_sigma)
    for name, value in state.items():
        getattr(made, name).copy_(torch.tensor(value))
    return made.double()


def test_five_steps_of_the_state_are_numpys():
    rng = np.random.default_rng(0)
    m, ours = 0.9, gaussian(3, momentum=0.9)
    mu, var, q_hat = 1 / 3, 1.0, None
    for _ in range(5):
        q = softmax(2 * rng.normal(size=(8, 3)) + [1, 0, -1])
        mask = ours.mask(ours.update(torch.tensor(q)))
        q_hat = q.mean(axis=0) if q_hat is None else m * q_hat + (1 - m) * q.mean(axis=0)
        aligned = q * (1 / 3 + 1e-6) / (q_hat + 1e-6)
        confidence = (aligned / aligned.sum(axis=1, keepdims=True)).max(axis=1)
        mu = m * mu + (1 - m) * confidence.mean()
        var = m * var + (1 - m) * confidence.var(ddof=1)
        expected = np.where(confidence < mu, np.exp(-((confidence - mu) ** 2) / (2 * var / 4)), 1)
        assert np.allclose([ours.mu, ours.var], [mu, var], rtol=1e-6)
        assert np.allclose(ours.q_hat, q_hat, rtol=1e-6)
        assert np.allclose(mask, expected, rtol=1e-6)


def test_weights_left_and_right_of_the_mean():
    """Both classes are equally frequent, so that nothing is aligned; with momentum 1 nothing moves."""
    ours = gaussian(momentum=1.0, mu=0.7, var=0.04, q_hat=[0.5, 0.5])
    mask = ours.mask(ours.update(batch([0.5, 0.5], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [0.0, 1.0])))
    # sigma is 0.2, and n_sigma 2 halves it: 0.5 is two such deviations below the mean, and 0.6 one
    assert mask.tolist() == pytest.approx([np.exp(-2), np.exp(-0.5), 1, 1, 1], rel=1e-5)


def test_n_sigma_sharpens():
    flat, sharp = (gaussian(momentum=1.0, mu=0.7, var=0.04, q_hat=[0.5, 0.5], n_sigma=n) for n in (1.0, 3.0))
    q = batch([0.5, 0.5], [0.5, 0.5])
    assert flat.mask(flat.update(q))[0].item() == pytest.approx(np.exp(-1 / 2), rel=1e-5)
    assert sharp.mask(sharp.update(q))[0].item() == pytest.approx(np.exp(-9 / 2), rel=1e-5)


def test_the_variance_is_unbiased_and_taken_before_the_weights():
    ours = gaussian(momentum=0.0)
    q = batch([0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4])  # their mean is (1/2, 1/2)
    mask = ours.mask(ours.update(q))
    assert ours.q_hat.tolist() == pytest.approx([0.5, 0.5])
    assert ours.mu.item() == pytest.approx(0.75)
    assert ours.var.item() == pytest.approx((0.15**2 + 0.05**2 + 0.05**2 + 0.15**2) / 3)
    assert mask[0] == mask[2] == 1
    assert mask[3].item() == pytest.approx(np.exp(-(0.15**2) / (2 * (0.05 / 3) / 4)), rel=1e-5)


def test_the_mean_prediction_begins_with_the_first_batch_and_then_moves_slowly():
    ours = gaussian(momentum=0.9)
    ours.update(batch([0.8, 0.2], [0.6, 0.4]))
    assert ours.q_hat.tolist() == pytest.approx([0.7, 0.3])
    ours.update(batch([0.1, 0.9], [0.3, 0.7]))
    assert ours.q_hat.tolist() == pytest.approx([0.9 * 0.7 + 0.1 * 0.2, 0.9 * 0.3 + 0.1 * 0.8])


def test_alignment_lowers_the_weight_of_a_frequent_class_and_not_its_pseudo_label():
    ours = gaussian(momentum=1.0, mu=0.8, var=0.01, q_hat=[0.9, 0.1])
    logits = batch([0.6, 0.4], [0.4, 0.6]).log()
    _, pseudo_labels, mask = softmatch.self_training_loss(logits, logits, ours)
    assert pseudo_labels.tolist() == [0, 1]
    # 0.6 / 0.9 against 0.4 / 0.1 makes 1/7 against 6/7, above the mean; and so does 0.4 / 0.9 against 0.6 / 0.1
    assert mask.tolist() == [1, 1]
    sure = batch([0.9, 0.1], [0.9, 0.1]).log()
    _, pseudo_labels, mask = softmatch.self_training_loss(sure, sure, ours)
    assert pseudo_labels.tolist() == [0, 0]
    assert mask[0].item() == pytest.approx(np.exp(-(0.3**2) / (2 * 0.01 / 4)), rel=1e-3)  # aligned, it is 1/2


def test_equal_confidences_have_full_weight_and_no_division_by_zero():
    ours = gaussian(momentum=0.0)
    assert ours.mask(ours.update(batch([0.9, 0.1], [0.1, 0.9]))).tolist() == [1, 1]
    assert ours.var == 0


def test_loss_and_gradient_are_numpys():
    rng = np.random.default_rng(1)
    y_weak, y_strong = 2 * rng.normal(size=(2, 32, 5))
    weak, strong = (torch.tensor(y, requires_grad=True) for y in (y_weak, y_strong))
    other = gaussian(5, momentum=0.0)
    mask = other.mask(other.update(torch.tensor(softmax(y_weak)))).numpy()
    loss, pseudo_labels, returned = softmatch.self_training_loss(weak, strong, gaussian(5, momentum=0.0))
    loss.backward()

    target = y_weak.argmax(axis=1)
    assert 0 < mask.min() < 0.9
    assert loss.item() == pytest.approx(np.mean([mask[i] * cross_entropy(y_strong[i], target[i]) for i in range(32)]))
    assert np.allclose(strong.grad, cross_entropy_gradient(y_strong, target) * mask[:, None] / 32)
    assert weak.grad is None
    assert np.array_equal(pseudo_labels, target)
    assert np.allclose(returned, mask)


def test_a_class_that_nothing_is_taken_for_is_aligned_without_dividing_by_0():
    gaussian = softmatch.Gaussian(3, momentum=0.5, n_sigma=2)
    mask = gaussian.mask(gaussian.update(torch.tensor([[0.75, 0.25, 0.0], [0.25, 0.75, 0.0]])))
    assert mask.isfinite().all()
    assert gaussian.mu.item() == pytest.approx(0.5 * (1 / 3 + 0.75), rel=1e-5)
