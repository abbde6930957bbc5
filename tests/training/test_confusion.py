"""What a network confuses, against NumPy and by hand."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from common.training import confusion
from common.training.confusion import Confusion, Misclassified, Predictions

CPU = torch.device("cpu")
MATRIX = np.array([[5, 0, 3], [4, 4, 0], [0, 0, 0]])  # the third class has no test image
NAMES = ["ant", "bee", "cat"]


def counted(logits: np.ndarray, labels: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, list[Misclassified]]:
    """By batches of ten."""
    counts = Confusion(logits.shape[1], torch.tensor(order), CPU)
    for start in range(0, len(labels), 10):
        counts.update(*(torch.tensor(array[start : start + 10]) for array in (logits, labels)))
    return counts.read()


def test_predictions_of_several_batches_are_noted_in_the_sets_order():
    noted = Predictions(5, torch.tensor([3, 0, 4, 1, 2]), torch.device("cpu"))
    for classes in ([2, 0], [1, 2], [0]):
        logits = torch.nn.functional.one_hot(torch.tensor(classes), 3).float()
        noted.update(logits, torch.zeros(len(classes), dtype=torch.int64))
    assert noted.read().tolist() == [0, 2, 0, 2, 1]


@pytest.mark.parametrize("number", [137, 23], ids=["more errors than are kept", "fewer"])
def test_counts_and_errors_are_numpys(number):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(number, 7)), rng.integers(7, size=number)
    order = rng.permutation(1000)[:number]
    matrix, errors = counted(logits, labels, order)
    predicted = logits.argmax(axis=1)
    expected = np.zeros((7, 7), dtype=int)
    for true, wrong in zip(labels, predicted, strict=True):
        expected[true, wrong] += 1
    assert (matrix == expected).all()
    confidence = np.exp(logits).max(axis=1) / np.exp(logits).sum(axis=1)
    wrong = [i for i in np.argsort(-confidence) if labels[i] != predicted[i]][: confusion.MAX_KEPT]
    assert len(wrong) == (confusion.MAX_KEPT if number == 137 else (labels != predicted).sum())
    assert [error[:3] for error in errors] == [(order[i], labels[i], predicted[i]) for i in wrong]
    assert [error.confidence for error in errors] == pytest.approx([confidence[i] for i in wrong])


def test_classes_and_pairs_by_hand():
    keys = ("class", "images", "correct", "accuracy", "predicted", "most_confused_with", "confused", "precision", "f1")
    rows = [
        ("ant", 8, 5, 62.5, 9, "cat", 3, 500 / 9, 1000 / 17),
        ("bee", 8, 4, 50.0, 4, "ant", 4, 100.0, 800 / 12),
        ("cat", 0, 0, None, 3, None, 0, 0.0, None),
    ]
    assert confusion.per_class(MATRIX, NAMES) == [dict(zip(keys, row, strict=True)) for row in rows]
    assert confusion.pairs(MATRIX, 10) == [(4, 1, 0), (3, 0, 2)]
    assert confusion.pairs(MATRIX, 1) == [(4, 1, 0)]


def test_precision_recall_and_f1_are_scikit_learns():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(5, size=(2, 200))
    rows = confusion.per_class(metrics.confusion_matrix(labels, predicted), list("abcde"))
    expected = metrics.precision_recall_fscore_support(labels, predicted)
    for name, values in zip(("precision", "accuracy", "f1"), expected, strict=False):
        assert [row[name] for row in rows] == pytest.approx(100 * values)


def test_the_area_under_the_curve_of_two_classes_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=60)
    logits = rng.normal(size=(60, 2)).round(1)  # with ties
    counts = Confusion(2, torch.arange(60), CPU)
    for start in range(0, 60, 10):
        counts.update(*(torch.tensor(array[start : start + 10]) for array in (logits, labels)))
    assert counts.read_auc() == pytest.approx(100 * metrics.roc_auc_score(labels, logits[:, 1] - logits[:, 0]))
    assert confusion.auc(np.array([1.0, 2.0]), np.array([True, True])) is None
    assert Confusion(3, torch.arange(60), CPU).read_auc() is None


def test_two_classes_on_several_processes_have_the_curve_of_one(monkeypatch):
    """Each process has a share of the images; their sum is exchanged."""
    rng, parts = np.random.default_rng(0), []
    logits, labels = torch.tensor(rng.normal(size=(10, 2))), torch.tensor([0, 1] * 5)
    for order in (torch.arange(4), torch.arange(4, 10)):
        parts.append(Confusion(2, order, CPU, number=10))
        parts[-1].update(logits[order], labels[order])
    monkeypatch.setattr(confusion.processes, "sum", lambda own: sum(part.margins for part in parts))
    expected = 100 * metrics.roc_auc_score(labels, logits[:, 1] - logits[:, 0])
    assert parts[0].read_auc() == pytest.approx(expected)
