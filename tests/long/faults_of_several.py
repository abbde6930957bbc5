"""Kill one of a run's processes with SIGKILL at random moments, resume to the end, and see whether anything differs.

    python tests/long/faults_of_several.py [--kills 20] [--count 2] [--seed 0] [--methods fixmatch dst ...]

The methods take turns: each run is killed once, in one process drawn at random, and started again by the same command.
The others must end within seconds, and the resumed run must have the bits of an undisturbed one by as many processes,
dropout included. Exit code 1 if anything differs, hangs, or is left behind.
"""

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import sklearn.datasets  # noqa: F401 (the digits' module, imported before the forks and not in each)
import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.conftest import SMALL, assert_same_run
from tests.helpers.several import Several, launch
from tests.methods.test_methods import METHODS


def start(count: int, method: str, log: Path) -> Several:
    argv = [*SMALL, *METHODS[method].split(), "--epochs", "3", "--print-freq", "1", "--log", str(log)]
    return Several(count, lambda: launch(method, argv))


def torment(count: int, method: str, rng: random.Random, folder: Path) -> tuple[str, float]:
    """Kill one process once.

    Returns:
        What it was about, and the seconds until the last of the others had ended.

    Raises:
        AssertionError: they did not end, or the run that was resumed differs from an undisturbed one.
    """
    begin = time.monotonic()
    undisturbed = start(count, method, folder / "undisturbed")
    assert not any(undisturbed.wait()), undisturbed.stderr
    seconds = time.monotonic() - begin

    for attempt in itertools.count(1):
        log, rank = folder / f"killed {attempt}", rng.randrange(count)
        run = start(count, method, log)
        time.sleep(rng.uniform(0.2, 0.95) * seconds)
        os.kill(run.pids[rank], signal.SIGKILL)
        begin = time.monotonic()
        codes = run.wait(60)
        took = time.monotonic() - begin
        if codes[rank]:  # otherwise it had ended before
            break
    assert codes[rank] == -signal.SIGKILL, run.stderr
    again = start(count, method, log)
    assert not any(again.wait()), again.stderr
    assert_same_run(log, folder / "undisturbed")
    return f"process {rank} killed, exit codes {codes}", took


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="in all (default: %(default)s)")
    parser.add_argument("--count", type=int, default=2, help="processes of a run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    several = [method for method in METHODS if method != "v_pet"]  # whose sources are made in this process
    parser.add_argument("--methods", nargs="+", choices=several, default=several, help="default: all")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # forked processes could not use more
    rng, failed, slowest = random.Random(args.seed), 0, 0.0
    for number, method in enumerate(itertools.islice(itertools.cycle(args.methods), args.kills), 1):
        with tempfile.TemporaryDirectory() as folder:
            try:
                what, took = torment(args.count, method, rng, Path(folder))
                slowest = max(slowest, took)
                print(f"{number:3} {method:14} {what}, the others after {took:.1f} s", flush=True)
            except AssertionError as error:
                failed += 1
                print(f"{number:3} {method:14} FAILED: {error}", flush=True)
    print(f"survived {args.kills - failed} of {args.kills} kills; all had ended {slowest:.1f} s after them at most")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
