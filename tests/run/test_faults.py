"""Real processes that are killed, signalled, and starved of disk space."""

import contextlib
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from common.loading import loaders, workers
from common.system import seeding
from common.training import evaluate
from tests.conftest import assert_same_run, final_state
from tests.long import faults
from tests.long.faults import Life


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run that nothing disturbed, to be read only."""
    log = tmp_path_factory.mktemp("faults") / "undisturbed"
    life = Life("fixmatch", log)
    assert life.wait() == 0, life.errors.read_text()
    return log


def resumes(log, undisturbed) -> None:
    life = Life("fixmatch", log)
    assert life.wait() == 0, life.errors.read_text()
    assert_same_run(log, undisturbed)


def test_the_campaign_in_short(capsys):
    """Three methods, killed once: one with little state, one with a queue, one in rounds.

    `python tests/long/faults.py` kills all of them, and more often.
    """
    assert faults.main(["--kills", "1", "--methods", "fixmatch", "self_tuning", "noisy_student"]) == 0
    assert "survived 3 of 3 kills" in capsys.readouterr().out


def test_the_campaign_notices_a_difference(capsys, monkeypatch):
    """Here every process begins with other weights."""
    original = seeding.seed_all
    monkeypatch.setattr(seeding, "seed_all", lambda seed, stream: original(os.getpid(), stream))
    assert faults.main(["--kills", "1", "--methods", "erm"]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_group(undisturbed, tmp_path, signum):
    """As a scheduler, Ctrl-C or a closed terminal sends it; the loaders' processes leave it to the main one."""
    log = tmp_path / "run"
    life = Life("fixmatch", log, "-j", "2")
    assert life.wait_until(lambda: life.moment == "training" and (log / "views.png").exists())
    os.killpg(life.pid, signum)
    time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.kill(life.pid, signum)  # what started it passes on its own
    assert life.wait() == 128 + signum
    name = signal.Signals(signum).name
    step = final_state(log)["step"] if (log / "checkpoints" / "latest.pth").exists() else 0
    after = f"after step {step}, and saved: the same command continues"
    said = after if step else "before the first step: the same command begins again"
    assert life.errors.read_text() == f"stopped by {name} {said}\n"
    assert life.group_is_gone()
    resumes(log, undisturbed)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_loaders_processes_alone_does_nothing(undisturbed, tmp_path, signum):
    log = tmp_path / "run"
    life = Life("fixmatch", log, "-j", "2")
    assert life.wait_until(lambda: life.moment == "evaluating")  # all of them have begun
    workers = Path(f"/proc/{life.pid}/task/{life.pid}/children").read_text().split()
    assert len(workers) >= 4  # two each for labeled and unlabeled images
    for _ in range(2):
        for worker in workers:
            os.kill(int(worker), signum)
        time.sleep(0.05)
    assert life.wait() == 0, life.errors.read_text()
    assert_same_run(log, undisturbed)


@pytest.fixture
def stuck(tmp_path, monkeypatch):
    """A run whose first step takes a minute."""
    import fixmatch

    monkeypatch.setattr(fixmatch, "train_step", lambda *args: time.sleep(60))
    life = Life("fixmatch", tmp_path / "run", "-j", "2")
    assert life.wait_until(lambda: life.moment == "training" and (tmp_path / "run" / "views.png").exists())
    time.sleep(1)  # until it is in that step
    yield life
    with contextlib.suppress(ProcessLookupError):
        os.killpg(life.pid, signal.SIGKILL)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(stuck, second):
    os.kill(stuck.pid, signal.SIGTERM)
    time.sleep(0.2)
    os.kill(stuck.pid, second)  # the same one, by another way
    time.sleep(1.0)
    assert not stuck.ended()
    os.kill(stuck.pid, second)
    assert stuck.wait() == -second
    assert stuck.group_is_gone()


def test_loader_processes_leave_with_a_killed_parent(stuck):
    assert not stuck.group_is_gone(seconds=0.5)
    assert stuck.kill()
    assert stuck.group_is_gone()


def test_a_parent_killed_before_its_loaders_processes_have_begun(tmp_path, monkeypatch):
    begin = workers.begin

    def late(worker):
        (tmp_path / "forked").touch()
        while os.getppid() == multiprocessing.parent_process().pid:
            time.sleep(0.01)
        begin(worker)

    monkeypatch.setattr(loaders, "begin", late)
    life = Life("fixmatch", tmp_path / "run", "-j", "1")
    assert life.wait_until((tmp_path / "forked").exists)
    assert life.kill()
    assert life.group_is_gone()


def test_an_unforeseen_error_keeps_its_traceback_and_leaves_no_process(tmp_path, monkeypatch):
    import fixmatch

    def fail(*args):
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(fixmatch, "train_step", fail)
    life = Life("fixmatch", tmp_path / "run", "-j", "2")
    assert life.wait() == 1
    assert "Traceback" in life.errors.read_text()
    assert life.group_is_gone()


@pytest.mark.parametrize("evaluation", [1, 2])
def test_a_full_disk(undisturbed, tmp_path, monkeypatch, evaluation):
    """Files of more than 100 kB, as the checkpoints are, cannot be written from an evaluation on."""
    original, log, calls = evaluate.evaluate, tmp_path / "run", []

    def fill_disk(*args):
        calls.append(1)
        if len(calls) == evaluation:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate", fill_disk)
        life = Life("fixmatch", log)
        assert life.wait() == 2
    message = life.errors.read_text()
    assert message.startswith(f"error: cannot save '{log}/checkpoints/")
    assert message.endswith("(File too large): free some space, and run the same command again\n")
    assert message.count("\n") == 1
    assert not list(log.rglob("*.tmp"))
    if evaluation == 2:
        assert final_state(log)["step"] == 3
    resumes(log, undisturbed)


def test_a_log_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").symlink_to("/dev/full")
    monkeypatch.setattr("common.system.log.refuse_special", lambda path: None)  # which does not take it for a log
    life = Life("fixmatch", tmp_path / "run")
    assert life.wait() == 2
    assert life.errors.read_text() == (
        f"error: cannot write '{tmp_path}/run/log.txt' (No space left on device): free some space and run again\n"
    )


def test_two_processes_in_one_folder(undisturbed, tmp_path):
    log = tmp_path / "run"
    first = Life("fixmatch", log)
    assert first.wait_until((log / "args.json").exists)
    second = Life("fixmatch", log)
    assert second.wait() == 2
    assert second.errors.read_text().startswith(f"error: another process is using '{log}': ")
    assert first.wait() == 0
    assert_same_run(log, undisturbed)
