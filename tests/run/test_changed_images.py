"""Images of one's own that changed since a run began: no result of others is shown, and what changed is said."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import erm
import predict
from common.datasets import walk
from common.errors import Interrupted, UserError
from tests.run.test_resume import at_call

FLAGS = (
    "-d ImageFolder -a wrn_10_1_half --scratch --image-size 16 --num-samples-per-class 2 --bottleneck-dim 8 --epochs 2 "
    "-i 2 -b 4 -j 0 --device cpu"
).split()


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path) -> Path:
    for part, number in (("train", 4), ("test", 2)):
        for name in ("ant", "bee"):
            for i in range(number):
                picture(tmp_path / "photos" / part / name / f"{i}.png", seed=i)
    return tmp_path / "photos"


def train(root: Path, *flags: str) -> dict:
    log = () if "--log" in flags else ("--log", str(root.with_name("run")))
    return erm.main(erm.parse_args([str(root), *FLAGS, *log, *flags]))


def interrupt(root: Path, *flags: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, erm, "train_step", 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(root, *flags)


def relabel(root: Path) -> None:
    (root / "train" / "ant" / "0.png").rename(root / "train" / "bee" / "9.png")


def replace(root: Path) -> None:
    """By another image of the same size in bytes."""
    path = root / "train" / "bee" / "1.png"
    size = path.stat().st_size
    for seed in range(10, 1000):
        picture(path, seed)
        if path.stat().st_size == size:
            return
    raise AssertionError


CHANGES = {
    "moved": (relabel, r"1 is new \('train/bee/9.png'\), 1 is gone \('train/ant/0.png'\)"),
    "added": (lambda root: picture(root / "unlabeled" / "x.png", 3), r"1 is new \('unlabeled/x.png'\)"),
    "removed": (lambda root: shutil.rmtree(root / "test" / "ant"), r"2 are gone \('test/ant/0.png' for one\)"),
    "replaced": (replace, r"1 is of another content \('train/bee/1.png'\)"),
}


@pytest.mark.parametrize("begin", [train, interrupt])
@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_said(root, change, begin):
    begin(root)
    act, line = CHANGES[change]
    act(root)
    with pytest.raises(UserError, match=rf"was begun with other images than '.*photos' holds now \({line}\): restore"):
        train(root)


def test_after_an_unreadable_image_the_line_says_that_another_one_is_no_continuation(root):
    (root / "test" / "bee" / "0.png").write_bytes(b"")
    line = r"replace or remove it .*; step 2 is saved: the same command continues if its images stay as they are$"
    with pytest.raises(UserError, match=line):
        train(root)
    picture(root / "test" / "bee" / "0.png", 9)
    with pytest.raises(UserError, match=r"1 is of another content \('test/bee/0.png'\)"):
        train(root)


def test_a_list_that_changed_is_noticed(root):
    file = root / "labels.csv"
    rows = [f"train/{name}/{i}.png,{name}\n" for name in ("ant", "bee") for i in range(3)]
    for name, other in (("ant", "a"), ("bee", "b")):
        (root / "train" / name).rename(root / other)
    file.write_text("".join(rows).replace("train/ant", "a").replace("train/bee", "b"))
    train(root, "--labeled-list", str(file))
    file.write_text(file.read_text().replace("a/1.png,ant", "a/1.png,bee").replace("b/2.png,bee\n", ""))
    line = r"\(2 are of another class \('a/1.png' for one\)\)"
    with pytest.raises(UserError, match=line):
        train(root, "--labeled-list", str(file))


def test_a_copy_in_another_place_is_the_same(root, tmp_path):
    interrupt(root)
    copy = shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)  # with other times
    result = train(copy)
    assert train(copy) == train(root) == result
    with pytest.raises(UserError, match=r"folder '.*/nowhere' is missing"):
        train(tmp_path / "nowhere")


def test_a_test_tells_of_replaced_images(root, capsys):
    train(root)
    picture(root / "test" / "bee" / "0.png", 99)
    picture(root / "train" / "bee" / "0.png", 99)
    train(root, "--phase", "test")
    line = "others than those that '.*run' was tested on in training (1 is of another content ('test/bee/0.png'))"
    assert line.replace(".*run", str(root.with_name("run"))) in capsys.readouterr().out


def test_a_run_that_is_older_goes_on_and_shows_its_result(root, tmp_path):
    def forget() -> None:
        (tmp_path / "run" / "images.csv").unlink()
        labeled = json.loads((tmp_path / "run" / "labeled.json").read_text())
        del labeled["content_sha256"]
        (tmp_path / "run" / "labeled.json").write_text(json.dumps(labeled))

    interrupt(root)
    forget()
    result = train(root)
    assert train(root) == result
    relabel(root)
    with pytest.raises(UserError, match=r"was begun with other images than '.*photos' holds now: restore them"):
        train(root)


def test_a_finished_run_of_another_backbone_file_is_not_shown(root, tmp_path):
    file = tmp_path / "backbone.pth"
    flags = [flag for flag in FLAGS if flag != "--scratch"]
    argv = [str(root), *flags, "--pretrained-backbone", str(file), "--log", str(tmp_path / "run")]

    def run() -> dict:
        return erm.main(erm.parse_args(argv))

    torch.save(timm.create_model("wrn_10_1_half", num_classes=0).state_dict(), file)
    result = run()
    assert run() == result
    torch.manual_seed(5)
    torch.save(timm.create_model("wrn_10_1_half", num_classes=0).state_dict(), file)
    with pytest.raises(UserError, match=r"was begun with another file than '.*backbone.pth' is now: restore it"):
        run()
    file.unlink()
    assert run() == result


# A run's own pictures


def test_a_run_below_the_images_is_none_of_them(root, monkeypatch, tmp_path, capsys):
    """Begun within the folder of the images, with a list, and so with a search everywhere."""
    rows = [f"train/{name}/{i}.png,{name}\n" for name in ("ant", "bee") for i in range(3)]
    (root / "labels.csv").write_text("".join(rows))
    monkeypatch.chdir(root)

    def run(log: str) -> dict:
        return erm.main(erm.parse_args([".", *FLAGS, "--labeled-list", "labels.csv", "--log", log]))

    with monkeypatch.context() as patch:
        at_call(patch, erm, "train_step", 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            run("logs/first")
    assert (root / "logs" / "first" / "views.png").is_file()
    first = run("logs/first")
    second = run("train/ant/second")
    assert first["data_sha256"] == second["data_sha256"]
    assert "(1 of runs)" in capsys.readouterr().out
    run("logs/third")
    assert "(2 of runs)" in capsys.readouterr().out
    predict.main(predict.parse_args(["logs/first", ".", "--out", str(tmp_path / "out.csv"), "--device", "cpu"]))
    with open(tmp_path / "out.csv") as table:
        assert len(list(csv.reader(table))) == 1 + 12
    found = list(walk.images_in(root / "train", (skipped := walk.Skipped())))
    assert len(found) == 8
    assert skipped.folders == {"of runs": 1}


def test_a_run_directly_in_the_folder_of_the_images_is_not_counted_among_what_is_not_used(root, capsys):
    for name in ("run", "logs/run"):
        train(root, "--log", str(root / name))
        capsys.readouterr()
    train(root, "--overwrite")
    assert "not used" not in capsys.readouterr().out
    picture(root / "logs" / "x.png", 3)
    train(root, "--overwrite")
    assert "images that are not used (1 in 'logs')" in capsys.readouterr().out


@pytest.mark.parametrize("log", ["photos", "photos/train", "photos/train/ant", "."])
def test_a_folder_of_images_is_no_folder_for_a_run(root, tmp_path, log):
    with pytest.raises(UserError, match=r"--log '.*' holds images, '.*\.png' for one: choose another --log"):
        train(root, "--log", str(tmp_path / log))
    assert not list(tmp_path.rglob("args.json"))
