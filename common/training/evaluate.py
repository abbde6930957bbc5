"""Accuracies, all in percent. Everything stays on the device until the last line of `evaluate`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.loading.loaders import TestLoader
from common.system import processes
from common.training.confusion import Confusion, Predictions


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the batch whose largest logit is the label, in percent: a scalar on the device.

    Args:
        logits: float [B, C].
        labels: int64 [B].
    """
    return 100 * (logits.argmax(dim=1) == labels).float().mean()


def masked_accuracy(predictions: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracy over the selected samples as (sum in percent, number selected), so that a meter can weight it.

    An epoch's figure is then the accuracy over all the samples selected in it; empty masks count for nothing, and
    neither do samples whose label nobody knows.

    Args:
        predictions: int64 [B].
        labels: int64 [B], -1 where not known.
        mask: bool or float [B], 1 where selected.
    """
    mask = mask.float() * (labels >= 0)
    return 100 * (mask * (predictions == labels)).sum(), mask.sum()


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: TestLoader, num_classes: int, *noting: Confusion | Predictions
) -> dict[str, float]:
    """Test the model in eval mode, and leave it in the mode it was in. Each process tests its share of the batches.

    Args:
        noting: where to note, too, what is taken for what.

    Returns:
        `top1`, `top5` (where there are five classes), `mean_per_class` (recall, averaged over the classes that have
        test images) in percent, and `test_loss` (cross-entropy per image); nothing where there are no images.
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
        for each in noting:
            each.update(logits, labels)
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
