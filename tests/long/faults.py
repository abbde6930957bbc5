"""Kill runs with SIGKILL at random moments, resume them to the end, and see whether anything differs.

    python tests/long/faults.py [--kills 6] [--seed 0] [--methods fixmatch dst ...]

Each method trains once undisturbed, and then is killed so many times in all: anywhere, while it trains, writes a
file, or evaluates. Each run is started again by the same command until it ends. Its weights, optimizer, method's
state, metrics.jsonl, result.json (times aside) and labeled images must then equal those of the undisturbed run bit for
bit, and no process may be left behind. Exit code 1 if anything differs.
"""

import argparse
import contextlib
import importlib
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import sklearn.datasets  # noqa: F401 (the digits' module, imported before the forks and not in each)
import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from common import cli
from common.records import folder
from common.system import checkpoint
from common.training import evaluate
from tests.conftest import SMALL, assert_same_run, resolved
from tests.helpers import leftovers
from tests.methods.test_methods import METHODS

MOMENTS = ("starting or ending", "training", "saving", "evaluating")
FLAGS = ("--epochs", "3", "--lr", "0.1", "--print-freq", "1")  # far enough from the start that each step shows
TARGETS = ("anywhere", "training", "saving", "evaluating")


class Life:
    """One process of a run, in a process group of its own; forked, so that PyTorch need not be imported anew.

    Attributes:
        pid: of the process and of its group.
        errors: the file that its stderr goes to.
    """

    def __init__(self, method: str, log: Path, *flags: str):
        self.errors = log.with_name(log.name + ".stderr")
        self._moment = mmap.mmap(-1, 1)  # shared with the child; stays readable when that is dead
        self.status: int | None = None
        argv = [*SMALL, *FLAGS, *resolved(METHODS[method].split()), *flags, "--log", str(log)]
        sys.stdout.flush()
        self.pid = leftovers.fork()
        if self.pid == 0:
            os._exit(self._live(method, argv))
        with contextlib.suppress(PermissionError, ProcessLookupError):  # the child has done it already, or has ended
            os.setpgid(self.pid, self.pid)

    def _live(self, method: str, argv: list[str]) -> int:
        os.setpgid(0, 0)
        for stream, name in ((1, os.devnull), (2, self.errors)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        script = importlib.import_module(method)
        self._watch(script, "train_one_epoch", "training")
        self._watch(evaluate, "evaluate", "evaluating")
        self._watch(folder, "write_whole", "saving")
        self._watch(checkpoint, "write_whole", "saving")
        fsync = os.fsync
        os.fsync = lambda file: (fsync(file), time.sleep(0.005))  # a slow disk, for a kill to hit
        try:
            with mock.patch.object(sys, "argv", [f"{method}.py", *argv]):
                cli.launch(lambda: script.parse_args(argv), script.main)
            code = 0
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stderr.flush()
        return code

    def _watch(self, module: Any, name: str, moment: str) -> None:
        original: Callable = getattr(module, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            before, self._moment[0] = self._moment[0], MOMENTS.index(moment)
            result = original(*args, **kwargs)
            self._moment[0] = before
            return result

        setattr(module, name, watched)

    @property
    def moment(self) -> str:
        """What the process is doing, or was when it ended."""
        return MOMENTS[self._moment[0]]

    def ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def wait_until(self, condition: Callable[[], bool], seconds: float = 120) -> bool:
        """Look every 0.2 ms; False if the process ended or the time is over before."""
        deadline = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(0.0002)
        return False

    def wait(self) -> int:
        """The exit code, or minus the signal that ended it."""
        self.wait_until(lambda: False)
        if self.status is None:
            os.killpg(self.pid, signal.SIGKILL)
            raise TimeoutError(f"process {self.pid} did not end")
        return self.status

    def kill(self) -> bool:
        """SIGKILL to the main process alone; False if it has ended before."""
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def group_is_gone(self, seconds: float = 30) -> bool:
        """Whether all loader processes, too, end within that time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return False


def kill_somewhere(life: Life, rng: random.Random, seconds: float) -> bool:
    """Kill at a random moment of a random kind; `seconds` is what an undisturbed run takes."""
    target = rng.choice(TARGETS)
    if target == "anywhere":
        pause = rng.uniform(0, seconds)
    else:
        for _ in range(rng.randint(0, 4)):  # let some pass
            life.wait_until(lambda: life.moment == target)
            life.wait_until(lambda: life.moment != target)
        life.wait_until(lambda: life.moment == target)
        pause = rng.uniform(0, 0.005)
    begin = time.monotonic()
    life.wait_until(lambda: time.monotonic() - begin > pause)
    return life.kill()


def torment(method: str, kills: int, rng: random.Random, folder: Path) -> tuple[Counter, list[Life]]:
    """Kill runs of the method that many times, and compare each that ends with an undisturbed one.

    Returns:
        The moments of the kills, and all processes.

    Raises:
        AssertionError: a run differs from the undisturbed one, or ended in another way than by its end or a kill.
    """
    start = time.monotonic()
    lives = [Life(method, folder / "undisturbed", "-j", "0")]
    assert lives[0].wait() == 0, lives[0].errors.read_text()
    seconds = time.monotonic() - start
    moments: Counter = Counter()
    runs = 0
    while moments.total() < kills:
        runs += 1
        log, finished = folder / f"killed {runs}", False
        while not finished:
            life = Life(method, log, "-j", rng.choice("01"))
            lives.append(life)
            if moments.total() < kills and kill_somewhere(life, rng, seconds):
                moments[life.moment] += 1
            else:
                assert life.wait() == 0, life.errors.read_text()
                finished = True
        assert_same_run(log, folder / "undisturbed")
    return moments, lives


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=6, help="per method (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # forked processes could not use more
    rng = random.Random(args.seed)
    total, failed, lives = Counter(), 0, []
    for method in args.methods:
        with tempfile.TemporaryDirectory() as folder:
            try:
                moments, processes = torment(method, args.kills, rng, Path(folder))
            except AssertionError as error:
                failed += 1
                print(f"{method:12} FAILED: {error}", flush=True)
                continue
        total += moments
        lives += processes
        print(
            f"{method:12} {args.kills} kills: " + ", ".join(f"{n} {m}" for m, n in sorted(moments.items())), flush=True
        )
    left = sum(not life.group_is_gone() for life in lives)
    print(
        f"survived {total.total()} of {args.kills * len(args.methods)} kills ("
        + ", ".join(f"{total[moment]} while {moment}" for moment in MOMENTS)
        + f"); {left} of {len(lives)} runs left a process behind"
    )
    return int(failed > 0 or left > 0)


if __name__ == "__main__":
    sys.exit(main())
