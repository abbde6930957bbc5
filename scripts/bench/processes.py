"""The seconds of FixMatch's steps on this many processes; `scripts/benchmark.py --sections processes` starts it.

    torchrun --standalone --nproc-per-node 2 -- scripts/bench/processes.py REPEATS ROUNDS FLAGS OF FIXMATCH

Two steps are timed in turn: of the whole batch, and of this process's share alone, without communication. The first
process prints a line of JSON.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

import fixmatch
from common.system import processes
from scripts.bench import measures


def main(repeats: int, rounds: int, argv: list[str]) -> None:
    args, count = fixmatch.parse_args(argv), max(1, processes.launched_count())
    own_batch = ["--batch-size", args.batch_size // count, "--unlabeled-batch-size", args.unlabeled_batch_size // count]
    with tempfile.TemporaryDirectory() as folder:
        if torch.cuda.is_available():  # `share` counts as a single process, which would take the first GPU
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        with mock.patch.dict(os.environ, WORLD_SIZE="1"):
            share = measures.prepared_step(fixmatch, [*argv, *map(str, own_batch), "--log", f"{folder}/share"])
        whole = measures.prepared_step(fixmatch, [*argv, "--log", f"{folder}/whole"])
    timers = [measures.timer(step, repeats) for step in (whole, share)]
    seconds = measures.in_turn([lambda timer=timer: (processes.maximum(0), timer())[1] for timer in timers], rounds)
    if processes.is_first():
        print(json.dumps({"whole": seconds[0], "share": seconds[1], "memory": measures.own_peak()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    processes.leave(0)
