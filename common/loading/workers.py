"""The processes that make a loader's views: how they begin and end, and what is printed if they fail.

The main process decides for all. A worker ignores signals that the terminal or a scheduler sends to the whole process
group, ends if its parent asks it to, and does not outlive its parent.

A failure that no image causes (no shared memory, too many open files, a killed worker) becomes a `UserError` with cause
and remedy within seconds. Programming errors keep their traceback.
"""

import contextlib
import errno
import io
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.utils.data import DataLoader

from common.errors import UserError
from common.system import signals

LINUX = sys.platform == "linux"
NO_THREADS = 71  # exit code of a worker that could not start a thread
FAILURES = (OSError, RuntimeError, MemoryError, EOFError)  # raised when sharing memory between processes fails


# In a worker


def begin(worker: int) -> None:
    """Set up the signals of a worker process; a `DataLoader`'s `worker_init_fn`.

    Ctrl-C, a closed terminal and a scheduler's SIGTERM reach the whole process group, so a worker ignores them unless
    its parent sent them. It leaves within a second of its parent's death: PyTorch's own watch takes five, and misses a
    parent that dies before it begins.
    """
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    if LINUX:  # macOS does not tell who sent a signal: there, a SIGTERM to the group ends the workers and the run
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # inherited by threads that start from now on
        parent = multiprocessing.parent_process().pid  # type: ignore[union-attr]  # if it died, getppid() names another
        try:
            threading.Thread(target=_obey, args=(parent,), daemon=True).start()
        except RuntimeError:
            os._exit(NO_THREADS)  # sending an error through the queue would need a thread, too


def _obey(parent: int) -> None:
    while os.getppid() == parent:
        received = signal.sigtimedwait([signal.SIGTERM], 1)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)


class Packing:
    """A collate function for workers: packs what `collate` makes into a `Parcel`, or returns a `UserError`.

    The queue could pack its items itself, but does so in a thread. An error there would be lost, and the main process
    would wait forever.
    """

    def __init__(self, collate: Callable[[list], Any]):
        self.collate = collate

    def __call__(self, samples: list) -> "Parcel | UserError":
        try:
            return Parcel(self.collate(samples))
        except FAILURES as error:
            cause = explain(error)
            if cause is None:
                raise
            sys.stderr = io.StringIO()  # the same cause may print a traceback when the worker exits
            return UserError(cause)


class Parcel:
    """A batch on its way to the main process: tensors in shared memory, their handles as bytes."""

    def __init__(self, content: Any):
        self.packed = bytes(ForkingPickler.dumps(content))

    def open(self) -> Any:
        """The batch.

        Raises:
            One of `FAILURES`: the shared memory cannot be opened.
        """
        return ForkingPickler.loads(self.packed)

    def pin_memory(self) -> Any:
        """The batch in pinned memory. PyTorch calls this in a thread of the main process."""
        try:
            return _pinned(self.open())
        except (ConnectionError, EOFError, FileNotFoundError):
            return self  # its worker is gone; `Reader` finds out why


def _pinned(content: Any) -> Any:
    if isinstance(content, torch.Tensor):
        return content.pin_memory()
    return tuple(map(_pinned, content)) if isinstance(content, tuple) else content


# In the main process


class WorkerDied(Exception):  # noqa: N818 (raised by a signal handler, and caught in this module)
    """A worker has ended although its loader still needs it."""


class Reader:
    """The batches of a `DataLoader` with workers, pass after pass.

    While it waits for a batch, a signal that stops the run may interrupt it; see `signals.waiting`.

    Raises:
        UserError: the workers cannot start, cannot send their batches, or one of them has died (while iterating).
    """

    def __init__(self, loader: DataLoader):
        self.loader = loader
        self.processes: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        iterator = self._explained(self._start)
        try:
            while (batch := self._explained(next, iterator, None)) is not None:
                yield self._explained(batch.open) if isinstance(batch, Parcel) else batch
        finally:
            del iterator

    def _start(self) -> Iterator[Any]:
        others = set(multiprocessing.active_children())
        try:
            return iter(self.loader)
        finally:
            self.processes += [process for process in multiprocessing.active_children() if process not in others]

    def _explained(self, action: Callable, *args: Any) -> Any:
        try:
            with self._noticing_deaths(), signals.waiting():
                return action(*args)
        except (*FAILURES, WorkerDied) as error:
            if "in DataLoader worker process" in str(error):  # raised by the code of a view
                raise
            if isinstance(error, ConnectionError | EOFError | FileNotFoundError):  # the other end is gone
                gone = wait([process.sentinel for process in self.processes], timeout=5)
                for process in self.processes:
                    if process.sentinel in gone:
                        process.join(timeout=5)  # its files are closed a moment before it has an exit code
            cause = self._death() or explain(error)
            if cause is None:
                raise
        raise UserError(cause)  # not while handling `error`, whose traceback would keep the workers alive

    @contextlib.contextmanager
    def _noticing_deaths(self) -> Iterator[None]:
        """Within the block, the death of a worker raises at once. PyTorch itself checks every five seconds.

        After the block, SIGCHLD has the handler that it had before. PyTorch's own would raise wherever the main process
        is, for example in the middle of a step.
        """
        if not _in_main_thread():
            yield
            return

        def look(signum: int, frame: Any) -> None:
            if self._dead():
                raise WorkerDied

        handler = signal.signal(signal.SIGCHLD, look)
        try:
            look(signal.SIGCHLD, None)
            yield
        finally:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)

    def _dead(self) -> list[int]:
        return [process.exitcode for process in self.processes if process.exitcode is not None]

    def _death(self) -> str | None:
        """Why a worker has ended; None if none has."""
        code = next(iter(self._dead()), None)
        if code is None:
            return None
        if code == NO_THREADS:
            return TOO_MANY_PROCESSES
        if code >= 0:
            return f"a loader process ended with exit code {code}: use -j 0 to see why"
        if -code == signal.SIGBUS:
            return NO_SHARED_MEMORY
        reason = ", as the kernel does when memory runs out" if -code == signal.SIGKILL else ""
        return (
            f"a loader process was killed by {signal.Signals(-code).name}{reason}: take fewer of them with -j N, or "
            "use -j 0"
        )


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


# Messages

NO_SHARED_MEMORY = (
    "there is not enough shared memory (/dev/shm) for the loader processes: start the container with --ipc=host or "
    "--shm-size=1g, take fewer of them with -j N, or use -j 0"
)
TOO_MANY_FILES = "the loader processes may not open more files: raise the limit by ulimit -n 4096, or use -j 0"
TOO_MANY_PROCESSES = (
    "no more processes or threads may be started: raise the limit (ulimit -u), take fewer with -j N, or use -j 0"
)
NO_MEMORY = "the loader processes run out of memory: take fewer of them with -j N, or use -j 0"
LONG_PATH = (
    "the temporary folder has too long a path for the sockets of loader processes: set TMPDIR to a shorter one, or use "
    "-j 0"
)
BY_NUMBER = {errno.EMFILE: TOO_MANY_FILES, errno.ENFILE: TOO_MANY_FILES, errno.EAGAIN: TOO_MANY_PROCESSES}
BY_WORDS = {  # for errors without a number, as of PyTorch and multiprocessing; the first match counts
    "AF_UNIX path too long": LONG_PATH,
    r"Too many open files|\bancdata\b": TOO_MANY_FILES,
    "start new thread": TOO_MANY_PROCESSES,
    "(Cannot|can't) allocate memory": NO_MEMORY,
    r"shared memory|\(shm\)": NO_SHARED_MEMORY,
}


def explain(error: Exception) -> str | None:
    """Cause and remedy of one of `FAILURES` in one line; None if the machine is not the cause."""
    if isinstance(error, MemoryError):
        return NO_MEMORY
    number, reason = getattr(error, "errno", None) or 0, " ".join(str(error).split())
    known = BY_NUMBER.get(number) or next((line for words, line in BY_WORDS.items() if re.search(words, reason)), None)
    if known is None and isinstance(error, OSError | EOFError):
        known = (
            f"the loader processes cannot reach each other ({reason or type(error).__name__}): see whether /dev/shm "
            "and the temporary folder have room and can be written to, or use -j 0"
        )
    return known
