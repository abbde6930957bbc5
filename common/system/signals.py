"""Signals that ask a run to stop. They are noted when they come; the run acts on them at the points where it looks."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any, ClassVar

from common.system import processes

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # SIGHUP: the terminal was closed


class Stopped(Exception):  # noqa: N818 (being stopped is no error)
    """A signal ended a wait; see `Signals.ending_waits`."""


class Signals:
    """Notes the signals of `STOPPING` while it is listening. Those that are ignored stay so, as SIGHUP under nohup.

    Attributes:
        received: the number of the first one, or 0.
    """

    _listening: ClassVar["Signals | None"] = None

    def __init__(self) -> None:
        self.received = 0
        self._may_end_waits = False
        self._in_wait = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within, the first signal is noted, and the second stops at once; afterwards all is as it was before.

        Of several processes none stops alone, and torchrun passes on what each has got already: later ones are ignored.
        """
        heeded = [s for s in STOPPING if signal.getsignal(s) != signal.SIG_IGN]

        def note(signum: int, frame: Any) -> None:
            self.received = signum
            for s in heeded:
                signal.signal(s, signal.SIG_DFL if processes.count() == 1 else signal.SIG_IGN)
            if self._in_wait:
                raise Stopped

        before = {s: signal.signal(s, note) for s in heeded}
        Signals._listening = self
        try:
            yield
        finally:
            Signals._listening = None
            for signum, handler in before.items():
                signal.signal(signum, handler)

    @contextlib.contextmanager
    def ending_waits(self) -> Iterator[None]:
        """Within, a signal also ends what `waiting` surrounds, by raising `Stopped`."""
        self._may_end_waits = True
        try:
            yield
        finally:
            self._may_end_waits = False


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Wrap a wait that may be long and changes nothing. If the run allows it, a signal ends the wait.

    Raises:
        Stopped: a signal came during the wait, or before it.
    """
    listening = Signals._listening
    if listening is None or not listening._may_end_waits:
        yield
        return
    listening._in_wait = True
    try:
        if listening.received:
            raise Stopped
        yield
    finally:
        listening._in_wait = False
