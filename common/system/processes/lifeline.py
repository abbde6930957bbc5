"""How the processes of a run begin and end together: nobody ends alone.

A collective waits for every process, so whoever waits for one that is gone would wait for ever. Therefore each process
holds a connection to the next one (0 to 1, 1 to 2, the last to 0) and has a thread, the listener, that waits at it: for
the code with which the next one ends, or for the break of the connection if it dies without a word.

Who ends whom, in order of time:

1. Before `join`: a bad flag is an error in every process, and each ends by itself. The first of each machine prints it.
2. `join`: all connect. From now on who ends calls `leave(code)`; only death comes without it (8).
3. SIGTERM or SIGINT to any of them is noted there. After the step all ask each other, save, and all call
   `leave(128 + signal)`, each by itself. (`signals`, `Run`)
4. torchrun dies: within a second each process sees that it has another parent, and sends itself SIGTERM. Go to 3.
5. The run is finished: each calls `leave(0)`. It gives NCCL's resources back, while its listener still listens. It
   sends 0 to the process before it, waits up to a minute for its own listener to get a 0, and ends as Python does.
6. One process has an error that is foreseen: it calls `leave(2)`, which prints the line, unless another has printed
   one; sends the code to the process before it; and ends at once, without Python's own end. The listener there takes
   the code, sends it on and ends its process with it, and so on round the ring, within milliseconds.
7. One process has an unforeseen error: Python prints the traceback, and its end calls `leave(1)`. Go to 6. Before it
   prints, it gives the listener a second, since the error may come from a collective that another's death broke (8).
8. One process dies, by SIGKILL say: its connections break. The listener of the process before it prints that it died,
   sends 1 on, and ends its process with 1; so do the others, as in 6.

Who ends while its listener ends it, too: the first of them that takes the lock `ends_this` does it. The first process
holds the store, in which they look whether a line was printed, so in 6 to 8 it waits up to 3 seconds for the others.
torchrun sends SIGTERM to all as soon as one is gone; who has begun to end ignores it.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from common.system.processes import groups
from common.system.processes.collectives import largest
from common.system.processes.groups import count, is_first, rank


class _State:
    lifeline: "_Lifeline | None" = None


def join() -> None:
    """Join the process group; every process must call this. Nothing happens in the only process, or the second time."""
    if not groups.launched() or dist.is_initialized():
        return
    groups.connect()
    _State.lifeline = _Lifeline()
    _State.lifeline.start()


def leave(code: int, line: str | None = None) -> None:
    """Tell the other processes that this one ends with that exit code. If it is not 0, all of them end with it.

    Of several processes, one with another code than 0 ends here, at once. Otherwise this returns.

    Args:
        line: for stderr. Of several processes, only the first one that has a line prints it.
    """
    lifeline = _State.lifeline
    if lifeline is not None:
        if code == 0:
            groups.leave_gpus()  # before the lock is taken: if another dies meanwhile, the listener ends this process
        lifeline.ends_this.acquire()  # or the listener has it, and ends this process now
        _State.lifeline = None
        for signum in (
            signal.SIGTERM,
            signal.SIGINT,
            signal.SIGHUP,
        ):  # torchrun sends them as soon as the first of them is gone
            signal.signal(signum, signal.SIG_IGN)
    if line is not None:
        _say_once(line)
    if lifeline is not None:
        lifeline.cut(code)
        if code:
            _leave_the_store()
            _end(code)
        lifeline.listener.join(60)  # a thread that still waits for another process would abort the interpreter's end


def _leave_the_store() -> None:
    """Use the store no more. The first process, which holds it, waits here until all have left it.

    It waits for 3 seconds at most: a process that was killed never leaves.
    """
    store: Any = groups.store()  # who has a lifeline has joined
    with contextlib.suppress(RuntimeError):  # it went with its process
        store.add("gone", 1)
    deadline = time.monotonic() + 3
    while is_first() and store.add("gone", 0) < count() and time.monotonic() < deadline:
        time.sleep(0.01)


def _end(code: int) -> NoReturn:
    """End without the interpreter's own end, which waits for threads that wait for other processes."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _say_once(line: str) -> None:
    if _is_the_first_to_speak():
        with contextlib.suppress(OSError):  # its terminal may be closed
            print(line, file=sys.stderr, flush=True)


def _is_the_first_to_speak() -> bool:
    if not groups.launched():
        return True
    store = groups.store()
    if store is None:  # before they met: a bad flag, for example, is an error in all of a machine
        return os.environ["LOCAL_RANK"] == "0"
    try:
        return store.add("spoken", 1) == 1
    except RuntimeError:  # the store went with its process
        return True


class _Lifeline:
    """The connection to the next process in the ring, and the thread that listens to it; see the module."""

    def __init__(self) -> None:
        self.group = groups.new_group("gloo")
        self.next, self.previous = (rank() + 1) % count(), (rank() - 1) % count()
        largest(0)  # all of them are there
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.ends_this = threading.Lock()  # taken for good by whoever ends this process: itself, or its listener

    def start(self) -> None:
        """From now on nobody ends alone."""
        self.listener.start()
        atexit.register(leave, 1)  # for unforeseen errors; any other end has called `leave` before
        sys.excepthook = self._after_the_listener(sys.excepthook)
        threading.Thread(target=self._watch, args=(os.getppid(),), daemon=True).start()

    def cut(self, code: int) -> None:
        """Send the code to the process that listens to this one."""
        with contextlib.suppress(RuntimeError):  # nobody listens any more
            dist.send(torch.tensor(code), self.previous, group=self.group)

    def _listen(self) -> None:
        code, died = torch.tensor(0), False
        try:
            dist.recv(code, self.next, group=self.group)
        except RuntimeError:
            code, died = torch.tensor(1), True
        if int(code) and self.ends_this.acquire(blocking=False):
            if died:
                _say_once(
                    f"error: process {self.next} of {count()} died: the same command goes on from the last checkpoint"
                )
            self.cut(int(code))
            if not died:  # the dead one never leaves the store: not waited for
                _leave_the_store()
            _end(int(code))

    def _after_the_listener(self, print_traceback: Callable) -> Callable:
        """A hook for uncaught errors: if another's death caused the error, the listener says so and ends this process.

        Otherwise the traceback is printed, after a second.
        """

        def hook(*error: Any) -> None:
            self.listener.join(1)
            print_traceback(*error)

        return hook

    def _watch(self, launcher: int) -> None:
        """If torchrun dies by SIGKILL, stop as if it had passed on a SIGTERM."""
        while os.getppid() == launcher:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
