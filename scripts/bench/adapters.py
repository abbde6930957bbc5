"""The seconds of ERM's steps, in a process of their own; `scripts/benchmark.py --sections adapters` starts it.

    python scripts/bench/adapters.py REPEATS FLAGS OF ERM

For every line on stdin it takes REPEATS steps and prints the seconds of one. After the last line it prints what it all
took, as JSON: the number of trained weights, the bytes of latest.pth, and the peak of memory in MiB.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import erm
from scripts.bench import measures


def main(repeats: int, argv: list[str]) -> None:
    logging.disable(logging.WARNING)  # stdout is for the figures
    with tempfile.TemporaryDirectory() as folder:
        values = measures.built(erm, [*argv, "--log", folder])
        seconds = measures.timer(measures.one_step(erm, values), repeats)
        for _ in sys.stdin:
            print(json.dumps(seconds()), flush=True)
        memory = measures.own_peak()
        values["run"].save()
        size = (Path(folder) / "checkpoints" / "latest.pth").stat().st_size
    trained = sum(p.numel() for p in values["model"].parameters())
    print(json.dumps({"trained": trained, "checkpoint": size, "memory": memory}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
