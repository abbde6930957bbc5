"""Accuracies in percent, and the evaluation of a network. Only its last lines wait for the device."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.loading.loaders import TestLoader
from common.system import processes
from common.training.confusion import Confusion, Predictions


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Top-1 accuracy of a batch in percent: a scalar on the device.

    Args:
        logits: float [B, C].
        labels: int64 [B].
    """
    return 100 * (logits.argmax(dim=1) == labels).float().mean()


def masked_accuracy(predictions: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracy of the selected samples as (sum in percent, number selected), for `Meters` to weight.

    So an epoch's figure is the accuracy over all samples selected in it. Batches without a selected sample do not
    count, nor do samples with an unknown label.

    Args:
        predictions: int64 [B].
        labels: int64 [B], -1 if unknown.
        mask: bool or float [B]: 1 for selected samples and 0 for others, or a weight for each.
    """
    mask = mask.float() * (labels >= 0)
    return 100 * (mask * (predictions == labels)).sum(), mask.sum()


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: TestLoader, num_classes: int, *counters: Confusion | Predictions
) -> dict[str, float]:
    """Test the model in eval mode, and restore its mode. Each process tests its share of the batches.

    Args:
        model: images -> logits [B, num_classes].
        loader: of the images to test on.
        num_classes: C.
        counters: they get the logits and labels of every batch.

    Returns:
        In percent `top1`, `top5` (with five classes or more) and `mean_per_class` (recall, averaged over the classes
        that have images); and `test_loss`, the mean cross-entropy per image. Empty if there are no images.
    """
    was_training = model.training
    model.eval()
    totals = torch.zeros(num_classes, dtype=torch.float64, device=loader.device)
    hits = torch.zeros_like(totals)
    hits5 = torch.zeros((), dtype=torch.float64, device=loader.device)
    loss = torch.zeros_like(hits5)
    for images, labels in loader:
        logits = model(images)
        correct = (logits.argmax(dim=1) == labels).double()
        totals.index_add_(0, labels, torch.ones_like(correct))
        hits.index_add_(0, labels, correct)
        hits5 += (logits.topk(min(5, num_classes), dim=1).indices == labels[:, None]).sum()
        loss += F.cross_entropy(logits, labels, reduction="sum")
        for counter in counters:
            counter.update(logits, labels)
    model.train(was_training)
    totals, hits, hits5, loss = map(processes.sum, (totals, hits, hits5, loss))

    seen = totals > 0
    if not seen.any():
        return {}
    number = totals.sum()
    scores = {"top1": 100 * hits.sum() / number, "mean_per_class": 100 * (hits[seen] / totals[seen]).mean()}
    if num_classes >= 5:
        scores["top5"] = 100 * hits5 / number
    scores["test_loss"] = loss / number
    return {name: value.item() for name, value in scores.items()}
