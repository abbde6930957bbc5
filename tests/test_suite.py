"""The tests themselves: what a killed suite leaves behind, another order, and the programs in tests/long."""

import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import conftest
from tests.conftest import ROOT

PYTEST = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
HANGING = """
import os, subprocess, sys, time
from pathlib import Path
from tests.helpers import leftovers
from tests.helpers.several import Several

HERE = Path(__file__).parent
# Under a shell, in a session of its own, and with children of its own, which know nothing of the tests.
TORCHRUN = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2 --no-python --"
WORK = 'echo $$ >"worker $RANK.pid"; trap "" TERM; sleep 600; sleep 600'  # a file: torchrun replaces a word's $$

def note(name):
    (HERE / f"{name}.pid").write_text(str(os.getpid()))
    time.sleep(600)

def test_that_hangs():
    several = Several(2, lambda: note(f"fork {os.environ['RANK']}"))
    if leftovers.fork() == 0:
        note("fork")
    (HERE / "work.sh").write_text(WORK)
    shell = ["bash", "-c", f"echo $$ >shell.pid; {TORCHRUN} bash work.sh; exit 1"]
    subprocess.run(shell, cwd=HERE, start_new_session=True)
"""
NAMES = {"shell", "worker 0", "worker 1", "fork", "fork 0", "fork 1"}


def runs(pid: int) -> bool:
    """Whether the process is there, and not only its exit code, which nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(sys.platform != "linux", reason="the guard of the tests looks into /proc")
def test_a_killed_suite_leaves_no_process(tmp_path):
    (tmp_path / "test_that_hangs.py").write_text(HANGING)
    found = {}

    def all_have_begun() -> bool:
        found.update({path.stem: path.read_text() for path in tmp_path.glob("*.pid")})
        return found.keys() == NAMES and all(found.values())

    with subprocess.Popen([*PYTEST, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as suite:
        begun = wait_for(all_have_begun, 120)
        suite.kill()
    assert begun, found
    pids = {name: int(text) for name, text in found.items()}
    assert wait_for(lambda: not any(map(runs, pids.values())), 20), [name for name in pids if runs(pids[name])]


def test_another_order_keeps_files_together():
    def shuffled(seed: str | None) -> list[str]:
        items = [SimpleNamespace(nodeid=f"tests/test_{name}.py::test_{i}") for name in "abc" for i in range(5)]
        conftest.pytest_collection_modifyitems(SimpleNamespace(getoption=lambda name: seed), items)
        return [item.nodeid for item in items]

    assert shuffled(None) == sorted(shuffled("1"))
    assert shuffled("1") == shuffled("1") != shuffled("2")
    files = [name.partition("::")[0] for name in shuffled("1")]
    assert files == sorted(files, key=files.index)


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "long").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_a_long_program_finds_the_project_and_starts(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [str(path.parent), *(folder for folder in sys.path if "site-packages" in folder)])
    program = runpy.run_path(str(path))
    assert sys.path[0] == str(ROOT)
    with pytest.raises(SystemExit, match="0"):
        program["main"](["--help"])
    assert f"python {path.relative_to(ROOT)}" in capsys.readouterr().out
