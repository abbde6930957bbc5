"""Which training images keep their labels."""

import hashlib
from collections.abc import Sequence

import numpy as np

from common.errors import UserError


def split(
    labels: np.ndarray, classes: Sequence[str], num_per_class: int, seed: int, candidates: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the same number of labeled images from every class; all the other images are unlabeled.

    The rule is the ancestor's, to the number: one legacy `RandomState`, classes in order, no replacement. It depends
    on the order of the images and the seed alone.

    Args:
        labels: int64 [N], the class of every training image.
        classes: the class names; their number is the number of classes.
        num_per_class: labels to draw per class.
        seed: of the draw (`--split-seed`).
        candidates: draw from the first so many images only (default: all N).

    Returns:
        (labeled, unlabeled): int64 indices into `labels`; `labeled` class by class, `unlabeled` ascending.

    Raises:
        UserError: a class has fewer than `num_per_class` candidates.
    """
    rng = np.random.RandomState(seed)
    drawable = labels[:candidates]
    labeled = []
    for c, name in enumerate(classes):
        indices = np.flatnonzero(drawable == c)
        if len(indices) < num_per_class:
            raise UserError(
                f"class '{name}' has {len(indices)} training images, fewer than --num-samples-per-class "
                f"{num_per_class}: add images or ask for fewer labels"
            )
        labeled.append(rng.choice(indices, num_per_class, replace=False))
    labeled = np.concatenate(labeled)
    is_unlabeled = np.ones(len(labels), dtype=bool)
    is_unlabeled[labeled] = False
    return labeled, np.flatnonzero(is_unlabeled)


def sha256(labeled: np.ndarray) -> str:
    """Fingerprint of a split: SHA-256 of the sorted indices joined by commas."""
    return hashlib.sha256(",".join(map(str, np.sort(labeled).tolist())).encode()).hexdigest()
