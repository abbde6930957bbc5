"""AdaMatch: alignment, threshold, interpolation and warm-up by hand, and where gradients flow."""

import numpy as np
import pytest
import torch

import adamatch
from common.system import seeding
from tests.helpers import steps
from tests.helpers.reference import cross_entropy, cross_entropy_gradient, softmax, tensor


def alignment(num_classes: int = 3, length: int = 4, momentum: float = 0.999, **state) -> adamatch.Alignment:
    made = adamatch.Alignment(num_classes, length, momentum).double()
    for name, value in state.items():
        getattr(made, name).copy_(torch.tensor(value))
    return made


LABELED = tensor([1.25, 0.5, 0], [0, 2.8, -0.5])
WEAK, STRONG = tensor([2, 1, 0], [0, 0, 1], [0, 1.5, 0]), tensor([1, 0, 0], [0, 0, 0], [0, 1, 1])
BEFORE = {"p_labeled": [0.5, 0.3, 0.2], "window": [[0.2, 0.5, 0.3]] * 4}


def test_a_step_of_alignment_and_threshold_by_hand():
    """Alignment turns the mask around: without it, the third image alone is above the threshold, with the label 1."""
    ours = alignment(**BEFORE)
    loss, pseudo_labels, mask = adamatch.self_training_loss(LABELED, WEAK, STRONG, ours, 0.9)
    assert ours.p_labeled.tolist() == pytest.approx([0.499812, 0.300290, 0.199898], abs=1e-6)
    assert ours.window.mean(dim=0).tolist() == pytest.approx([0.235955, 0.470676, 0.293369], abs=1e-6)
    q = [[0.866299, 0.095988, 0.037714], [0.459643, 0.138441, 0.401916], [0.374318, 0.505273, 0.120409]]
    torch.testing.assert_close(ours(WEAK.softmax(dim=1)), tensor(*q), rtol=0, atol=1e-5)
    assert pseudo_labels.tolist() == [0, 0, 1]
    assert mask.tolist() == [1, 0, 0]  # the threshold is 0.665796
    assert loss.item() == pytest.approx(0.183815, abs=1e-6)


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.65, [1, 0, 1]), (0.7, [1, 0, 0]), (1, [1, 0, 0]), (0, [1, 1, 1])]
)
def test_the_threshold_is_a_part_of_the_mean_confidence_on_labeled_images(threshold, expected):
    """Which is 0.739773, of 0.568546 and 0.911001; the aligned confidences are 0.866, 0.460 and 0.505."""
    assert adamatch.self_training_loss(LABELED, WEAK, STRONG, alignment(**BEFORE), threshold)[2].tolist() == expected


def test_the_mask_takes_equals():
    """All is uniform: every confidence is 1/2 and so is the threshold."""
    zeros = torch.zeros(4, 2, dtype=torch.float64)
    assert adamatch.self_training_loss(zeros, zeros, zeros, alignment(2), 1.0)[2].tolist() == [1, 1, 1, 1]


def test_the_window_begins_as_uniform_and_forgets_the_oldest():
    """Windows of two, of batches of one image each."""
    ours = alignment(2, 2, momentum=0.5)
    batches = [[0.9, 0.1], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]
    averages = [0.7, 0.8, 0.4, 0.15, 0.25]  # of the newest two, in the first step of the uniform one and 0.9
    p_labeled = 0.5
    for batch, expected in zip(batches, averages, strict=True):
        ours.update(tensor([0.8, 0.2], [0.4, 0.6]), tensor(batch))
        p_labeled = (p_labeled + 0.6) / 2
        assert ours.window.mean(dim=0).tolist() == pytest.approx([expected, 1 - expected])
        assert ours.p_labeled.tolist() == pytest.approx([p_labeled, 1 - p_labeled])
    assert ours.steps == 5


def test_without_a_window_there_is_a_running_mean_from_uniform_on():
    ours = alignment(2, 0, momentum=0.75)
    for expected in (0.6, 0.675, 0.73125):  # a quarter of the way from 0.5 to 0.9, and so on
        ours.update(tensor([0.5, 0.5]), tensor([0.9, 0.1]))
        assert ours.window.tolist() == [pytest.approx([expected, 1 - expected])]


def test_what_is_averaged_are_predictions_before_alignment():
    """Of the weak views, while the strong ones have no part in it."""
    ours, other = alignment(**BEFORE), alignment(**BEFORE)
    adamatch.self_training_loss(LABELED, WEAK, STRONG, ours, 0.9)
    adamatch.self_training_loss(LABELED, WEAK, -STRONG, other, 0.0)
    np.testing.assert_allclose(ours.window[0], softmax(WEAK.numpy()).mean(axis=0))
    assert torch.equal(ours.window, other.window)


def test_aligned_to_a_class_that_is_never_predicted_it_stays_finite():
    ours = alignment(2, 1)
    ours.update(tensor([0.0, 1.0]), tensor([1.0, 0.0]))
    q = ours(tensor([1.0, 0.0], [0.5, 0.5]))
    assert q.isfinite().all()
    torch.testing.assert_close(q.sum(dim=1), torch.ones(2, dtype=torch.float64))
    assert q[1, 1] > 0.99


def test_loss_and_gradient_are_numpys():
    rng = np.random.default_rng(0)
    y_l, y_weak, y_strong = 2 * rng.normal(size=(3, 32, 3))
    labeled, weak, strong = (torch.tensor(y, requires_grad=True) for y in (y_l, y_weak, y_strong))
    ours = alignment(3, 2, momentum=0.5, p_labeled=[0.5, 0.3, 0.2])
    loss, pseudo_labels, mask = adamatch.self_training_loss(labeled, weak, strong, ours, 0.9)
    loss.backward()

    p_l, p_u = softmax(y_l), softmax(y_weak)
    target = (np.array([0.5, 0.3, 0.2]) + p_l.mean(axis=0)) / 2
    running = (np.full(3, 1 / 3) + p_u.mean(axis=0)) / 2
    q = p_u * (target + 1e-6) / (running + 1e-6)
    q /= q.sum(axis=1, keepdims=True)
    selected, classes = q.max(axis=1) >= 0.9 * p_l.max(axis=1).mean(), q.argmax(axis=1)
    assert 0 < selected.sum() < 32
    assert (classes != y_weak.argmax(axis=1)).any()
    terms = [selected[i] * cross_entropy(y_strong[i], classes[i]) for i in range(32)]
    assert loss.item() == pytest.approx(np.mean(terms))
    assert np.allclose(strong.grad, cross_entropy_gradient(y_strong, classes) * selected[:, None] / 32)
    assert labeled.grad is None
    assert weak.grad is None
    assert not any(buffer.requires_grad for buffer in ours.buffers())
    assert np.array_equal(pseudo_labels, classes)
    assert np.array_equal(mask, selected)


class Answers(torch.nn.Module):
    """Answers whatever passes with the same logits."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        assert len(x) == len(self.logits)
        return self.logits


class Given:
    """Random numbers that are given."""

    def __init__(self, numbers: torch.Tensor):
        self.numbers = numbers

    def uniform(self, *shape: int) -> torch.Tensor:
        assert shape == self.numbers.shape
        return self.numbers


def test_interpolation_by_hand():
    """Each logit has a number of its own: from 0, that of the joint pass, to 1, that of the labeled images alone."""
    joint, alone = tensor([1, 1, 0], [0, 3, -1]), tensor([2, 0, 0], [0, 1, 0])
    numbers = tensor([0.25, 0.5, 0], [1, 0.1, 0.5])
    views = [torch.zeros(2, 4)]
    (mixed,) = adamatch.interpolated(Answers(alone), views, [joint], Given(numbers[None]), True)
    torch.testing.assert_close(mixed, tensor([1.25, 0.5, 0], [0, 2.8, -0.5]))
    assert adamatch.interpolated(Answers(alone), views, [joint], Given(numbers[None]), False) == [joint]


def test_views_have_numbers_of_their_own_and_gradients_flow_through_both_passes():
    joint = [tensor([1, 2]).requires_grad_(), tensor([3, 4]).requires_grad_()]
    alone = tensor([5, 6], [7, 8]).requires_grad_()
    numbers = torch.stack([tensor([0.1, 0.2]), tensor([0.3, 0.4])])
    mixed = adamatch.interpolated(Answers(alone), [torch.zeros(1, 4)] * 2, joint, Given(numbers), True)
    assert [each.tolist() for each in mixed] == [[pytest.approx([1.4, 2.8])], [pytest.approx([4.2, 5.6])]]
    torch.cat(mixed).sum().backward()
    assert alone.grad.tolist() == [pytest.approx([0.1, 0.2]), pytest.approx([0.3, 0.4])]
    assert [each.grad.tolist() for each in joint] == [[pytest.approx([0.9, 0.8])], [pytest.approx([0.7, 0.6])]]


def taken(*flags: str, number: int = 1):
    """A setup after so many steps, and the metrics of the last one."""
    args = steps.arguments("adamatch", *flags)
    setup = steps.build("adamatch", args)
    for _ in range(number):
        metrics = steps.train_step(setup, args)
    return setup, metrics


def test_the_strong_labeled_view_has_its_weight():
    flags = "--joint-passes --trade-off-cls-strong".split()
    losses = [taken(*flags, weight)[1]["loss_l"].item() for weight in ("1", "2", "4")]
    assert losses[2] - losses[1] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-4)
    assert losses[0] != losses[1]


def test_with_interpolation_there_is_a_joint_pass_and_one_of_labeled_images_that_leaves_the_statistics():
    setup, _ = taken("--interpolate")
    (l_weak, l_strong), (u_weak, u_strong) = (batch.views for batch in steps.batches("adamatch"))
    joint, alone = setup.model.backbone.passes
    assert torch.equal(joint.x, torch.cat([l_weak, l_strong, u_weak, u_strong]))
    assert torch.equal(alone.x, torch.cat([l_weak, l_strong]))
    assert joint.grad
    assert alone.grad
    assert alone.training
    norm = setup.model.backbone.net[1]
    assert norm.num_batches_tracked == 1
    without, _ = taken("--joint-passes")
    torch.testing.assert_close(norm.running_mean, without.model.backbone.net[1].running_mean)


def test_interpolation_draws_one_number_for_each_logit_of_each_view():
    setup, _ = taken("--interpolate", number=2)
    assert setup.state[1].draws == 2
    assert taken()[0].state[1].draws == 0
    drawn = seeding.SharedRandom(0, "interpolation").uniform(2, 8, steps.CLASSES)
    assert len(drawn.unique()) == drawn.numel()


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (2, 0.095492), (5, 0.5), (8, 0.904508), (10, 1), (15, 1)])
def test_the_weight_rises_as_half_a_cosine(step, weight):
    """Over 10 of 20 steps, as in the paper."""
    assert adamatch.ramp_up(torch.tensor(step), 10).item() == pytest.approx(weight, abs=1e-6)


def test_loss_u_counts_as_far_as_it_is_warm():
    """In the fourth of six steps, half of it; the state counts the steps."""
    flags = "--warm-up-epochs 2 -i 3 --trade-off-self-training 3 --threshold 0.1".split()
    setup, metrics = taken(*flags, number=4)
    assert setup.state[0].steps == 4
    assert metrics["loss_u"] > 0
    assert (metrics["loss"] - metrics["loss_l"]).item() == pytest.approx(1.5 * metrics["loss_u"].item(), rel=1e-5)
    _, first = taken(*flags)
    assert first["loss"] == first["loss_l"]
    _, metrics = taken(*flags[4:])
    assert (metrics["loss"] - metrics["loss_l"]).item() == pytest.approx(3 * metrics["loss_u"].item(), rel=1e-5)
