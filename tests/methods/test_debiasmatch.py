"""DebiasMatch: how q_hat follows the predictions, when it begins anew, and what it does to targets and logits."""

import numpy as np
import pytest
import torch

import debiasmatch
from tests.helpers import steps
from tests.helpers.reference import cross_entropy, cross_entropy_gradient, softmax

SKEWED = torch.tensor([0.9, 0.07, 0.03])


def test_q_hat_tracks_a_skewed_stream():
    """In closed form: after n steps the share of the data is 1 - m^n."""
    q_hat = debiasmatch.QHat(3, 0.999)
    assert q_hat.q_hat.tolist() == pytest.approx([1 / 3] * 3)
    for n in range(1, 501):
        q_hat.update(SKEWED.log().expand(8, 3))
        if n in (1, 10, 500):
            share = 1 - 0.999**n
            torch.testing.assert_close(q_hat.q_hat, share * SKEWED + (1 - share) / 3, rtol=0, atol=1e-5)
    assert share == pytest.approx(0.394, abs=1e-3)
    assert q_hat.q_hat.sum().item() == pytest.approx(1, abs=1e-5)


def test_q_is_the_mean_of_probabilities_and_not_of_logits():
    q_hat = debiasmatch.QHat(2, 0.0)
    y = np.array([[4.0, 0.0], [0.0, 1.0]])
    q_hat.update(torch.tensor(y))
    assert np.allclose(q_hat.q_hat, softmax(y).mean(axis=0))


@pytest.mark.parametrize(
    ("flags", "at_epoch_start", "expected"),
    [
        ([], True, [1 / 3] * 3),
        (["--persistent-q-hat"], True, SKEWED.tolist()),
        ([], False, SKEWED.tolist()),  # resumed in the middle of an epoch
        (["--persistent-q-hat"], False, SKEWED.tolist()),
    ],
)
def test_what_begins_an_epoch(flags, at_epoch_start, expected):
    args = steps.arguments("debiasmatch", "--momentum", "1", *flags)  # the steps themselves leave q_hat as it is
    setup = steps.build("debiasmatch", args)
    setup.state[0].q_hat.copy_(SKEWED)
    run = steps.Epochs("debiasmatch", (2,))
    run.at_epoch_start = at_epoch_start
    run.train(setup, args, torch.optim.lr_scheduler.LambdaLR(setup.optimizer, lambda t: 1))
    assert setup.state[0].q_hat.tolist() == pytest.approx(expected)


def test_step_updates_before_use():
    """With momentum 0, q_hat is this batch's own mean."""
    args = steps.arguments("debiasmatch", "--momentum", "0", "--threshold", "0", "--tau", "2")
    setup = steps.build("debiasmatch", args, dropout=0.0)
    data = steps.batches("debiasmatch")
    setup.state[0].q_hat.copy_(SKEWED)
    with torch.no_grad():
        setup.model.train()
        weak, strong = (setup.model(view).double().numpy() for view in data[1].views)
    bias = 2 * np.log(softmax(weak).mean(axis=0))
    target = (weak - bias).argmax(axis=1)
    expected = np.mean([cross_entropy(strong[i] + bias, target[i]) for i in range(8)])
    assert steps.train_step(setup, args)["loss_u"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.7, 0.95])
def test_loss_and_gradient_are_numpys(threshold):
    rng = np.random.default_rng(0)
    y_weak, y_strong = 3 * rng.normal(size=(2, 32, 3))
    bias = 2 * np.log(SKEWED.double().numpy())
    weak, strong = (torch.tensor(y, requires_grad=True) for y in (y_weak, y_strong))
    loss, pseudo_labels, mask = debiasmatch.self_training_loss(weak, strong, torch.tensor(bias), threshold)
    loss.backward()

    z = y_weak - bias
    target, selected = z.argmax(axis=1), softmax(z).max(axis=1) > threshold
    assert not np.array_equal(target, y_weak.argmax(axis=1))  # the rare classes gain some
    terms = [selected[i] * cross_entropy(y_strong[i] + bias, target[i]) for i in range(32)]
    assert loss.item() == pytest.approx(np.mean(terms))
    assert np.allclose(strong.grad, cross_entropy_gradient(y_strong + bias, target) * selected[:, None] / 32)
    assert weak.grad is None
    assert np.array_equal(pseudo_labels, target)
    assert np.array_equal(mask, selected)


def test_a_confidence_of_just_the_threshold_is_too_low():
    """As in FixMatch."""
    even, bias = torch.zeros(1, 2), torch.zeros(2)
    assert debiasmatch.self_training_loss(even, even, bias, 0.5)[2].tolist() == [0]
    assert debiasmatch.self_training_loss(even, even, bias, 0.49)[2].tolist() == [1]


def test_q_hat_stays_in_float32_and_out_of_the_graph():
    q_hat = debiasmatch.QHat(3, 0.999)
    logits = torch.randn(8, 3, requires_grad=True)
    for _ in range(3):
        q_hat.update(logits)
    assert q_hat.q_hat.dtype == torch.float32
    assert not q_hat.log().requires_grad
    assert not torch.equal(q_hat.q_hat, torch.full((3,), 1 / 3))


def test_class_that_is_never_predicted_has_a_finite_log():
    q_hat = debiasmatch.QHat(2, 0.0)
    q_hat.update(torch.tensor([[1000.0, 0.0]]))
    assert q_hat.q_hat[1] == 0
    assert torch.isfinite(q_hat.log()).all()
