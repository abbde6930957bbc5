"""Self-Tuning's queue and loss against literal loops, and the order of things within a step."""

import copy

import pytest
import torch
from torch.nn import functional as F

import self_tuning
from tests.conftest import assert_equal_states
from tests.helpers import steps, transcription

C, K, P, B = 4, 3, 6, 10
FLAGS = "--bottleneck-dim 12 --projection-dim 5 --K 3 --T 0.5".split()


def random_labels(kind: str, g: torch.Generator) -> torch.Tensor:
    if kind == "any":
        return torch.randint(C, (B,), generator=g)
    flood = torch.full((B,), 2)  # B > K: a class that goes round its ring more than once
    if kind == "half a flood":
        flood[::2] = torch.randint(C, (B // 2,), generator=g)
    return flood


NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_CUDA)])  # there, equal slots race
@pytest.mark.parametrize("kind", ["any", "one flooded", "half a flood"])
def test_queue_and_pointers_are_those_of_a_loop(kind, device):
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    queue = self_tuning.Queue(C, K, P)
    columns, pointers = queue.keys.flatten(0, 1).T.clone(), [0] * C
    queue.to(device)
    for _ in range(20):  # wraps around many times
        keys, labels = F.normalize(torch.randn(B, P, generator=g), dim=1), random_labels(kind, g)
        queue.enqueue(keys.to(device), labels.to(device))
        transcription.enqueue(columns, pointers, keys, labels.tolist(), K)
        assert torch.equal(queue.keys.flatten(0, 1).T.cpu(), columns)
        assert queue.pointers.tolist() == pointers


@pytest.mark.parametrize("kind", ["any", "one flooded"])
@pytest.mark.parametrize("T", [0.07, 1.0])
def test_loss_and_gradient_are_those_of_a_loop(kind, T):
    torch.manual_seed(0)
    queue = self_tuning.Queue(C, K, P).double()
    labels = random_labels(kind, torch.Generator().manual_seed(1))
    keys = F.normalize(torch.randn(B, P).double(), dim=1)
    queries = F.normalize(torch.randn(B, P).double(), dim=1)
    values, gradients = [], []
    columns = queue.keys.flatten(0, 1).T
    for loss in (
        lambda q: queue.loss(q, keys, labels, T),
        lambda q: transcription.pgc_loss(q, keys, labels.tolist(), columns, K, T),
    ):
        leaf = queries.clone().requires_grad_()
        values.append(loss(leaf))
        gradients.append(torch.autograd.grad(values[-1], leaf)[0])
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_loss_is_a_divergence_so_its_least_value_is_zero():
    """An own key and K keys of the class that are the query, all others opposite."""
    queue = self_tuning.Queue(2, K, 2)
    queue.keys[0], queue.keys[1] = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])
    one = torch.tensor([[1.0, 0.0]])
    assert queue.loss(one, one, torch.tensor([0]), 0.05).item() == pytest.approx(0, abs=1e-6)
    assert queue.loss(one, one, torch.tensor([1]), 0.05).item() > 1


def test_queue_starts_with_unit_keys():
    queue = self_tuning.Queue(C, K, P)
    torch.testing.assert_close(queue.keys.norm(dim=2), torch.ones(C, K))
    assert queue.pointers.tolist() == [0] * C


def test_unlabeled_call_sees_the_labeled_keys_of_the_step(monkeypatch):
    args = steps.arguments("self_tuning", *FLAGS)
    setup = steps.build("self_tuning", args)
    seen = []
    loss = self_tuning.Queue.loss
    monkeypatch.setattr(
        self_tuning.Queue,
        "loss",
        lambda self, q, k, *rest: seen.append((self.keys.clone(), k)) or loss(self, q, k, *rest),
    )
    before, labels = setup.state[1].keys.clone(), steps.batches("self_tuning")[0].labels
    steps.train_step(setup, args)
    (first, keys_l), (second, keys_u) = seen
    assert torch.equal(first, before)  # an image's key is not among the others when it is compared
    for c in range(steps.CLASSES):
        newest = keys_l[labels == c][-3:]
        assert len(newest) > 0
        assert all((second[c] == key).all(dim=1).any() for key in newest)
    at_end = setup.state[1].keys.flatten(0, 1)
    assert all((at_end == key).all(dim=1).any() for key in keys_u[-3:])


def test_key_encoder_moves_twice_a_step_and_has_its_own_buffers():
    args = steps.arguments("self_tuning", *FLAGS, "--m", "0.9")
    setup = steps.build("self_tuning", args)
    key_encoder = setup.state[0]
    for p in key_encoder.parameters():
        p.data.add_(1)
    start, model = copy.deepcopy(key_encoder.encoder), copy.deepcopy(setup.model)
    steps.train_step(setup, args)
    triples = zip(key_encoder.parameters(), start.parameters(), model.parameters(), strict=True)
    for p, before, query in triples:
        torch.testing.assert_close(p, 0.81 * before + 0.19 * query)  # of the query encoder before its step
        assert p.grad is None
    key_bn, query_bn = key_encoder.encoder.backbone.net[1], setup.model.backbone.net[1]
    assert key_bn.num_batches_tracked == 2
    assert query_bn.num_batches_tracked == 3
    assert not torch.equal(key_bn.running_mean, query_bn.running_mean)


def test_encoder_is_as_wide_as_the_flags_say():
    args = steps.arguments("self_tuning", *FLAGS)
    setup = steps.build("self_tuning", args)
    h, y = setup.model.project(torch.randn(4, 3, 4, 4))
    assert h.shape == (4, 5)
    assert y.shape == (4, steps.CLASSES)
    assert setup.model.projector.in_features == setup.model.head.in_features == 12
    torch.testing.assert_close(h.norm(dim=1), torch.ones(4))
    setup.model.eval()
    images = torch.randn(4, 3, 4, 4)
    assert torch.equal(setup.model(images), setup.model.project(images)[1])  # what is evaluated


@pytest.mark.parametrize(("finetune", "factors"), [(True, [0.1, 1, 1, 0.1]), (False, [1, 1, 1, 1])])
def test_the_rates_of_the_groups(finetune, factors):
    setup = steps.build("self_tuning", steps.arguments("self_tuning", *FLAGS))
    groups = setup.model.parameter_groups(0.5, finetune)
    assert [group["lr"] for group in groups] == pytest.approx([0.5 * factor for factor in factors])
    assert {id(p) for group in groups for p in group["params"]} == set(map(id, setup.model.parameters()))


def test_unlabeled_images_have_no_cross_entropy():
    """The head learns from labeled images alone: others among the unlabeled leave it as it is."""
    args = steps.arguments("self_tuning", *FLAGS)
    heads = []
    for other in (0, 7):
        setup = steps.build("self_tuning", args)
        labeled, _ = steps.batches("self_tuning")
        steps.train_step(setup, args, labeled, steps.batches("self_tuning", other)[1])
        heads.append(dict(setup.model.head.state_dict()))
    assert_equal_states(*heads)


def test_rate_falls_after_epochs():
    args = steps.arguments("self_tuning", *FLAGS, "--milestones", "1", "3")
    setup = steps.build("self_tuning", args)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(setup.optimizer, args.milestones, args.lr_gamma)
    run, rates = steps.Epochs("self_tuning", (2, 2, 2, 2)), []
    for run.epoch in range(4):
        rates.append(scheduler.get_last_lr()[0])
        self_tuning.train_one_epoch(run, None, None, setup.model, *setup.state, setup.optimizer, scheduler, args)
    assert rates == pytest.approx([0.003, 0.0003, 0.0003, 0.00003])


def test_the_accuracy_of_pseudo_labels_is_over_the_unlabeled_images():
    args = steps.arguments("self_tuning", *FLAGS)
    setup = steps.build("self_tuning", args, dropout=0.0)
    labeled, unlabeled = steps.batches("self_tuning")
    with torch.no_grad():
        predicted = copy.deepcopy(setup.model).train()(unlabeled.views[0]).argmax(dim=1)
    wrong = (predicted + 1) % steps.CLASSES
    known = torch.cat([wrong[:3], predicted[3:]])
    data = labeled._replace(labels=wrong), unlabeled._replace(labels=known)
    metrics = steps.train_step(setup, args, *data)
    assert [value.item() for value in metrics["pseudo_label_accuracy"]] == [500, 8]
