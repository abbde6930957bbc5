"""What a run leaves behind, and that its command and seed alone decide it."""

import gc
import hashlib
import importlib
import itertools
import json
import logging
import re
import subprocess
import sys
import warnings
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import erm
from common import datasets
from common.datasets import splits
from common.errors import UserError
from common.records import progress, session
from common.run import Run
from common.system import processes, seeding
from common.training import evaluate
from tests.conftest import SMALL, assert_equal_states, assert_same_run, contents, final_state, read_rows, train_small

METHODS = ["erm", "fixmatch"]
FLAGS = ("--lr", "0.1")
FIELDS = (
    "schema method dataset arch pretraining pretraining_sha256 pretraining_weights num_samples_per_class oracle seed "
    "split_seed epochs iters_per_epoch best_top1 best_epoch best_mean_per_class last_top1 last_mean_per_class "
    "data_folder official_split any_counts seconds steps_per_second device processes precision labeled_sha256 "
    "chosen_by data_sha256 test_sha256 threads sessions versions script_sha256 git_commit command"
).split()


@pytest.fixture(scope="module", params=METHODS)
def trained(request, tmp_path_factory):
    """(method, folder, returned result) of a finished run; to be read only."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    return request.param, folder, train_small(request.param, *FLAGS, log=folder)


def load(folder, name: str) -> dict:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def test_the_files_of_a_finished_run(trained):
    _, folder, _ = trained
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name[0] != "."} == {
        "args.json",
        "log.txt",
        "metrics.jsonl",
        "result.json",
        "views.png",
        "labeled.json",
        "report.png",
        "per_class.csv",
        "checkpoints/latest.pth",
        "checkpoints/best.pth",
    }


def test_the_fields_of_the_result(trained):
    method, folder, returned = trained
    result = json.loads((folder / "result.json").read_text())
    assert result == returned
    assert sorted(result) == sorted(FIELDS)
    expected = {
        "schema": 1, "method": method, "dataset": "Digits", "arch": "wrn_10_1_half", "pretraining": "scratch",
        "pretraining_sha256": None, "pretraining_weights": None, "num_samples_per_class": 4, "oracle": False,
        "seed": 0, "split_seed": 0, "epochs": 2, "iters_per_epoch": 3, "processes": 1, "precision": "float32",
        "data_folder": None, "official_split": False, "any_counts": False, "chosen_by": "test images",
    }  # fmt: skip
    assert {key: result[key] for key in expected} == expected
    rows = read_rows(folder)
    for metric in ("top1", "mean_per_class"):
        assert result[f"last_{metric}"] == rows[-1][metric]
        assert result[f"best_{metric}"] == max(row[metric] for row in rows)
    assert result["seconds"] > 0
    assert result["steps_per_second"] == pytest.approx(6 / result["seconds"])
    assert result["versions"]["torch"] == torch.__version__
    assert result["command"].startswith(f"python {method}.py data -d Digits -a wrn_10_1_half --scratch ")


def test_metrics_have_a_row_per_epoch(trained):
    method, folder, _ = trained
    rows = read_rows(folder)
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 6)]
    shared = {"epoch", "step", "loss", "accuracy_l", "top1", "top5", "mean_per_class", "test_loss"}
    own = {"loss_l", "loss_u", "pseudo_label_accuracy", "pseudo_label_ratio"} if method == "fixmatch" else set()
    assert set(rows[0]) == shared | own
    assert all(0 <= row["top1"] <= row["top5"] <= 100 for row in rows)


def test_labeled_images(trained):
    _, folder, result = trained
    labeled = json.loads((folder / "labeled.json").read_text())
    indices = labeled["indices"]
    assert len(indices) == 40
    assert indices == sorted(indices)
    assert labeled["data_sha256"] == result["data_sha256"] == datasets.load("Digits", "data").fingerprint
    assert labeled["labeled_sha256"] == hashlib.sha256(",".join(map(str, indices)).encode()).hexdigest()
    assert labeled["labeled_sha256"] == result["labeled_sha256"] == splits.fingerprint(np.array(indices))


def test_arguments_are_kept(trained):
    method, folder, _ = trained
    saved = json.loads((folder / "args.json").read_text())
    assert saved["method"] == method
    argv = [*SMALL, "--log", str(folder), *FLAGS]
    assert saved["args"] == vars(importlib.import_module(method).parse_args(argv))


def test_what_the_two_checkpoints_hold(trained):
    method, folder, _ = trained
    latest, best = load(folder, "latest.pth"), load(folder, "best.pth")
    assert {"model", "optimizer", "scheduler", "rng", "step", "args"} <= set(latest)
    assert set(best) == {"model", "classes", "args", "epoch", "chosen_by"}
    assert latest["step"] == 6
    assert best["classes"] == [str(i) for i in range(10)]
    for state in (latest["model"], best["model"]):
        assert {key.split(".")[0] for key in state} == {"backbone", "bottleneck", "head"}
    passes = {"erm": 2, "fixmatch": 4}[method]
    assert latest["model"]["backbone.bn.num_batches_tracked"] == 6 * passes


def test_the_sheet_of_views(trained):
    method, folder, _ = trained
    columns = {"erm": 2, "fixmatch": 4}[method]
    with Image.open(folder / "views.png") as sheet:
        assert sheet.mode == "RGB"
        assert sheet.size[0] >= 2 + columns * 98
        assert sheet.size[1] >= 8 * 98
        assert np.asarray(sheet).std() > 10


def test_a_rows_averages_are_of_its_own_epoch(small_run, tmp_path, monkeypatch):
    losses, train_step = [], erm.train_step

    def noting(*args):
        metrics = train_step(*args)
        losses.append(metrics["loss"].item())
        return metrics

    monkeypatch.setattr(erm, "train_step", noting)
    small_run("erm", *FLAGS)
    expected = [sum(losses[:3]) / 3, sum(losses[3:]) / 3]
    assert [row["loss"] for row in read_rows(tmp_path / "run")] == pytest.approx(expected)


def test_the_log_has_progress_and_the_summary(trained):
    text = (trained[1] / "log.txt").read_text()
    for part in ("epoch 1/2 step 2/3", "epoch 2/2 step 3/3", "steps/s  ETA ", "epoch 2/2 tested: top1", "finished: "):
        assert part in text
    assert re.search(r"^epoch 1/2 tested: top1 .* \(best so far on the test images\)$", text, re.MULTILINE)


def test_speed_and_time_left_count_from_the_resume_on(monkeypatch, log):
    """Of two epochs of ten steps, the first resumed after six: two steps took a second, and twelve are left."""
    now = itertools.chain([5.0], itertools.repeat(6.0))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    log.set_level(logging.INFO, "common")
    with progress.Progress(epoch=0, epochs=2, steps=10, done=6) as shown:
        shown.advance()
        shown.advance()
        shown.report({"loss": 0.5, "accuracy": None})
    assert log.messages == ["epoch 1/2 step 8/10  loss 0.5  accuracy -  2.00 steps/s  ETA 00:06"]


@pytest.mark.parametrize("checkpoint", ["best", "latest"])
def test_a_checkpoint_is_tested(trained, checkpoint, capsys):
    method, folder, result = trained
    before = contents(folder)
    scores = train_small(method, *FLAGS, "--phase", "test", "--checkpoint", checkpoint, log=folder)
    row = read_rows(folder)[result["best_epoch"] - 1 if checkpoint == "best" else -1]
    assert scores == {name: row[name] for name in ("top1", "top5", "mean_per_class", "test_loss")}
    assert f"{checkpoint}.pth': top1 {scores['top1']:.2f}" in capsys.readouterr().out
    assert contents(folder) == before


def test_the_same_command_gives_the_same_run_and_workers_do_not_matter(trained, tmp_path):
    method, folder, result = trained
    again = train_small(method, *FLAGS, "-j", "2", log=tmp_path / "run")
    may_differ = {"seconds", "steps_per_second", "command"}
    assert {key: again[key] for key in again.keys() - may_differ} == {
        key: result[key] for key in result.keys() - may_differ
    }
    assert_equal_states(final_state(tmp_path / "run")["model"], final_state(folder)["model"])
    assert (tmp_path / "run" / "views.png").read_bytes() == (folder / "views.png").read_bytes()


def test_another_seed_gives_another_run_on_the_same_split(trained, tmp_path):
    method, folder, result = trained
    other = train_small(method, *FLAGS, "--seed", "1", "--split-seed", "0", log=tmp_path / "run")
    assert other["labeled_sha256"] == result["labeled_sha256"]
    a, b = (final_state(f)["model"] for f in (tmp_path / "run", folder))
    assert not torch.equal(a["head.weight"], b["head.weight"])
    assert not torch.equal(a["backbone.conv1.weight"], b["backbone.conv1.weight"])


def test_another_split_seed_gives_another_split(trained, small_run):
    method, _, result = trained
    other = small_run(method, *FLAGS, "--split-seed", "1", "--epochs", "1", "--iters-per-epoch", "1")
    assert other["labeled_sha256"] != result["labeled_sha256"]


@pytest.mark.parametrize(
    ("top1", "per_class", "expected"),
    [
        ([50.0, 70.0, 60.0], [40.0, 60.0, 65.0], {"best_top1": 70, "best_epoch": 2, "best_mean_per_class": 65}),
        ([70.0, 70.0, 70.0], [1.0, 2.0, 0.0], {"best_top1": 70, "best_epoch": 1, "best_mean_per_class": 2}),
    ],
)
def test_the_best_scores_are_over_all_epochs_and_the_last_ones_stand_beside_them(
    small_run, tmp_path, monkeypatch, capsys, top1, per_class, expected
):

    scores = iter([{"top1": a, "mean_per_class": b} for a, b in zip(top1, per_class, strict=True)])
    monkeypatch.setattr(evaluate, "evaluate", lambda *args: next(scores))
    result = small_run("erm", "--epochs", "3", "--iters-per-epoch", "1")
    assert {key: result[key] for key in expected} == expected
    assert (result["last_top1"], result["last_mean_per_class"]) == (top1[-1], per_class[-1])
    assert load(tmp_path / "run", "best.pth")["epoch"] == expected["best_epoch"]
    line = capsys.readouterr().out.splitlines()[-1]
    assert f"top-1 on the test set {top1[-1]:.2f} after the last epoch; {expected['best_top1']:.2f} in epoch " in line


def test_a_backbone_file_is_recorded_by_its_stem_and_hash(tmp_path):
    import erm

    file = tmp_path / "moco_v2.pth"
    torch.save(timm.create_model("wrn_10_1_half").state_dict(), file)
    argv = [flag for flag in SMALL if flag != "--scratch"]
    argv += ["--pretrained-backbone", str(file), "--epochs", "1", "-i", "1", "--log", str(tmp_path / "run")]
    result = erm.main(erm.parse_args(argv))
    assert result["pretraining"] == "moco_v2"
    assert result["pretraining_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    file.unlink()  # a test takes all the weights from the checkpoint
    scores = erm.main(erm.parse_args([*argv, "--phase", "test", "--checkpoint", "latest"]))
    assert scores["top1"] == result["last_top1"]


def test_a_device_without_float64_is_refused(small_run, monkeypatch):
    """Apple's `mps` is such a one: the meters need it."""
    ones = torch.ones

    def without_float64(*size, dtype=None, **kwargs):
        if dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return ones(*size, dtype=dtype, **kwargs)

    monkeypatch.setattr(torch, "ones", without_float64)
    with pytest.raises(UserError, match=r"--device cpu cannot be used \(Cannot convert .*: try --device cpu"):
        small_run("erm", "--device", "cpu")


def test_a_folder_in_use_by_another_process_is_refused(tmp_path, small_run):
    (tmp_path / "run").mkdir()
    lock = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", lock, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(UserError, match="another process is using"):
            small_run("erm")
        holder.stdin.close()


def test_no_run_leaves_a_file_open(tmp_path, small_run):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        small_run("erm")
        with pytest.raises(UserError, match="other arguments"):
            small_run("erm", "--lr", "0.2")
        gc.collect()
    assert not [str(each.message) for each in warned if str(tmp_path) in str(each.message)]


def test_a_report_that_fails_loses_no_step(tmp_path, monkeypatch):
    """As where the disk with the test images fails: with one epoch, the whole training would be lost."""

    def fail(*args):
        raise UserError("image 'x.png' cannot be read (Input/output error): replace or remove it")

    train_small("erm", *FLAGS, log=tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        patch.setattr("common.records.report.draw", fail)
        with pytest.raises(UserError, match=r"cannot be read .*; step 6 is saved: the same command continues$"):
            train_small("erm", *FLAGS, log=tmp_path / "run")
    assert load(tmp_path / "run", "latest.pth")["step"] == 6
    train_small("erm", *FLAGS, log=tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed")


def test_the_result_names_the_script_that_made_the_last_step(tmp_path, monkeypatch):
    """Not that of a session which only wrote the result."""
    killed = mock.patch.object(Run, "finish", side_effect=KeyboardInterrupt)
    with killed, pytest.raises(KeyboardInterrupt):
        train_small("erm", *FLAGS, log=tmp_path / "run")
    before = load(tmp_path / "run", "latest.pth")["sessions"][0]["script_sha256"]
    monkeypatch.setattr(session, "script_sha256", lambda script: "0" * 64)
    result = train_small("erm", *FLAGS, log=tmp_path / "run")
    assert [each["script_sha256"] for each in result["sessions"]] == [before, "0" * 64]
    assert result["script_sha256"] == before


def test_the_streams_of_a_run_keep_their_names(small_run, monkeypatch):
    """Another name would give other first weights, and other draws on the device."""
    named, seed_all = [], seeding.seed_all
    monkeypatch.setattr(seeding, "seed_all", lambda *key: named.append(key) or seed_all(*key))
    small_run("erm", "--epochs", "1", "-i", "1", "--seed", "3")
    assert named == [(3, "model"), (3, "training")]


def test_each_process_has_random_numbers_of_its_own(small_run, monkeypatch):
    """Such as those of dropout."""
    named, seed_all, begin = [], seeding.seed_all, Run._begin_alike

    def as_the_third(run):
        with mock.patch.object(processes, "rank", return_value=2):
            begin(run)

    monkeypatch.setattr(seeding, "seed_all", lambda *key: named.append(key) or seed_all(*key))
    monkeypatch.setattr(Run, "_begin_alike", as_the_third)
    small_run("erm", "--epochs", "1", "-i", "1", "--seed", "3")
    assert named == [(3, "model"), (3, "training", 2)]
