"""The README's steps for a new method, taken as they are written, on a copy of the project."""

import difflib
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.fixture
def copy(tmp_path):
    """The project without what runs leave behind."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "data", "logs", "checkpoints")
    return shutil.copytree(ROOT, tmp_path / "copy", ignore=ignored)


def replace(path, *pairs: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in pairs:
        assert old in text, f"{path.name} has no {old}"
        text = text.replace(old, new)
    path.write_text(text)


def changed_lines(old, new) -> int:
    """Lines that were taken out and lines that were put in."""
    lines = difflib.ndiff(old.read_text().splitlines(), new.read_text().splitlines())
    return sum(line[:2] in ("- ", "+ ") for line in lines)


def edit(copy) -> None:
    """The four steps, once the two files are copied."""
    # 1. The script: FixMatch whose mask is soft.
    replace(
        copy / "mine.py",
        ('cli.parser("fixmatch",', 'cli.parser("mine",'),
        ('Run("fixmatch",', 'Run("mine",'),
        ("scripts/fixmatch.sh. Diff against: erm.py", "scripts/mine.sh. Diff against: fixmatch.py"),
        ("mask = confidence(x_u_weak) > threshold", "mask = sigmoid(20 * (confidence(x_u_weak) - threshold))"),
        ("    mask = (confidence > threshold).float()", "    mask = F.sigmoid(20 * (confidence - threshold))"),
    )
    # 2. The shell file.
    replace(
        copy / "scripts" / "mine.sh",
        ("cells fixmatch", "cells mine"),
        ("bash scripts/fixmatch.sh", "bash scripts/mine.sh"),
        ("FixMatch's row", "my own row"),
        ("DTD               0.001  0.95", "DTD               0.003  0.8"),
    )
    # 3. The test, and 4. the README.
    replace(copy / "tests" / "test_methods.py", ("METHODS = {\n", 'METHODS = {\n    "mine": "--threshold 0.2",\n'))
    row = "| [mine.py](mine.py), [.sh](scripts/mine.sh) | FixMatch with a soft mask | |\n"
    replace(copy / "README.md", ("| [self_tuning.py]", f"{row}| [self_tuning.py]"))


def test_the_readmes_four_steps_take_less_than_40_changed_lines(copy):
    section = (ROOT / "README.md").read_text().split("## Adding a method\n")[1].split("\n## ")[0]
    copies = re.findall(r"`cp (\S+) (\S+)`", section)
    assert copies == [("fixmatch.py", "mine.py"), ("scripts/fixmatch.sh", "scripts/mine.sh")]
    for old, new in copies:
        shutil.copy(copy / old, copy / new)
    edit(copy)

    edited = [("tests/methods/test_methods.py", "tests/methods/test_methods.py"), ("README.md", "README.md")]
    assert all(changed_lines(ROOT / old, copy / new) == 1 for old, new in edited)
    changed = sum(changed_lines(ROOT / old, copy / new) for old, new in copies + edited)
    assert changed < 40
    new_files = {path.relative_to(copy) for path in copy.rglob("*.*")} - {
        p.relative_to(ROOT) for p in ROOT.rglob("*.*")
    }
    assert {str(path) for path in new_files} == {"mine.py", "scripts/mine.sh"}

    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command += ["tests/methods/test_methods.py", "-k", "mine or every or readme"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout
