"""Pseudo Label's loss against NumPy."""

import numpy as np
import pytest
import torch

import pseudo_label
from tests.helpers.reference import cross_entropy, cross_entropy_gradient, softmax


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.7, 0.95, 1.0])
def test_loss_and_gradient_are_numpys(threshold):
    """Target and prediction are the same logits, of which only the latter has a gradient."""
    y = 3 * np.random.default_rng(0).normal(size=(32, 5))
    logits = torch.tensor(y, requires_grad=True)
    loss, pseudo_labels, mask = pseudo_label.self_training_loss(logits, threshold)
    loss.backward()

    target, selected = y.argmax(axis=1), softmax(y).max(axis=1) > threshold
    assert loss.item() == pytest.approx(sum(cross_entropy(y[i], target[i]) for i in range(32) if selected[i]) / 32)
    assert np.allclose(logits.grad, cross_entropy_gradient(y, target) * selected[:, None] / 32)
    assert np.array_equal(pseudo_labels, target)
    assert np.array_equal(mask, selected)


def test_threshold_is_strict():
    logits = torch.zeros(4, 2)  # the confidence is 1/2 to the last bit
    assert pseudo_label.self_training_loss(logits, 0.5)[2].sum() == 0
    assert pseudo_label.self_training_loss(logits, 0.49)[2].sum() == 4


def test_mean_is_over_the_batch_with_its_zeros():
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    expected = np.log(1 + np.exp(-2)) / 4
    assert pseudo_label.self_training_loss(logits, 0.5)[0].item() == pytest.approx(expected)
