"""The quickstart, shortened: two steps for each of its three runs, in the environment that runs the tests."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SHORT = ["--epochs", "1", "--iters-per-epoch", "2", "--batch-size", "8", "--bottleneck-dim", "16"]


@pytest.fixture
def copy(tmp_path):
    """The project in a folder with a space, with a virtual environment that is installed already."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "data", "logs", "checkpoints", "tests")
    folder = shutil.copytree(ROOT, tmp_path / "a copy", ignore=ignored)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").write_text('export PATH="$PWD/.venv/bin:$PATH"\n')
    (binaries / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (binaries / "python").chmod(0o755)
    shutil.copy(folder / "requirements.txt", folder / ".venv" / "requirements.txt.installed")
    return folder


def test_an_environment_that_was_not_made_to_the_end_is_made_again_and_then_used(copy, tmp_path):
    """Also where PYTHON names another Python: it makes the environment, and runs nothing else."""
    (copy / ".venv" / "bin" / "activate").rename(tmp_path / "activate")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] || {{ echo "$@" >>{tmp_path}/calls; cp {tmp_path}/activate .venv/bin; }}'
    )
    python.chmod(0o755)
    script = f'. "{copy}/scripts/setup.sh"; echo "$PYTHON"'
    environment = os.environ | {"PYTHON": str(python)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert (tmp_path / "calls").read_text() == "-m venv .venv\n"
    assert done.stdout == "python\n"


def quickstart(folder, **variables: str) -> str:
    command = ["bash", str(folder / "scripts" / "quickstart.sh"), *SHORT]
    environment = {key: value for key, value in os.environ.items() if key not in ("METHODS", "SEEDS", "LOGS", "PYTHON")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable} | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_it_trains_shows_a_table_and_finds_its_work_again(copy):
    first = quickstart(copy)
    assert first.count("epoch 1/1 tested") == 3
    for method in ("erm", "fixmatch", "oracle"):
        assert any(line.startswith("Digits ") and f" {method} " in line for line in first.splitlines())
        assert (copy / "logs" / "digits" / f"{method}_seed0" / "result.json").is_file()
    assert (copy / "logs" / "digits" / "accuracy.png").stat().st_size > 10_000
    second = quickstart(copy, METHODS="fixmatch")  # one stands for all: each is a process, which imports PyTorch
    assert "tested" not in second
    assert second.count("finished: top-1") == 1
    assert second.splitlines()[-5:] == first.splitlines()[-5:]
