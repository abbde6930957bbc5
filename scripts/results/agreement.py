"""How well a network's predictions agree with clusters of its features: a score that needs no labels."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score

from common import trained
from common.datasets.images import ImageSet
from common.loading import augment
from common.loading.loaders import TestLoader

RESAMPLED = 100  # times, for the interval


@torch.no_grad()
def features_and_predictions(
    run: trained.Trained, images: ImageSet, device: torch.device, workers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of every image: the bottleneck's output scaled to length 1, float32 [N, D], and the class, int64 [N]."""
    loader = TestLoader(
        images,
        augment.test_transform(run.args.val_resizing, run.args.image_size),
        workers=workers,
        normalizer=augment.Normalizer(run.args.norm_mean, run.args.norm_std),
        device=device,
    )
    model = run.model.to(device)
    features = [model.features(batch) for batch, _ in loader]
    predictions = torch.cat([model.head(each).argmax(dim=1) for each in features])
    return torch.nn.functional.normalize(torch.cat(features)).cpu().numpy(), predictions.cpu().numpy()


def with_clusters(
    features: np.ndarray, predictions: Sequence[int] | np.ndarray, num_classes: int
) -> tuple[float, float, float]:
    """The adjusted mutual information of the predictions and k-means clusters, and its 95 % interval, in percent: 1.96
    deviations over resampled images on either side. Seeded: the same features give the same score.
    """
    clusters = KMeans(num_classes, n_init=10, random_state=0).fit_predict(features)
    rng, number = np.random.default_rng(0), len(clusters)
    predictions = np.asarray(predictions)
    draws = [rng.integers(number, size=number) for _ in range(RESAMPLED)]
    deviation = np.std([adjusted_mutual_info_score(predictions[draw], clusters[draw]) for draw in draws])
    value = adjusted_mutual_info_score(predictions, clusters)
    return tuple(float(100 * (value + sign * 1.96 * deviation)) for sign in (0, -1, 1))
