"""A folder without test images: the held-out ones measure and choose, or nothing does, and everything says so."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import export
import predict
from common.errors import UserError
from common.records import estimates, results
from tests.conftest import final_state, read_rows, train_small

CLASSES = ["blue", "green", "red"]
NUMBERS = [2, 5, 11]  # labels


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of noise on a color, 18 of 30 images labeled."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    lines = []
    for c, name in enumerate(CLASSES):
        for i in range(10 if c < 2 else 12):
            pixels = rng.integers(0, 150, size=(8, 8, 3))
            pixels[:, :, 2 - c] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"{name[0]}{i}.png")
            if i < NUMBERS[c]:
                lines.append(f"{name[0]}{i}.png,{name}")
    (root / "labels.csv").write_text("\n".join(["path,class", *lines]))
    return root


@pytest.fixture
def train(photos, tmp_path):
    def run(method: str, *flags: str) -> dict:
        own = ["-d", "ImageFolder", "--labeled-list", str(photos / "labels.csv"), "--image-size", "8"]
        return train_small(method, *own, "--lr", "0.05", *flags, log=tmp_path / "run")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.conftest.SMALL", [str(photos), *train_small.__globals__["SMALL"][1:]])
        yield run


def best(log) -> dict:
    return torch.load(log / "checkpoints" / "best.pth", weights_only=True)


def test_held_out_images_measure_choose_and_are_reported(train, photos, tmp_path, capsys):
    result, log = train("fixmatch", "--val-per-class", "1", "--epochs", "3"), tmp_path / "run"
    rows = read_rows(log)
    accuracies = [row["val_top1"] for row in rows]
    chosen = max(range(3), key=lambda i: (accuracies[i], i)) + 1
    unknown = ("last_top1", "best_top1", "val_best_top1", "last_mean_per_class", "best_mean_per_class", "best_epoch")
    assert [result[key] for key in unknown] == [None] * 6
    assert (result["chosen_by"], result["val_best_epoch"]) == ("held-out images", chosen)
    assert result["val_top1"] == accuracies[chosen - 1]
    assert not any("top1" in row for row in rows)
    assert (best(log)["epoch"], best(log)["chosen_by"]) == (chosen, "held-out images")
    table = list(csv.DictReader((log / "per_class.csv").read_text().splitlines()))
    assert [int(row["images"]) for row in table] == [1, 1, 1]
    assert 100 * sum(int(row["correct"]) for row in table) / 3 == pytest.approx(accuracies[-1])
    assert Image.open(log / "report.png").width > 400
    out = capsys.readouterr().out
    assert "best.pth is of the epoch that is best on the 3 held-out images" in out
    assert "--val-per-class 1 holds out few images to choose an epoch by" in out
    assert result["val_last_top1"] == accuracies[-1]
    found = estimates.estimate(round(3 * accuracies[-1] / 100), 3)
    interval = f"3 held-out images (95 % interval: {found.low:.0f} to {found.high:.0f})"
    assert result["held_out_images"] == 3
    assert f"finished: top-1 {accuracies[-1]:.2f} on {interval} after the last epoch; on a test set not measured" in out
    assert f"; {result['val_top1']:.2f} in epoch {chosen}, which the held-out images choose; " in out

    assert train("fixmatch", "--val-per-class", "1", "--epochs", "3") == result  # a finished run is shown
    assert (
        train("fixmatch", "--val-per-class", "1", "--epochs", "3", "--phase", "test")["val_top1"] == result["val_top1"]
    )
    capsys.readouterr()
    words = [str(log), str(photos), "--out", str(tmp_path / "out.csv")]
    predict.main(predict.parse_args(words))
    assert f"of epoch {chosen}, chosen by the held-out images" in capsys.readouterr().err
    export.main(export.parse_args([str(log), str(tmp_path / "out.safetensors")]))
    assert f"of epoch {chosen}, chosen by the held-out images" in capsys.readouterr().out


def test_where_nothing_is_measured_the_last_epoch_is_taken_and_all_say_so(train, photos, tmp_path, capsys):
    result, log = train("erm", "--no-bottleneck", "--bottleneck-dim", "1024"), tmp_path / "run"
    assert (result["chosen_by"], result["last_top1"], result["best_epoch"]) == ("last epoch", None, None)
    assert best(log)["epoch"] == 2
    assert torch.equal(best(log)["model"]["head.weight"], final_state(log)["model"]["head.weight"])
    assert not (log / "report.png").exists()
    out = capsys.readouterr().out
    assert "3 classes, 18 + 14 training images, and none to test with" in out
    assert "best.pth is of the last epoch, and nothing is measured: there are neither test" in out
    assert "epoch 1/2 tested: not measured\n" in out
    assert "finished: accuracy not measured, for there are no test images and none are held out; " in out
    predict.main(predict.parse_args([str(log), str(photos), "--out", str(tmp_path / "out.csv")]))
    assert "of epoch 2, the last" in capsys.readouterr().err
    with pytest.raises(UserError, match="has no test images, and the run held none out: nothing to test on"):
        train("erm", "--no-bottleneck", "--bottleneck-dim", "1024", "--phase", "test")


def test_a_second_network_is_not_measured_either(train, tmp_path):
    result = train("mean_teacher", "--eval-teacher", "--epochs", "1", "--ema", "0.5")
    assert not any("teacher" in key or "raw" in key for key in result)


def test_a_fold_measures_and_does_not_choose(train, tmp_path, capsys):
    result, log = train("erm", "--val-fold", "2/3"), tmp_path / "run"
    assert (result["chosen_by"], result["val_best_epoch"]) == ("last epoch", 2)
    assert result["val_top1"] == read_rows(log)[-1]["val_top1"]
    kept = json.loads((log / "labeled.json").read_text())
    assert len(kept["held_out"]) == 6
    assert sorted(kept["held_out"] + kept["indices"]) == list(range(18))
    out = capsys.readouterr().out
    assert "best.pth is of the last epoch\n" in out
    assert f"finished: top-1 {result['val_top1']:.2f} on 6 held-out images (95 % interval: " in out
    assert ") after the last epoch; on a test set not measured; " in out
    del result["held_out_images"]  # as in an older run
    assert f"top-1 {result['val_top1']:.2f} on the held-out images after the last epoch; " in results.summary(
        result, log
    )
