"""Digits: the 1,797 real handwritten digits that ship inside scikit-learn. No download, ten classes.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998
(the test part of it, as `sklearn.datasets.load_digits` gives it).
"""

from pathlib import Path

import numpy as np
from PIL import Image

from common.datasets.images import ImageSet
from common.datasets.spec import Contents

SIZE = 32


def load(root: Path) -> Contents:
    """Every third sample is a test image (2, 5, 8, ... in scikit-learn's order: 599); the other 1,198 are for training.

    The 8 x 8 images with 17 grey levels are enlarged to 32 x 32 pixels of 8 bits (bicubic), so that networks and
    augmentations for CIFAR fit. They are never flipped. `root` is not used.
    """
    from sklearn.datasets import load_digits  # takes a second, which other datasets save

    digits = load_digits()
    images = np.stack([_enlarge(image) for image in digits.images])
    is_test = np.arange(len(images)) % 3 == 2
    return Contents(
        [str(name) for name in digits.target_names],
        ImageSet(images[~is_test], digits.target[~is_test]),
        ImageSet(images[is_test], digits.target[is_test]),
        official_split=False,
    )


def _enlarge(image: np.ndarray) -> np.ndarray:
    pixels = np.round(image * (255 / 16)).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
