"""`--balanced-batches`: labeled batches that hold all classes equally often."""

import itertools

import numpy as np
import pytest
import torch

from common.datasets.images import ImageSet
from common.loading.loaders import TrainLoader
from tests.conftest import read_rows
from tests.loading.test_loaders import TEST, assert_equal_batches, options, take

NUMBERS = [2, 7, 31]


def uneven(*numbers: int) -> ImageSet:
    """Images of classes of these sizes, whose classes do not stand one after the other."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(numbers)), numbers))
    return ImageSet(np.zeros((len(labels), 32, 32), dtype=np.uint8), labels)


def loader(images: ImageSet, batch_size: int, seed: int = 0, workers: int = 0) -> TrainLoader:
    return TrainLoader(images, [TEST], batch_size, "labeled", seed, **options(workers))


def labels(batches: list) -> np.ndarray:
    """int [steps, B]"""
    return torch.stack([batch.labels for batch in batches]).numpy()


@pytest.mark.parametrize(
    ("numbers", "size", "steps"),
    [(NUMBERS, 8, 3), (NUMBERS, 6, 1), ([1, 2, 1, 5, 9], 4, 5), ([3, 3, 3, 3, 3, 3, 40], 3, 7)],
    ids=["8 of 3 classes", "6 of 3", "4 of 5", "3 of 7"],
)
def test_a_batch_holds_all_classes_equally_often(numbers, size, steps):
    """Within one image; and exactly so over as many steps as make that possible."""
    found = labels(take(loader(uneven(*numbers).evenly(), size), 4 * steps))
    counts = np.stack([np.bincount(row, minlength=len(numbers)) for row in found])
    assert (counts.sum(axis=1) == size).all()
    assert np.ptp(counts, axis=1).max() <= 1
    for some in counts.reshape(4, steps, -1):
        assert (some.sum(axis=0) == size * steps // len(numbers)).all()


def test_every_class_goes_through_its_images_in_passes_of_its_own():
    batches = take(loader(uneven(*NUMBERS).evenly(), 9), 62)  # three of each class in a step
    indices = torch.cat([batch.indices for batch in batches]).numpy()
    for c, number in enumerate(NUMBERS):
        own = indices[labels(batches).ravel() == c]
        passes = [own[i : i + number].tolist() for i in range(0, 6 * number, number)]
        assert all(len(set(one)) == number for one in passes)
        assert len(set(map(tuple, passes))) > 1  # each in an order of its own


def test_classes_that_share_a_batch_change():
    found = labels(take(loader(uneven(5, 5, 5, 5).evenly(), 2), 40))
    assert {tuple(sorted(row)) for row in found} == set(itertools.combinations(range(4), 2))


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_neither_workers_nor_the_start_change_a_bit(workers, start):
    images = uneven(*NUMBERS).evenly()
    whole = take(loader(images, 8), 8)
    assert_equal_batches(take(loader(images, 8, workers=workers), 8 - start, start), whole[start:])
    assert not np.array_equal(labels(whole), labels(take(loader(images, 8, seed=1), 8)))


def test_fewer_images_than_a_batch_are_drawn_evenly_all_the_same(log):
    found = labels(take(loader(uneven(2, 4).evenly(), 8), 3))
    assert [np.bincount(row).tolist() for row in found] == [[3, 3]] * 3
    assert "every batch has 6, evenly over the classes" in log.messages[0]


def test_the_flag_changes_the_labeled_batches_and_is_off_without_it(small_run, tmp_path, monkeypatch):
    seen, init = {}, TrainLoader.__init__

    def noting(self, images, transforms, batch_size, stream, *args, **options):
        seen[stream] = images.balanced
        init(self, images, transforms, batch_size, stream, *args, **options)

    monkeypatch.setattr(TrainLoader, "__init__", noting)
    small_run("fixmatch", "--epochs", "1", log=tmp_path / "without")
    assert seen == {"labeled": False, "unlabeled": False}
    small_run("fixmatch", "--epochs", "1", "--balanced-batches", log=tmp_path / "with")
    assert seen == {"labeled": True, "unlabeled": False}
    assert read_rows(tmp_path / "with") != read_rows(tmp_path / "without")
