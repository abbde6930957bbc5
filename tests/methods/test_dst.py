"""DST: the reversed gradient, whom each loss reaches, and the worst-case loss by hand."""

import numpy as np
import pytest
import torch

import dst
from tests.conftest import final_state
from tests.helpers import steps
from tests.helpers.reference import cross_entropy, softmax

FLAGS = "--bottleneck-dim 6 --width 7".split()
C_AFTER = [(0, 0.0), (500, 0.0245), (1000, 0.0462), (2000, 0.0762), (5000, 0.0987), (100_000, 0.1)]


@pytest.mark.parametrize(("n", "c"), C_AFTER)
def test_the_reversal_turns_gradients_and_grows_with_the_steps(n, c):
    reversal = dst.GradientReversal()
    reversal.steps.fill_(n)
    x, gradient = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    y = reversal(x)
    assert torch.equal(y, x)
    y.backward(gradient)
    torch.testing.assert_close(x.grad, -c * gradient, rtol=2e-3, atol=0)
    assert c == pytest.approx(0.2 / (1 + np.exp(-n / 1000)) - 0.1, abs=6e-5)


@pytest.mark.parametrize("n", [500, 1000, 5000])
def test_features_get_the_worst_case_gradient_negative_and_scaled(n):
    """Both halves of the batch; and the worst-case head itself gets its gradient as it is."""
    c = 0.1 * np.tanh(n / 2000)
    model = steps.build("dst", steps.arguments("dst", *FLAGS), dropout=0.0).model
    model.reversal.steps.fill_(n)
    features = torch.randn(8, 6)
    gradients = []
    for layer in (torch.nn.Identity(), model.reversal):
        leaf = features.clone().requires_grad_()
        model.zero_grad()
        logits, worst = model.head(leaf), model.worst_head(layer(leaf))
        dst.worst_case_loss(logits[:4], worst[:4], logits[4:], worst[4:], 2.0).backward()
        assert model.head.weight.grad is None
        gradients.append((leaf.grad, model.worst_head[0].weight.grad.clone()))
    (plain, of_head), (reversed_, of_head_behind) = gradients
    assert (plain.abs().sum(dim=1) > 0).all()
    torch.testing.assert_close(reversed_, -c * plain, rtol=1e-5, atol=1e-8)
    assert torch.equal(of_head, of_head_behind)


def after_step(*flags: str, n: int = 2000) -> dict[str, torch.Tensor]:
    """All weights after one step in which every pseudo-label counts, if the flags do not say otherwise."""
    args = steps.arguments("dst", *FLAGS, "--threshold", "0", *flags)
    setup = steps.build("dst", args)
    setup.model.reversal.steps.fill_(n)
    steps.train_step(setup, args)
    return dict(setup.model.state_dict())


@pytest.mark.parametrize(
    ("flags", "reached"),
    [
        (["--eta", "0"], {"backbone", "bottleneck", "worst_head"}),
        (["--eta-prime", "0"], {"backbone", "bottleneck", "worst_head"}),
        (["--trade-off-self-training", "0"], {"backbone", "bottleneck", "pseudo_head"}),
        (["--trade-off-cls-strong", "0"], {"backbone", "bottleneck", "head"}),
    ],
)
def test_whom_a_loss_reaches(flags, reached):
    """The head hears of neither the worst case nor pseudo-labels, and the two extra heads not of each other."""
    with_loss, without = after_step(), after_step(*flags)
    differ = {key.split(".")[0] for key in with_loss if not torch.equal(with_loss[key], without[key])}
    assert differ == reached


def test_worst_case_head_learns_from_the_start_and_features_later():
    """At n = 0 the features' share of the gradient is nothing."""
    with_loss, without = after_step(n=0), after_step("--eta", "0", n=0)
    differ = {key.split(".")[0] for key in with_loss if not torch.equal(with_loss[key], without[key])}
    assert differ == {"worst_head"}


def test_reversal_counts_completed_steps_and_is_saved(small_run, tmp_path):
    assert after_step(n=0)["reversal.steps"] == 1
    small_run("dst", "--width", "8")
    assert final_state(tmp_path / "run")["model"]["reversal.steps"] == 6


def test_worst_case_loss_is_numpys():
    """The labeled target is the head's prediction, of which it has no label to know better."""
    y_l, a_l, y_u, a_u = 2 * np.random.default_rng(0).normal(size=(4, 8, 5))
    c_l, c_u = y_l.argmax(axis=1), y_u.argmax(axis=1)
    agree = np.mean([cross_entropy(a_l[i], c_l[i]) for i in range(8)])
    differ = np.mean([-np.log(min(1 - softmax(a_u)[i, c_u[i]] + 1e-6, 1)) for i in range(8)])
    tensors = [torch.tensor(z, requires_grad=True) for z in (y_l, a_l, y_u, a_u)]
    loss = dst.worst_case_loss(*tensors, eta_prime=3.0)
    loss.backward()
    assert loss.item() == pytest.approx(3 * agree + differ)
    assert [t.grad is None for t in tensors] == [True, False, True, False]


def test_worst_case_loss_at_its_ends():
    """Full disagreement costs nothing, not a little less; full agreement is finite."""
    y, none = torch.tensor([[5.0, 0.0]]), torch.zeros(1, 2)
    opposite, same = torch.tensor([[-200.0, 0.0]]), torch.tensor([[200.0, 0.0]])
    assert dst.worst_case_loss(y, none, y, opposite, 0.0) == 0
    assert dst.worst_case_loss(y, none, y, same, 0.0).item() == pytest.approx(-np.log(1e-6), rel=1e-2)


def test_self_training_loss_is_numpys():
    y_weak, y_strong = 3 * np.random.default_rng(1).normal(size=(2, 32, 5))
    weak, strong = (torch.tensor(y, requires_grad=True) for y in (y_weak, y_strong))
    loss, pseudo_labels, mask = dst.self_training_loss(weak, strong, 0.7)
    loss.backward()
    target, selected = y_weak.argmax(axis=1), softmax(y_weak).max(axis=1) > 0.7
    assert loss.item() == pytest.approx(
        np.mean([selected[i] * cross_entropy(y_strong[i], target[i]) for i in range(32)])
    )
    assert weak.grad is None
    assert np.array_equal(pseudo_labels, target)
    assert np.array_equal(mask, selected)


def test_a_confidence_of_just_the_threshold_is_too_low():
    """As in FixMatch."""
    even = torch.zeros(1, 2)
    assert dst.self_training_loss(even, even, 0.5)[2].tolist() == [0]
    assert dst.self_training_loss(even, even, 0.49)[2].tolist() == [1]


def test_only_the_head_is_tested():
    model = steps.build("dst", steps.arguments("dst", *FLAGS)).model.eval()
    images = torch.randn(4, 3, 4, 4)
    before = model(images)
    for p in [*model.worst_head.parameters(), *model.pseudo_head.parameters()]:
        p.data.zero_()
    assert torch.equal(model(images), before)
    assert before.shape == (4, steps.CLASSES)


def test_the_two_heads_are_of_the_same_make():
    """Two of the same make, with dropout, at the full rate."""
    model = dst.DebiasedClassifier(steps.Backbone(), steps.CLASSES, 6, width=7)
    for head in (model.worst_head, model.pseudo_head):
        assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU", "Dropout", "Linear"]
        assert head[2].p == 0.5
        assert (head[0].in_features, head[0].out_features, head[3].out_features) == (6, 7, steps.CLASSES)
    groups = model.parameter_groups(0.5, finetune=True)
    assert [group["lr"] for group in groups] == pytest.approx([0.05, 0.5, 0.5, 0.5])
    assert {id(p) for group in groups for p in group["params"]} == set(map(id, model.parameters()))
