"""Draw the training images that keep their labels, and those that are held out."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np

from common.datasets import Data, class_names
from common.errors import UserError
from common.system import seeding

logger = logging.getLogger(__name__)


def split(
    labels: np.ndarray,
    classes: Sequence[str],
    num_per_class: int | Literal["all"],
    seed: int,
    candidates: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the same number of labeled images from every class. All other images are unlabeled.

    The draw repeats the ancestor's (TLlib) exactly: one legacy `RandomState`, classes in order, without replacement. It
    depends only on the order of the images and on the seed.

    Args:
        labels: int64 [N], the class of every training image; -1 if unknown.
        classes: the class names.
        num_per_class: labels to draw per class; 0 draws none, but a class must have an image. With `all`, every
            candidate's label is used. If that labels every image, the labeled images also serve as the unlabeled ones.
        seed: of the draw (`--split-seed`).
        candidates: draw from the first `candidates` images only; None: from all N.

    Returns:
        (labeled, unlabeled): int64 indices into `labels`; `labeled` class by class, `unlabeled` ascending.

    Raises:
        UserError: a class has fewer than `num_per_class` candidates, or none.
    """
    rng = np.random.RandomState(seed)
    drawable = labels[:candidates]
    drawn = []
    for c, name in enumerate(classes):
        indices = np.flatnonzero(drawable == c)
        if num_per_class == "all":
            _refuse_too_few(name, len(indices), 1, "a label of every class is needed")
            drawn.append(indices)
        else:
            wanted = f"fewer than --num-samples-per-class {num_per_class}" if num_per_class else "none to train on"
            _refuse_too_few(name, len(indices), max(num_per_class, 1), wanted)
            drawn.append(rng.choice(indices, num_per_class, replace=False))
    _report_imbalance(classes, [len(indices) for indices in drawn])
    labeled = np.concatenate(drawn)
    is_unlabeled = np.ones(len(labels), dtype=bool)
    is_unlabeled[labeled] = False
    unlabeled = np.flatnonzero(is_unlabeled)
    if num_per_class == "all" and len(unlabeled) == 0:
        logger.info(
            f"no image is without a label: a method that wants unlabeled ones gets the {len(labeled):,} labeled"
        )
        unlabeled = np.sort(labeled)
    return labeled, unlabeled


def log_spare_labels(data: Data, labeled: np.ndarray, held_out: np.ndarray) -> None:
    """Log how many labels of your own images are not used, and how to use them.

    Args:
        data: the dataset that was split.
        labeled, held_out: int64 indices that `split` and `hold_out` returned.
    """
    spare = int((data.train.labels[: data.candidates] >= 0).sum()) - len(labeled) - len(held_out)
    if spare > 0 and data.spec.is_own:
        logger.info(
            f"{len(labeled):,} labels are used, and {spare:,} are not: --num-samples-per-class all uses all of them"
        )


def hold_out(
    labeled: np.ndarray, unlabeled: np.ndarray, data: Data, number: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hold some images of every class out of the training. They choose the epoch in place of the test set.

    They are drawn from images whose label `split` did not draw. So the labeled images are the same with and without
    them. If `split` drew every label, they are taken from the labeled images.

    Args:
        labeled, unlabeled: what `split` returned. An empty `labeled` means that every label is trained on.
        data: the dataset that was split.
        number: images to hold out per class; 0 holds none out.
        seed: of the draw (`--split-seed`).

    Returns:
        (labeled, unlabeled, held_out): int64 indices. Neither of the first two contains a held-out image. `held_out` is
        ordered class by class.

    Raises:
        UserError: a class has too few images, or would keep none to train on.
    """
    if number == 0:
        return labeled, unlabeled, np.empty(0, dtype=np.int64)
    labels = data.train.labels
    has_label = np.flatnonzero(labels[: data.candidates] >= 0)
    pool = np.setdiff1d(has_label, labeled)
    trained_on = len(pool) == 0 or len(labeled) == 0  # whether the pool's labels are otherwise trained on
    if len(pool) == 0:
        pool = np.sort(labeled)
    rng = np.random.default_rng(seeding.derive(seed, "held out"))
    drawn = []
    for c, name in enumerate(data.classes):
        indices = pool[labels[pool] == c]
        least, kind = number, "training images next to the labeled ones"
        if trained_on:
            least, kind = number + 1, "labels, one of which has to stay,"
        if len(indices) < least:
            remedy = "ask for fewer" if number > 1 else "label more, or hold out parts in turn with --val-fold"
            raise UserError(f"class '{name}' has {len(indices)} {kind} for --val-per-class {number}: {remedy}")
        drawn.append(rng.choice(indices, number, replace=False))
    held_out = np.concatenate(drawn)
    return labeled[~np.isin(labeled, held_out)], np.setdiff1d(unlabeled, held_out), held_out


def hold_out_fold(
    labeled: np.ndarray, unlabeled: np.ndarray, data: Data, number: int, folds: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hold one of several equal parts (folds) of the labeled images out of the training.

    Over all parts, each image is held out once. A class is spread over the parts as evenly as its number of labels
    allows. If a class has only one label, it always stays in the training. Where nothing else measures such classes, a
    warning names them.

    Args:
        labeled, unlabeled: int64 indices.
        data: the dataset that was split.
        number: which part, from 1 to `folds`.
        folds: number of parts, 2 or more.
        seed: of the draw (`--split-seed`); the same for all parts.

    Returns:
        As `hold_out`.

    Raises:
        UserError: there are too few labels for so many parts.
    """
    rng = np.random.default_rng(seeding.derive(seed, "folds"))
    labels, part, placed = data.train.labels[labeled], np.full(len(labeled), -1), 0
    for c in range(len(data.classes)):
        own = rng.permutation(np.flatnonzero(labels == c))
        if len(own) > 1:
            part[own] = (placed + np.arange(len(own))) % folds
            placed += len(own)
    if placed < folds:
        raise UserError(
            f"--val-fold {number}/{folds}: {placed} labels of classes with two or more are too few for {folds} parts: "
            "ask for fewer"
        )
    if not len(data.test):  # with test images, the classes without one are named instead
        single = np.flatnonzero(np.bincount(labels, minlength=len(data.classes)) == 1)
        class_names.warn_of_untested(data.classes, single.tolist(), "held-out")
    held_out = labeled[part == number - 1]
    return labeled[part != number - 1], np.setdiff1d(unlabeled, held_out), held_out


def _refuse_too_few(name: str, number: int, least: int, why: str) -> None:
    if number < least:
        remedy = "ask for fewer labels" if least > 1 else "remove the class"
        raise UserError(f"class '{name}' has {number} training images, {why}: add images or {remedy}")


def _report_imbalance(classes: Sequence[str], numbers: Sequence[int]) -> None:
    """Log the numbers of labels of the smallest and the largest class, if they differ."""
    least, most = int(np.argmin(numbers)), int(np.argmax(numbers))
    if numbers[least] < numbers[most]:
        logger.info(
            f"labels per class: from {numbers[least]:,} ('{classes[least]}') to {numbers[most]:,} ('{classes[most]}')"
        )


def fingerprint(labeled: np.ndarray) -> str:
    """Fingerprint of a split: SHA-256 of the sorted indices, joined by commas."""
    return hashlib.sha256(",".join(map(str, np.sort(labeled).tolist())).encode()).hexdigest()
