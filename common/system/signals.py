"""Signals that ask a run to stop: they are noted when they come, and heeded where the run looks."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from common.system import processes

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Notes SIGTERM and SIGINT while it is listening.

    Attributes:
        received: the number of the first one, or 0.
    """

    def __init__(self) -> None:
        self.received = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within, the first signal is noted, and the second stops at once; afterwards all is as it was before.

        Of several processes none stops alone, and torchrun passes on what each has got already: later ones are ignored.
        """

        def note(signum: int, frame: Any) -> None:
            self.received = signum
            for s in STOPPING:
                signal.signal(s, signal.SIG_DFL if processes.count() == 1 else signal.SIG_IGN)

        before = {s: signal.signal(s, note) for s in STOPPING}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
