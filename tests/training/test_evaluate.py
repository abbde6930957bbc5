"""Scores against NumPy."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from common.training import evaluate as ev
from common.training.meters import Meters
from tests.helpers.reference import cross_entropy

CPU = torch.device("cpu")


class Logits(nn.Module):
    """The images are the logits already; remembers the modes it was called in."""

    def __init__(self):
        super().__init__()
        self.modes = []

    def forward(self, x):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return x


class Batches(list):
    """A test loader of ready batches."""

    device = CPU


def random_test_set(classes: int, present: list[int], number: int = 57):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(number, classes)).astype(np.float32)
    labels = rng.choice(present, number)
    logits[np.arange(number), labels] += 1
    x, y = torch.tensor(logits), torch.tensor(labels)
    return logits, labels, Batches((x[i : i + 10], y[i : i + 10]) for i in range(0, number, 10))


@pytest.mark.parametrize(
    ("classes", "present"), [(7, [*range(7)]), (7, [0, 2, 3]), (5, [*range(5)]), (3, [0, 1, 2])],
    ids=["all classes", "classes without test images", "five classes", "three classes"],
)  # fmt: skip
def test_scores_are_numpys(classes, present):
    logits, labels, loader = random_test_set(classes, present)
    scores = ev.evaluate(Logits(), loader, classes)
    hits = logits.argmax(axis=1) == labels
    expected = {
        "top1": 100 * hits.mean(),
        "mean_per_class": 100 * np.mean([hits[labels == c].mean() for c in present]),
        "test_loss": np.mean([cross_entropy(z, t) for z, t in zip(logits, labels, strict=True)]),
    }
    if classes >= 5:
        expected["top5"] = 100 * np.mean([t in np.argsort(z)[-5:] for z, t in zip(logits, labels, strict=True)])
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-6)
    if len(present) < classes or classes == 7:
        assert scores["top1"] != scores["mean_per_class"]  # the two are not one


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_tested_in_eval_mode_and_left_as_it_was(training):
    model = Logits().train(training)
    ev.evaluate(model, random_test_set(7, [*range(7)])[2], 7)
    assert model.training is training
    assert model.modes == [(False, False)] * 6


def test_accuracy():
    logits = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [1.0, 2.0]])
    assert ev.accuracy(logits, torch.tensor([1, 1, 1, 0])) == 50


def test_masked_accuracy_counts_the_selected_alone():
    predictions, labels = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 0, 1])
    for mask in (torch.tensor([1.0, 0, 1, 1]), torch.tensor([True, False, True, True])):
        assert [v.item() for v in ev.masked_accuracy(predictions, labels, mask)] == [100, 3]
    assert [v.item() for v in ev.masked_accuracy(predictions, labels, torch.zeros(4))] == [0, 0]


def test_masked_accuracy_leaves_out_samples_without_a_known_label():
    predictions, labels = torch.tensor([0, 1, 2]), torch.tensor([0, -1, 1])
    assert [v.item() for v in ev.masked_accuracy(predictions, labels, torch.ones(3))] == [100, 2]


def test_meters_weight_masked_accuracies_by_the_number_selected():
    """One of one, then one of three, then none of none: two of four."""
    meters, ones = Meters(CPU), torch.ones(3, dtype=torch.int64)
    for mask, right in (([1, 0, 0], [1, 0, 0]), ([1, 1, 1], [0, 1, 0]), ([0, 0, 0], [1, 1, 1])):
        pair = ev.masked_accuracy(torch.tensor(right), ones, torch.tensor(mask))
        meters.update({"accuracy": pair, "loss": torch.tensor(float(sum(mask)), requires_grad=True)}, 1)
    assert meters.averages() == {"accuracy": 50, "loss": pytest.approx(4 / 3)}


def test_meters_without_weight_are_none_and_reset_forgets():
    meters = Meters(CPU)
    assert meters.averages() == {}
    meters.update({"accuracy": (torch.tensor(0.0), torch.tensor(0.0))}, 1)
    assert meters.averages() == {"accuracy": None}
    meters.reset()
    meters.update({"loss": torch.tensor(2.0)}, 1)
    assert meters.averages() == {"loss": 2}


def test_meters_go_through_a_checkpoint():
    a, b = Meters(CPU), Meters(CPU)
    a.update({"loss": torch.tensor(1.0)}, 1)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for meters in (a, b):
        meters.update({"loss": torch.tensor(4.0)}, 1)
    assert a.averages() == b.averages() == {"loss": 2.5}


def test_meters_go_by_name():
    """Also where a step gives them in another order, after a resumption, and as numbers of Python's."""
    meters, resumed = Meters(CPU), Meters(CPU)
    meters.update({"a": torch.tensor(1.0), "b": 5}, 1)
    resumed.load_state_dict(copy.deepcopy(meters.state_dict()))
    for each in (meters, resumed):
        each.update({"b": torch.tensor(5.0), "a": 1.0}, 2)
        each.update({"b": 6.5, "a": (3.0, 2)}, 3)
        assert each.averages() == {"a": 1.25, "b": 5.5}
    meters.update({"b": torch.tensor(0.0), "a": float("nan")}, 4)
    assert meters.first_not_finite()[0] == 4


@pytest.mark.parametrize("metrics", [{"a": 1.0}, {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.0, "c": 2.0}])
def test_meters_refuse_other_metrics_than_before(metrics):
    meters = Meters(CPU)
    meters.update({"a": 1.0, "b": 2.0}, 7)
    reported = f"step 8 has the metrics {', '.join(metrics)}, but the epoch's steps before had a, b: return the same"
    with pytest.raises(ValueError, match=reported):
        meters.update(metrics, 8)
    meters.reset()
    meters.update(metrics, 9)
