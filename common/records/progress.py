"""What a person sees of an epoch: a progress bar on a terminal, and lines in the log."""

import logging
import time
from typing import Any

from tqdm import tqdm

from common.system import processes

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
