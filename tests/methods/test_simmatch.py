"""SimMatch's bank, its targets of classes and of images, and its losses by hand, and where gradients flow."""

import numpy as np
import pytest
import torch

import simmatch
from tests.helpers import steps
from tests.helpers.reference import near, softmax, tensor, unit

EMBEDDINGS = unit([1, 0.2], [0.8, -0.6], [-1, 1], [0.1, 1])
P, Z = tensor([0.6, 0.3, 0.1], [0.1, 0.2, 0.7]), tensor([1, 0], [0, 1])
CLASSES = ([0.639987, 0.27, 0.090013], [0.090032, 0.185317, 0.724651])
INSTANCES = ([0.858836, 0.141143, 0, 0.000021], [0.000048, 0, 0.015795, 0.984157])


def bank(momentum: float = 0.7, whole: bool = True) -> simmatch.Bank:
    made = simmatch.Bank(torch.tensor([0, 0, 1, 2]), 3, 2, momentum).double()
    made.embeddings.copy_(EMBEDDINGS)
    made.written.fill_(whole)
    return made


def test_targets_by_hand():
    classes, instances = bank().targets(P, Z, 0.1, 0.9)
    near(classes, *CLASSES, atol=2e-6)
    near(instances, *INSTANCES)


def test_classes_correct_images_but_images_correct_classes_by_their_own_similarities():
    """With other predictions, and nothing kept of them, the class targets stay, those of images change."""
    (classes, instances), (same, other) = (bank().targets(p, Z, 0.1, 0.0) for p in (P, P.flip(1)))
    near(classes, [0.999872, 0, 0.000128], [0.000321, 0.053169, 0.946510])
    assert torch.equal(classes, same)
    assert (instances - other).abs().max() > 1e-3


def test_until_the_bank_is_whole_predictions_stay_and_images_have_no_loss():
    ours = bank()
    ours.written[2] = False
    z = unit([0.8, 0.4], [-0.3, 1]).requires_grad_()
    classes, instances = ours.targets(P, Z, 0.1, 0.9)
    assert torch.equal(classes, P)
    loss = ours.loss(z, instances, 0.1)
    assert loss == 0
    assert (torch.autograd.grad(loss, z)[0] == 0).all()
    ours.write(torch.tensor([2]), EMBEDDINGS[2:3])
    assert ours.written.all()
    assert ours.loss(z, instances, 0.1) > 0.1


def test_the_loss_of_images_by_hand():
    loss = bank().loss(unit([0.8, 0.4], [-0.3, 1]), tensor(*INSTANCES), 0.1)
    assert loss.item() == pytest.approx(0.627047, abs=1e-5)  # 0.749516 and 0.504578


def test_the_loss_of_images_and_its_gradient_are_numpys():
    rng = np.random.default_rng(0)
    ours = simmatch.Bank(torch.tensor([0, 1, 2, 0, 1]), 3, 4, 0.7).double()
    ours.written.fill_(True)
    z, v = torch.tensor(rng.normal(size=(6, 4)), requires_grad=True), softmax(rng.normal(size=(6, 5)))
    loss = ours.loss(z, torch.tensor(v), 0.5)
    loss.backward()
    entries = ours.embeddings.numpy()
    s = softmax(z.detach().numpy() @ entries.T / 0.5)
    assert loss.item() == pytest.approx(-(v * np.log(s)).sum(axis=1).mean())
    np.testing.assert_allclose(z.grad, (s - v) @ entries / 0.5 / 6)
    assert not any(buffer.requires_grad for buffer in ours.buffers())


def test_an_underflow_of_all_factors_is_no_nan():
    """An image that is surely of a class that no labeled image near it has."""
    _, instances = bank().targets(tensor([0, 0, 0], [0, 1, 0]), Z, 0.1, 0.9)
    assert instances.isfinite().all()
    assert instances[0].tolist() == [0, 0, 0, 0]


def test_writing_moves_entries_and_normalizes_each():
    ours = bank(whole=False)
    ours.write(torch.tensor([2, 0]), unit([0, 1], [1, 1]))
    near(ours.embeddings[[2, 0]], [-0.528551, 0.848901], [0.932011, 0.362430])  # over the batch: norms 1.03, 0.96
    assert torch.equal(ours.embeddings[[1, 3]], EMBEDDINGS[[1, 3]])
    assert ours.written.tolist() == [True, False, True, False]


def test_of_an_image_that_is_there_twice_the_last_one_is_written():
    """Classes in equal numbers draw some images again."""
    ours, once = bank(), bank()
    ours.write(torch.tensor([1, 3, 1, 1]), unit([1, 0], [1, 2], [0, -1], [2, 1]))
    once.write(torch.tensor([1, 3]), unit([2, 1], [1, 2]))
    assert torch.equal(ours.embeddings, once.embeddings)


def test_it_begins_as_unit_vectors_with_the_labels_known_and_no_checkpoint_holds_those():
    torch.manual_seed(0)
    ours = simmatch.Bank(torch.tensor([2, 0]), 3, 5, 0.7)
    torch.testing.assert_close(ours.embeddings.norm(dim=1), torch.ones(2))
    assert not torch.equal(*ours.embeddings)
    assert ours.one_hot.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert not ours.written.any()
    assert set(ours.state_dict()) == {"embeddings", "written"}


def test_predictions_are_divided_by_their_mean_over_the_window():
    window = simmatch.Window(2, 2).double()
    for (p, r), mean in zip([[0.9, 0.1], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8]], [0.9, 0.8, 0.4, 0.15], strict=True):
        a, b = p / mean, r / (1 - mean)
        near(window.align(tensor([p, r])), [a / (a + b), b / (a + b)])
    assert window.steps == 4
    assert simmatch.Window(2, 2).align(torch.tensor([[1.0, 0.0]])).tolist() == [[1, 0]]


def test_soft_targets_and_their_mask_by_hand():
    logits = tensor([1, 0, 0], [0, 1, 0]).requires_grad_()
    targets = tensor([0.7, 0.2, 0.1], [0.3, 0.4, 0.3])
    loss, pseudo_labels, mask = simmatch.self_training_loss(targets, logits, 0.7)
    assert loss.item() == pytest.approx((np.log(np.e + 2) - 0.7) / 2)
    assert mask.tolist() == [1, 0]
    assert pseudo_labels.tolist() == [0, 1]
    loss.backward()
    expected = (softmax(logits.detach().numpy()) - targets.numpy()) * np.array([[1], [0]]) / 2
    np.testing.assert_allclose(logits.grad, expected)


def setup_of(*flags: str, whole: bool = True):
    args = steps.arguments("simmatch", *"--bottleneck-dim 8 --projection-dim 4 --threshold 0.3".split(), *flags)
    setup = steps.build("simmatch", args, dropout=0)
    setup.state[1].written.fill_(whole)
    return setup, args


def test_the_bank_is_read_before_it_is_written_with_the_embeddings_of_labeled_weak_views():
    setup, args = setup_of("--bank-momentum", "0")
    labeled, _ = steps.batches("simmatch")
    before = setup.state[1].embeddings.clone()
    with torch.no_grad():
        z = setup.model.project(setup.model.features(labeled.views[0]))
    seen = []
    loss = setup.state[1].loss
    setup.state[1].loss = lambda *args: seen.append(setup.state[1].embeddings.clone()) or loss(*args)
    steps.train_step(setup, args)
    assert torch.equal(seen[0], before)
    torch.testing.assert_close(setup.state[1].embeddings[labeled.indices], z)
    others = [k for k in range(steps.IMAGES) if k not in labeled.indices]
    assert torch.equal(setup.state[1].embeddings[others], before[others])


def with_gradient(setup) -> set[str]:
    """The parts of the network that have a gradient other than 0."""
    found = {name: p.grad for name, p in setup.model.named_parameters()}
    return {name.split(".")[0] for name, grad in found.items() if grad is not None and grad.abs().max() > 0}


@pytest.mark.parametrize(
    ("weight", "whole", "more"), [("1", True, {"projector"}), ("0", True, set()), ("1", False, set())]
)
def test_the_projector_learns_from_images_alone_once_the_bank_is_whole(weight, whole, more):
    setup, args = setup_of("--trade-off-instance", weight, whole=whole)
    steps.train_step(setup, args)
    assert with_gradient(setup) == {"backbone", "bottleneck", "head"} | more


def test_the_weak_unlabeled_view_makes_targets_and_has_no_gradient():
    setup, args = setup_of()
    bank, (_, unlabeled) = setup.state[1], steps.batches("simmatch")
    weak, strong = (setup.model.features(view).detach() for view in unlabeled.views)
    with torch.no_grad():
        q = simmatch.Window(steps.CLASSES, 1).align(setup.model.head(weak).softmax(dim=1))
        classes, instances = bank.targets(q, setup.model.project(weak), args.T, args.smoothing)
        loss_u, _, _ = simmatch.self_training_loss(classes, setup.model.head(strong), 0.3)
        loss_instance = bank.loss(setup.model.project(strong), instances, args.T)
    setup.model.backbone.passes.clear()
    metrics = steps.train_step(setup, args)
    torch.testing.assert_close(metrics["loss_u"].detach(), loss_u)
    torch.testing.assert_close(metrics["loss_instance"].detach(), loss_instance)
    assert [p.grad for p in setup.model.backbone.passes] == [True, False, True]


def test_losses_add_up_with_their_weights():
    setup, args = setup_of("--trade-off-self-training", "2", "--trade-off-instance", "3")
    metrics = steps.train_step(setup, args)
    assert metrics["loss_u"] > 0
    assert metrics["loss_instance"] > 0
    total = metrics["loss_l"] + 2 * metrics["loss_u"] + 3 * metrics["loss_instance"]
    torch.testing.assert_close(metrics["loss"], total)


def test_embeddings_are_unit_vectors_of_a_projector_of_two_layers():
    model = setup_of()[0].model
    first, relu, last = model.projector
    assert (first.in_features, first.out_features, last.in_features, last.out_features) == (8, 8, 8, 4)
    assert relu(torch.tensor(-1.0)) == 0
    torch.testing.assert_close(model.project(torch.randn(5, 8)).norm(dim=1), torch.ones(5))
    groups = model.parameter_groups(0.5, True)
    assert [group["lr"] for group in groups] == pytest.approx([0.05, 0.5, 0.5, 0.5])
    assert {id(p) for group in groups for p in group["params"]} == set(map(id, model.parameters()))
