"""The labeled split: the rule to the letter, on which every published number depends."""

import hashlib
import time
from types import SimpleNamespace

import numpy as np
import pytest

from common.datasets import splits
from common.errors import UserError

LABELS = np.random.default_rng(0).integers(0, 5, size=200)
CLASSES = list("abcde")


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("number", [1, 4, 10])
def test_the_rule_to_the_letter(seed, number):
    labeled, unlabeled = splits.split(LABELS, CLASSES, number, seed)
    rng = np.random.RandomState(seed)
    expected = []
    for c in range(5):
        expected.extend(rng.choice([i for i in range(200) if LABELS[i] == c], number, replace=False))
    assert labeled.tolist() == expected
    assert unlabeled.tolist() == [i for i in range(200) if i not in set(expected)]


def test_a_seed_draws_these_indices_on_every_machine():
    """Written down once, so that a new NumPy cannot change the split unnoticed."""
    labeled, unlabeled = splits.split(np.repeat([0, 1, 2], 10), list("abc"), 2, 0)
    assert labeled.tolist() == [2, 8, 13, 15, 22, 23]
    assert len(unlabeled) == 24


def test_every_class_has_its_number_and_nothing_is_in_both():
    labeled, unlabeled = splits.split(LABELS, CLASSES, 4, 0)
    assert np.bincount(LABELS[labeled]).tolist() == [4] * 5
    assert sorted([*labeled, *unlabeled]) == list(range(200))
    assert (np.diff(unlabeled) > 0).all()


def test_labels_are_drawn_from_the_candidates_alone():
    labeled, unlabeled = splits.split(LABELS, CLASSES, 4, 0, candidates=100)
    assert labeled.max() < 100
    assert labeled.tolist() == splits.split(LABELS[:100], CLASSES, 4, 0)[0].tolist()
    assert set(range(100, 200)) <= set(unlabeled.tolist())


def test_images_of_no_known_class_stay_unlabeled():
    labels = np.where(np.arange(200) % 2, LABELS, -1)
    labeled, unlabeled = splits.split(labels, CLASSES, 4, 0)
    assert (labels[labeled] >= 0).all()
    assert len(unlabeled) == 180


def test_all_images_of_a_class_may_be_labeled():
    labeled, unlabeled = splits.split(np.repeat([0, 1], 3), ["a", "b"], 3, 0)
    assert len(labeled) == 6
    assert len(unlabeled) == 0


@pytest.mark.parametrize(("labels", "candidates"), [([0] * 5 + [1] * 3, None), ([0] * 5, None), ([0] * 5 + [1] * 5, 8)])
def test_a_class_with_too_few_images_is_named(labels, candidates):
    with pytest.raises(UserError, match=f"class 'dog' has {min(3, labels.count(1))} training images") as error:
        splits.split(np.array(labels), ["cat", "dog"], 4, 0, candidates)
    assert "--num-samples-per-class 4" in str(error.value)


def test_all_labels_of_uneven_classes_count(log):
    log.set_level("INFO", "common")
    labels = np.array([2, 0, 2, 1, 2, 0, -1, 2, -1])
    labeled, unlabeled = splits.split(labels, list("abc"), "all", 0)
    assert labeled.tolist() == [1, 5, 3, 0, 2, 4, 7]
    assert unlabeled.tolist() == [6, 8]
    assert log.messages == ["labels per class: from 1 ('b') to 4 ('c')"]


def test_all_labels_are_those_of_the_candidates():
    labeled, unlabeled = splits.split(np.array([0, 1, 1, 0, 1]), list("ab"), "all", 0, candidates=3)
    assert labeled.tolist() == [0, 1, 2]
    assert unlabeled.tolist() == [3, 4]


def test_where_all_images_are_labeled_they_are_the_unlabeled_ones_too(log):
    log.set_level("INFO", "common")
    labeled, unlabeled = splits.split(np.array([1, 0, 1, 0]), list("ab"), "all", 0)
    assert labeled.tolist() == [1, 3, 0, 2]
    assert unlabeled.tolist() == [0, 1, 2, 3]
    assert log.messages == ["no image is without a label: a method that wants unlabeled ones gets the 4 labeled"]


def test_the_number_is_equal_for_all_classes_without_a_word(log):
    log.set_level("INFO", "common")
    splits.split(LABELS, CLASSES, 4, 0)
    assert not log.messages


@pytest.mark.parametrize("number", [0, "all"])
def test_a_class_without_images_is_named_whatever_is_drawn(number):
    with pytest.raises(UserError, match="class 'b' has 0 training images"):
        splits.split(np.array([0, 0, -1]), list("ab"), number, 0)


def test_with_0_labels_per_class_all_images_are_unlabeled():
    labeled, unlabeled = splits.split(np.array([0, 1, 0]), list("ab"), 0, 0)
    assert (labeled.tolist(), unlabeled.tolist()) == ([], [0, 1, 2])


def test_a_large_set_takes_no_time():
    labels = np.random.default_rng(0).permutation(np.arange(75_000) % 101)
    start = time.perf_counter()
    splits.split(labels, [str(c) for c in range(101)], 4, 0)
    assert time.perf_counter() - start < 0.5


def test_sha256_is_of_the_sorted_indices_joined_by_commas():
    assert splits.fingerprint(np.array([10, 9, 2])) == hashlib.sha256(b"2,9,10").hexdigest()


@pytest.mark.parametrize(
    ("number", "reported"), [(4, "20 labels are used, and 180 are not: --num-samples-per-class all"), ("all", None)]
)
def test_labels_that_are_not_used_are_reported(number, reported, caplog):
    caplog.set_level("INFO")
    data = SimpleNamespace(train=SimpleNamespace(labels=LABELS), candidates=None, spec=SimpleNamespace(is_own=True))
    labeled, _ = splits.split(LABELS, CLASSES, number, 0)
    splits.log_spare_labels(data, labeled, np.empty(0, dtype=np.int64))
    known = SimpleNamespace(**vars(data) | {"spec": SimpleNamespace(is_own=False)})
    splits.log_spare_labels(known, labeled, np.empty(0, dtype=np.int64))
    assert [line for line in caplog.messages if "are not" in line] == (
        [f"{reported} uses all of them"] if reported else []
    )
