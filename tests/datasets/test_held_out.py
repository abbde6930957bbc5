"""Images that are held out of the training and choose the epoch: which they are, and what is chosen by them."""

import json

import numpy as np
import pytest
import torch

from common import datasets
from common.datasets import Data, splits
from common.datasets.images import ImageSet
from common.errors import UserError
from common.loading.loaders import TrainLoader
from common.records import best_epoch, results
from common.run import Run
from common.training import evaluate
from tests.conftest import SMALL, assert_same_run, final_state, read_rows, train_small
from tests.helpers.few_images import TRAIN

LABELS = np.random.default_rng(0).integers(0, 3, size=120)


def data(labels: np.ndarray, candidates: int | None = None) -> Data:
    images = ImageSet(np.zeros((len(labels), 8, 8), dtype=np.uint8), labels)
    return Data(list("abc"), images, images, candidates, spec=datasets.SPECS["Digits"])


def divide(labels, labels_per_class, number, seed=0, candidates=None):
    """The split before and after images are held out."""
    before = splits.split(labels, list("abc"), labels_per_class, seed, candidates)
    return before, splits.hold_out(*before, data(labels, candidates), number, seed)


def test_the_labeled_images_are_the_same_and_nothing_is_in_two_sets():
    (before, _), (labeled, unlabeled, held_out) = divide(LABELS, 4, 5)
    assert labeled.tolist() == before.tolist()
    assert np.bincount(LABELS[held_out]).tolist() == [5, 5, 5]
    assert sorted([*labeled, *unlabeled, *held_out]) == list(range(120))
    assert (np.diff(unlabeled) > 0).all()


def test_none_is_held_out_unless_asked():
    before, (labeled, unlabeled, held_out) = divide(LABELS, 4, 0)
    assert labeled is before[0]
    assert unlabeled is before[1]
    assert held_out.tolist() == []


def test_another_seed_holds_out_others_and_the_same_the_same():
    draws = [divide(LABELS, 4, 5, seed)[1][2].tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_the_seed_chooses_among_the_same_images():
    """Of all labels, where the seed has not drawn the labeled images before."""
    first, second = (divide(LABELS, "all", 5, seed)[1][2].tolist() for seed in (0, 1))
    assert first != second


def test_a_seed_holds_these_indices_out_on_every_machine():
    """Written down once, so that a new NumPy cannot change the draw unnoticed."""
    assert divide(np.repeat([0, 1, 2], 10), 2, 2)[1][2].tolist() == [0, 6, 11, 10, 20, 21]


def test_unknown_classes_and_images_beyond_the_candidates_are_not_held_out():
    labels = np.where(np.arange(120) % 2, LABELS, -1)
    held_out = divide(labels, 4, 3, candidates=100)[1][2]
    assert (labels[held_out] >= 0).all()
    assert held_out.max() < 100


@pytest.mark.parametrize("others", [0, 30], ids=["no other images", "unlabeled images"])
def test_of_all_labels_some_are_held_out(others):
    labels = np.concatenate([LABELS, np.full(others, -1)])
    (_, before), (labeled, unlabeled, held_out) = divide(labels, "all", 2)
    assert np.bincount(labels[held_out]).tolist() == [2, 2, 2]
    assert sorted([*labeled, *held_out]) == list(range(120))
    assert unlabeled.tolist() == [i for i in before if i not in held_out]
    assert len(unlabeled) == (others or 114)


@pytest.mark.parametrize(
    ("labels", "labels_per_class", "number", "message"),
    [
        (np.repeat([0, 1, 2], [9, 5, 9]), 4, 2, "class 'b' has 1 training images next to the labeled ones for"),
        (np.repeat([0, 1, 2], [9, 3, 9]), "all", 3, "class 'b' has 3 labels, one of which has to stay, for"),
        (np.repeat([0, 1, 2], 4), 4, 4, "class 'a' has 4 labels, one of which has to stay, for"),
    ],
)
def test_too_few_images(labels, labels_per_class, number, message):
    with pytest.raises(UserError, match=f"{message} --val-per-class {number}: ask for fewer"):
        divide(labels, labels_per_class, number)


def test_a_class_that_cannot_spare_one_label():
    with pytest.raises(UserError, match=r"class 'b' has 1 labels, .* label more, or hold out parts .* --val-fold$"):
        divide(np.repeat([0, 1, 2], [9, 1, 9]), "all", 1)


def test_an_oracle_keeps_an_image_of_every_class():
    """It trains on every label that is not held out."""
    oracle = splits.split(np.repeat([0, 1, 2], [9, 3, 9]), list("abc"), 0, 0)
    images = data(np.repeat([0, 1, 2], [9, 3, 9]))
    assert np.bincount(images.train.labels[splits.hold_out(*oracle, images, 2, 0)[2]]).tolist() == [2, 2, 2]
    with pytest.raises(UserError, match="class 'b' has 3 labels, one of which has to stay, for --val-per-class 3"):
        splits.hold_out(*oracle, images, 3, 0)


def test_the_scores_of_the_chosen_epoch_by_hand():
    rows = [{"epoch": i, "top1": top1, "mean_per_class": 9.0, "val_top1": val} for i, (top1, val) in enumerate(
        [(50.0, 60.0), (90.0, 70.0), (70.0, 80.0), (60.0, 80.0), (80.0, 75.0)], 1
    )]  # fmt: skip
    assert results._scores(rows, best_epoch.HELD_OUT) == {
        "best_top1": 90.0, "last_top1": 80.0, "best_mean_per_class": 9.0, "last_mean_per_class": 9.0, "best_epoch": 2,
        "val_best_top1": 60.0, "val_best_mean_per_class": 9.0, "val_best_epoch": 4, "val_top1": 80.0,
        "val_last_top1": 75.0,
    }  # fmt: skip


@pytest.fixture
def scores(monkeypatch):
    """Scores of three epochs: the test set would choose the second, the held-out images choose the third."""
    pairs = iter([(50.0, 60.0), (90.0, 70.0), (80.0, 70.0)])

    def scored(model, loader, *args):
        if "val" not in waiting:
            waiting["top1"], waiting["val"] = next(pairs)
            return {"top1": waiting["top1"], "mean_per_class": 1.0, "test_loss": 0.0}
        return {"top1": waiting.pop("val"), "mean_per_class": 2.0, "test_loss": 0.5}

    waiting = {}
    monkeypatch.setattr(evaluate, "evaluate", scored)


def test_they_choose_what_is_kept(scores, small_run, tmp_path, capsys):
    result = small_run("erm", "--val-per-class", "3", "--epochs", "3", "--iters-per-epoch", "1")
    expected = {"best_top1": 90, "best_epoch": 2, "last_top1": 80, "val_best_top1": 80, "val_best_epoch": 3}
    assert {key: result[key] for key in expected} == expected
    kept = torch.load(tmp_path / "run" / "checkpoints" / "best.pth", weights_only=True)
    assert kept["epoch"] == 3
    assert torch.equal(kept["model"]["head.weight"], final_state(tmp_path / "run")["model"]["head.weight"])
    lines = capsys.readouterr().out.splitlines()
    tested = [line for line in lines if " tested: " in line]
    assert [line.endswith(" (best so far on the held-out images)") for line in tested] == [True, True, True]
    assert (
        "80.00 in epoch 3, chosen on the held-out images; 90.00 in epoch 2, chosen on the test set itself;" in lines[-1]
    )


FLAGS = ("--val-per-class", "3", "--lr", "0.05")


def test_the_record_of_the_last_epoch_is_not_that_of_a_checkpoint_that_is_tested(small_run, tmp_path):
    small_run("erm", *FLAGS)
    (tmp_path / "run" / "held_out.csv").unlink()
    small_run("erm", *FLAGS, "--phase", "test")
    assert not (tmp_path / "run" / "held_out.csv").exists()


@pytest.mark.parametrize("method", ["erm", "fixmatch"])
def test_a_run_holds_them_out_of_both_sets_and_tests_them(method, tmp_path, monkeypatch):
    seen = {}

    def described(run, data, labeled, held_out):
        seen["labeled"], seen["held_out"] = labeled, held_out
        describe(run, data, labeled, held_out)

    describe = Run.describe
    monkeypatch.setattr(Run, "describe", described)
    train_small(method, *FLAGS, log=tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "labeled.json").read_text())
    assert kept["held_out"] == sorted(seen["held_out"].tolist())
    lines = (tmp_path / "run" / "held_out.csv").read_text().splitlines()
    assert lines[0] == "index,label,predicted"
    rows = [[int(word) for word in line.split(",")] for line in lines[1:]]
    assert [index for index, _, _ in rows] == kept["held_out"]
    labels = datasets.load("Digits", "data").train.labels
    assert [label for _, label, _ in rows] == labels[kept["held_out"]].tolist()
    right = sum(label == predicted for _, label, predicted in rows)
    assert 100 * right / len(rows) == pytest.approx(read_rows(tmp_path / "run")[-1]["val_top1"])
    assert kept["indices"] == sorted(seen["labeled"].tolist())
    assert len(kept["held_out"]) == 30
    assert not set(kept["held_out"]) & set(kept["indices"])
    rows = read_rows(tmp_path / "run")
    assert all(row["val_top1"] * 30 / 100 == pytest.approx(round(row["val_top1"] * 30 / 100)) for row in rows)
    train_small(method, "--lr", "0.05", log=tmp_path / "without")
    assert json.loads((tmp_path / "without" / "labeled.json").read_text())["indices"] == kept["indices"]
    if method == "erm":  # which draws no unlabeled images: nothing but the choice is another
        shared = {key for key in rows[0] if not key.startswith("val_")}
        assert [{key: row[key] for key in shared} for row in rows] == read_rows(tmp_path / "without")


@pytest.mark.parametrize("flags", [(), ("--labeled-in-unlabeled",)])
def test_no_loader_of_the_training_has_them(flags, tmp_path, monkeypatch):
    sets = {}
    make = TrainLoader.__init__

    def noting(loader, images, transforms, batch_size, stream, *args, **options):
        sets[stream] = {pixels.tobytes() for pixels in images.images}
        make(loader, images, transforms, batch_size, stream, *args, **options)

    monkeypatch.setattr(TrainLoader, "__init__", noting)
    train_small("fixmatch", *FLAGS, *flags, "--epochs", "1", "--iters-per-epoch", "1", log=tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "labeled.json").read_text())
    digits = datasets.load("Digits", "data").train.images
    held_out = {digits[i].tobytes() for i in kept["held_out"]}
    assert sets["labeled"] == {digits[i].tobytes() for i in kept["indices"]}
    assert len(sets["unlabeled"]) == TRAIN - 30 - (0 if flags else 40)
    assert not held_out & (sets["labeled"] | sets["unlabeled"])


def test_they_are_tested_again_and_resumed(tmp_path, monkeypatch):
    result = train_small("erm", *FLAGS, log=tmp_path / "whole")
    tested = train_small("erm", *FLAGS, "--phase", "test", log=tmp_path / "whole")
    assert (tested["val_top1"], tested["top1"]) == (result["val_top1"], result["val_best_top1"])

    finish = Run.finish
    monkeypatch.setattr(Run, "finish", lambda run: None)
    train_small("erm", *FLAGS, log=tmp_path / "resumed")
    monkeypatch.setattr(Run, "finish", finish)
    train_small("erm", *FLAGS, log=tmp_path / "resumed")
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")


def test_the_oracle_does_not_train_on_them(tmp_path):
    train_small("erm", "--oracle", *FLAGS, "--epochs", "1", "--iters-per-epoch", "1", log=tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "labeled.json").read_text())
    assert len(kept["indices"]) == TRAIN - 30
    assert not set(kept["held_out"]) & set(kept["indices"])


def test_a_script_that_holds_none_out_is_refused(tmp_path):
    import erm

    run = Run("mine", erm.parse_args([*SMALL, "--val-per-class", "2", "--log", str(tmp_path / "run")]))
    digits = datasets.load("Digits", "data")
    with pytest.raises(UserError, match="this script holds no images out"):
        run.describe(digits, splits.split(digits.train.labels, digits.classes, 4, 0)[0])


def test_the_loss_of_the_held_out_images_is_their_own(scores, small_run, tmp_path):
    small_run("erm", "--val-per-class", "3", "--epochs", "3", "--iters-per-epoch", "1")
    rows = read_rows(tmp_path / "run")
    found = [(row["top1"], row["val_top1"], row["test_loss"], row["val_loss"]) for row in rows]
    assert found == [(50, 60, 0, 0.5), (90, 70, 0, 0.5), (80, 70, 0, 0.5)]


def test_folds_hold_every_label_out_once_and_spread_the_classes():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [1, 2, 7, 10]))
    images = ImageSet([""] * 30, np.r_[labels, [-1] * 10])
    data = Data(list("abcd"), images, ImageSet([], []), spec=datasets.SPECS["ImageFolder"])
    labeled, unlabeled = np.arange(20), np.arange(20, 30)
    parts = [splits.hold_out_fold(labeled, unlabeled, data, i, 4, seed=0) for i in (1, 2, 3, 4)]
    single = int(np.flatnonzero(labels == 0)[0])
    assert sorted(np.concatenate([held_out for _, _, held_out in parts])) == sorted(set(range(20)) - {single})
    for kept, free, held_out in parts:
        assert sorted([*kept, *held_out]) == list(range(20))
        assert (free == unlabeled).all()
        assert set(labels[kept]) == {0, 1, 2, 3}
    counts = np.stack([np.bincount(labels[held_out], minlength=4) for _, _, held_out in parts])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1
    other = splits.hold_out_fold(labeled, unlabeled, data, 1, 4, seed=1)[2]
    assert set(other) != set(parts[0][2])
    everything = splits.hold_out_fold(labeled, labeled, data, 1, 4, seed=0)
    assert not set(everything[1]) & set(everything[2])


def test_classes_that_no_fold_holds_out_are_named_unless_test_images_measure_them(log):
    labels, classes = np.array([0, 0, 1, 2, 2, 3]), ["functional", "functionl", "dog", "ant"]
    images, none = ImageSet([""] * 6, labels), ImageSet([], [])
    for test, reported in (
        (none, ["no held-out image has the class 'functionl' (is it 'functional'?), 'ant': nothing tells how well"]),
        (images, []),
    ):
        log.clear()
        splits.hold_out_fold(
            np.arange(6), np.arange(0), Data(classes, images, test, spec=datasets.SPECS["ImageFolder"]), 1, 2, seed=0
        )
        assert [message.removesuffix(" it is learned") for message in log.messages] == reported


def test_a_seed_holds_these_parts_out_on_every_machine():
    images = data(np.repeat([0, 1, 2], [5, 4, 3]))
    parts = [splits.hold_out_fold(np.arange(12), np.arange(0), images, part, 3, 0)[2].tolist() for part in (1, 2, 3)]
    assert parts == [[0, 3, 6, 10], [1, 2, 5, 11], [4, 7, 8, 9]]


@pytest.mark.parametrize("flags", ["--val-per-class 3", "--val-fold 1/4"])
def test_the_seed_of_the_split_draws_them_and_not_that_of_the_run(flags, small_run, tmp_path):
    kept = []
    for seed, split in (("1", "5"), ("2", "5"), ("2", "2")):
        folder, seeds = tmp_path / f"{seed} {split}", ("--seed", seed, "--split-seed", split)
        small_run("erm", *flags.split(), *seeds, "--epochs", "1", "-i", "1", log=folder)
        kept.append(json.loads((folder / "labeled.json").read_text())["held_out"])
    assert kept[0] == kept[1] != kept[2]
