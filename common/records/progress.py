"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere, and the lines in `log.txt`."""

import contextlib
import logging
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from common.errors import UserError
from common.system import console, processes
from common.system.files import refuse_special

logger = logging.getLogger("common")
SILENCE = 10.0  # seconds: without a progress bar, a line is printed at least this often


class Progress:
    """The progress of one epoch.

    Args:
        epoch: its number, from 0.
        epochs: number of epochs.
        steps: steps per epoch.
        done: steps of this epoch that are already done.
    """

    def __init__(self, epoch: int, epochs: int, steps: int, done: int):
        self.epoch, self.epochs, self.steps, self.first, self.done = epoch, epochs, steps, done, done
        hidden = None if processes.is_first() else True  # None: hidden if there is no terminal
        self.bar = tqdm(total=steps, initial=done, desc=f"epoch {epoch + 1}/{epochs}", leave=False, disable=hidden)
        self.started = self.logged_at = time.perf_counter()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()

    def advance(self) -> None:
        """Count a step."""
        self.done += 1
        self.bar.update()
        is_last = self.done == self.steps  # a line with averages follows
        if self.bar.disable and not is_last and time.perf_counter() - self.logged_at > SILENCE:
            self._log_line("")  # without averages: all processes would have to compute them after the same step

    def report(self, averages: dict[str, float | None]) -> None:
        """Print a line with the averages so far, the speed, and the remaining time of the training."""
        shown = (f"{name} {'-' if value is None else format(value, '.4g')}" for name, value in averages.items())
        self._log_line("".join(f"{each}  " for each in shown))

    def _log_line(self, shown: str) -> None:
        self.logged_at = time.perf_counter()
        seconds = (self.logged_at - self.started) / (self.done - self.first)
        left = (self.epochs - self.epoch) * self.steps - self.done
        logger.info(
            f"epoch {self.epoch + 1}/{self.epochs} step {self.done}/{self.steps}  {shown}"
            f"{1 / seconds:.2f} steps/s  ETA {tqdm.format_interval(left * seconds)}"
        )


def log_to(path: Path | None, stream: TextIO | None = None) -> None:
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
    logger.addHandler(_Console(stream, goes_on))
    if path is not None:
        refuse_special(path)
        try:
            logger.addHandler(_File(path, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise UserError(f"cannot write '{path}' ({error.strerror}): remove it, or choose another --log") from None


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
