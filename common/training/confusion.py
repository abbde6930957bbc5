"""What the tested network confuses: counted on the device, batch by batch, and read once."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.system import processes

MOST = 30  # errors that are kept


class Error(NamedTuple):
    """A test image that was taken for another class.

    Attributes:
        index: of the image in the test set.
        true, predicted: the classes.
        confidence: of the prediction, its probability from 0 to 1.
    """

    index: int  # type: ignore[assignment]  # hides the method of tuples
    true: int
    predicted: int
    confidence: float


class Confusion:
    """Which classes are taken for which, and the most confident errors. Nothing waits for the device before `read`.

    Args:
        num_classes: C.
        order: int64 [N], the test set's indices of the images in the order in which `update` meets them.
        device: where the logits are.
        number: of images in the test set, where several processes share them (default: N).
    """

    def __init__(self, num_classes: int, order: Tensor, device: torch.device, number: int | None = None):
        self.num_classes = num_classes
        self.order, self.met = order.to(device), 0
        # Of two classes, by index: how much more the second one's logit is, and the label.
        size = (len(order) if number is None else number) if num_classes == 2 else 0
        self.margins = torch.zeros(size, 2, dtype=torch.float64, device=device)
        self.matrix = torch.zeros(num_classes**2, dtype=torch.int64, device=device)
        # Rows of (confidence, index, true, predicted); the confidence is -1 where there is no error.
        self.errors = torch.full((MOST, 4), -1.0, dtype=torch.float64, device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count the next batch.

        Args:
            logits: float [B, C].
            labels: int64 [B].
        """
        predicted = logits.argmax(dim=1)
        self.matrix.index_add_(0, labels * self.num_classes + predicted, torch.ones_like(labels))
        confidence = F.softmax(logits, dim=1).amax(dim=1).masked_fill(predicted == labels, -1)
        indices = self.order[self.met : self.met + len(labels)]
        self.met += len(labels)
        rows = torch.stack([column.double() for column in (confidence, indices, labels, predicted)], dim=1)
        self.errors = _largest(torch.cat([self.errors, rows]))
        if self.num_classes == 2:
            self.margins[indices] = torch.stack([(logits[:, 1] - logits[:, 0]).double(), labels.double()], dim=1)

    def read(self) -> tuple[np.ndarray, list[Error]]:
        """The counts, int64 [C, C] with a row per true and a column per predicted class, and the most confident errors,
        the most confident one first.
        """
        matrix = processes.sum(self.matrix).view(self.num_classes, -1).cpu().numpy()
        rows = _largest(processes.gather(self.errors)).tolist()
        errors = [Error(int(i), int(true), int(predicted), x) for x, i, true, predicted in rows if x >= 0]
        return matrix, errors

    def read_auc(self) -> float | None:
        """Of two classes, the area under the ROC curve in percent, whichever of them is the positive one: how often an
        image of the second has a higher probability of it than an image of the first, a tie being half. None of more
        classes, and where one of the two has no images.
        """
        if self.num_classes != 2:
            return None
        margins, labels = processes.sum(self.margins).cpu().numpy().T
        return auc(margins, labels == 1)


class Predictions:
    """What each image is taken for. Nothing waits for the device before `read`.

    Args:
        number: of images in the set, N.
        order: int64, the set's indices of this process's images in the order in which `update` meets them.
        device: where the logits are.
    """

    def __init__(self, number: int, order: Tensor, device: torch.device):
        self.order, self.met = order.to(device), 0
        self.predicted = torch.zeros(number, dtype=torch.int64, device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Note the next batch: float [B, C] and int64 [B]."""
        self.predicted[self.order[self.met : self.met + len(labels)]] = logits.argmax(dim=1)
        self.met += len(labels)

    def read(self) -> np.ndarray:
        """int64 [N], the predicted classes of all images, in the set's order."""
        return processes.sum(self.predicted).cpu().numpy()


def _largest(rows: Tensor) -> Tensor:
    return rows[rows[:, 0].topk(MOST).indices]


def auc(scores: np.ndarray, is_positive: np.ndarray) -> float | None:
    """The area under the ROC curve in percent; None where all are positive, or none is.

    Args:
        scores: float [N].
        is_positive: bool [N].
    """
    positive, negative = int(is_positive.sum()), int((~is_positive).sum())
    if not positive or not negative:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # equal scores share the mean of their ranks
    return 100 * float(ranks[is_positive].sum() - positive * (positive + 1) / 2) / (positive * negative)


def per_class(matrix: np.ndarray, classes: list[str]) -> list[dict[str, Any]]:
    """For each class: its test images, how many of them are recognised, that in percent (the recall), how many images
    of any class are taken for it, the class that its images are most often taken for instead, and in percent the
    precision (how many of those that are taken for it are of it) and the F1 score (the harmonic mean of the two).

    A class without images has neither accuracy nor F1, and one that nothing is taken for has no precision.
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
    """The most confused pairs as (how many images, true class, predicted class), the most frequent first."""
    errors = matrix.copy()
    np.fill_diagonal(errors, 0)
    places = np.argsort(-errors, axis=None, kind="stable")[:number]
    found = []
    for place in places:
        true, predicted = np.unravel_index(place, errors.shape)
        found.append((int(errors[true, predicted]), int(true), int(predicted)))
    return [pair for pair in found if pair[0] > 0]
