"""A console that cannot be written to: programs end quietly or with a line, and trainings go on."""

import contextlib
import os
import sys

import pytest

from common import cli
from common.datasets import __main__ as datasets_program
from common.errors import UserError
from tests.conftest import read_rows


def unread():
    """A pipe whose reader has gone, as `head -1` does."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def full():
    return open("/dev/full", "w")


CODES = {unread: (141, ""), full: (2, "error: cannot write to the standard output (No space left on device): ")}
pytestmark = pytest.mark.parametrize("stream", CODES, ids=lambda stream: stream.__name__)


@pytest.fixture
def broken(stream, monkeypatch, capsys):
    """Call it in the test: pytest sets the streams anew before that."""
    made = []

    def replace(name: str = "stdout") -> None:
        made.append(stream())
        monkeypatch.setattr(sys, name, made[-1])

    yield replace
    for each in made:
        with contextlib.suppress(OSError):
            each.close()


def end_of(main, parse_args=lambda: None) -> int:
    with pytest.raises(SystemExit) as end:
        cli.launch(parse_args, main)
    return end.value.code


@pytest.mark.parametrize("number", [1, 10_000], ids=["at the end", "in the middle"])
def test_a_program_that_prints(stream, broken, capsys, number):
    broken()
    code, line = CODES[stream]
    assert end_of(lambda args: [print("a line of text") for _ in range(number)]) == code
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == bool(line)
    sys.stdout.flush()  # as Python does at its end


def test_the_list_of_datasets(stream, broken):
    broken()
    assert end_of(datasets_program.main, lambda: datasets_program.parse_args([])) == CODES[stream][0]


def test_help_on_a_closed_output(stream, broken):
    broken()
    assert end_of(lambda args: None, lambda: datasets_program.parse_args(["--help"])) == CODES[stream][0]


def test_what_is_wrong_is_said_all_the_same(broken, capsys):
    broken()

    def bad(args):
        print("a line")
        raise UserError("this is wrong")

    assert end_of(bad) == 2
    assert capsys.readouterr().err == "error: this is wrong\n"
    sys.stdout.flush()


def test_other_errors_are_not_about_the_console(stream, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", (tmp_path / "printed").open("w"))

    def unforeseen(args):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        cli.launch(lambda: None, unforeseen)


@pytest.mark.parametrize("names", [["stdout"], ["stdout", "stderr"]], ids="+".join)
def test_a_training_goes_on_and_so_does_its_log_file(broken, small_run, tmp_path, capsys, names):
    for name in names:
        broken(name)
    small_run("erm")
    sys.stdout.flush()  # as Python does at its end
    assert len(read_rows(tmp_path / "run")) == 2
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert lines[0].startswith("Digits: ")
    assert lines[-1].startswith("finished: ")
    printed = capsys.readouterr().err
    assert printed.count("\n") == ("stderr" not in names)
    if printed:
        assert printed.startswith("the console cannot be written to (")
        assert printed.endswith(f"): the log goes on in '{tmp_path}/run/log.txt'\n")
