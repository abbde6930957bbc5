"""The standard output: its reader may leave (`| head -1`), its terminal may be closed, its disk may be full."""

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator

from common.errors import UserError


class ReaderGone(Exception):  # noqa: N818 (that somebody has read enough is no error)
    """Nobody reads the standard output any more. Exit code 128 + SIGPIPE, as a program that knows nothing of it has."""

    code = 128 + signal.SIGPIPE


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Wrap a program whose result is what it prints: if its reader goes, the program ends.

    Raises:
        ReaderGone: what reads its output has closed it.
        UserError: the output cannot be written, for want of space say.
    """
    try:
        try:
            yield
        except SystemExit:  # --help has printed
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except OSError as error:
        if not (give_up_if_broken() or _refuses_a_line()):
            raise  # the error is about something else
        _give_up()
        if error.errno == errno.EPIPE:
            raise ReaderGone from None
        raise UserError(f"cannot write to the standard output ({error.strerror}): send it elsewhere") from None


def give_up_if_broken() -> bool:
    """Whether something printed cannot be written. If so, it goes nowhere, and neither does what is printed later.

    Otherwise Python would try again at its end, print a traceback, and change the exit code.
    """
    try:
        sys.stdout.flush()
    except OSError:
        _give_up()
        return True
    return False


def _refuses_a_line() -> bool:
    """Whether a line cannot be written. After a failure in the middle of a text, there is nothing left to flush."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except io.UnsupportedOperation:  # it has no file descriptor
        return False
    except OSError:
        return True
    return False


def _give_up() -> None:
    with contextlib.suppress(io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
