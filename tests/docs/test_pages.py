"""README and docs: links lead somewhere, every command is taken by its program, the first page stays short.

The shell blocks of the pages are run by bash, with functions in the place of all programs: they note how they were
called. What Python would have been started with is parsed, and the shell files print their commands.
"""

import functools
import importlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from common.errors import UserError
from tests.conftest import ROOT
from tests.helpers.shell import dry_run

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"bash", "text", "python"}  # every block names one: else a command might go unseen
NAMED = {"mine": "fixmatch"}  # a script that the reader makes -> the one that he copies
INSTALLING = ("quickstart", "test")  # they would make an environment
VARIABLES = (
    "CDPATH",
    "DATA",
    "DRY_RUN",
    "JOBS",
    "LOGS",
    "METHODS",
    "NPROC",
    "ROWS",
    "SEEDS",
    "STEPS",
    "WEIGHTS",
    "JPEG",
)
PROGRAMS = "python bash torchrun srun sbatch parallel xargs tar cp diff pip pre-commit".split()
STAND_INS = f"""
set -eu
note() {{
    for name in {" ".join(VARIABLES)}; do
        if [ -n "${{!name:-}}" ]; then printf '%s=%s\\0' "$name" "${{!name}}"; fi
    done
    printf '%s\\0' "$@"
    printf '\\n'
}} >&3
{"".join(f"{name}() {{ note {name} {chr(34)}$@{chr(34)}; }}{chr(10)}" for name in PROGRAMS)}
scontrol() {{ echo first; }}
HOST=first
"""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Of the fenced blocks, the language and the text."""
    return re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(), re.M | re.S)


def prose(page: Path) -> str:
    """The page without its blocks."""
    return re.sub(r"^ *```\w*\n.*?^ *```$", "", page.read_text(), flags=re.M | re.S)


@functools.cache
def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    for link in links:
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.resolve()), link


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[^)#\s]+)", README.read_text()))
    files = {f"docs/{path.name}" for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".bib")}
    assert files - linked == set()


def test_files_that_are_named_exist():
    """Also after they were renamed: `common/x.py`, and in CONTRIBUTING's table `common/`: `x.py`, `y.py`."""
    for page in PAGES:
        text = page.read_text()
        named = re.findall(r"`((?:common|scripts|tests|docs)/[\w/.]*\w)`", text)
        for folder, files in re.findall(r"`(\w+/[\w/]*)`: ((?:`\w+\.py`(?:, )?)+)", text):
            named += [folder + name for name in re.findall(r"`(.*?)`", files)]
        missing = [name for name in named if not (ROOT / name).exists()]
        assert not missing, f"{page.name} names {missing}"


def test_the_readme_is_short():
    """180 lines of at most 1,900 words; `wc README.md` counts the same. What is longer goes into docs/."""
    text = README.read_text()
    assert len(text.splitlines()) <= 180
    assert len(text.split()) <= 1900


def test_the_rows_of_every_table_have_as_many_cells_as_its_head():
    for page in PAGES:
        for table in re.findall(r"(?:^\|.*\n)+", prose(page), re.M):
            cells = {line.replace("\\|", "").count("|") for line in table.splitlines()}
            assert len(cells) == 1, f"{page.name}: {table[:80]}"


# Commands


class Call(NamedTuple):
    """How a program was called: the variables that were set, and the words."""

    variables: dict[str, str]
    words: list[str]


def called(text: str, folder: Path) -> list[Call]:
    """Run a shell block with stand-ins for the programs."""
    notes = folder / "notes"
    command = ["bash", "-c", f"exec 3>{shlex.quote(str(notes))}\n{STAND_INS}\n{text}"]
    clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), text
    calls = []
    for line in notes.read_text().split("\0\n"):
        words = line.split("\0")
        number = next((i for i, word in enumerate(words) if "=" not in word), 0)
        if words != [""]:
            calls.append(Call(dict(word.split("=", 1) for word in words[:number]), words[number:]))
    return calls


def inline_commands(page: Path) -> list[str]:
    """Commands within the text, but for those that say how a program is used: `bash FILE [OPTION ...]`."""
    spans = re.findall(r"`([^`\n]+)`", prose(page))
    start = re.compile(r"(\w+=\S+ )*(python|bash|tar|torchrun|cp) \S*[/.\w]")
    return [span for span in spans if start.match(span) and not re.search(r"\[|\.\.\.|\bFILE\b|\bRUN\b", span)]


def check(call: Call) -> None:
    """Whether the program takes its arguments."""
    program, *words = call.words
    if program == "python":
        check_python(words)
    elif program == "bash":
        check_shell_file(words, tuple(sorted(call.variables.items())))
    elif program in ("torchrun", "srun"):
        assert "torchrun" in call.words
        assert "--" in words, "torchrun takes --log for an ambiguous flag of its own"
        check_python(words[words.index("--") + 1 :])
    elif program == "tar":
        assert (ROOT / words[1]).exists()
    elif program == "cp":
        assert (ROOT / words[0]).exists()
    else:
        assert program in PROGRAMS


def check_python(words: list[str]) -> None:
    script, *argv = words
    if script == "-m" and argv[0] == "pytest":
        assert all((ROOT / word).exists() for word in argv[1:] if word.startswith("tests/"))
        return
    if script.startswith("tests/long/"):
        text = (ROOT / script).read_text()
        assert all(f'"{word}"' in text for word in argv if word.startswith("--"))
        return
    name = f"{argv.pop(0)}.__main__" if script == "-m" else script.removesuffix(".py").replace("/", ".")
    module = importlib.import_module(NAMED.get(name, name))
    if argv and argv[0].startswith("--help"):
        with pytest.raises(SystemExit):
            module.parse_args(argv)
    else:
        module.parse_args(argv)


@functools.cache
def _printed(name: str, words: tuple[str, ...], variables: tuple[tuple[str, str], ...]) -> list[list[str]]:
    return dry_run(
        name, shlex.join(words), **{key: value for key, value in variables if key != "DRY_RUN"} | {"NPROC": "1"}
    )


def check_shell_file(words: list[str], variables: tuple[tuple[str, str], ...]) -> None:
    """It prints commands; the first and the last of them are taken."""
    file, *arguments = words
    assert (ROOT / file).exists()
    name = Path(file).stem
    if name in INSTALLING:
        assert all((ROOT / word).exists() for word in arguments if word.startswith("tests/"))
        return
    commands = _printed(name, tuple(arguments), variables)
    assert commands
    for python, *rest in (commands[0], commands[-1]):
        assert python == "python"
        check_python(rest)


def test_every_block_names_its_language():
    assert {language for page in PAGES for language, _ in blocks(page)} <= LANGUAGES


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_taken(page, tmp_path):
    texts = [text for language, text in blocks(page) if language == "bash"] + inline_commands(page)
    calls = [call for text in texts for call in called(text, tmp_path)]
    for call in {re.sub(r"\d[\d.]*", "0", str(call)): call for call in calls}.values():  # of a loop, one round
        check(call)


def test_a_command_that_is_not_taken_is_found(tmp_path):
    """Of what is written here: an unknown flag, a missing file, a program that is none, a forgotten `--`."""
    for text in (
        "python fixmatch.py data -d Digits --no-such-flag",
        "bash scripts/no_such_file.sh",
        "SEEDS=0 bash scripts/fashion.sh no_such_method",
        "torchrun --nproc-per-node 2 fixmatch.py data -d Digits",
        "python -m common.datasets data --check NoSuchDataset",
    ):
        (call,) = called(text, tmp_path)
        with pytest.raises((AssertionError, UserError)):
            check(call)
    with pytest.raises(AssertionError):
        called("no_such_program --flag", tmp_path)


def test_torchruns_own_flags_end_before_the_script():
    """In code and shell files, too. Otherwise it takes `--log` for an ambiguous one of its own."""
    files = [*PAGES, *ROOT.glob("*.py"), *ROOT.glob("common/*.py"), *ROOT.glob("scripts/*.sh")]
    lines = [line for file in files for line in file.read_text().replace("\\\n", " ").splitlines()]
    printed = [line for line in lines if re.search(r"torchrun\b.*\b\w+\.py\b", line)]
    assert len(printed) >= 3
    assert all(re.search(r"torchrun\b.* -- \w+\.py\b", line) for line in printed), printed
