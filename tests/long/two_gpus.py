"""Train every method on two processes with a stand-in for a GPU each: plain, with averaged weights, and with LoRA.

    python tests/long/two_gpus.py [--methods fixmatch dst ...]

Each run must be that of one process on the CPU, up to rounding in float64. The tests have a few of these runs
(tests/methods/test_on_two_gpus.py). Prints a table; exit code 1 if a run differs.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.methods.test_methods import METHODS
from tests.methods.test_on_two_gpus import KINDS, RESUMED, train_on_both
from tests.system.test_processes import assert_near_runs


def is_one_run(one: Path, two: Path) -> bool:
    try:
        assert_near_runs(two, one)
    except AssertionError as error:
        print(f"{one.name}: {error}", file=sys.stderr)
        return False
    return True


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    methods = parser.parse_args(argv).methods
    torch.set_num_threads(1)
    names = [f"{method} {kind}" for method in methods for kind in KINDS]
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder, "one"), Path(folder, "two")
        train_on_both([*names, *({RESUMED} - {*names})], one, two)
        equal = {name: is_one_run(one / name, two / name) for name in names}
        equal["resumed"] = is_one_run(one / RESUMED, two / "resumed")
    print(f"\n{'method':14}" + "".join(f"{kind:8}" for kind in KINDS))
    for method in methods:
        print(f"{method:14}" + "".join(f"{'equal' if equal[f'{method} {kind}'] else 'DIFFERS':8}" for kind in KINDS))
    print(f"{sum(equal.values())} of {len(equal)} runs are those of one process")
    return 0 if all(equal.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
