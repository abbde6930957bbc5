"""--tensorboard writes the scalars of metrics.jsonl, or says in one line what it needs."""

import errno
import os
import sys

import pytest

from common.errors import UserError
from common.records import tensorboard
from tests.conftest import read_rows


def read_events(log) -> dict[str, list[tuple[int, float]]]:
    """name -> (step, value) of each event."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (file,) = (log / "tensorboard").iterdir()
    events = accumulator.EventAccumulator(str(file)).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def expected(log) -> dict[str, list[tuple[int, float]]]:
    scalars = {}
    for row in read_rows(log):
        for name, value in row.items():
            if name not in {"epoch", "step"} and value is not None:
                scalars.setdefault(name, []).append((row["step"], pytest.approx(value)))
    return scalars


def test_the_scalars_are_those_of_metrics_jsonl(small_run, tmp_path):
    """Also with an epoch whose pseudo-label accuracy is None: no image was selected."""
    pytest.importorskip("tensorboard")
    small_run("fixmatch", "--tensorboard", "--threshold", "1")
    rows = read_rows(tmp_path / "run")
    assert rows[0]["pseudo_label_accuracy"] is None
    events = read_events(tmp_path / "run")
    assert {"loss", "pseudo_label_ratio", "top1"} <= events.keys()
    assert events == expected(tmp_path / "run")


def test_events_beyond_the_checkpoint_are_cut_off_and_earlier_epochs_are_written(small_run, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    import erm

    def stop(*args):
        raise KeyboardInterrupt

    original, calls = erm.train_step, []
    monkeypatch.setattr(erm, "train_step", lambda *a: calls.append(1) or (stop if len(calls) == 5 else original)(*a))
    with pytest.raises(KeyboardInterrupt):
        small_run("erm")
    assert not (tmp_path / "run" / "tensorboard").exists()
    small_run("erm", "--tensorboard")
    assert [step for step, _ in read_events(tmp_path / "run")["loss"]] == [3, 6]
    assert read_events(tmp_path / "run") == expected(tmp_path / "run")
    small_run("erm", "--overwrite", "--epochs", "1")
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_without_the_package_it_is_one_line(small_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match="--tensorboard needs a package: pip install tensorboard") as error:
        small_run("erm", "--tensorboard")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "args.json").exists()


def test_a_full_disk_is_one_line(tmp_path):
    class Full:
        def __init__(self, folder):
            pass

        def add_scalar(self, *scalar):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    events = object.__new__(tensorboard.Events)
    events.folder, events.open_writer, events.written, events.writer = tmp_path, Full, 0, None
    with pytest.raises(UserError, match=r"cannot write to '.*' \(No space left on device\): free some space"):
        events.write([{"epoch": 1, "step": 3, "top1": 50.0}])
