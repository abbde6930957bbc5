"""Compare this project with plain mode, in one process and in turn: loading, steps, whole cells, evaluation, memory.

    python scripts/benchmark.py [--sections data steps ...] [--json FILE] [-- FURTHER FLAGS, such as -a resnet18]

Plain mode works as the ancestor does: see scripts/bench/plain.py. A ratio says how many times as fast (or as small) as
plain mode we are. Both are timed in every round. The ratio is the median over the rounds, with its quartiles, so a
machine whose speed drifts does not matter. Sections:

    memory   the peak of memory in a whole cell: on the host with all workers, and on CUDA; measured once
    data     pairs of views per second of one worker core, over a FixMatch step's mix of labeled and unlabeled images:
             Digits at 32 pixels, and JPEG photographs of 500 x 375 at 224; with --setting scratch, its images
    steps    a step of each method of the published table on a batch made before; `images` is what the forward and
             backward passes alone would cost by the number of images, relative to FixMatch (a backward pass counts as
             two forward passes)
    cell     a cell of 40 labels by FixMatch: from the loaders' start over the first steps to the end of the first
             evaluation, the steps after that, and the passes over the test set
    state    FlexMatch's thresholds and bank, Self-Tuning's loss and queue, as large as the published table needs them
    processes  only if named: FixMatch's step on 1, 2, 4, ... processes, up to the number of GPUs or cores. A step on a
             process's share of the batch alone is timed, too. The difference is spent on communication and waiting.
             The MiB are with the networks of both
    adapters   only if named: ERM's step with a ViT-B/16 of random weights at 224 pixels, 8 images, AdamW, with all
             weights and with adapters; trained weights, time, memory, and the size of latest.pth (needs peft)
    ideas    only if named, since it compiles for minutes: FixMatch's step with what the scripts do not use: fused SGD,
             cuDNN's search for the fastest algorithm, torch.compile without and with CUDA graphs

`steps` and `cell` together give an estimate of the hours of all 242 cells of the published table. It makes sense only
with the table's own network: --setting photographs, the default with CUDA.
"""

import argparse
import json
import logging
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from common import cli  # noqa: E402
from common.datasets import SPECS  # noqa: E402
from common.system.devices import find_device  # noqa: E402
from common.system.files import write_whole  # noqa: E402
from scripts.bench import measures  # noqa: E402
from scripts.results import published  # noqa: E402

SECTIONS = ("memory", "data", "steps", "cell", "state")
NATIVE = "--scratch -a wrn_10_1_half --train-resizing native --val-resizing native"
SETTINGS = {
    "digits": f"-d Digits {NATIVE}",
    # The cache holds the labeled images. The others must not fit, as in the table: unlabeled images, large test sets.
    "photographs": "-d ImageFolder --scratch -a resnet50 --finetune --cache 100",
    # The classic protocol's batches and views. 250 labels, since plain mode needs a set of at least one batch.
    "scratch": f"-d FashionMNIST {NATIVE} --num-samples-per-class 25 -b 64 --unlabeled-batch-size 448 --no-bottleneck "
    "--auto-augment classic",
}
# Images that pass forward and backward in a step, for batches of 32 + 32.
IMAGES = {
    "fixmatch": (128, 96),
    "erm": (64, 64),
    "pseudo_label": (96, 96),
    "pi_model": (128, 128),
    "mean_teacher": (128, 96),
    "uda": (128, 96),
    "self_tuning": (160, 64),
    "flexmatch": (128, 96),
    "debiasmatch": (128, 96),
    "dst": (128, 128),
}
ADAPTED = (
    "-a vit_base_patch16_224 --train-resizing default --val-resizing default --image-size 224 --optimizer adamw "
    "--no-bottleneck --batch-size 8 --trade-off-cls-strong 0"
).split()
BATCHES = {"digits": 5, "photographs": 1, "scratch": 1}  # of both sets, a round
QUICK = {"rounds": 1, "iters": 2, "repeats": 1, "workers": 1, "photographs": 8, "methods": ["fixmatch"]}


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sections",
        nargs="+",
        choices=[*SECTIONS, "processes", "adapters", "ideas"],
        default=SECTIONS,
        help="default: all but the last three",
    )
    parser.add_argument(
        "--setting",
        choices=SETTINGS,
        help="of steps, cell and memory; scratch has small images in batches of 64 + 448 (default: digits on the CPU)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=IMAGES,
        default=list(IMAGES),
        help="of steps (default: all; of scratch, FixMatch alone)",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=cli.positive_int, default=4, help="of each set (default: %(default)s)")
    parser.add_argument("--rounds", type=cli.positive_int, default=7, help="default: %(default)s")
    parser.add_argument(
        "--iters", type=cli.positive_int, default=100, help="steps of an epoch of a cell (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=cli.positive_int, default=2, help="steps per method and round (default: %(default)s)"
    )
    parser.add_argument(
        "--photographs", type=cli.positive_int, default=60, help="training images per class (default: %(default)s)"
    )
    parser.add_argument("--json", type=cli.filepath, metavar="FILE", help="write everything there")
    parser.add_argument("--quick", action="store_true", help="one short round of everything, to see that it runs")
    parser.add_argument("flags", nargs="*", metavar="-- FLAGS", help="further flags of the methods' scripts")
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(QUICK)
    args.setting = args.setting or ("photographs" if args.device.startswith("cuda") else "digits")
    if args.setting == "scratch":  # there, other methods have other batches
        args.methods = ["fixmatch"]
    args.methods = ["fixmatch", *(name for name in args.methods if name != "fixmatch")]
    return args


def measure_all(args, folder):
    """The rows of all sections; of `steps`, method -> seconds of each round; the same of `ideas`; and what `processes`
    and `adapters` found.
    """
    measures.make_photographs(folder / "photographs", args.photographs)
    roots = {"digits": "data", "photographs": str(folder / "photographs"), "scratch": "data/fashion_mnist"}
    flags = {name: [roots[name], *SETTINGS[name].split(), "--device", args.device, *args.flags] for name in SETTINGS}
    own = flags[args.setting]
    cell = [*own, "--iters-per-epoch", str(args.iters), "--workers", str(args.workers)]
    rows, steps, ideas, processes, adapters = [], {}, {}, {}, {}
    if "memory" in args.sections:
        rows += measures.memory([*cell, "--epochs", "1"])
    if "data" in args.sections:
        names = dict.fromkeys(["digits", "photographs", args.setting])
        rows += [measures.pairs(name, flags[name], BATCHES[name], args.rounds) for name in names]
    if "steps" in args.sections:
        steps = measures.steps(args.methods, own, args.repeats, args.rounds)
        rows.append(measures.row("step of FixMatch", "steps/s", steps["fixmatch"], steps["plain"], 1))
    if "cell" in args.sections:
        rows += measures.cell([*cell, "--epochs", "2"], args.rounds)
    if "state" in args.sections:
        rows += measures.state(torch.device(args.device), 40 if args.quick else 400, args.rounds)
    if "ideas" in args.sections:
        ideas = measures.ideas(own, args.repeats, args.rounds)
    if "processes" in args.sections:
        most = torch.cuda.device_count() if args.device.startswith("cuda") else os.cpu_count()
        counts = [2**power for power in range(most.bit_length())]
        processes = {count: measures.processes(count, own, args.repeats, args.rounds) for count in counts}
    if "adapters" in args.sections:
        # The last value of a flag counts: ADAPTED overrides the setting's flags, and the user's override both.
        adapters = measures.adapters([*flags["digits"], *ADAPTED, *args.flags], args.repeats, args.rounds)
    return rows, steps, ideas, processes, adapters


def expected(method):
    """The cost of the method's passes, relative to FixMatch's."""
    forward, backward = IMAGES[method]
    return (forward + 2 * backward) / (IMAGES["fixmatch"][0] + 2 * IMAGES["fixmatch"][1])


def published_cells():
    """(method, arguments) of each cell that has a published number: there is none with 10 labels per class."""
    command = ["bash", str(ROOT / "scripts" / "all.sh")]
    environment = os.environ | dict.fromkeys(published.SELECTING, "")
    environment |= {"DRY_RUN": "1", "ROWS": "4 oracle", "SEEDS": "0"}
    lines = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    for line in lines.stdout.splitlines():
        _, script, *argv = shlex.split(line)
        yield Path(script).stem, import_module(Path(script).stem).parse_args(argv)


def hours(rows, steps):
    """The hours of the whole table: ours, and in plain mode.

    We assume that a method's step, relative to FixMatch's, takes as long in a cell as alone. Both numbers are too high
    if loading takes most of the time. Ours is too high if a test set is kept in memory.
    """
    by_name, total = {row.name: row for row in rows}, {}
    relative = {name: statistics.median(x) / statistics.median(steps["fixmatch"]) for name, x in steps.items()}
    for mode in ("ours", "plain"):
        step, image = (1 / getattr(by_name[f"cell: {what}"], mode) for what in ("later steps", "later tests"))
        seconds = 0.0
        for method, args in published_cells():
            an_epoch = args.iters_per_epoch * relative[method] * step + SPECS[args.data].counts.test * image
            seconds += args.epochs * an_epoch
        total[mode] = seconds / 3600
    return total


def machine(args):
    """Where and with what this was measured."""
    info = Path("/proc/cpuinfo")  # macOS has none
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(": ")[1] for line in lines if "model name" in line), "")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(sys.argv),
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu",
        "cpu": f"{cpu or platform.processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm", "pillow", "numpy")},
        "setting": SETTINGS[args.setting],
    }


def report(result):
    """Print what the JSON file holds."""
    for name in ("device", "cpu", "versions", "setting"):
        print(f"{name}: {result[name]}")
    if result["rows"]:
        print(f"\n| {'':26} | unit     |      ours |     plain | ratio | quartiles     |")
        print(f"| {'-' * 26} | -------- | --------- | --------- | ----- | ------------- |")
    for name, unit, *numbers in map(dict.values, result["rows"]):
        print("| {:26} | {:8} | {:9.4g} | {:9.4g} | {:5.2f} | {:5.2f} - {:5.2f} |".format(name, unit, *numbers))
    if result["steps"]:
        print("\n| method       | ms per step | ratio | images |\n| ------------ | ----------- | ----- | ------ |")
    for name, values in result["steps"].items():
        ratio = statistics.median(a / b for a, b in zip(values, result["steps"]["fixmatch"], strict=True))
        images = expected("fixmatch" if name == "plain" else name)
        print(f"| {name:12} | {1000 * statistics.median(values):11.1f} | {ratio:5.2f} | {images:6.2f} |")
    if result["ideas"]:
        print("\n| idea             | ms per step | times as fast | quartiles     | first steps, s |")
        print("| ---------------- | ----------- | ------------- | ------------- | -------------- |")
    for name, (first, *values) in result["ideas"].items():
        x = measures.row(name, "ms", values, result["ideas"]["as it is"][1:], 0)
        print(f"| {name:16} | {x.ours:11.1f} | {x.ratio:13.2f} | {x.low:5.2f} - {x.high:5.2f} | {first:14.1f} |")
    if result["processes"]:
        print("\n| processes | ms per step | images/s | times as fast | talking and waiting | MiB each |")
        print("| --------- | ----------- | -------- | ------------- | ------------------- | -------- |")
    for count, found in result["processes"].items():
        seconds, share = (statistics.median(found[name]) for name in ("whole", "share"))
        faster = statistics.median(result["processes"][1]["whole"]) / seconds
        idle = max(0.0, 1 - share / seconds) if count > 1 else 0.0
        numbers = 1000 * seconds, found["images"] / seconds, faster, 100 * idle, found["memory"]
        print("| {:9} | {:11.1f} | {:8.1f} | {:13.2f} | {:17.0f} % | {:8.0f} |".format(count, *numbers))
    if result["adapters"]:
        print("\n| adapters     | trained    | ms per step | times as fast | quartiles     | MiB   | latest.pth, MB |")
        print("| ------------ | ---------- | ----------- | ------------- | ------------- | ----- | -------------- |")
    for name, found in result["adapters"].items():
        x = measures.row(name, "ms", found["seconds"], result["adapters"]["all weights"]["seconds"], 0)
        numbers = found["trained"], x.ours, x.ratio, x.low, x.high, found["memory"], found["checkpoint"] / 1e6
        print(
            "| {:12} | {:10,} | {:11.1f} | {:13.2f} | {:5.2f} - {:5.2f} | {:5.0f} | {:14.2f} |".format(name, *numbers)
        )
    if result["hours"]:
        print("\nAll 242 cells at these rates: {ours:.1f} hours, in plain mode {plain:.1f}".format(**result["hours"]))


def main(args):
    device = find_device(args.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # synchronize and the memory's peak are of this one
    logging.disable(logging.INFO)
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows, steps, ideas, processes, adapters = measure_all(args, Path(folder))
    finally:
        logging.disable(logging.NOTSET)
    complete = {"steps", "cell"} <= set(args.sections) and set(steps) >= set(IMAGES)
    result = machine(args) | {"rows": [row._asdict() for row in rows], "steps": steps, "ideas": ideas}
    result |= {"processes": processes, "adapters": adapters}
    result["hours"] = hours(rows, steps) if complete else {}
    report(result)
    if args.json:
        write_whole(args.json, (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())
    return result


if __name__ == "__main__":
    cli.launch(parse_args, main)
