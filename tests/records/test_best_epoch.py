"""What chooses the epoch of best.pth, and which one that is."""

import pytest

from common.records import best_epoch
from common.records.best_epoch import HELD_OUT, LAST, TEST


@pytest.mark.parametrize(
    ("held_out", "fold", "tested", "by"),
    [(3, False, 9, HELD_OUT), (3, False, 0, HELD_OUT), (0, False, 9, TEST), (0, False, 0, LAST), (3, True, 9, LAST)],
)
def test_held_out_images_come_before_the_test_set_and_a_fold_never_chooses(held_out, fold, tested, by):
    assert best_epoch.chooser(held_out, fold, tested) == by


def test_of_equal_epochs_held_out_images_choose_the_latest_and_the_test_set_the_first():
    scores = [(50.0, 60.0), (90.0, 70.0), (90.0, 80.0), (60.0, 80.0), (80.0, 75.0)]
    rows = [{"epoch": i, "top1": top1, "val_top1": val} for i, (top1, val) in enumerate(scores, 1)]
    assert [best_epoch.chosen(rows, by)["epoch"] for by in (HELD_OUT, TEST, LAST)] == [4, 2, 5]


ROWS = [{"step": 3}, {"step": 6}]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 2, "chosen_by": "test images", "model": {}}, (2, "test images")),
        ({"model": {}}, (None, None)),
        ({"history": ROWS, "step": 6}, (2, "last epoch")),
        ({"history": ROWS, "step": 8}, (None, None)),
        ({"history": [], "step": 2}, (None, None)),
    ],
    ids=["best", "an older one", "latest", "latest, within an epoch", "latest, within the first"],
)
def test_the_epoch_of_a_checkpoint(content, found):
    assert best_epoch.of_checkpoint(content) == found
