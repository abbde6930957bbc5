"""What a step of each method passes through its networks: views, grouping, order, modes, and what stays out of them."""

import copy

import pytest
import torch

from common.networks import classifier
from tests.conftest import assert_equal_states
from tests.helpers import steps

# (network, view, gradients on); a view is l or u with its number, and `+` joins two in one pass. A view in capital
# letters is made in the step.
COMMON = [("model", "l1", True), ("model", "l2", True)]
FIXMATCH = [*COMMON, ("model", "u1", False), ("model", "u2", True)]
SIMMATCH = [("model", "l1", True), ("model", "u1", False), ("model", "u2", True)]
COMATCH = [*SIMMATCH, ("model", "u3", True)]
PASSES = {
    "erm": COMMON,
    "pseudo_label": [*COMMON, ("model", "u1", True)],
    "pi_model": [*COMMON, ("model", "u1", True), ("model", "u2", True)],
    "mean_teacher": [*COMMON, ("teacher", "u2", False), ("model", "u1", True)],
    "uda": FIXMATCH,
    "fixmatch": FIXMATCH,
    "flexmatch": FIXMATCH,
    "debiasmatch": FIXMATCH,
    "self_tuning": [
        ("model", "l1", True),
        ("key encoder", "l2", False),
        ("model", "u1", False),
        ("model", "u1", True),
        ("key encoder", "u2", False),
    ],
    "freematch": FIXMATCH,
    "softmatch": FIXMATCH,
    "adamatch": FIXMATCH,
    "comatch": COMATCH,
    "simmatch": SIMMATCH,
    "noisy_student": [*COMMON, ("model", "u1", True)],
    "dst": [("model", "l2", True), ("model", "l1+u1", True), ("model", "u2", True)],
    "vat": [*COMMON, ("model", "u1", True), ("model", "SOUGHT", True), ("model", "MOVED", True)],
    "mixmatch": [("model", "u1", False), ("model", "u2", False), ("model", "MIXED", True)],
    "remixmatch": [
        ("model", "u1", False),
        ("model", "u2", True),
        ("model", "TURNED", True),
        ("model", "MIXED", True),
    ],
}
STILL = {  # views whose passes leave the running statistics
    "vat": ("SOUGHT", "MOVED"),
    "mixmatch": ("u1", "u2"),
    "remixmatch": ("u1", "u2", "TURNED"),
}
WITH_THRESHOLD = ("pseudo_label", "uda", "fixmatch", "flexmatch", "debiasmatch", "dst", "comatch", "simmatch")


def views(method: str, size: int = 8) -> dict[str, torch.Tensor]:
    data = steps.batches(method, size=size)
    named = {f"{name}{i + 1}": v for name, batch in zip("lu", data, strict=False) for i, v in enumerate(batch.views)}
    if "u1" in named:
        named["l1+u1"] = torch.cat([named["l1"], named["u1"]])
    return named


def is_view(x: torch.Tensor, view: str, named: dict[str, torch.Tensor]) -> bool:
    return torch.equal(x, named[view]) if view in named else view.isupper()


def select_nothing(setup) -> None:
    """A threshold of 1 does it, but for FlexMatch, whose thresholds begin at 0: let all classes be learned alike."""
    if setup.method == "flexmatch":
        curriculum = setup.state[0]
        curriculum.bank[: 6 * steps.CLASSES] = torch.arange(6 * steps.CLASSES) % steps.CLASSES
        curriculum.counts.copy_(torch.bincount(curriculum.bank + 1))


@pytest.mark.parametrize("method", steps.METHODS)
def test_passes_in_order_in_train_mode(method):
    args = steps.arguments(method)
    setup = steps.build(method, args)
    steps.train_step(setup, args)
    passes, named = setup.model.backbone.passes, views(method)
    assert [(p.name, p.grad) for p in passes] == [(name, grad) for name, _, grad in PASSES[method]]
    assert all(is_view(p.x, view, named) for p, (_, view, _) in zip(passes, PASSES[method], strict=True))
    assert all(p.training for p in passes)
    assert all(module.training for part in (setup.model, *setup.state) for module in part.modules())


@pytest.mark.parametrize("method", steps.METHODS)
def test_an_epoch_begins_in_train_mode_whatever_was_before(method):
    args = steps.arguments(method, *steps.small_flags(method))
    setup = steps.build(method, args)
    setup.model.eval()
    steps.Epochs(method, (1,)).train(setup, args, torch.optim.lr_scheduler.ConstantLR(setup.optimizer))
    assert setup.model.training
    assert all(p.training for p in setup.model.backbone.passes)


def test_one_sided_the_second_view_has_no_gradient_and_nothing_else_is_changed():
    passes = []
    for flags in ([], ["--one-sided"]):
        args = steps.arguments("pi_model", *flags)
        setup = steps.build("pi_model", args)
        metrics = steps.train_step(setup, args)
        buffers = dict(setup.model.named_buffers())
        passes.append([vars(p) for p in setup.model.backbone.passes] + [metrics, buffers])
    passes[0][-3]["grad"] = False
    assert_equal_states(*passes)


@pytest.mark.parametrize("method", [*steps.LABELED_ALONE, *steps.SUPERVISED_STRONG])
def test_without_the_strong_labeled_view_its_pass_alone_is_missing(method):
    args, losses = steps.arguments(method, "--trade-off-cls-strong", "0"), []
    for skipped in (False, True):
        setup, data = steps.build(method, args, dropout=0), steps.batches(method)
        if skipped:
            data = (data[0]._replace(views=data[0].views[:1]), *data[1:])
        losses.append(steps.train_step(setup, args, *data)["loss"])
    names = [view for _, view, _ in PASSES[method] if view != "l2"]
    assert len(names) == len(PASSES[method]) - 1
    named = views(method)
    assert all(is_view(p.x, view, named) for p, view in zip(setup.model.backbone.passes, names, strict=True))
    assert torch.equal(*losses)


JOINT = [method for method, passes in PASSES.items() if passes in (FIXMATCH, SIMMATCH, COMATCH)]


@pytest.mark.parametrize("method", JOINT)
def test_joint_passes_are_one_batch(method, monkeypatch):
    """In float64, losses, gradients and statistics are those of a network that is asked once, with all views."""
    flags = ["--threshold", "0.4"] if method in WITH_THRESHOLD else []
    steps_taken = []
    for flag in ([], ["--joint-passes"]):
        args = steps.arguments(method, *flags, *flag)
        setup = steps.build(method, args, dropout=0)
        for module in (setup.model, *setup.state):
            module.double()
        data = [batch._replace(views=tuple(x.double() for x in batch.views)) for batch in steps.batches(method)]
        whole = torch.cat([x for batch in data for x in batch.views])
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
        if not flag:
            monkeypatch.setattr(setup.script, "passes", one_batch(whole, len(data[0].views) + len(data[1].views)))
        metrics = steps.train_step(setup, args, *data)
        monkeypatch.undo()
        (only,) = setup.model.backbone.passes
        assert torch.equal(only.x, whole)
        gradients = {name: p.grad for name, p in setup.model.named_parameters()}
        steps_taken.append((metrics, gradients, steps.everything(setup)))
    torch.testing.assert_close(*steps_taken)


def one_batch(whole, number):
    def passes(model, views, no_grad, joint):
        return list(model(whole).reshape(number, len(whole) // number, -1))

    return passes


@pytest.mark.parametrize("method", steps.METHODS)
def test_every_pass_moves_the_running_statistics(method):
    """Pass by pass, but for those of STILL; where there is a mask, it is all zero, which spares none of them."""
    args = steps.arguments(method, *(["--threshold", "1"] if method in WITH_THRESHOLD else []))
    setup = steps.build(method, args)
    select_nothing(setup)
    alone = copy.deepcopy(setup.model)
    metrics = steps.train_step(setup, args)
    assert method not in WITH_THRESHOLD or metrics["pseudo_label_ratio"] == 0
    assert method not in WITH_THRESHOLD or metrics["loss_u"] == 0

    pairs = zip(setup.model.backbone.passes[: len(PASSES[method])], PASSES[method], strict=True)
    own = [p.x for p, (name, view, _) in pairs if name == "model" and view not in STILL.get(method, ())]
    assert_statistics_of(own, setup.model, alone)


def assert_statistics_of(own: list[torch.Tensor], model, alone) -> None:
    """The running statistics of `model` are those of `alone` after it has passed the views."""
    for x in own:
        alone.features(x.detach())
    ours, theirs = (
        {name: b for name, b in m.named_buffers() if "running" in name or "tracked" in name} for m in (model, alone)
    )
    assert len(ours) == 6
    assert_equal_states(ours, theirs)
    assert all(b == len(own) for name, b in ours.items() if "tracked" in name)


@pytest.mark.parametrize("method", ["pseudo_label", "pi_model", "mean_teacher", "vat"])
def test_labeled_statistics_are_those_of_the_labeled_passes_and_all_else_stays(method):
    taken = []
    for flags in ([], ["--labeled-statistics"]):
        args = steps.arguments(method, "--wd", "0.1", *flags)
        setup = steps.build(method, args)
        alone = copy.deepcopy(setup.model)
        taken.append((steps.train_step(setup, args), dict(setup.model.named_parameters())))
    assert_statistics_of(list(steps.batches(method)[0].views), setup.model, alone)
    assert taken[0][0]["loss_u"] > 0
    assert_equal_states(*taken)


@pytest.mark.parametrize("method", WITH_THRESHOLD)
def test_empty_mask_leaves_the_supervised_step(method):
    """Beside weight decay, which acts on DST's pseudo head in either case."""
    states = []
    for weight in ("0", "1"):
        flag = "--trade-off-con" if method == "uda" else "--trade-off-self-training"
        args = steps.arguments(method, "--threshold", "1", flag, weight, "--wd", "0.1")
        setup = steps.build(method, args)
        select_nothing(setup)
        steps.train_step(setup, args)
        states.append(steps.everything(setup))
    assert_equal_states(*states)


@pytest.mark.parametrize("method", [m for m in steps.METHODS if m not in steps.LABELED_ALONE])
def test_labels_of_unlabeled_images_are_for_the_meters_only(method):
    args = steps.arguments(method, *(["--threshold", "0.4"] if method in WITH_THRESHOLD else []))
    states = []
    for hidden in (False, True):
        setup = steps.build(method, args)
        labeled, unlabeled = steps.batches(method)
        if hidden:
            unlabeled = unlabeled._replace(labels=torch.full_like(unlabeled.labels, -1))
        steps.train_step(setup, args, labeled, unlabeled)
        states.append(steps.everything(setup))
    assert_equal_states(*states)


@pytest.mark.parametrize("method", steps.METHODS)
def test_gradients_of_the_step_before_are_forgotten(method):
    args = steps.arguments(method)
    states = []
    for left_over in (False, True):
        setup = steps.build(method, args)
        for p in setup.model.parameters():
            p.grad = torch.ones_like(p) if left_over else None
        steps.train_step(setup, args)
        states.append(steps.everything(setup))
    assert_equal_states(*states)


@pytest.mark.parametrize("joint", [True, False])
def test_a_view_that_is_no_target_of_any_pass_is_refused(joint):
    """An equal tensor is not the same object: its gradients would flow."""
    views = [torch.randn(2, 3, 4, 4) for _ in range(2)]
    with pytest.raises(ValueError, match="no_grad is none of the views"):
        classifier.passes(torch.nn.Flatten(), views, views[0].clone(), joint)


def test_dst_passes_64_weak_views_together():
    args = steps.arguments("dst")
    setup = steps.build("dst", args)
    steps.train_step(setup, args, *steps.batches("dst", size=16))
    assert [len(p.x) for p in setup.model.backbone.passes] == [16, 32, 16]
    assert args.batch_size + args.unlabeled_batch_size == 64


WEIGHTS = {  # flags of weights, and the losses that they are for
    "uda": {"--trade-off-con": "loss_u"},
    **{name: {"--trade-off-self-training": "loss_u"} for name in ("flexmatch", "debiasmatch", "softmatch", "dst")},
    "freematch": {"--trade-off-self-training": "loss_u", "--trade-off-fairness": "loss_f"},
}


@pytest.mark.parametrize("method", WEIGHTS)
def test_each_loss_has_its_own_weight(method):
    weights = dict(zip(WEIGHTS[method], (3, 5), strict=False))
    flags = ["--threshold", "0.4"] if method in WITH_THRESHOLD else []
    args = steps.arguments(method, *flags, *(f"{flag}={weight}" for flag, weight in weights.items()))
    metrics = steps.train_step(steps.build(method, args), args)
    expected = metrics["loss_l"] + metrics.get("loss_worst", 0)
    for flag, weight in weights.items():
        assert metrics[WEIGHTS[method][flag]].abs() > 1e-3
        expected = expected + weight * metrics[WEIGHTS[method][flag]]
    torch.testing.assert_close(metrics["loss"], expected)
