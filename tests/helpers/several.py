"""Several processes as torchrun would start them, but forked from this one: PyTorch need not be imported anew."""

import contextlib
import importlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.nn import functional as F

from common import cli
from common.loading import augment
from common.system import processes
from tests.helpers import leftovers


class Several:
    """`count` processes that each do `work()`, in process groups of their own.

    Attributes:
        pids: of the processes, by rank.
    """

    def __init__(self, count: int, work: Callable[[], Any]):
        self.folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        own = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GROUP_RANK": 0}
        sys.stdout.flush()
        self.pids, self._codes = [], {}
        for rank in range(count):
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            pid = leftovers.fork()
            if pid == 0:
                os.environ.update({name: str(value) for name, value in (own | ranks).items()})
                os._exit(self._work(rank, work))
            self.pids.append(pid)

    def _work(self, rank: int, work: Callable[[], Any]) -> int:
        os.setpgid(0, 0)
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(self.folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        code = 0
        try:
            torch.save(work(), self.folder / f"{rank}.pth")
            processes.leave(0)
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
            processes.leave(1)  # the interpreter's end would call it
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        return code

    def wait(self, seconds: float = 120) -> list[int]:
        """The exit codes by rank, or minus the signals that ended them."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and len(self._codes) < len(self.pids):
            for pid in set(self.pids) - self._codes.keys():
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self._codes[pid] = os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        hung = set(self.pids) - self._codes.keys()
        for pid in hung:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        assert not hung, f"{len(hung)} of {len(self.pids)} did not end; {self.stderr}"
        return [self._codes[pid] for pid in self.pids]

    def results(self, seconds: float = 120) -> list[Any]:
        """What each returned, by rank, once all have ended well."""
        codes = self.wait(seconds)
        assert not any(codes), (codes, self.stderr)
        return [torch.load(self.folder / f"{rank}.pth", weights_only=False) for rank in range(len(self.pids))]

    @property
    def stderr(self) -> str:
        """Of all, one after the other."""
        return "".join((self.folder / f"{rank}.stderr").read_text() for rank in range(len(self.pids)))

    @property
    def stdout(self) -> str:
        """Of all, one after the other."""
        return "".join((self.folder / f"{rank}.stdout").read_text() for rank in range(len(self.pids)))


def launch(method: str, argv: list[str]) -> None:
    """As `python METHOD.py ARGV` does."""
    script = importlib.import_module(method)
    with mock.patch.object(sys, "argv", [f"{method}.py", *argv]):
        cli.launch(lambda: script.parse_args(argv), script.main)


@contextlib.contextmanager
def exact():
    """Without dropout, whose masks depend on the number of processes, and with float64: what is left is rounding.

    In float32 a few steps from random weights make 1e-6 into 1e-2, with one process on another machine as well.
    """
    normalize = augment.Normalizer.forward
    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(F, "dropout", lambda x, *args, **kwargs: x),
            mock.patch.object(augment.Normalizer, "forward", lambda self, images: normalize(self, images).double()),
            mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
        ):
            yield
    finally:
        torch.set_default_dtype(torch.float32)
