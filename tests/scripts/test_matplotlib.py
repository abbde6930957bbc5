"""Programs that import matplotlib need no screen, and start from a notebook, too."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.conftest import ROOT


@pytest.mark.skipif(find_spec("matplotlib_inline") is not None, reason="the notebook's backend is installed here")
@pytest.mark.parametrize("name", ["collect_results", "example_images"])
def test_the_backend_of_a_notebook_need_not_be_installed(name):
    """`!python scripts/...` in a notebook. matplotlib refuses this name when it is imported, others only later."""
    environment = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    command = [sys.executable, f"scripts/{name}.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_other_program_imports_matplotlib():
    """scripts/results sets the backend before any of its modules is imported."""
    paths = [*ROOT.glob("*.py"), *(ROOT / "common").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    importing = {path for path in paths if re.search(r"^\s*(import|from) matplotlib", path.read_text(), re.MULTILINE)}
    others = {str(path.relative_to(ROOT)) for path in importing if path.parent != ROOT / "scripts" / "results"}
    assert others == {"scripts/example_images.py"}
