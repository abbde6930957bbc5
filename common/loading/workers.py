"""What a loader's worker process does about signals, and when it ends.

The main process decides for all: a worker ignores what the terminal or a scheduler sends to the whole process group,
ends when its parent asks it to, and does not outlive its parent.
"""

import multiprocessing
import os
import signal
import sys
import threading

LINUX = sys.platform == "linux"


def begin(worker: int) -> None:
    """Set up the signals of a worker process; a `DataLoader`'s `worker_init_fn`.

    Ctrl-C and a scheduler's SIGTERM reach the whole process group, so a worker ignores them unless its parent sent
    them. It leaves within a second of its parent's death: PyTorch's own watch takes five, and misses a parent that dies
    before it begins.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if LINUX:  # macOS cannot tell who sent a signal: there a SIGTERM to the group ends its workers, and so the run
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # threads begun from now on inherit this
        threading.Thread(target=_obey, args=(multiprocessing.parent_process().pid,), daemon=True).start()


def _obey(parent: int) -> None:
    while os.getppid() == parent:
        received = signal.sigtimedwait([signal.SIGTERM], 1)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)
