"""What to do if the standard output fails: its reader left (`| head -1`), its terminal is closed, its disk is full."""

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator

from common.errors import UserError


class ReaderGone(Exception):  # noqa: N818 (that somebody has read enough is no error)
    """Nobody reads the standard output any more. Exit code 128 + SIGPIPE, as for a program that does not handle it."""

    code = 128 + signal.SIGPIPE


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Wrap a program whose result is what it prints. If nobody reads on, the program ends.

    Raises:
        ReaderGone: the reader of the output has closed it.
        UserError: the output cannot be written, for example because the disk is full.
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
    """Flush the standard output. If that fails, send it and all later output to /dev/null, and return True.

    Otherwise Python would try again when it exits, print a traceback, and change the exit code.
    """
    try:
        sys.stdout.flush()
    except OSError:
        _give_up()
        return True
    return False


def _refuses_a_line() -> bool:
    """Whether writing a line fails. `flush` alone does not tell after a failure that emptied the buffer."""
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
