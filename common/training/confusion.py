"""Confusion matrix, most confident errors and AUC of a network: counted on the device, and read once."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.system import processes

MAX_KEPT = 30  # how many errors are kept


class Misclassified(NamedTuple):
    """A test image with a wrong prediction.

    Attributes:
        index: the image's index in the test set.
        true, predicted: class indices.
        confidence: probability of the predicted class, from 0 to 1.
    """

    index: int  # type: ignore[assignment]  # hides the method of tuples
    true: int
    predicted: int
    confidence: float


class Confusion:
    """Counts true against predicted classes, and keeps the most confident errors. Only reading waits for the device.

    Args:
        num_classes: C.
        order: int64 [N], the test set's indices of the images, in the order in which `update` gets them.
        device: the device of the logits.
        number: images in the whole test set, if several processes share them (default: N).
    """

    def __init__(self, num_classes: int, order: Tensor, device: torch.device, number: int | None = None):
        self.num_classes = num_classes
        self.order, self.seen = order.to(device), 0
        # With two classes, for each image: logit of the second class minus that of the first, and the label.
        size = (len(order) if number is None else number) if num_classes == 2 else 0
        self.margins = torch.zeros(size, 2, dtype=torch.float64, device=device)
        self.matrix = torch.zeros(num_classes**2, dtype=torch.int64, device=device)
        # Rows of (confidence, index, true, predicted). A confidence of -1 marks an empty row.
        self.errors = torch.full((MAX_KEPT, 4), -1.0, dtype=torch.float64, device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count the next batch.

        Args:
            logits: float [B, C].
            labels: int64 [B].
        """
        predicted = logits.argmax(dim=1)
        self.matrix.index_add_(0, labels * self.num_classes + predicted, torch.ones_like(labels))
        confidence = F.softmax(logits, dim=1).amax(dim=1).masked_fill(predicted == labels, -1)
        indices = self.order[self.seen : self.seen + len(labels)]
        self.seen += len(labels)
        rows = torch.stack([column.double() for column in (confidence, indices, labels, predicted)], dim=1)
        self.errors = _largest(torch.cat([self.errors, rows]))
        if self.num_classes == 2:
            self.margins[indices] = torch.stack([(logits[:, 1] - logits[:, 0]).double(), labels.double()], dim=1)

    def read(self) -> tuple[np.ndarray, list[Misclassified]]:
        """The confusion matrix, int64 [C, C] with a row per true and a column per predicted class; and the errors.

        The most confident error comes first.
        """
        matrix = processes.sum(self.matrix).view(self.num_classes, -1).cpu().numpy()
        rows = _largest(processes.gather(self.errors)).tolist()
        errors = [Misclassified(int(i), int(true), int(predicted), x) for x, i, true, predicted in rows if x >= 0]
        return matrix, errors

    def read_auc(self) -> float | None:
        """With two classes, the area under the ROC curve in percent. It is the same whichever class is positive.

        It says how often an image of the second class gets a higher probability of that class than an image of the
        first, where ties count half. None with more classes, and if one of the two classes has no images.
        """
        if self.num_classes != 2:
            return None
        margins, labels = processes.sum(self.margins).cpu().numpy().T
        return auc(margins, labels == 1)


class Predictions:
    """The predicted class of each image. Only `read` waits for the device.

    Args:
        number: images in the whole set, N.
        order: int64, the set's indices of this process's images, in the order in which `update` gets them.
        device: the device of the logits.
    """

    def __init__(self, number: int, order: Tensor, device: torch.device):
        self.order, self.seen = order.to(device), 0
        self.predicted = torch.zeros(number, dtype=torch.int64, device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Note the predictions of the next batch: logits [B, C], labels int64 [B] (not used)."""
        self.predicted[self.order[self.seen : self.seen + len(labels)]] = logits.argmax(dim=1)
        self.seen += len(labels)

    def read(self) -> np.ndarray:
        """int64 [N], the predicted classes of all images, in the set's order."""
        return processes.sum(self.predicted).cpu().numpy()


def _largest(rows: Tensor) -> Tensor:
    return rows[rows[:, 0].topk(MAX_KEPT).indices]


def auc(scores: np.ndarray, is_positive: np.ndarray) -> float | None:
    """The area under the ROC curve in percent; None if all images are positive, or none is.

    Args:
        scores: float [N].
        is_positive: bool [N].
    """
    positive, negative = int(is_positive.sum()), int((~is_positive).sum())
    if not positive or not negative:
        return None
    _, value_index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[value_index]  # equal scores share the mean of their ranks
    return 100 * float(ranks[is_positive].sum() - positive * (positive + 1) / 2) / (positive * negative)


def per_class(matrix: np.ndarray, classes: list[str]) -> list[dict[str, Any]]:
    """The rows of per_class.csv, one for each class.

    images, correct: test images of the class, and how many of them are predicted rightly.
    accuracy: correct / images in percent, which is the recall; None without images.
    predicted: images of any class that are predicted as this one.
    most_confused_with, confused: the class that its images are most often mistaken for, and how many are.
    precision: correct / predicted in percent; None if the class is never predicted.
    f1: the harmonic mean of precision and recall; None without images.

    Args:
        matrix: see `Confusion.read`.
        classes: the class names.
    """
    rows = []
    for c, name in enumerate(classes):
        images, others = int(matrix[c].sum()), matrix[c].copy()
        others[c] = 0
        correct, predicted = int(matrix[c, c]), int(matrix[:, c].sum())
        rows.append(
            {
                "class": name,
                "images": images,
                "correct": correct,
                "accuracy": 100 * correct / images if images else None,
                "predicted": predicted,
                "most_confused_with": classes[others.argmax()] if others.any() else None,
                "confused": int(others.max()),
                "precision": 100 * correct / predicted if predicted else None,
                "f1": 200 * correct / (images + predicted) if images else None,
            }
        )
    return rows


def pairs(matrix: np.ndarray, number: int) -> list[tuple[int, int, int]]:
    """The most confused pairs as (number of images, true class, predicted class), the most frequent first."""
    errors = matrix.copy()
    np.fill_diagonal(errors, 0)
    largest = np.argsort(-errors, axis=None, kind="stable")[:number]
    found = []
    for flat_index in largest:
        true, predicted = np.unravel_index(flat_index, errors.shape)
        found.append((int(errors[true, predicted]), int(true), int(predicted)))
    return [pair for pair in found if pair[0] > 0]
