"""A run's folder among other files, on odd disks, and after kills at bad moments."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import timm
import torch

import erm
from common.errors import Interrupted, UserError
from common.records import folder, results, session
from common.run import Run
from common.system import checkpoint, files
from common.training import evaluate
from tests.conftest import ROOT, SMALL, assert_same_run, final_state, read_rows, train_small
from tests.helpers.stops import Killed, at_call, kill, stop_in_step


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a finished run; to be read only."""
    log = tmp_path_factory.mktemp("trained") / "run"
    train_small("erm", log=log)
    return log


def interrupt(step: int, *flags: str, log: Path) -> None:
    """Stop a run by a signal after that step of this session."""
    stop_in_step(step, "erm", *flags, log=log)


# What is overwritten


def test_overwrite_leaves_other_peoples_files_and_links(trained, tmp_path):
    log, elsewhere = shutil.copytree(trained, tmp_path / "run"), tmp_path / "large disk"
    (log / "checkpoints").rename(elsewhere)
    (log / "checkpoints").symlink_to(elsewhere)
    (elsewhere / "mine.pth").write_text("mine")
    (elsewhere / "latest.pth.tmp").write_text("left by a kill")
    (log / "tensorboard").mkdir()
    (log / "tensorboard" / "mine").write_text("mine")
    (log / "tensorboard" / "events.out.tfevents.1").write_text("old")
    train_small("erm", "--overwrite", log=log)
    assert (log / "checkpoints").is_symlink()
    assert sorted(os.listdir(elsewhere)) == ["best.pth", "latest.pth", "mine.pth"]
    assert os.listdir(log / "tensorboard") == ["mine"]
    assert_same_run(log, trained)


def test_what_was_discarded_by_half_is_refused_or_goes_on(trained, tmp_path, monkeypatch):
    """Killed while it removes: the same command with --overwrite starts anew."""
    for number in range(1, 30):
        log = shutil.copytree(trained, tmp_path / f"run {number}")
        with monkeypatch.context() as patch:
            at_call(patch, Path, "unlink", number, kill)
            try:
                train_small("erm", "--overwrite", "--epochs", "1", "-i", "1", log=log)
                break
            except Killed:
                pass
        with monkeypatch.context() as patch:
            patch.setattr(erm, "train_step", lambda *args: kill())
            with pytest.raises(Killed):
                train_small("erm", "--overwrite", "--epochs", "1", "-i", "1", log=log)
    assert number > 10


# Disks without locks


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_reported_and_used(tmp_path, monkeypatch, log, number):
    def lockf(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    train_small("erm", "--epochs", "1", "-i", "1", log=tmp_path / "run")
    reported = f"the disk of '{tmp_path}/run' knows no locks ({os.strerror(number)}): see to it yourself"
    assert any(message.startswith(reported) for message in log.messages)


# Checkpoints that are gone


@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.parametrize("lost", ["checkpoints", "checkpoints/latest.pth"])
def test_an_interrupted_run_without_its_checkpoints_does_not_begin_anew(tmp_path, lost, step):
    """In the first epoch, of which no row tells, and in the second."""
    log = tmp_path / "run"
    interrupt(step, log=log)
    rows = (log / "metrics.jsonl").read_bytes()
    (log / "checkpoints" / "previous.pth").unlink(missing_ok=True)
    shutil.rmtree(log / lost) if lost == "checkpoints" else (log / lost).unlink()
    with pytest.raises(UserError, match=r"holds an interrupted run without its checkpoints: .*anew with --overwrite$"):
        train_small("erm", log=log)
    assert (log / "metrics.jsonl").read_bytes() == rows
    train_small("erm", "--overwrite", log=log)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(trained, tmp_path, capsys):
    log = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, erm, "train_step", 2, kill)
        with pytest.raises(Killed):
            train_small("erm", log=log)
    capsys.readouterr()
    train_small("erm", log=log)
    assert "WARNING" not in capsys.readouterr().out
    assert_same_run(log, trained)


# best.pth and the record


def by_turns(monkeypatch, top1: list[float]) -> None:
    """Tests give these accuracies, one after the other."""
    scores = iter(top1)
    monkeypatch.setattr(evaluate, "evaluate", lambda *args: {"top1": next(scores), "mean_per_class": 50.0})


@pytest.mark.parametrize(("target", "name"), [(Run, "save"), (folder.Folder, "adopt_best")])
def test_best_and_record_change_together(tmp_path, monkeypatch, target, name):
    """Killed before and after the checkpoint of epoch 2, the best; repeated, that epoch is worse than the first."""
    log = tmp_path / "run"
    with monkeypatch.context() as patch:
        by_turns(patch, [60.0, 90.0])
        at_call(patch, target, name, 2, kill)
        with pytest.raises(Killed):
            train_small("erm", log=log)
    repeated = name == "save"
    by_turns(monkeypatch, [30.0])
    result = train_small("erm", log=log)
    assert result["best_epoch"] == (1 if repeated else 2)
    assert checkpoint.load(log / "checkpoints" / "best.pth")["epoch"] == result["best_epoch"]
    assert not (log / "checkpoints" / "next_best.pth").exists()


def test_a_best_network_ahead_of_the_record_is_reported(tmp_path, capsys):
    """latest.pth was damaged, and the one before knows nothing of epoch 2."""
    log = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        by_turns(patch, [60.0, 90.0])
        at_call(patch, results, "result", 1, kill)
        with pytest.raises(Killed):
            train_small("erm", log=log)
    (log / "checkpoints" / "latest.pth").write_bytes(b"damaged")
    train_small("erm", log=log)
    assert "WARNING: best.pth is of epoch 2, which is repeated now" in capsys.readouterr().out


# What it was begun with


@pytest.fixture
def from_file(tmp_path):
    """Flags that start from a backbone file, and that file."""
    file = tmp_path / "backbone.pth"
    torch.save(timm.create_model("wrn_10_1_half", num_classes=0).state_dict(), file)
    argv = [flag for flag in SMALL if flag != "--scratch"]
    return [*argv, "--pretrained-backbone", str(file), "--log", str(tmp_path / "run")], file


def train(argv: list[str]) -> dict:
    return erm.main(erm.parse_args(argv))


def test_another_backbone_file_is_refused(from_file, tmp_path, monkeypatch):
    argv, file = from_file
    with monkeypatch.context() as patch:
        at_call(patch, erm, "train_step", 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(argv)
    recorded = json.loads((tmp_path / "run" / "args.json").read_text())["pretraining_sha256"]
    assert recorded == final_state(tmp_path / "run")["pretraining_sha256"]
    first = file.read_bytes()
    torch.save(timm.create_model("wrn_10_1_half", num_classes=0).state_dict(), file)
    with pytest.raises(UserError, match=r"was begun with another file than '.*backbone.pth' is now: restore it, or"):
        train(argv)
    file.write_bytes(first)
    step = erm.train_step

    def without_the_file(*args):
        file.unlink(missing_ok=True)  # nobody needs it any more
        return step(*args)

    monkeypatch.setattr(erm, "train_step", without_the_file)
    assert train(argv)["pretraining_sha256"] == recorded


@pytest.mark.parametrize("flag", ["--pretrained-backbone", "--init-from"])
def test_a_resumption_names_the_missing_file_that_it_began_with(from_file, trained, tmp_path, flag):
    argv, file = from_file
    if flag == "--init-from":
        start = shutil.copytree(trained, tmp_path / "start")
        file = start / "checkpoints" / "best.pth"
        argv = [*SMALL, flag, str(start), "--log", str(tmp_path / "run")]
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, erm, "train_step", 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(argv)
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(UserError) as error:
        train(argv)
    reported = f"'{file}' is missing, with which '{tmp_path}/run' was begun: restore it, or choose another --log"
    assert str(error.value) == reported
    file.write_bytes(content)
    result = train(argv)
    file.unlink()
    assert train(argv) == result


def test_each_session_is_recorded_and_other_conditions_are_reported(tmp_path, monkeypatch, capsys):
    log, versions = tmp_path / "run", session._versions()
    interrupt(2, log=log)
    monkeypatch.setattr(session, "_versions", lambda: versions | {"torch": "9.9"})
    capsys.readouterr()
    interrupt(3, log=log)
    reported = f"WARNING: the run goes on with torch 9.9 (was {versions['torch']}): its numbers may not be"
    assert reported in capsys.readouterr().out
    result = train_small("erm", log=log)
    assert "WARNING" not in capsys.readouterr().out
    assert [(each["from_step"], each["versions"]["torch"]) for each in result["sessions"]] == [
        (0, versions["torch"]),
        (2, "9.9"),
        (5, "9.9"),
    ]
    known = {"from_step", "device", "threads", "processes", "versions", "script_sha256", "git_commit"}
    assert set(result["sessions"][0]) == known
    assert result["versions"]["torch"] == "9.9"


def test_a_script_that_has_changed_is_reported(tmp_path, monkeypatch, capsys):
    """Of an interrupted run that goes on, and of a finished one that shows its result."""
    copy, log = tmp_path / "mine.py", tmp_path / "run"
    copy.write_text((ROOT / "erm.py").read_text())
    monkeypatch.setattr(erm, "__file__", str(copy))
    interrupt(2, log=log)
    copy.write_text(copy.read_text() + "# an idea\n")
    capsys.readouterr()
    result = train_small("erm", log=log)
    assert "WARNING: the run goes on with a script that has changed: its numbers" in capsys.readouterr().out
    assert (result["method"], result["script_sha256"]) == ("mine", hashlib.sha256(copy.read_bytes()).hexdigest())
    assert train_small("erm", log=log) == result
    assert "WARNING" not in capsys.readouterr().out
    copy.write_text((ROOT / "erm.py").read_text())
    assert train_small("erm", log=log) == result
    reported = "WARNING: mine.py has changed since this run: the result is that of the older script; --overwrite trains"
    assert reported in capsys.readouterr().out


def test_threads_are_conditions_of_a_cpu_alone():
    cpu = {"device": "a CPU, 1 threads", "threads": 1, "processes": 1, "versions": {"torch": "1"}}
    assert session.differences(cpu, cpu | {"threads": 2, "device": "a CPU, 2 threads"})
    gpu = cpu | {"device": "an H100"}
    assert not session.differences(gpu, gpu | {"threads": 2})
    assert session.differences(gpu, gpu | {"processes": 2}) == ["processes 2 (was 1)"]


def test_a_run_that_does_not_say_what_it_was_begun_with_goes_on(tmp_path, capsys):
    log = tmp_path / "run"
    interrupt(2, log=log)
    content = final_state(log)
    del content["sessions"], content["pretraining_sha256"]
    torch.save(content, log / "checkpoints" / "latest.pth")
    assert [each["from_step"] for each in train_small("erm", log=log)["sessions"]] == [2]
    assert "WARNING" not in capsys.readouterr().out


# Numbers that are none


def test_scores_that_are_no_numbers_end_the_run(tmp_path, monkeypatch):
    log = tmp_path / "run"
    monkeypatch.setattr(
        evaluate, "evaluate", lambda *args: {"top1": 9.0, "mean_per_class": 9.0, "test_loss": float("nan")}
    )
    with pytest.raises(UserError, match=r"test_loss not finite at step 3: top1 9, .*; nothing was saved yet: start"):
        train_small("erm", log=log)
    assert read_rows(log) == []
    assert not list((log / "checkpoints").iterdir())


def test_no_json_of_a_run_holds_what_is_no_json(tmp_path):
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            files.write_json(tmp_path / "x.json", {"value": value})
    assert not list(tmp_path.iterdir())
