"""Files made to run code, or to write where they should not: none does, at any entrance.

`python -m pytest tests/run/test_hostile_files.py` counts them.
"""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import convert_moco_to_pretrained as converter
from common import datasets
from common.datasets.download import File, fetch
from common.errors import UserError
from scripts import collect_results
from tests.conftest import SMALL, needs_tar_filter, train_small
from tests.datasets.test_download import tar, zipped
from tests.helpers import datasets_on_disk

# Pickles


class RunsCode:
    """Unpickled, it makes the folder `path`."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def legacy(content: object, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def weights() -> dict:
    return timm.create_model("wrn_10_1_half", num_classes=0).state_dict()


def torch_script(evil: RunsCode, file: Path) -> None:
    """A zip that looks like a TorchScript archive, which torch.load would hand over to another loader."""
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("data.pkl", "constants.pkl"):
            archive.writestr(f"archive/{name}", pickle.dumps(evil, protocol=2))
        archive.writestr("archive/version", "3")


PICKLES: dict[str, Callable[[RunsCode, Path], object]] = {
    "a pickle": lambda evil, file: file.write_bytes(pickle.dumps(evil, protocol=2)),
    "a pickle of protocol 4": lambda evil, file: file.write_bytes(pickle.dumps(evil, protocol=4)),
    "torch.save": torch.save,
    "torch.save as it was": legacy,
    "beside the tensors": lambda evil, file: torch.save({"state_dict": weights(), "epoch": evil}, file),
    "in place of a tensor": lambda evil, file: torch.save({"state_dict": weights() | {"conv1.weight": evil}}, file),
    "in place of a tensor, as it was": lambda evil, file: legacy(weights() | {"conv1.weight": evil}, file),
    "in MoCo's form": lambda evil, file: torch.save({"state_dict": {"module.encoder_q.conv1.weight": evil}}, file),
    "in DINO's form": lambda evil, file: torch.save({"teacher": {}, "args": evil}, file),
    "as a key": lambda evil, file: torch.save({evil: 1}, file),
    "in an array of objects": lambda evil, file: torch.save({"model": np.array([evil], dtype=object)}, file),
    "a TorchScript archive": torch_script,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    train_small("erm", log=folder)
    return folder


def as_backbone(file: Path, finished: Path) -> None:
    run_erm("--pretrained-backbone", str(file), "--log", str(file.parent / "new"))


def as_safetensors(file: Path, finished: Path) -> None:
    as_backbone(file.rename(file.with_suffix(".safetensors")), finished)


def as_converters_input(file: Path, finished: Path) -> None:
    converter.main(converter.parse_args([str(file), str(file.parent / "a.pth"), str(file.parent / "b.pth")]))


def as_latest(file: Path, finished: Path) -> None:
    run = shutil.copytree(finished, file.parent / "run")
    (run / "result.json").unlink()
    file.rename(run / "checkpoints" / "latest.pth")
    run_erm("--log", str(run))


def as_best(file: Path, finished: Path) -> None:
    run = shutil.copytree(finished, file.parent / "run")
    file.rename(run / "checkpoints" / "best.pth")
    run_erm("--log", str(run), "--phase", "test")


def run_erm(*flags: str) -> None:
    import erm

    argv = [flag for flag in SMALL if flag != "--scratch" or "--pretrained-backbone" not in flags]
    erm.main(erm.parse_args([*argv, *flags]))


@pytest.mark.parametrize("enter", [as_backbone, as_safetensors, as_converters_input, as_latest, as_best])
@pytest.mark.parametrize("kind", PICKLES)
def test_no_pickle_runs_its_code(tmp_path, finished, kind, enter):
    executed = tmp_path / "executed"
    PICKLES[kind](RunsCode(executed), tmp_path / "evil.pth")
    with pytest.raises(UserError) as error:
        enter(tmp_path / "evil.pth", finished)
    assert not executed.exists()
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)  # no advice to load it unsafely
    assert not (tmp_path / "a.pth").exists()


def test_these_files_are_dangerous(tmp_path):
    """Were they loaded as others load theirs."""
    for number, kind in enumerate(kind for kind in PICKLES if "TorchScript" not in kind):
        executed = tmp_path / f"executed {number}"
        PICKLES[kind](RunsCode(executed), tmp_path / "evil.pth")
        with contextlib.suppress(RuntimeError, TypeError):  # the code was run before
            torch.load(tmp_path / "evil.pth", weights_only=False)
        assert executed.is_dir(), kind


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("CIFAR10", "cifar-10-batches-py/data_batch_1"),
        ("CIFAR10", "cifar-10-batches-py/batches.meta"),
        ("CIFAR100", "cifar-100-python/train"),
        ("CIFAR100", "cifar-100-python/meta"),
    ],
)
def test_the_pickles_of_a_dataset_are_verified_before_they_are_read(tmp_path, monkeypatch, name, file):
    root = tmp_path / "data"
    datasets_on_disk.WRITERS[name](root)
    datasets_on_disk.accept_checksums(monkeypatch, name, root)
    (root / file).write_bytes(pickle.dumps(RunsCode(tmp_path / "executed")))
    with pytest.raises(UserError, match="damaged"):
        datasets.load(name, root, any_counts=True)
    assert not (tmp_path / "executed").exists()


# Names in files


@pytest.mark.parametrize("method", ["{folder}/evil", "../{folder}/evil", "setup", "test", "os"])
def test_no_result_names_a_program_to_run(tmp_path, monkeypatch, capsys, method):
    """The collector asks a method's shell file for the published settings."""
    started = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: started.append(command))
    result = dict.fromkeys(("num_samples_per_class", "seed", "split_seed", "epochs", "iters_per_epoch"), 4)
    result |= dict.fromkeys(("last_top1", "best_top1", "seconds"), 1.0) | {"oracle": False}
    result |= {"method": method.format(folder=tmp_path), "dataset": "CIFAR10", "pretraining": "supervised"}
    (tmp_path / "result.json").write_text(json.dumps(result | {"arch": "resnet50"}))
    (tmp_path / "args.json").write_text(json.dumps({"method": method.format(folder=tmp_path), "args": {"epochs": 4}}))
    (tmp_path / "evil.py").write_text(f"import os; os.mkdir('{tmp_path}/executed')")
    (tmp_path / "evil.sh").write_text(f"mkdir {tmp_path}/executed")
    monkeypatch.setattr(collect_results, "draw", lambda *args: None)  # takes seconds
    collect_results.main(collect_results.parse_args([str(tmp_path)]))
    assert "resnet50, supervised" in capsys.readouterr().out
    assert not started
    assert not (tmp_path / "executed").exists()


# Archives

OUTSIDE = Path("/tmp/evil_of_test_hostile_files")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("set/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


ARCHIVES = {
    "tar: out of the root": ("a.tar.gz", tar([member("../evil")])),
    "tar: down and out": ("a.tar.gz", tar([member("set/../../evil")])),
    "tar: an absolute path": ("a.tar.gz", tar([member(str(OUTSIDE))])),
    "tar: through a link of its own": (
        "a.tar.gz",
        tar([member("set/l", tarfile.SYMTYPE, "../.."), member("set/l/evil")]),
    ),
    "tar: through a link to a link": (
        "a.tar.gz",
        tar([member("a", tarfile.SYMTYPE, "."), member("a/b", tarfile.SYMTYPE, ".."), member("a/b/evil")]),
    ),
    "tar: a link to an absolute path": ("a.tar.gz", tar([member("set/link", tarfile.SYMTYPE, "/etc")])),
    "tar: a hard link to what is outside": ("a.tar.gz", tar([member("set/link", tarfile.LNKTYPE, "../../secret")])),
    "tar: a hard link to an absolute path": ("a.tar.gz", tar([member("set/link", tarfile.LNKTYPE, "/etc/passwd")])),
    "tar: a pipe": ("a.tar.gz", tar([member("set/pipe", tarfile.FIFOTYPE)])),
    "tar: a device": ("a.tar.gz", tar([member("set/device", tarfile.CHRTYPE)])),
    "zip: out of the root": ("a.zip", zipped({"../evil": b"x"})),
    "zip: down and out": ("a.zip", zipped({"set/../../evil": b"x"})),
    "zip: with backslashes": ("a.zip", zipped({"set\\..\\..\\evil": b"x"})),
    "zip: an absolute path": ("a.zip", zipped({str(OUTSIDE): b"x"})),
    "zip: a link": ("a.zip", zipped({zip_link(): b"/etc"})),
}


@needs_tar_filter
@pytest.mark.parametrize("kind", ARCHIVES)
def test_no_archive_leaves_its_folder(tmp_path, kind):
    name, content = ARCHIVES[kind]
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / name).write_bytes(content)  # found there, it is not downloaded
    file = File(f"http://nowhere.invalid/{name}", f"md5:{hashlib.md5(content).hexdigest()}")
    with pytest.raises(UserError, match=r"not safe to unpack: .*; delete it"):
        fetch("Set", root, [file], ["set"])
    assert not (root / "set").exists()
    assert not [path for path in tmp_path.rglob("*evil*") if path.exists()]
    assert not OUTSIDE.exists()
    unpacked = root / ".Set.download" / "unpacked"
    assert all(path.resolve().is_relative_to(unpacked.resolve()) and not path.is_fifo() for path in unpacked.rglob("*"))


@needs_tar_filter
def test_a_link_within_the_archive_is_kept(tmp_path):
    content = tar([member("set/file"), member("set/link", tarfile.SYMTYPE, "file")])
    (tmp_path / "a.tar.gz").write_bytes(content)
    fetch(
        "Set", tmp_path, [File("http://nowhere.invalid/a.tar.gz", f"md5:{hashlib.md5(content).hexdigest()}")], ["set"]
    )
    assert (tmp_path / "set" / "link").read_bytes() == b"x"
