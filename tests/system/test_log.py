"""Where log messages go, and how they look there."""

import logging

from common.system import log


def test_warnings_are_marked_on_the_console_and_in_the_file(tmp_path, capsys):
    log.send_to(tmp_path / "log.txt")
    logging.getLogger("common.datasets").info("ten classes")
    logging.getLogger("common").warning("one image is broken")
    expected = "ten classes\nWARNING: one image is broken\n"
    assert (tmp_path / "log.txt").read_text() == expected
    assert capsys.readouterr().out == expected


def test_what_was_logged_before_stays(tmp_path):
    for line in ("the first session", "the second"):
        log.send_to(tmp_path / "log.txt")
        logging.getLogger("common").info(line)
    assert (tmp_path / "log.txt").read_text() == "the first session\nthe second\n"
