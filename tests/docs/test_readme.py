"""What README and docs point to exists, and the commands that they print are taken."""

import importlib
import re
import shlex

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    anchors = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for link in links:
        file, _, anchor = link.partition("#")
        assert (page.parent / file).exists() if file else anchor in anchors, link


def commands() -> list[str]:
    """The lines `python SCRIPT.py ...` of the fenced blocks, for the scripts at the top level."""
    blocks = [block for page in PAGES for block in re.findall(r"^```\n(.*?)^```$", page.read_text(), re.M | re.S)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if re.match(r"python \w+\.py ", line)]


def test_commands_are_taken():
    printed = commands()
    assert printed
    for line in printed:
        _, script, *argv = shlex.split(line, comments=True)
        importlib.import_module(script.removesuffix(".py")).parse_args(argv)


def test_torchruns_own_flags_end_before_the_script():
    """Otherwise it takes `--log` for an ambiguous one of its own."""
    files = [*PAGES, *ROOT.glob("*.py"), *ROOT.glob("common/*.py"), *ROOT.glob("scripts/*.sh")]
    lines = [line for file in files for line in file.read_text().replace("\\\n", " ").splitlines()]
    printed = [line for line in lines if re.search(r"torchrun\b.*\b\w+\.py\b", line)]
    assert len(printed) >= 3
    assert all(re.search(r"torchrun\b.* -- \w+\.py\b", line) for line in printed), printed
