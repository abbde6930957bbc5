"""How well a network's predictions agree with clusters of its features: a score that needs no labels."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score

from common import trained
from common.datasets.images import ImageSet
from common.loading.loaders import TestLoader

HALVES = 40  # of the images, for the standard error


@torch.no_grad()
def features_and_predictions(
    run: trained.Trained, images: ImageSet, device: torch.device, workers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of every image: the bottleneck's output scaled to length 1, float32 [N, D], and the class, int64 [N]."""
    loader = TestLoader(images, **run.preprocessing, workers=workers, device=device)
    model = run.model.to(device)
    features = [model.features(batch) for batch, _ in loader]
    predictions = torch.cat([model.head(each).argmax(dim=1) for each in features])
    return torch.nn.functional.normalize(torch.cat(features)).cpu().numpy(), predictions.cpu().numpy()


class Agreement:
    """The adjusted mutual information of a network's predictions and k-means clusters of its features, in percent.

    Seeded: the same features give the same score.

    Args:
        features, predictions: see `features_and_predictions`.
        num_classes: as many clusters.

    Attributes:
        value: on all images.
    """

    def __init__(self, features: np.ndarray, predictions: Sequence[int] | np.ndarray, num_classes: int):
        self.features, self.predictions = features, np.asarray(predictions)
        found = KMeans(num_classes, n_init=10, random_state=0).fit(features)
        self.centers = found.cluster_centers_
        self.value = 100 * float(adjusted_mutual_info_score(self.predictions, found.labels_))

    def on_halves(self) -> np.ndarray:
        """The value on `HALVES` random halves of the images: float [H]. Each is clustered from the centers of all.

        Networks with the same number of images have the same halves. The deviation over the halves estimates that of
        `value` over other images, since two factors cancel: a half has twice the variance of the whole, but halves of
        the same images have half the variance of halves of other images.
        """
        rng, number, values = np.random.default_rng(0), len(self.predictions), []
        for _ in range(HALVES):
            half = rng.permutation(number)[: number // 2]
            clusters = KMeans(len(self.centers), init=self.centers, n_init=1).fit_predict(self.features[half])
            values.append(100 * adjusted_mutual_info_score(self.predictions[half], clusters))
        return np.array(values)


def error_over_images(first: Agreement, other: Agreement) -> float:
    """The standard error of the difference of two values on the same images, in points."""
    return float(np.std(first.on_halves() - other.on_halves(), ddof=1))
