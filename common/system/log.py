"""Where the log messages of `common` go: the console, and `log.txt` of a run."""

import contextlib
import logging
import sys
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from common.errors import UserError
from common.system import console, processes
from common.system.files import refuse_special

logger = logging.getLogger("common")


def send_to(path: Path | None, stream: TextIO | None = None) -> None:
    """Send the log messages of `common` to the console and, if a path is given, to that file.

    With several processes, only the first one logs.

    Args:
        path: of the log file, or None.
        stream: the console; None means stdout.

    Raises:
        UserError: the file cannot be written.
    """
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not processes.is_first():
        logger.addHandler(logging.NullHandler())
        return
    goes_on = "nothing more is shown" if path is None else f"the log goes on in '{path}'"
    handlers: list[logging.Handler] = [_Console(stream, goes_on)]
    if path is not None:
        refuse_special(path)
        try:
            handlers.append(_File(path, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise UserError(f"cannot write '{path}' ({error.strerror}): remove it, or choose another --log") from None
    for handler in handlers:
        handler.setFormatter(Marked())
        logger.addHandler(handler)


class Marked(logging.Formatter):
    """Marks warnings as such; other messages are shown as they are."""

    def format(self, record: logging.LogRecord) -> str:
        return ("WARNING: " if record.levelno >= logging.WARNING else "") + super().format(record)


class _File(logging.FileHandler):
    """Ends the run if a line cannot be written. Plain logging would print a traceback and continue."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        error = sys.exception()
        if not isinstance(error, OSError):
            raise error  # type: ignore[misc]  # logging calls this while it handles an error
        raise UserError(f"cannot write '{self.baseFilename}' ({error.strerror}): free some space and run again")


class _Console(logging.Handler):
    """Prints to the console, above the progress bar.

    If the console cannot be written to any more (`| head -1`, a closed terminal, a full disk), one line on stderr says
    so. The run goes on, and so does its log file.
    """

    def __init__(self, stream: TextIO | None, goes_on: str):
        super().__init__()
        self.stream, self.goes_on, self.given_up = stream, goes_on, False

    def emit(self, record: logging.LogRecord) -> None:
        if self.given_up:
            return
        try:
            tqdm.write(self.format(record), file=self.stream)
            (self.stream or sys.stdout).flush()
        except OSError as error:
            self.given_up = True
            console.give_up_if_broken()
            with contextlib.suppress(OSError):  # stderr may have gone the same way
                print(
                    f"the console cannot be written to ({error.strerror}): {self.goes_on}", file=sys.stderr, flush=True
                )
