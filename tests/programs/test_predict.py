"""The table of predictions: which images, which columns, and what becomes of images that cannot be read."""

import csv
import errno
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

import predict
from common import cli, trained
from common.errors import UserError
from common.system import checkpoint
from tests.conftest import ROOT, final_state, train_small


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of the digits, 32 pixels, with an average of the weights. To be read only."""
    folder = tmp_path_factory.mktemp("predict") / "run"
    train_small("fixmatch", "--ema", "0.5", "--lr", "0.1", log=folder)
    return folder


@pytest.fixture
def images(tmp_path, monkeypatch):
    """The current folder, with images in folders of it."""
    for i, name in enumerate(("b/2.png", "b/deep/1.png", "a.png", "c [x].png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((32, 32), 20 * i + 20).convert("RGB").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(run: Path, *words: str) -> list[list[str]]:
    predict.main(predict.parse_args([str(run), *words, "--device", "cpu", "-j", "0", "--out", "table.csv"]))
    with open("table.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["a.png"], ["a.png"]),
        (["b"], ["b/2.png", "b/deep/1.png"]),
        (["b/*.png", "*.png"], ["b/2.png", "a.png", "c [x].png"]),
        (["**/*.png"], ["a.png", "b/2.png", "b/deep/1.png", "c [x].png"]),
        (["?"], ["b/2.png", "b/deep/1.png"]),
        (["c [x].png"], ["c [x].png"]),  # there is one of that name: no pattern
        (["a.png", "b", "a.png", "b/2.png"], ["a.png", "b/2.png", "b/deep/1.png"]),
    ],
)
def test_files_folders_and_patterns(images, words, found):
    assert predict.find(words) == dict.fromkeys(found)


def test_what_is_not_there_is_reported_in_its_place(images, lock_folder):
    (images / "empty").mkdir()
    lock_folder("deep")
    assert predict.find(["x.png", "b", "*.gif", "empty", "a.png"]) == {
        "x.png": "there is no such file",
        "b/2.png": None,
        "b/deep": "Permission denied",
        "*.gif": "no file matches the pattern",
        "empty": "the folder holds no images",
        "a.png": None,
    }


def test_other_files_in_a_folder_are_reported(run, images, capsys):
    (images / "b" / "x.heic").touch()
    table(run, "b")
    assert "'b' has files that are not taken for images (1 .heic): they are skipped" in capsys.readouterr().err


class Fixed(torch.nn.Module):
    def forward(self, images):
        logits = torch.tensor([[1.0, 3.0, 3.0, 0.0]])
        return logits.repeat(len(images), 1)


@pytest.mark.parametrize(
    ("flags", "columns"),
    [
        ("", "path,class,confidence\na.png,two,{1}"),
        ("--top 1", "path,class,confidence\na.png,two,{1}"),
        (
            "--top 3",
            "path,class,confidence,class_2,confidence_2,class_3,confidence_3\na.png,two,{1},three,{2},one,{0}",
        ),
        ("--all", 'path,class,confidence,p(one),p(two),p(three),"p(a, b)"\na.png,two,{1},{0},{1},{2},{3}'),
    ],
)
def test_the_columns_of_the_table(run, images, flags, columns):
    """Of two classes that are alike, the first is taken, as the evaluation's argmax does."""
    network = trained.load(run, "best")._replace(model=Fixed(), classes=["one", "two", "three", "a, b"])
    with mock.patch.object(trained, "load", return_value=network):
        table(run, "a.png", *flags.split())
    e = np.exp(np.array([1.0, 3.0, 3.0, 0.0]))
    rows = list(csv.reader((images / "table.csv").read_text().splitlines()))
    expected = list(csv.reader(columns.format(*(e / e.sum())).splitlines()))
    assert rows[0] == expected[0]
    for got, wanted in zip(rows[1], expected[1], strict=True):
        assert got == wanted or float(got) == pytest.approx(float(wanted), rel=1e-6)


def test_unreadable_images_are_rows_and_are_counted(run, images, capsys):
    (images / "broken.png").write_bytes(b"GIF89a")
    Image.new("RGB", (40, 32)).save("wide.png")
    os.truncate(Image.effect_noise((32, 32), 50).save("cut.png") or "cut.png", 500)
    rows = table(run, "a.png", "broken.png", "wide.png", "b/2.png", "cut.png", "x.png", "--top", "2")
    assert [row[0] for row in rows[1:]] == ["a.png", "broken.png", "wide.png", "b/2.png", "cut.png", "x.png"]
    assert [row[1] == "" for row in rows[1:]] == [False, True, True, False, True, True]
    for number, error in (
        (2, "error: image 'broken.png' cannot be read "),
        (3, "error: image 'wide.png' has 40 x 32 pixels, but the network takes 32 x 32 as they are: resize it"),
        (5, "error: image 'cut.png' cannot be read "),
        (6, "error: there is no such file"),
    ):
        assert rows[number][2].startswith(error)
        assert rows[number][3:] == ["", ""]
    assert "4 of the 6 images could not be read: their rows say why\n" in capsys.readouterr().err
    table(run, "a.png", "broken.png", "--uncertain", "1")
    assert "1 of the 2 images could not be read: they are left out\n" in capsys.readouterr().err
    table(run, "a.png", "broken.png", "--page", "page.html")
    assert "1 of the 2 images could not be read: their rows say why\n" in capsys.readouterr().err
    # A whole batch of them between others changes nothing.
    again = table(run, "a.png", "broken.png", "wide.png", "cut.png", "b/2.png", "-b", "1")
    assert [row[1] for row in again[1:]] == [rows[1][1], "", "", "", rows[4][1]]


def test_the_exit_code_is_2_where_none_could_be_read(run, images, capsys):
    (images / "broken.png").write_bytes(b"GIF89a")
    for words, code in ((["broken.png", "a.png"], 0), (["broken.png", "x.png", "b/deep"], 0), (["broken.png"], 2)):
        argv = [str(run), *words, "--device", "cpu"]
        try:
            cli.launch(lambda argv=argv: predict.parse_args(argv), predict.main)
            ended = 0
        except SystemExit as end:
            ended = end.code
        assert ended == code
        shown = capsys.readouterr()
        assert shown.out.count("\n") == 1 + len(words)  # the table is there either way
        assert not shown.out.startswith("error")
    assert shown.err.startswith("error: none of 1 images could be read, not 'broken.png' for one (")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("name", ["best", "latest"])
def test_the_tested_network_predicts_and_not_another(run, name):
    """Here it is the average of the weights."""
    content = checkpoint.load(run / "checkpoints" / f"{name}.pth")
    weights = trained.load(run, name).model.state_dict()
    if name == "best":
        expected = content["model"]
    else:
        assert content["evaluated"] == "ema.network"
        expected = {key.removeprefix("network."): value for key, value in content["ema"].items()}
        assert not torch.equal(weights["head.weight"], content["model"]["head.weight"])
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in weights)


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ({"evaluated": None}, "does not hold the tested network in one piece: use --checkpoint best"),
        ({"evaluated": "teacher.network"}, "holds no 'teacher.network': name another run"),
        ({"evaluated": 5}, "holds no '5': name another run"),
        ({"classes": None}, "holds no names of classes, as older ones do not: use"),
        ({"classes": ["0", 1]}, "holds no names of classes: name another run"),
        ({"classes": ["0", "1"]}, r"does not fit \(Error.* head.weight"),
        ({"ema": {}}, r"does not fit \(Error"),
    ],
)
def test_a_checkpoint_that_says_too_little_is_refused(run, tmp_path, entries, error):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "args.json").write_bytes((run / "args.json").read_bytes())
    content = final_state(run) | entries
    content = {key: value for key, value in content.items() if (key, value) != ("classes", None)}
    torch.save(content, tmp_path / "checkpoints" / "latest.pth")
    with pytest.raises(UserError, match=error):
        trained.load(tmp_path, "latest")


def test_outputs_that_are_no_numbers_are_one_line_and_no_table(run, images, tmp_path):
    """Its weights are finite, and its logits overflow."""
    copy = shutil.copytree(run, tmp_path / "broken")
    content = torch.load(copy / "checkpoints" / "best.pth", weights_only=True)
    content["model"]["head.weight"].fill_(3e38)
    torch.save(content, copy / "checkpoints" / "best.pth")
    with pytest.raises(UserError, match=r"^the network's outputs are NaN or infinite: choose another --checkpoint, or"):
        table(copy, "a.png", "b")
    assert not Path("table.csv").exists()


def test_a_full_disk_leaves_the_old_table(run, images, monkeypatch):
    before = table(run, "b")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot save 'table.csv' \(No space left on device\): free some space"):
        table(run, "a.png")
    with open("table.csv", newline="") as file:
        assert list(csv.reader(file)) == before
    assert not list(images.glob("*.tmp"))


def test_other_batches_change_no_more_than_rounding(run, images):
    """Some of the images, another order, another batch size."""
    names = ["a.png", "b/2.png", "b/deep/1.png", "c [x].png"]
    whole = {row[0]: row[1:] for row in table(run, *names, "--all")[1:]}
    for words in (names[::-1], names[1:3], [*names, "-b", "3"], [*names, "-b", "1"]):
        for path, *cells in table(run, *words, "--all")[1:]:
            assert cells[0] == whole[path][0]
            assert [float(cell) for cell in cells[1:]] == pytest.approx([float(cell) for cell in whole[path][1:]], 1e-5)


def test_names_of_any_bytes(run, images):
    name = os.fsdecode(b"\xe4 \n,.png")
    (images / "a.png").rename(images / name)
    assert table(run, name)[1][0] == name


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_the_table_on_the_standard_output_is_the_one_in_a_file(run, images, monkeypatch, encoding):
    """Whatever the output's encoding is: names and classes of any bytes."""
    names = ["\u00e4.png", "\u732b.png", os.fsdecode(b"\xe4.png")]
    for name in names:
        shutil.copy("a.png", name)
    network = trained.load(run, "best")
    classes = ["\u00fc", os.fsdecode(b"\xfc"), *network.classes[2:]]
    monkeypatch.setattr(trained, "load", lambda *args: network._replace(classes=classes))
    table(run, *names, "--all")
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding=encoding))
    predict.main(predict.parse_args([str(run), *names, "--all", "--device", "cpu", "-j", "0"]))
    assert content.getvalue() == Path("table.csv").read_bytes()


def test_a_full_standard_output_is_one_line(run, images):
    command = [sys.executable, ROOT / "predict.py", run, "a.png", "--device", "cpu", "-j", "0"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    line = "error: cannot write to the standard output (No space left on device): send it elsewhere\n"
    assert (ended.returncode, ended.stderr) == (2, line)


def test_a_reader_that_leaves_early_ends_it_without_a_traceback(run, images):
    """`predict.py ... | head`."""
    command = [sys.executable, ROOT / "predict.py", run, "a.png", "b", "--device", "cpu", "-j", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as left:
        left.stdout.close()
        assert (left.stderr.read(), left.wait()) == ("", 141)
