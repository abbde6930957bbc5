"""Programs that import matplotlib need no screen, and start from a notebook, too."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["collect_results", "example_images"])
def test_the_backend_of_a_notebook_need_not_be_installed(name):
    """`!python scripts/...` in a notebook. matplotlib looks at the variable once, when it is imported."""
    environment = os.environ | {"MPLBACKEND": "module://no_such_package.backend"}
    command = [sys.executable, f"scripts/{name}.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_other_program_imports_matplotlib():
    paths = [*ROOT.glob("*.py"), *(ROOT / "common").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    importing = {str(path.relative_to(ROOT)) for path in paths if "import matplotlib" in path.read_text()}
    assert importing == {"scripts/results/plots.py", "scripts/example_images.py"}
