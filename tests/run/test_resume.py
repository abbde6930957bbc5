"""Stopped or killed anywhere and started again, a run ends where an uninterrupted one does, to the last bit."""

import contextlib
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from common import run
from common.errors import Interrupted, UserError
from common.loading import loaders
from common.records import folder, results
from common.records.folder import Folder
from common.run import Run
from common.system import checkpoint, seeding
from common.system.signals import STOPPING
from common.training import evaluate
from tests.conftest import SMALL, assert_equal_states, assert_same_run, final_state, read_rows, train_small
from tests.helpers.stops import Killed, at_call, kill

METHODS = ["erm", "fixmatch"]
FLAGS = ("--lr", "0.1")  # far enough from the start that each step shows


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """method -> the folder of a run that nothing stopped; to be read only."""
    folders = {method: tmp_path_factory.mktemp(method) / "run" for method in METHODS}
    for method, log in folders.items():
        train_small(method, *FLAGS, log=log)
    return folders


@pytest.fixture
def finished(uninterrupted, tmp_path):
    """A copy of the finished FixMatch run, to be spoiled."""
    return shutil.copytree(uninterrupted["fixmatch"], tmp_path / "run")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("step", "workers"), [(2, "1"), (6, "0")])
def test_stopped_by_a_signal_and_resumed(uninterrupted, small_run, tmp_path, monkeypatch, method, workers, step):
    """In the middle of the first epoch, and at the last step of all, whose evaluation is still to come."""
    script = importlib.import_module(method)
    with monkeypatch.context() as patch:
        at_call(patch, script, "train_step", step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match=f"SIGTERM after step {step}") as error:
            small_run(method, *FLAGS)
    assert error.value.signum == signal.SIGTERM
    assert final_state(tmp_path / "run")["step"] == step
    assert not (tmp_path / "run" / "result.json").exists()
    small_run(method, *FLAGS, "--workers", workers)
    assert_same_run(tmp_path / "run", uninterrupted[method])


def test_seconds_are_added_up_without_the_pause(small_run, monkeypatch):
    """By a clock that a step moves by 10 seconds."""
    erm, clock = importlib.import_module("erm"), [1000.0]
    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    train_step = erm.train_step

    def step(*args):
        clock[0] += 10
        return train_step(*args)

    monkeypatch.setattr(erm, "train_step", step)
    with monkeypatch.context() as patch:
        at_call(patch, erm, "train_step", 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            small_run("erm")
    clock[0] += 10**6
    result = small_run("erm")
    assert (result["seconds"], result["steps_per_second"]) == (60, 0.1)


def test_a_signal_during_evaluation_stops_after_it(uninterrupted, small_run, tmp_path, monkeypatch):

    with monkeypatch.context() as patch:
        at_call(patch, evaluate, "evaluate", 1, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Interrupted, match="SIGINT after step 3"):
            small_run("erm", *FLAGS)
    assert len(read_rows(tmp_path / "run")) == 1
    small_run("erm", *FLAGS)
    assert_same_run(tmp_path / "run", uninterrupted["erm"])


def test_a_signal_before_the_first_step_saves_nothing(uninterrupted, small_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        at_call(patch, Run, "_next_batches", 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match=r"SIGTERM before the first step: the same command begins again$"):
            small_run("erm", *FLAGS)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    small_run("erm", *FLAGS)
    assert_same_run(tmp_path / "run", uninterrupted["erm"])


def test_an_evaluation_that_is_repeated_lowers_no_rate_twice(small_run, tmp_path, monkeypatch):
    """Self-Tuning's rate falls after epochs, not after steps."""

    def unreadable() -> None:
        raise UserError("an image cannot be read")

    flags = "--K 4 --projection-dim 8 --epochs 3 --milestones 2 --lr 0.1".split()
    train_small("self_tuning", *flags, log=tmp_path / "uninterrupted")
    with monkeypatch.context() as patch:
        at_call(patch, evaluate, "evaluate", 1, unreadable)
        with pytest.raises(UserError, match=r"an image cannot be read; step 3 is saved"):
            small_run("self_tuning", *flags)
    small_run("self_tuning", *flags)
    assert_same_run(tmp_path / "run", tmp_path / "uninterrupted")


def test_signals_mean_what_they_meant_before_the_run(small_run):
    before = [signal.getsignal(s) for s in STOPPING]
    small_run("erm", "--epochs", "1", "--iters-per-epoch", "1")
    assert [signal.getsignal(s) for s in STOPPING] == before


def test_under_nohup_a_closed_terminal_stops_nothing(uninterrupted, small_run, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_call(
            monkeypatch, importlib.import_module("erm"), "train_step", 2, lambda: os.kill(os.getpid(), signal.SIGHUP)
        )
        small_run("erm", *FLAGS)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert_same_run(tmp_path / "run", uninterrupted["erm"])


def in_worker(monkeypatch, where: Callable[[loaders._Views, int], bool], act: Callable[[], None]) -> None:
    """Have a loader process act when it makes a view of that set and step."""
    make = loaders._Views.__getitem__

    def made(views, key):
        if where(views, key[0]) and multiprocessing.parent_process() is not None:
            act()
        return make(views, key)

    monkeypatch.setattr(loaders._Views, "__getitem__", made)


def hang_and_signal_the_parent() -> None:
    time.sleep(2)  # until it waits: batches are made ahead
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)


WAITS = {
    "training": lambda views, step: views.stream == "labeled" and step == 4,  # counted from 0
    "evaluating": lambda views, step: views.stream == "test",
}


@pytest.mark.parametrize(("moment", "step"), [("training", 4), ("evaluating", 3)])
def test_a_signal_ends_the_wait_for_a_batch(uninterrupted, small_run, tmp_path, monkeypatch, moment, step):
    begin = time.monotonic()
    with monkeypatch.context() as patch:
        in_worker(patch, WAITS[moment], hang_and_signal_the_parent)
        with pytest.raises(Interrupted, match=r"SIGTERM after step \d, and saved"):
            small_run("erm", *FLAGS, "--workers", "1")
    assert time.monotonic() - begin < 40
    assert final_state(tmp_path / "run")["step"] <= step
    small_run("erm", *FLAGS)
    assert_same_run(tmp_path / "run", uninterrupted["erm"])


def kill_a_worker() -> None:
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


@pytest.mark.parametrize(("moment", "step"), [("training", 2), ("evaluating", 3)])
def test_where_a_loader_fails_the_steps_before_are_saved(uninterrupted, small_run, tmp_path, monkeypatch, moment, step):
    """In a step, of which the killed worker must not take half away, and in an evaluation."""
    with monkeypatch.context() as patch:
        if moment == "training":
            at_call(patch, importlib.import_module("erm"), "train_step", step, kill_a_worker)
        else:
            in_worker(patch, WAITS[moment], lambda: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(UserError) as error:
            small_run("erm", *FLAGS, "--workers", "1")
    saved = final_state(tmp_path / "run")["step"]
    assert saved >= step  # more, where the worker had batches ready
    assert str(error.value) == (
        "a loader process was killed by SIGKILL, as the kernel does when memory runs out: take fewer of them with -j "
        f"N, or use -j 0; step {saved} is saved: the same command continues"
    )
    small_run("erm", *FLAGS)
    assert_same_run(tmp_path / "run", uninterrupted["erm"])


def test_where_the_teachers_evaluation_fails_the_steps_before_are_saved(small_run, tmp_path, monkeypatch):
    """It is the second one of an epoch, and a part of the run's."""

    def unreadable() -> None:
        raise UserError("an image cannot be read")

    with monkeypatch.context() as patch:
        at_call(patch, evaluate, "evaluate", 2, unreadable)
        with pytest.raises(UserError, match=r"an image cannot be read; step 3 is saved"):
            small_run("mean_teacher", "--eval-teacher")
    assert final_state(tmp_path / "run")["step"] == 3
    small_run("mean_teacher", "--eval-teacher")
    assert "teacher_top1" in read_rows(tmp_path / "run")[0]


def test_where_a_loader_fails_at_once_there_is_nothing_to_save(small_run, tmp_path, monkeypatch):
    in_worker(monkeypatch, lambda views, step: True, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=r"use -j 0$"):
        small_run("erm", *FLAGS, "--workers", "1")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


KILLS = {
    "in the first epoch, before any checkpoint": ("fixmatch", "train_step", 2),
    "in the second epoch": ("fixmatch", "train_step", 5),
    "while evaluating": (evaluate, "evaluate", 2),
    "before the first checkpoint": (checkpoint, "save", 1),
    "between best and the first latest": (checkpoint, "save", 2),
    "before the second latest": (Run, "save", 2),
    "before metrics.jsonl": (Folder, "write_history", 3),
    "before the result": (results, "result", 1),
}


@pytest.mark.parametrize("moment", KILLS)
def test_killed_and_resumed(uninterrupted, small_run, tmp_path, monkeypatch, moment):
    target, name, number = KILLS[moment]
    target = importlib.import_module(target) if isinstance(target, str) else target
    with monkeypatch.context() as patch:
        at_call(patch, target, name, number, kill)
        with pytest.raises(Killed):
            small_run("fixmatch", *FLAGS)
    result = small_run("fixmatch", *FLAGS)
    assert_same_run(tmp_path / "run", uninterrupted["fixmatch"])
    assert result["last_top1"] == read_rows(tmp_path / "run")[-1]["top1"]


def test_killed_while_writing_a_checkpoint_the_old_one_stays(finished, monkeypatch):
    latest = finished / "checkpoints" / "latest.pth"
    before = latest.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *paths: kill())
    with pytest.raises(Killed):
        checkpoint.save(latest, {"other": 1})
    assert latest.read_bytes() == before


def test_a_full_disk_is_one_line_and_the_old_checkpoint_stays(finished, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    latest = finished / "checkpoints" / "latest.pth"
    before = latest.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.save(latest, {"other": 1})
    assert latest.read_bytes() == before
    assert sorted(p.name for p in latest.parent.iterdir()) == ["best.pth", "latest.pth"]


def test_rows_beyond_the_checkpoint_are_cut_off(uninterrupted, small_run, tmp_path, monkeypatch):
    import fixmatch

    with monkeypatch.context() as patch:
        at_call(patch, fixmatch, "train_step", 5, kill)
        with pytest.raises(Killed):
            small_run("fixmatch", *FLAGS)
    with open(tmp_path / "run" / "metrics.jsonl", "a") as rows:
        rows.write('{"epoch": 2, "top')
    small_run("fixmatch", *FLAGS)
    assert_same_run(tmp_path / "run", uninterrupted["fixmatch"])


def test_a_finished_run_shows_its_result_and_is_not_trained(finished, small_run, monkeypatch, capsys):
    import fixmatch

    monkeypatch.setattr(fixmatch, "train_step", kill)
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.name != "log.txt"}
    result = small_run("fixmatch", *FLAGS)
    assert result == json.loads((finished / "result.json").read_text())
    assert "finished: top-1" in capsys.readouterr().out
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize(
    "flags",
    [
        ("--lr", "0.2"),
        ("--threshold", "0.9"),
        ("--epochs", "3"),
        ("--finetune",),
        ("--seed", "1"),
        ("--norm-mean", "0.1", "0.1", "0.1"),
        ("--unlabeled-batch-size", "4"),
    ],
    ids=lambda flags: flags[0],
)
def test_other_arguments_are_refused_by_name(finished, small_run, flags):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.name != "log.txt"}
    with pytest.raises(UserError, match="other arguments") as error:
        small_run("fixmatch", *FLAGS, *flags)
    assert f"{flags[0]} " in str(error.value)
    assert "(was " in str(error.value)
    assert "--wd" not in str(error.value)
    assert "\n" not in str(error.value)
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize(
    "free", ["-j 1", "--cache 7", "-p 1", "--device cpu", "--phase test", "--phase test --checkpoint latest"]
)
def test_arguments_that_change_no_number_are_free(finished, small_run, free):
    small_run("fixmatch", *FLAGS, *free.split())


def test_another_root_is_free(finished):
    import fixmatch

    argv = ["elsewhere", *SMALL[1:], *FLAGS, "--log", str(finished)]
    fixmatch.main(fixmatch.parse_args(argv))


@pytest.mark.parametrize("other", ["erm", "fixmatch"])
def test_another_methods_folder_is_refused(finished, small_run, other):
    """Also that of a method with the very same flags."""
    args_file = finished / "args.json"
    args_file.write_text(args_file.read_text().replace('"method": "fixmatch"', '"method": "another"'))
    with pytest.raises(UserError, match=r"another|other arguments"):
        small_run(other, *FLAGS)


@pytest.mark.parametrize(("key", "value"), [("threshold", "0.95"), ("split_seed", "0"), ("image_size", "32")])
def test_a_flag_younger_than_the_run_takes_its_default(finished, small_run, key, value):
    args_file = finished / "args.json"
    saved = json.loads(args_file.read_text())
    del saved["args"][key]
    args_file.write_text(json.dumps(saved))
    flag = f"--{key.replace('_', '-')}"
    small_run("fixmatch", *FLAGS, flag, value)
    if key != "image_size":  # native resizing admits one
        with pytest.raises(UserError, match=f"{flag} 1"):
            small_run("fixmatch", *FLAGS, flag, "1")


def test_overwrite_starts_anew_and_removes_only_the_runs_files(uninterrupted, finished, small_run):
    (finished / "notes.md").write_text("mine")
    (finished / "views.png").write_text("old")
    small_run("fixmatch", *FLAGS, "--seed", "1", "--overwrite")
    assert (finished / "notes.md").read_text() == "mine"
    assert (finished / "views.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((finished / "result.json").read_text())["seed"] == 1
    assert len(read_rows(finished)) == 2
    small_run("fixmatch", *FLAGS, "--overwrite")
    assert_same_run(finished, uninterrupted["fixmatch"])


def test_overwrite_with_bad_input_removes_nothing(finished, small_run):
    with pytest.raises(UserError, match="fewer than"):
        small_run("fixmatch", *FLAGS, "--overwrite", "--num-samples-per-class", "500")
    assert (finished / "result.json").exists()
    assert (finished / "checkpoints" / "latest.pth").exists()


def damaged(content: bytes, kind: str, weights: bytes) -> bytes:
    middle = content.index(weights) + len(weights) // 2
    return {
        "empty": b"",
        "text": b"no checkpoint",
        "half": content[: len(content) // 2],
        "a byte short": content[:-1],
        "one bit of the weights": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "half", "a byte short", "one bit of the weights"])
def test_a_damaged_checkpoint_is_refused_in_one_line(finished, small_run, kind):
    latest = finished / "checkpoints" / "latest.pth"
    (finished / "result.json").unlink()
    spoiled = damaged(latest.read_bytes(), kind, final_state(finished)["model"]["head.weight"].numpy().tobytes())
    latest.write_bytes(spoiled)
    rows = (finished / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"latest\.pth' is damaged .*--overwrite") as error:
        small_run("fixmatch", *FLAGS)
    assert "\n" not in str(error.value)
    assert latest.read_bytes() == spoiled
    assert (finished / "metrics.jsonl").read_bytes() == rows


@pytest.fixture
def interrupted(small_run, tmp_path, monkeypatch):
    """A run stopped in its second epoch: latest.pth is of step 5, previous.pth of step 3."""
    import fixmatch

    with monkeypatch.context() as patch:
        at_call(patch, fixmatch, "train_step", 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            small_run("fixmatch", *FLAGS)
    return tmp_path / "run"


@pytest.mark.parametrize("kind", ["empty", "text", "half", "a byte short", "one bit of the weights"])
def test_the_checkpoint_before_a_damaged_one_is_taken_loudly(uninterrupted, interrupted, small_run, kind, capsys):
    latest = interrupted / "checkpoints" / "latest.pth"
    spoiled = damaged(latest.read_bytes(), kind, final_state(interrupted)["model"]["head.weight"].numpy().tobytes())
    latest.write_bytes(spoiled)
    capsys.readouterr()
    small_run("fixmatch", *FLAGS)
    shown = capsys.readouterr().out
    assert f"WARNING: checkpoint '{latest}' is damaged" in shown
    assert f"resuming '{interrupted}' at step 3, epoch 2" in shown
    assert latest.with_name("damaged.pth").read_bytes() == spoiled
    assert_same_run(interrupted, uninterrupted["fixmatch"])


def test_killed_right_after_taking_the_previous_checkpoint(uninterrupted, interrupted, small_run, monkeypatch):
    """The damaged file must not have taken its place."""
    import fixmatch

    (interrupted / "checkpoints" / "latest.pth").write_bytes(b"damaged")
    for target, name in ((fixmatch, "train_step"), (Run, "save")):
        with monkeypatch.context() as patch:
            at_call(patch, target, name, 1, kill)
            with pytest.raises(Killed):
                small_run("fixmatch", *FLAGS)
    small_run("fixmatch", *FLAGS)
    assert_same_run(interrupted, uninterrupted["fixmatch"])


@pytest.mark.parametrize("number", [1, 2])
def test_killed_between_the_renames_of_a_save(uninterrupted, interrupted, small_run, monkeypatch, number):
    """The first makes latest.pth the previous one, the second puts the new one in its place."""
    with monkeypatch.context() as patch:
        at_call(patch, os, "replace", number, kill)
        with pytest.raises(Killed):
            checkpoint.save(
                interrupted / "checkpoints" / "latest.pth", {"new": 1}, interrupted / "checkpoints" / "previous.pth"
            )
    assert (interrupted / "checkpoints" / "latest.pth").exists() == (number == 1)
    small_run("fixmatch", *FLAGS)
    assert_same_run(interrupted, uninterrupted["fixmatch"])


def test_two_damaged_checkpoints_are_refused_and_left(interrupted, small_run):
    for name in ("latest.pth", "previous.pth"):
        (interrupted / "checkpoints" / name).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"previous\.pth' is damaged .*--overwrite"):
        small_run("fixmatch", *FLAGS)
    assert {path.name for path in (interrupted / "checkpoints").iterdir()} == {"best.pth", "latest.pth", "previous.pth"}


def test_a_checkpoint_of_something_else_is_no_reason_for_the_previous_one(interrupted, small_run):
    checkpoint.save(interrupted / "checkpoints" / "latest.pth", {"model": {}, "more": 1})
    with pytest.raises(UserError, match="holds no 'optimizer': it is another script's"):
        small_run("fixmatch", *FLAGS)


def test_a_finished_run_keeps_no_previous_checkpoint(uninterrupted):
    kept = {path.name for path in (uninterrupted["erm"] / "checkpoints").iterdir()}
    assert kept == {"latest.pth", "best.pth"}


def test_a_run_on_the_cpu_asks_nothing_of_cuda(monkeypatch):
    """Saving would otherwise begin to use the GPU, which a forked process may not even do."""

    def used(*args):
        raise AssertionError("CUDA was asked")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("get_rng_state", "get_rng_state_all", "set_rng_state", "set_rng_state_all"):
        monkeypatch.setattr(torch.cuda, name, used)
    generators = seeding.Generators(torch.device("cpu"))
    generators.load_state_dict(generators.state_dict() | {"cuda": torch.zeros(16, dtype=torch.uint8)})


@pytest.mark.parametrize("name", ["labeled_sha256", "data_sha256", "test_sha256"])
def test_a_dataset_that_changed_since_is_refused(interrupted, small_run, name):
    file = interrupted / "labeled.json"
    file.write_text(file.read_text().replace(f'"{name}": "', f'"{name}": "0'))
    with pytest.raises(UserError, match="was begun with other images than 'data' holds now: restore"):
        small_run("fixmatch", *FLAGS)


def test_a_run_older_than_the_datasets_fingerprints_is_resumed(interrupted, small_run):
    file = interrupted / "labeled.json"
    labeled = json.loads(file.read_text())
    del labeled["data_sha256"], labeled["test_sha256"]
    file.write_text(json.dumps(labeled))
    small_run("fixmatch", *FLAGS)


def test_a_signal_says_how_to_continue_what_overwrote(small_run, monkeypatch):
    import erm

    with monkeypatch.context() as patch:
        at_call(patch, erm, "train_step", 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match=r"the same command continues, without --overwrite$"):
            small_run("erm", *FLAGS, "--overwrite")


def test_a_test_of_other_arguments_is_refused_also_with_overwrite(finished, small_run):
    for more in ((), ("--overwrite",)):
        with pytest.raises(UserError, match=r"--wd 0.1 \(was 0.0005\); give the run's own, and --phase test$"):
            small_run("fixmatch", *FLAGS, "--phase", "test", "--wd", "0.1", *more)
    assert (finished / "result.json").is_file()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_killed_while_a_new_folder_is_begun(uninterrupted, small_run, tmp_path, monkeypatch, number):
    """Before args.json, labeled.json, and the empty metrics.jsonl."""
    with monkeypatch.context() as patch:
        at_call(patch, folder, "write_whole", number, kill)
        with pytest.raises(Killed):
            small_run("fixmatch", *FLAGS)
    small_run("fixmatch", *FLAGS)
    assert_same_run(tmp_path / "run", uninterrupted["fixmatch"])


def test_any_flipped_bit_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "small.pth"
    saved = {"x": torch.arange(5), "step": 3}
    checkpoint.save(path, saved)
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        with contextlib.suppress(UserError):
            assert_equal_states(checkpoint.load(path), saved)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"method": "fixmatch"}'])
def test_a_damaged_args_file_is_refused_in_one_line(finished, small_run, text):
    (finished / "args.json").write_text(text)
    with pytest.raises(UserError, match=r"args\.json"):
        small_run("fixmatch", *FLAGS)


@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl", "checkpoints/latest.pth"])
def test_a_folder_of_something_else_is_refused(tmp_path, small_run, name):
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(UserError, match=r"no args\.json"):
        small_run("erm")
    assert file.read_text() == "mine"
