"""CONTRIBUTING's steps for a new method, taken as they are written, on a copy of the project."""

import difflib
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

ROW = "| [mine.py](mine.py) | Mine | FixMatch with a soft mask | | – | – | – |\n"


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
    """The first three steps, once the script is copied."""
    # 1. The script: FixMatch whose mask is soft.
    replace(
        copy / "mine.py",
        ("Shell file: scripts/fixmatch.sh. Diff against: erm.py", "Diff against: fixmatch.py"),
        ("mask = confidence(x_u_weak) > threshold", "mask = sigmoid(20 * (confidence(x_u_weak) - threshold))"),
        ("    mask = (confidence > threshold).float()", "    mask = F.sigmoid(20 * (confidence - threshold))"),
    )
    # 2. The test, and 3. the README.
    replace(
        copy / "tests" / "methods" / "test_methods.py",
        ("METHODS = {\n", 'METHODS = {\n    "mine": "--threshold 0.2",\n'),
    )
    replace(copy / "README.md", ("| [self_tuning.py]", f"{ROW}| [self_tuning.py]"))


def add_shell_file(copy) -> None:
    """The fourth step."""
    replace(
        copy / "scripts" / "mine.sh",
        ("cells fixmatch", "cells mine"),
        ("bash scripts/fixmatch.sh", "bash scripts/mine.sh"),
        ("FixMatch's row", "my own row"),
        ("DTD               0.001  0.95", "DTD               0.003  0.8"),
    )
    replace(copy / "mine.py", ("Diff against: fixmatch.py", "Shell file: scripts/mine.sh. Diff against: fixmatch.py"))
    replace(copy / "README.md", ("[mine.py](mine.py) ", "[mine.py](mine.py), [.sh](scripts/mine.sh) "))


def run_tests(copy, command: list[str]) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            "tests/methods/test_methods.py",
            *command,
        ],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_steps_take_less_than_40_changed_lines(copy):
    """A prototype passes without a shell file; with one, its commands are parsed, too."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Adding a method\n")[1].split("\n## ")[0]
    copies = re.findall(r"`cp (\S+) (\S+)`", section)
    assert copies == [("fixmatch.py", "mine.py"), ("scripts/fixmatch.sh", "scripts/mine.sh")]
    before = {*copy.rglob("*.*")}
    shutil.copy(copy / "fixmatch.py", copy / "mine.py")
    edit(copy)
    assert "4 passed" in run_tests(copy, ["-k", "mine or every or docs_show"])

    shutil.copy(copy / "scripts" / "fixmatch.sh", copy / "scripts" / "mine.sh")
    add_shell_file(copy)
    edited = [("tests/methods/test_methods.py", "tests/methods/test_methods.py"), ("README.md", "README.md")]
    assert all(changed_lines(ROOT / old, copy / new) == 1 for old, new in edited)
    changed = sum(changed_lines(ROOT / old, copy / new) for old, new in copies + edited)
    assert changed < 40
    new_files = {path for path in {*copy.rglob("*.*")} - before if path.suffix != ".pyc"}
    assert {str(path.relative_to(copy)) for path in new_files} == {"mine.py", "scripts/mine.sh"}
    assert "4 passed" in run_tests(copy, ["-k", "(mine or every or docs_show) and not interrupted"])
