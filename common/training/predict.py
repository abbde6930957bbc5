"""The predictions of a network for image files, of which some may be unreadable."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.loading.loaders import FileBatch, FileLoader


class Prediction(NamedTuple):
    """The prediction for one image, or why there is none.

    Attributes:
        number: of the image in its set.
        ranking: int64 [C], the classes from the best to the worst.
        probabilities: float32 [C], of the classes in the run's order.
        error: why there is no prediction; then the ranking and the probabilities are None.
    """

    number: int
    ranking: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    error: str | None = None


def predict(model: nn.Module, loader: FileLoader) -> Iterator[Prediction]:
    """Yield the prediction for every image, in order.

    A batch's results are read only when the next batch is on the device, so that the device need not wait.
    """
    previous = None
    for batch in loader:
        results = () if batch.images is None else classify(model, batch.images)
        if previous is not None:
            yield from _of_batch(*previous)
        previous = batch, results
    if previous is not None:
        yield from _of_batch(*previous)


@torch.no_grad()
def classify(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Classes from the best to the worst, int64 [B, C], and the probabilities of all classes, float32 [B, C].

    Of classes with equal logits the first is the better one, as in the evaluation's argmax.
    """
    logits = model(images)
    return logits.argsort(dim=1, descending=True, stable=True), logits.softmax(dim=1)


def _of_batch(batch: FileBatch, results: tuple[Tensor, ...]) -> list[Prediction]:
    """Wait for a batch's results. There are none where no image of the batch could be read.

    Raises:
        UserError: the network gives no numbers.
    """
    predictions = [Prediction(number, error=error) for number, error in batch.errors.items()]
    if results:
        rankings, probabilities = (result.cpu().numpy() for result in results)
        if not np.isfinite(probabilities).all():
            raise UserError(
                "the network's outputs are NaN or infinite: choose another --checkpoint, or name another run"
            )
        predictions += map(Prediction, batch.indices.tolist(), rankings, probabilities)
    return sorted(predictions, key=lambda prediction: prediction.number)
