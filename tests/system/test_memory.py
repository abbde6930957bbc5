"""Memory that runs out is one line, wherever it happens, and is blamed on nothing else."""

import errno
from unittest import mock

import numpy as np
import pytest
import torch

import erm
from common import cli
from common.errors import UserError
from common.loading.augment import Normalizer
from common.networks import adapters, backbone_files, backbones
from common.system import checkpoint, memory
from tests.conftest import SMALL

PEBIBYTE = 2**50


def want_of(make) -> BaseException:
    with pytest.raises((RuntimeError, MemoryError, OSError)) as error:
        make()
    return error.value


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.empty(PEBIBYTE, dtype=torch.uint8), "not enough memory for 1,125,899.9 GB"),
        (lambda: torch.empty(2**62, 4), "not enough memory"),
        (lambda: np.empty(PEBIBYTE, dtype=np.uint8), "Unable to allocate 1.00 PiB"),
        (lambda: bytearray(PEBIBYTE), "not enough memory"),
    ],
    ids=["torch", "overflow", "numpy", "python"],
)
def test_every_kind_is_known(make, words):
    assert memory.shortage(want_of(make)).startswith(words)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (RuntimeError("CUDA error: out of memory\nat length"), "not enough memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), None),
        (OSError(errno.ENOSPC, "No space left on device"), None),
        (ValueError("can't allocate memory"), None),
    ],
)
def test_other_errors_are_no_shortage_of_memory(error, words):
    assert memory.shortage(error) == words


def launched(*flags: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.launch(lambda: erm.parse_args([*SMALL, *flags]), erm.main)
    return end.value.code


@pytest.mark.parametrize(
    "flags",
    [
        "--bottleneck-dim 4000000000",
        "--image-size 1000000 --train-resizing cifar --val-resizing cifar",
        "-a test_vit --image-size 400000 --train-resizing cifar --val-resizing cifar",
    ],
)
def test_a_network_or_an_image_that_is_too_large_is_one_line(tmp_path, capsys, flags):
    assert launched(*flags.split(), "--log", str(tmp_path / "run")) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: not enough memory for ")
    assert line.endswith(" GB: take a smaller --batch-size, --image-size or network, or a device with more memory\n")
    assert line.count("\n") == 1


def test_an_error_of_another_kind_stays_what_it_is():
    def wrong(args):
        raise RuntimeError("a fault of the program")

    with pytest.raises(RuntimeError, match="a fault of the program"):
        cli.launch(lambda: None, wrong)


SHORT = want_of(lambda: torch.empty(PEBIBYTE, dtype=torch.uint8))


def test_checkpoints_are_not_called_damaged_or_unfit(tmp_path):
    file = tmp_path / "latest.pth"
    checkpoint.save(file, {"model": {}})
    with mock.patch.object(torch, "load", side_effect=SHORT), pytest.raises(RuntimeError, match="allocate memory"):
        checkpoint.load(file)
    model = mock.Mock(load_state_dict=mock.Mock(side_effect=SHORT))
    with pytest.raises(RuntimeError, match="allocate memory"):
        checkpoint.restore({"model": model}, {"model": {}}, file)


def test_a_backbone_file_may_be_whole(tmp_path):
    torch.save({}, tmp_path / "weights.pth")
    with mock.patch.object(torch, "load", side_effect=SHORT), pytest.raises(UserError, match="is not enough memory"):
        backbone_files.read_checkpoint(tmp_path / "weights.pth")


def test_adapters_are_not_called_useless():
    backbone = backbones.backbone("test_vit", 32, Normalizer((0.5,) * 3, (0.5,) * 3), scratch=True)
    with (
        mock.patch.object(type(backbone), "forward", side_effect=[torch.zeros(2, 64), SHORT]),
        pytest.raises(RuntimeError, match="allocate memory"),
    ):
        adapters.insert(backbone, 32, adapter=4)
