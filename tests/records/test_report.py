"""The page that shows what a network confuses: what stands on it, and that each run and test has it."""

import csv
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from common.datasets import SPECS, Data
from common.datasets.images import ImageSet
from common.errors import Interrupted, UserError
from common.records import report
from common.records.evaluation import Evaluation
from common.records.folder import Folder
from common.run import Run
from common.training.confusion import Confusion, Misclassified
from tests.conftest import read_rows
from tests.helpers.few_images import TEST

CPU = torch.device("cpu")
MATRIX = np.array([[5, 0, 3], [4, 4, 0], [0, 0, 0]])  # the third class has no test image
NAMES = ["ant", "bee", "cat"]


def test_the_least_accurate_class_is_named_first():
    """Classes without an image have no accuracy."""
    lines = ["50.0 % of 8   bee   (precision 100.0, F1 66.7)", "62.5 % of 8   ant   (precision 55.6, F1 58.8)"]
    assert report._weakest(MATRIX, NAMES) == lines
    nothing = report._weakest(np.array([[0, 2], [0, 3]]), NAMES[:2])[0]
    assert nothing == "0.0 % of 2   ant   (precision -, F1 0.0)"


def test_the_report_of_two_classes_has_the_area():
    images, found = ImageSet(np.zeros((4, 8, 8), dtype=np.uint8), [0, 0, 1, 1]), []
    evaluation = Evaluation(Data(["ant", "bee"], images, images, spec=SPECS["ImageFolder"]), np.empty(0, dtype=int))
    evaluation._confusion = Confusion(2, torch.arange(4), CPU)
    evaluation._confusion.update(
        torch.tensor([[0.0, -2.0], [0.0, 1.0], [0.0, 0.5], [0.0, 3.0]]), torch.tensor(images.labels)
    )
    folder = SimpleNamespace(save_report=lambda page, rows: found.extend(rows))
    evaluation.report(folder, "title")
    assert [row["auc"] for row in found] == [75.0, 75.0]  # of four pairs, one is the wrong way round


def pixels(matrix: np.ndarray, names: list[str], errors: list[Misclassified] = ()) -> np.ndarray:
    images = ImageSet(np.full((10, 8, 8), 7, dtype=np.uint8), np.zeros(10))
    page = report.draw(matrix, errors, names, images, ["title", "more"])
    return np.asarray(Image.open(io.BytesIO(page)).convert("RGB"))


@pytest.mark.parametrize("classes", [10, 100, 400, 1000])
def test_each_error_is_seen_at_any_number_of_classes(classes):
    """One error in 100 images of a class is a reddish cell, three pixels wide or more; the page stays a page."""
    matrix = 99 * np.eye(classes, dtype=int)
    matrix[classes // 2, classes // 3] = 1
    shown = np.asarray(report.matrix_image(matrix, [f"class {i}" for i in range(classes)])).astype(int)
    assert max(shown.shape[:2]) <= max(1300, 3.2 * classes)
    rows, columns = np.nonzero(shown[:, :, 0] - shown[:, :, 2] >= 30)
    side = max(3, min(1000 // classes, 40))
    assert rows.size > 0.8 * side**2  # but for the number in it
    assert np.ptp(rows) <= side
    assert np.ptp(columns) <= side
    blue, _ = np.nonzero(shown[:, :, 2] - shown[:, :, 0] >= 100)
    assert rows.mean() == pytest.approx(blue.min() + side * (classes // 2 + 0.5), abs=2)


@pytest.mark.parametrize(
    "names", [["", "\n\t", "x" * 300], ["\udcff", "日本", "é" * 40]], ids=["blank, control, long", "not UTF-8, other"]
)
def test_any_names_and_no_errors(names):
    pixels(MATRIX, names)
    pixels(np.zeros((3, 3), dtype=int), names, [Misclassified(9, 0, 1, 0.5)])


@pytest.mark.parametrize(("size", "shown"), [((8, 8), (112, 112)), ((40, 500), (9, 112)), ((900, 90), (112, 11))])
def test_the_errors_are_shown(size, shown):
    green = np.full((5, *size, 3), (9, 200, 7), dtype=np.uint8)
    errors = [Misclassified(3, 0, 2, 0.9), Misclassified(4, 1, 0, 0.8)]
    page = report.draw(MATRIX, errors, NAMES, ImageSet(green, np.zeros(5)), ["title"])
    found = (np.asarray(Image.open(io.BytesIO(page))) == (9, 200, 7)).all(axis=2)
    assert found.sum() == 2 * shown[0] * shown[1]


def table(log) -> list[dict]:
    return list(csv.DictReader((log / "per_class.csv").read_text(encoding="utf-8").splitlines()))


def test_a_run_has_the_report_of_its_last_epoch_and_a_test_that_of_its_checkpoint(small_run, tmp_path):
    flags = ("--epochs", "3", "--lr", "0.1")
    result = small_run("erm", *flags)
    log = tmp_path / "run"
    rows, last = table(log), read_rows(log)[-1]
    assert [row["class"] for row in rows] == [str(i) for i in range(10)]
    assert sum(int(row["images"]) for row in rows) == TEST
    assert 100 * sum(int(row["correct"]) for row in rows) / TEST == pytest.approx(last["top1"])
    assert sum(float(row["accuracy"]) for row in rows) / 10 == pytest.approx(last["mean_per_class"])
    page = (log / "report.png").read_bytes()
    assert Image.open(io.BytesIO(page)).size[0] > 600

    assert result["best_epoch"] < 3, "so that the two checkpoints are not one"
    (log / "report.png").unlink()
    small_run("erm", *flags, "--phase", "test")
    assert 100 * sum(int(row["correct"]) for row in table(log)) / TEST == pytest.approx(result["best_top1"])
    small_run("erm", *flags, "--phase", "test", "--checkpoint", "latest")
    assert table(log) == rows
    assert (log / "report.png").is_file()


def test_a_run_that_is_stopped_at_its_end_has_the_report(small_run, tmp_path, monkeypatch):
    """Whatever comes after the last checkpoint may not come to pass: the report is there before it."""

    def stopped(run):
        raise Interrupted(15, "stopped")

    with monkeypatch.context() as patched:
        patched.setattr(Run, "finish", stopped)
        with pytest.raises(Interrupted):
            small_run("erm")
    before = table(tmp_path / "run")
    small_run("erm")
    assert table(tmp_path / "run") == before
    monkeypatch.setattr(Run, "epochs", stopped)
    with pytest.raises(Interrupted):
        small_run("erm", "--overwrite")
    assert not {"report.png", "per_class.csv"} & {path.name for path in (tmp_path / "run").iterdir()}


def test_where_nothing_may_be_written_a_test_still_tells_its_scores(small_run, tmp_path, monkeypatch, capsys):
    result = small_run("erm")

    def refuse(*args):
        raise UserError("cannot save 'report.png' (Permission denied): put that right")

    monkeypatch.setattr(Folder, "save_report", refuse)
    scores = small_run("erm", "--phase", "test", "--checkpoint", "latest")
    assert scores["top1"] == result["last_top1"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("WARNING: cannot save 'report.png'")


def test_the_report_changes_no_number(small_run, tmp_path, monkeypatch):
    small_run("fixmatch", log=tmp_path / "with")
    monkeypatch.setattr(Confusion, "update", lambda *args: None)
    small_run("fixmatch", log=tmp_path / "without")
    assert read_rows(tmp_path / "with") == read_rows(tmp_path / "without")


def test_the_true_class_is_named_first(monkeypatch):
    assert report._confused(MATRIX, NAMES) == ["4 of 8   bee > ant", "3 of 8   ant > cat"]
    texts, images = [], ImageSet(np.zeros((5, 8, 8), dtype=np.uint8), np.zeros(5))
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, place, text, **_: texts.append(text))
    report._tile(Misclassified(3, 0, 2, 0.9), NAMES, images)
    assert texts == ["ant", "> cat", "90.0 %", "#3"]


def test_the_figures_of_a_report_by_hand(monkeypatch):
    """3 of 6 ants and 2 of 2 bees are right, 2 ants are taken for bees, and there is no cat."""
    lines, images = [], ImageSet(np.zeros((8, 8, 8), dtype=np.uint8), [0] * 6 + [1] * 2)
    monkeypatch.setattr(report, "draw", lambda *args: lines.extend(args[-1]))
    evaluation = Evaluation(Data(NAMES, images, images, spec=SPECS["ImageFolder"]), np.empty(0, dtype=int))
    evaluation._confusion = Confusion(3, torch.arange(8), CPU)
    logits = torch.eye(3)[[0, 0, 0, 1, 1, 2, 1, 1]]
    evaluation._confusion.update(logits, torch.tensor(images.labels))
    evaluation.report(SimpleNamespace(save_report=lambda page, rows: None), "title")
    # F1: 2 * 3 / (6 + 3) and 2 * 2 / (2 + 4)
    assert lines == ["title", "top-1 62.50 %, mean per class 75.00 %, mean F1 66.67 %; 8 images"]


def test_without_test_images_the_report_shows_the_held_out_ones():
    images = ImageSet([f"{i}.png" for i in range(4)], [0, 0, 1, 1])
    data = Data(["ant", "bee"], images, ImageSet([], []), spec=SPECS["ImageFolder"])
    evaluation = Evaluation(data, np.array([3, 1]))
    assert [evaluation.reported.name(i) for i in range(2)] == ["3.png", "1.png"]
