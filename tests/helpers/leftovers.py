"""No process outlives the tests that started it, even where these are killed. Linux alone: elsewhere nothing is done.

A guard, a process of its own, waits for the end of the tests and then kills what they left. It knows their processes
by a mark in the environment, which all that is started inherits, in whatever session, by whatever shell or torchrun.
A fork that starts no other program keeps its parent's environment, as /proc shows it, and so lacks the mark: `fork`
lets the kernel kill it.

Run as a program, this file is the guard: `leftovers.py MARK PID`.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LINUX = sys.platform == "linux"
INTERVAL = 0.2  # seconds between two looks
QUIET = 5  # looks without a marked process until the guard leaves: one may be about to start another program
PR_SET_PDEATHSIG = 1  # see `man prctl`

NO_PIPES = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)

_guards: list[subprocess.Popen] = []  # a Popen that is collected warns that its process still runs


def watch() -> None:
    """Start a guard for this process, and mark all that it starts from now on."""
    if LINUX:
        mark = f"TESTS_{os.getpid()}_{time.time_ns()}"
        os.environ[mark] = "1"
        command = [sys.executable, "-I", "-S", __file__, mark, str(os.getpid())]
        # In a session of its own: what is sent to the tests' group does not reach it.
        _guards.append(subprocess.Popen(command, start_new_session=True, **NO_PIPES))


def fork() -> int:
    """As os.fork; the child is killed when its parent ends."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0 and LINUX:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before that
            os._exit(1)
    return pid


def marked(mark: str) -> list[int]:
    """The processes that have the mark, but this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:  # another user's, or gone
            continue
        if f"{mark}=".encode() in environment and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def guard(mark: str, parent: int) -> None:
    """Wait until the parent has ended, then kill all that have the mark."""
    while os.getppid() == parent:
        time.sleep(INTERVAL)
    quiet = 0
    while quiet < QUIET:
        found = marked(mark)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        quiet = 0 if found else quiet + 1
        time.sleep(INTERVAL)


if __name__ == "__main__":
    guard(sys.argv[1], int(sys.argv[2]))
