"""The processes of a run begin and end together: if one ends or is killed, all end.

A collective operation waits for every process. If one is gone, the others would wait for ever. Therefore each process
holds a connection to the next one (0 to 1, 1 to 2, the last to 0). A thread, the listener, waits at that connection. It
receives the exit code with which the next process ends, or the connection breaks because that process died.

What can happen, in order of time:

1. Before `join`: a bad flag is an error in every process, and each ends by itself. The first of each machine prints it.
2. `join`: all connect. From now on a process that ends calls `leave(code)`. Only one that is killed does not (8).
3. SIGTERM or SIGINT reaches one of them, which notes it. After the step the processes ask each other, all save, and
   each calls `leave(128 + signal)`. (`signals`, `Run`)
4. torchrun dies: within a second each process sees that its parent has changed, and sends itself SIGTERM. Go to 3.
5. The run is finished: each process calls `leave(0)`. It releases NCCL's resources while its listener still listens.
   It sends 0 to the previous process, waits up to a minute until its own listener has received a 0, and exits normally.
6. One process has a foreseen error: it calls `leave(2)`. This prints the line (unless another process has printed
   one), sends the code to the previous process, and exits at once, without Python's cleanup. The listener of the
   previous process receives the code, passes it on and exits with it, and so on round the ring, within milliseconds.
7. One process has an unforeseen error: Python prints the traceback, and an exit handler calls `leave(1)`. Go to 6.
   Before it prints, it waits a second for the listener: a collective may have failed because another process died (8).
8. One process is killed, for example by SIGKILL: its connections break. The listener of the previous process prints
   that it died, passes on 1, and exits with 1. The others follow as in 6.

A process and its listener may both want to end it: the first that takes the lock `ends_this` does. The first process
holds the store that says whether a line was printed, so in 6 to 8 it waits up to 3 seconds for the others. torchrun
sends SIGTERM to all as soon as one process is gone; a process that has begun to end ignores it.
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
from common.system.processes.collectives import maximum
from common.system.processes.groups import count, is_first, rank


class _State:
    lifeline: "_Lifeline | None" = None


def join() -> None:
    """Join the process group; every process must call this. Does nothing in a single process, or if called again."""
    if not groups.launched_count() or dist.is_initialized():
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
            groups.leave_gpus()  # without the lock: if another process dies meanwhile, the listener can end this one
        lifeline.ends_this.acquire()  # for good; if the listener has it, it is ending this process right now
        _State.lifeline = None
        # torchrun sends these as soon as one process is gone.
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
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
    """Stop using the store. The first process, which holds it, waits here until all have stopped.

    It waits for 3 seconds at most, since a killed process never reports.
    """
    store: Any = groups.store()  # not None: a process with a lifeline has joined
    with contextlib.suppress(RuntimeError):  # the first process is gone, and the store with it
        store.add("gone", 1)
    deadline = time.monotonic() + 3
    while is_first() and store.add("gone", 0) < count() and time.monotonic() < deadline:
        time.sleep(0.01)


def _end(code: int) -> NoReturn:
    """Exit without the interpreter's cleanup, which would wait for threads that wait for other processes."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _say_once(line: str) -> None:
    if _is_the_first_to_speak():
        with contextlib.suppress(OSError):  # its terminal may be closed
            print(line, file=sys.stderr, flush=True)


def _is_the_first_to_speak() -> bool:
    if not groups.launched_count():
        return True
    store = groups.store()
    if store is None:  # before `join`: an error such as a bad flag occurs in all processes of a machine
        return os.environ["LOCAL_RANK"] == "0"
    try:
        return store.add("spoken", 1) == 1
    except RuntimeError:  # the first process is gone, and the store with it
        return True


class _Lifeline:
    """The connection to the next process in the ring, and the thread that listens to it; see the module's docstring."""

    def __init__(self) -> None:
        self.group = groups.new_group("gloo")
        self.next, self.previous = (rank() + 1) % count(), (rank() - 1) % count()
        maximum(0)  # waits until all processes are here
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.ends_this = threading.Lock()  # held for good by the thread that ends this process

    def start(self) -> None:
        """Begin to listen. From now on no process ends alone."""
        self.listener.start()
        atexit.register(leave, 1)  # for unforeseen errors; every other end has called `leave` before
        sys.excepthook = self._after_the_listener(sys.excepthook)
        threading.Thread(target=self._watch, args=(os.getppid(),), daemon=True).start()

    def cut(self, code: int) -> None:
        """Send the code to the process that listens to this one."""
        with contextlib.suppress(RuntimeError):  # that process is gone
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
            if not died:  # a dead process never leaves the store: do not wait for it
                _leave_the_store()
            _end(int(code))

    def _after_the_listener(self, print_traceback: Callable) -> Callable:
        """A hook for uncaught errors. If another process's death caused one, the listener says so, and ends this one.

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
