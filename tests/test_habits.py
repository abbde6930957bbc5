"""What helps people carry on: the same checks everywhere, and a guide whose paths exist."""

import re

from tests.conftest import ROOT


def test_the_same_ruff_checks_before_a_commit_and_in_the_tests():
    pinned = re.search(r"^ruff==(\S+)$", (ROOT / "tests" / "requirements.txt").read_text(), re.M)[1]
    assert f"rev: v{pinned}\n" in (ROOT / ".pre-commit-config.yaml").read_text()


def test_the_workflow_runs_what_ci_runs():
    assert "- run: bash .ci/run\n" in (ROOT / ".github" / "workflows" / "test.yml").read_text()


def test_the_guide_names_what_exists():
    named = re.findall(r"`((?:common|tests|scripts|docs)/[\w./]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 8
    assert not [path for path in named if not (ROOT / path).exists()]
