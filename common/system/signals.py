"""Signals that ask a run to stop. A handler notes them; the run looks between steps and acts."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any, ClassVar

from common.system import processes

ONE = 1.0  # seconds: signals that follow so closely are one, which came by several ways
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # SIGHUP: the terminal was closed


class Stopped(Exception):  # noqa: N818 (being stopped is no error)
    """A signal ended a wait; see `Signals.ending_waits`."""


class Signals:
    """Notes the signals of `STOPPING` while it is listening. Ignored signals stay ignored, as SIGHUP under nohup.

    Attributes:
        received: the number of the first signal, or 0.
    """

    _listening: ClassVar["Signals | None"] = None

    def __init__(self) -> None:
        self.received = 0
        self._received_at = 0.0
        self._may_end_waits = False
        self._in_wait = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block, the first signal is noted, and a later one kills the process.

        A second signal within `ONE` second is ignored. A scheduler sends one to every process, and what started this
        one passes its own on; a shell whose terminal is closed does so, too. With several processes, all later signals
        are ignored, for no process may stop alone. After the block, all handlers are as they were before.
        """
        heeded = [s for s in STOPPING if signal.getsignal(s) != signal.SIG_IGN]

        def note(signum: int, frame: Any) -> None:
            if self.received:
                if time.monotonic() - self._received_at >= ONE:
                    signal.signal(signum, signal.SIG_DFL)
                    os.kill(os.getpid(), signum)
                return
            self.received, self._received_at = signum, time.monotonic()
            if processes.count() > 1:
                for s in heeded:
                    signal.signal(s, signal.SIG_IGN)
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
        """Within the block, a signal also interrupts what `waiting` surrounds, by raising `Stopped`."""
        self._may_end_waits = True
        try:
            yield
        finally:
            self._may_end_waits = False


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Wrap a wait that may be long and changes no state. If `ending_waits` allows it, a signal interrupts the wait.

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
