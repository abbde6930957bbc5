"""A user's own photographs from end to end: a list with 2, 7 and 31 labels, all methods, and resumed to the bit."""

import csv
import functools
import importlib
import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import debiasmatch
import erm
import fixmatch
import flexmatch
import predict
import self_tuning
from common import datasets
from common.errors import Interrupted, UserError
from common.training.evaluate import evaluate
from scripts import example_images
from tests.conftest import ROOT, assert_same_run, final_state
from tests.methods.test_methods import METHODS

NUMBERS = [2, 7, 31]


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Tiles of real photographs, shrunk to 12 pixels."""
    root = tmp_path_factory.mktemp("own") / "photos"
    example_images.main(example_images.parse_args([str(root), "--size", "48"]))
    with pytest.raises(UserError, match=r"' exists: choose another folder$"):  # it may hold somebody's labels.csv
        example_images.main(example_images.parse_args([str(root)]))
    with pytest.raises(UserError, match="--size 72 leaves too few tiles of the photographs: take 71 or less"):
        example_images.parse_args([str(root), "--size", "72"])
    for path in root.rglob("*.png"):
        Image.open(path).convert("RGB").resize((12, 12)).save(path)
    return root


def own_flags(method: str, root: Path) -> list[str]:
    """The method's flags, with the folder of a finished run of another method for `@METHOD`."""
    return [source(flag[1:], root) if flag.startswith("@") else flag for flag in METHODS[method].split()]


def source(method: str, root: Path) -> str:
    log = root.with_name(f"source {method}")
    if not log.exists():
        train(method, root, log)
    return str(log)


def train(method: str, root: Path, log: Path, *flags: str, train_step=None) -> dict:
    argv = (
        f"{root} -d ImageFolder --labeled-list {root}/labels.csv -a wrn_10_1_half --scratch --train-resizing native "
        f"--val-resizing native --image-size 12 --no-flip --bottleneck-dim 16 --epochs 2 -i 3 -b 20 -j 0 --device cpu"
    ).split()
    argv += ["--log", str(log), *own_flags(method, root), *flags]
    script = importlib.import_module(method)
    with (
        mock.patch.object(sys, "argv", [f"{method}.py", *argv]),
        mock.patch.object(script, "train_step", train_step or script.train_step),
    ):
        return script.main(script.parse_args(argv))


@pytest.fixture(scope="session")
def whole(photos, tmp_path_factory):
    """method -> the folder of its finished run; and the labels that it saw, in labels.npy. To be read only."""

    @functools.cache
    def trained(method: str) -> Path:
        script, folder, labels = importlib.import_module(method), tmp_path_factory.mktemp("whole") / method, []
        step = script.train_step

        def seen(*args):
            labels.append(next(arg for arg in args if hasattr(arg, "views")).labels)
            return step(*args)

        train(method, photos, folder, train_step=seen)
        np.save(folder / "labels.npy", torch.cat(labels).numpy())
        return folder

    return trained


@pytest.mark.parametrize("method", METHODS)
def test_uneven_labels_lose_no_class(method, whole):
    drawn = np.bincount(np.load(whole(method) / "labels.npy"), minlength=3)
    if method == "noisy_student":  # a pass and a half in each of three rounds
        assert (drawn >= 3 * np.array(NUMBERS)).all()
    else:
        assert drawn.tolist() == [3 * number for number in NUMBERS]  # three passes of two batches of 20
    assert json.loads((whole(method) / "result.json").read_text())["num_samples_per_class"] == "all"
    assert json.loads((whole(method) / "labeled.json").read_text())["indices"] == list(range(40))


@pytest.mark.parametrize("method", ["erm", "fixmatch", "self_tuning", "comatch", "noisy_student", "v_pet"])
def test_uneven_labels_resume_to_the_bit(method, photos, whole, tmp_path):
    script = importlib.import_module(method)
    step = script.train_step

    def stopped(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    for _ in range(2):
        with pytest.raises(Interrupted):
            train(method, photos, tmp_path / "parts", train_step=stopped)
    train(method, photos, tmp_path / "parts")
    assert_same_run(whole(method), tmp_path / "parts")


@pytest.mark.parametrize("name", ["best", "latest"])
@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_the_evaluations(method, name, photos, whole, tmp_path):
    """To the last digit, of every method's run; FixMatch's table is made by two workers."""
    run, evaluations = whole(method), []

    def heard(model, *args):
        evaluations.append([])
        with model.register_forward_hook(lambda *call: evaluations[-1].append(call[2])):
            return evaluate(model, *args)

    with mock.patch("common.training.evaluate.evaluate", heard):
        scores = train(method, photos, run, "--phase", "test", "--checkpoint", name)
    workers = "2" if method == "fixmatch" else "0"
    predicted(run, photos / "test", "--all", "--checkpoint", name, "-j", workers, out=tmp_path / "table.csv")
    rows = list(csv.DictReader(open(tmp_path / "table.csv")))  # noqa: SIM115
    classes = ["dahlia", "officer", "palace"]
    probabilities = torch.cat(evaluations[0]).softmax(dim=1).numpy()  # with --ema, others follow for raw_*
    assert len(rows) == len(probabilities) > 64  # more than a batch
    for row, expected in zip(rows, probabilities, strict=True):
        assert [np.float32(row[f"p({c})"]) for c in classes] == expected.tolist()
        assert (row["class"], np.float32(row["confidence"])) == (classes[expected.argmax()], expected.max())
    hits = sum(row["class"] == Path(row["path"]).parent.name for row in rows)
    assert 100 * hits / len(rows) == scores["top1"]


def predicted(run: Path, *words: str | Path, out: Path) -> None:
    predict.main(predict.parse_args([str(run), *map(str, words), "--device", "cpu", "--out", str(out)]))


def test_predictions_that_were_corrected_are_labels(photos, whole, tmp_path):
    """The table as it comes, of all images below the root. A corrected row has no confidence; `given` are labels."""
    table = tmp_path / "predictions.csv"
    predicted(whole("erm"), photos, "--top", "2", out=table)
    rows = list(csv.reader(open(table)))  # noqa: SIM115
    assert rows[0][-1] == "given"
    first = next(i for i, row in enumerate(rows) if row[0].startswith(f"{photos}/photos"))
    for row, name in zip(rows[first:], ("dahlia", "officer", "palace"), strict=False):
        row[1:3] = name, ""
    csv.writer(open(table, "w")).writerows(rows)  # noqa: SIM115
    of_training = [row for row in rows[first:] if "/test/" not in row[0]]
    least = sorted(float(row[2]) for row in of_training[3:] if not row[-1])[-9]
    flags = ("--labeled-list", str(table), "--min-confidence", str(least), "--epochs", "1", "-i", "1")
    train("erm", photos, tmp_path / "next", *flags)
    kept = json.loads((tmp_path / "next/labeled.json").read_text())["names"]
    expected = [row[0] for row in of_training if not row[2] or row[-1] or float(row[2]) >= least]
    assert sorted(f"{photos}/{name}" for name in kept) == sorted(expected)
    assert len(kept) >= 3 + 9 + sum(bool(row[-1]) for row in of_training[3:]) > 3 + 9


@pytest.mark.parametrize("method", METHODS)
def test_every_script_hands_on_what_the_user_says_of_the_images(method, photos, tmp_path):
    class Read(Exception):  # noqa: N818
        pass

    own_flags(method, photos)  # the runs that it learns from are finished before
    with mock.patch.object(datasets, "load", side_effect=Read) as load, pytest.raises(Read):
        train(method, photos, tmp_path / "run", "--min-confidence", "0.25", "--exif-orientation")
    given = {"labeled_list": f"{photos}/labels.csv", "resizing": "native", "flip": False, "exif_orientation": True}
    given |= {"any_counts": False, "generated_split": False, "min_confidence": 0.25}
    assert load.call_args == mock.call("ImageFolder", str(photos), **given)


def test_all_labels_and_no_unlabeled_images(photos, tmp_path):
    """In class folders, of different sizes: the labeled images are the unlabeled ones, too."""
    (tmp_path / "root" / "train").mkdir(parents=True)
    (tmp_path / "root" / "test").symlink_to(photos / "test")
    for name, number in zip(("dahlia", "officer", "palace"), NUMBERS, strict=True):
        (tmp_path / "root" / "train" / name).mkdir()
        for path in sorted((photos / "test" / name).iterdir())[:number]:
            (tmp_path / "root" / "train" / name / path.name).symlink_to(path)
    indices = []

    def seen(*args):
        indices.append([batch.indices for batch in args if hasattr(batch, "views")])
        return step(*args)

    step = flexmatch.train_step
    argv = (
        f"{tmp_path}/root -d ImageFolder --num-samples-per-class all -a wrn_10_1_half --scratch --image-size 16 -j 0 "
        f"--bottleneck-dim 8 --epochs 1 -i 2 -b 20 --device cpu --log {tmp_path}/run"
    )
    with mock.patch.object(flexmatch, "train_step", seen):
        flexmatch.main(flexmatch.parse_args(argv.split()))
    for stream in zip(*indices, strict=True):
        assert sorted(torch.cat(stream).tolist()) == list(range(40))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "labels per class: from 2 ('dahlia') to 31 ('palace')\n" in log
    assert "no image is without a label: a method that wants unlabeled ones gets the 40 labeled\n" in log


# The methods' state, as bookkeeping of its own has it


def spied(script, calls: list):
    """The script's step, which also notes its batches, and the logits that its network gave for them."""
    step = script.train_step

    def seen(model, *args):
        outputs = []
        handle = model.head.register_forward_hook(lambda *call: outputs.append(call[2].detach().clone()))
        metrics = step(model, *args)
        handle.remove()
        calls.append(([arg for arg in args if hasattr(arg, "views")], outputs))
        return metrics

    return seen


def test_flexmatchs_curriculum_of_uneven_labels(photos, tmp_path):
    calls = []
    with mock.patch.dict(METHODS, flexmatch="--threshold 0.2"):
        train("flexmatch", photos, tmp_path / "run", train_step=spied(flexmatch, calls))
    others = len(list((photos / "photos").iterdir())) - 40
    bank = np.full(others, -1)
    for (_, batch_u), (_, _, logits_u_weak, _) in calls:
        confidence, classes = F.softmax(logits_u_weak, dim=1).max(dim=1)
        for index, sure, label in zip(batch_u.indices.numpy(), confidence > 0.2, classes.numpy(), strict=True):
            bank[index] = label if sure else bank[index]
    state = final_state(tmp_path / "run")["curriculum"]
    assert state["bank"].tolist() == bank.tolist()
    assert state["counts"].tolist() == np.bincount(bank + 1, minlength=4).tolist()
    learned = np.bincount(bank + 1, minlength=4)[1:]
    assert len(set(learned)) > 1
    curriculum = flexmatch.Curriculum(others, 3)
    curriculum.load_state_dict(state)
    beta = learned / learned.max()
    assert np.allclose(curriculum.thresholds(0.95, warmup=False), 0.95 * beta / (2 - beta))


def test_debiasmatchs_average_of_uneven_labels(photos, tmp_path):
    calls = []
    train("debiasmatch", photos, tmp_path / "run", "--persistent-q-hat", train_step=spied(debiasmatch, calls))
    q_hat = np.full(3, 1 / 3)
    for _, (_, _, logits_u_weak, _) in calls:
        z = np.exp(logits_u_weak.double().numpy())
        q_hat = 0.5 * q_hat + 0.5 * (z / z.sum(axis=1, keepdims=True)).mean(axis=0)
    assert np.allclose(final_state(tmp_path / "run")["q_hat"]["q_hat"], q_hat, atol=1e-6)


def test_self_tunings_queue_of_uneven_labels(photos, tmp_path):
    """Each class's pointer has gone once around its ring of 4 for every 4 keys, labeled and pseudo-labeled."""
    calls = []
    train("self_tuning", photos, tmp_path / "run", train_step=spied(self_tuning, calls))
    number = np.zeros(3, dtype=int)
    for (batch_l, _), (_, logits_u, _) in calls:
        number += np.bincount(batch_l.labels, minlength=3) + np.bincount(logits_u.argmax(dim=1), minlength=3)
    state = final_state(tmp_path / "run")["queue"]
    assert state["pointers"].tolist() == (number % 4).tolist()
    assert number.sum() == 6 * 40
    keys = state["keys"]
    assert torch.allclose(keys.norm(dim=2), torch.ones(3, 4))


def test_images_enlarged_from_their_own_size(photos, tmp_path):
    """`cifar`: shifted by an eighth at 12 pixels, then enlarged."""
    result = train("fixmatch", photos, tmp_path / "run", "--train-resizing", "cifar", "--val-resizing", "cifar",
                   "--image-size", "16", "--epochs", "1", "-i", "1")  # fmt: skip
    assert (result["dataset"], result["data_folder"], result["official_split"]) == ("ImageFolder", photos.name, None)
    args = fixmatch.parse_args([*f"{photos} -d ImageFolder --train-resizing cifar --val-resizing cifar".split()])
    data = datasets.load(args.data, args.root, labeled_list=photos / "labels.csv", resizing="cifar")
    assert data.spec.native_size == 12


# What a run is tested on


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A function that runs ERM on class folders, and the world with the images and the finished run."""
    world = tmp_path_factory.mktemp("tested")
    for name in ("ant", "bee", "cow"):
        for part, number in (("train", 4), ("test", 2)):
            (world / "images" / part / name).mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (16, 16), (60 * i, len(name), 9)).save(world / "images" / part / name / f"{i}.png")

    def run(root: Path, *flags: str) -> dict:
        argv = (
            f"{root} -d ImageFolder --num-samples-per-class 4 -a wrn_10_1_half --scratch --image-size 16 -j 0 "
            f"--bottleneck-dim 8 --epochs 1 -i 1 -b 8 --device cpu --log {world}/run"
        )
        return erm.main(erm.parse_args([*argv.split(), *flags]))

    run(world / "images")
    return run, world


@pytest.mark.parametrize("name", ["best", "latest"])
def test_a_checkpoint_is_not_tested_on_other_classes(folders, name, tmp_path):
    run, world = folders
    root = shutil.copytree(world / "images", tmp_path / "root")
    test = ("--phase", "test", "--checkpoint", name)
    assert run(root, *test) == run(world / "images", *test)
    for part in ("train", "test"):
        (root / part / "ant").rename(root / part / "doe")  # the first class becomes the last one
    line = r"was trained for other classes than '.*/root' has \(number 1 is 'ant' there and 'bee' here\): give the"
    with pytest.raises(UserError, match=line):
        run(root, *test)
    shutil.copytree(root / "train" / "bee", root / "train" / "eel")
    with pytest.raises(UserError, match=r"\(3 there, 4 here\)"):
        run(root, *test)


def test_other_test_images_are_reported(folders, tmp_path, capsys):
    run, world = folders
    root = shutil.copytree(world / "images", tmp_path / "root")
    shutil.copy(root / "test" / "ant" / "0.png", root / "train" / "ant" / "9.png")
    run(root, "--phase", "test")
    assert "WARNING" not in capsys.readouterr().out
    (root / "test" / "ant" / "0.png").unlink()
    run(root, "--phase", "test")
    line = f"WARNING: the test images in '{root}' are others than those that '{world}/run' was tested on in training"
    assert line in capsys.readouterr().out


def test_a_run_older_than_these_records_is_tested(folders, tmp_path, capsys):
    run, world = folders
    old = shutil.copytree(world / "run", tmp_path / "run")
    labeled = json.loads((old / "labeled.json").read_text())
    del labeled["test_sha256"]
    (old / "labeled.json").write_text(json.dumps(labeled))
    content = final_state(old)
    del content["classes"]
    torch.save(content, old / "checkpoints" / "latest.pth")
    run(world / "images", "--phase", "test", "--checkpoint", "latest", "--log", str(old))
    assert "WARNING" not in capsys.readouterr().out


def test_the_tour_of_the_docs(tmp_path, monkeypatch, capsys):
    """Its commands as they stand, but for the number of steps; and what they print, as far as that does not matter."""
    section = (ROOT / "docs" / "own_images.md").read_text().split("\n## ")[0]
    commands, printed, head = (block.strip().splitlines()[1:] for block in section.split("```")[1:6:2])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["tour"])
    for command in commands:
        _, script, *argv = shlex.split(command)
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        fewer = ["--epochs", "2", "-i", "2", "-b", "8", "-j", "0"] if script == "erm.py" else []
        module.main(module.parse_args(argv + fewer))
    shown = capsys.readouterr().out.splitlines()
    assert all(line in shown for line in printed if "tested: top1" not in line)
    rows = list(csv.reader(open("predictions.csv")))  # noqa: SIM115
    assert len(rows) == 1 + 518
    assert [row[0] for row in rows[:3]] == [line.split(",")[0] for line in head]
    assert {row[1] for row in rows[1:]} <= {"dahlia", "officer", "palace"}
    assert Path("photos.safetensors").is_file()
