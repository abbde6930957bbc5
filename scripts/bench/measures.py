"""What the benchmark measures: pairs of functions, ours and plain mode's, that are timed in turn."""

import gc
import importlib
import inspect
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import fixmatch
import flexmatch
import self_tuning
from common import datasets
from common.datasets import splits
from common.errors import UserError
from common.loading import augment
from common.loading.loaders import TrainLoader
from common.training import evaluate, optim
from scripts.bench import plain

Timer = Callable[[], float]
ADAPTERS = {"all weights": [], "--lora 4": ["--lora", "4"], "--adapter 16": ["--adapter", "16"]}  # and their flags


class Row(NamedTuple):
    """One comparison. `ratio` is how many times as fast, or as small, as plain mode: the median over the rounds.

    Attributes:
        ours, plain: medians, in `unit`.
        low, high: the quartiles of the ratio.
    """

    name: str
    unit: str
    ours: float
    plain: float
    ratio: float
    low: float
    high: float


def row(name: str, unit: str, ours: list[float], other: list[float], amount: float = 1.0) -> Row:
    """Compare seconds, round by round. Shown are rates, of `amount` things done in them, or with 0 milliseconds."""
    ratios = [b / a for a, b in zip(ours, other, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    shown = [amount / statistics.median(x) if amount else 1000 * statistics.median(x) for x in (ours, other)]
    return Row(name, unit, *shown, statistics.median(ratios), low, high)


def in_turn(timers: Sequence[Timer], rounds: int) -> list[list[float]]:
    """The seconds of each timer in each round; a first round only warms up."""
    times = [[timer() for timer in timers] for _ in range(rounds + 1)]
    return [list(column) for column in zip(*times[1:], strict=True)]


def timer(function: Callable[[], Any], repeats: int = 1) -> Timer:
    """Seconds per call, with the device's work done."""

    def seconds() -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        synchronize()
        return (time.perf_counter() - start) / repeats

    return seconds


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_photographs(root: Path, per_class: int) -> None:
    """Ten classes of JPEG files of 500 x 375 pixels, cut out of the two photographs that scikit-learn ships."""
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]  # 640 x 427
    for part, number in (("train", per_class), ("test", 4 * per_class)):  # so many that starting workers hardly counts
        for c in range(10):
            folder = root / part / f"{c}"
            folder.mkdir(parents=True)
            for i in range(number):
                left, top = rng.integers(0, 141), rng.integers(0, 53)
                view = photographs[i % 2].crop((left, top, left + 500, top + 375))
                view.save(folder / f"{i}.jpg", quality=90)


# Data


def pairs(name: str, argv: list[str], batches: int, rounds: int) -> Row:
    """Pairs of views that a worker makes on one core, from batches of both sets."""
    args, cpu = fixmatch.parse_args(argv), torch.device("cpu")
    data = datasets.load(args.data, args.root)
    labeled, unlabeled = splits.split(data.train.labels, data.classes, args.num_samples_per_class, 0, data.candidates)
    sets = {"labeled": data.train.subset(labeled), "unlabeled": data.train.subset(unlabeled)}
    policy = augment.policy(args.auto_augment, args.norm_mean, args.cutout)
    resizing = args.train_resizing, args.val_resizing, args.image_size, policy
    views = augment.transforms(data.spec, *resizing)[:2]
    options = {"workers": 0, "cache": args.cache or 1024, "normalizer": nn.Identity(), "device": cpu}
    sizes = {"labeled": args.batch_size, "unlabeled": args.unlabeled_batch_size}
    ours = [TrainLoader(sets[name], views, size, name, 0, **options).batches(0) for name, size in sizes.items()]
    views = plain.views(args, data.spec)[:2]
    loaders = [
        DataLoader(plain.Views(sets[name], views), size, shuffle=True, drop_last=True) for name, size in sizes.items()
    ]
    other = [plain.Forever(loader, cpu).batches(0) for loader in loaders]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    timers = [timer(lambda streams=streams: [next(stream) for stream in streams], batches) for streams in (ours, other)]
    seconds = in_turn(timers, rounds)
    torch.set_num_threads(threads)
    return row(f"data: {name}", "pairs/s", *seconds, amount=sum(sizes.values()))


# Steps


class Captured(Exception):  # noqa: N818 (no error: it carries the arguments out of main)
    """What a script's main hands to train_one_epoch, by name."""

    def __init__(self, values: dict):
        super().__init__()
        self.values = values


def built(script: ModuleType, argv: list[str]) -> dict[str, Any]:
    """Everything that the script's own `main` builds, under the names that train_one_epoch has for it."""
    signature = inspect.signature(script.train_one_epoch)

    def capture(*arguments):
        raise Captured(signature.bind(*arguments).arguments)

    try:
        with mock.patch.object(script, "train_one_epoch", capture):
            script.main(script.parse_args(argv))
    except Captured as captured:
        return captured.values


def one_step(script: ModuleType, values: dict[str, Any]) -> Callable[[], Any]:
    """A training step of what was built, on a batch drawn once."""
    values["model"].train()
    for name in ("l", "u"):
        if f"loader_{name}" in values:
            values[f"batch_{name}"] = next(values[f"loader_{name}"].batches(0))
    run = values["run"]
    values["weight_u"] = torch.tensor(0.1, device=run.device)
    arguments = [values[name] for name in inspect.signature(script.train_step).parameters]
    if script is plain:
        return lambda: script.train_step(*arguments)  # its meters are read within
    return lambda: run.update(script.train_step(*arguments))


def prepared_step(script: ModuleType, argv: list[str]) -> Callable[[], Any]:
    """One training step of the script, as its own `main` would take it."""
    return one_step(script, built(script, argv))


def steps(methods: list[str], argv: list[str], repeats: int, rounds: int) -> dict[str, list[float]]:
    """method -> seconds per step in each round; `plain` is plain mode's FixMatch."""
    scripts = {name: importlib.import_module(name) for name in methods} | {"plain": plain}
    with tempfile.TemporaryDirectory() as folder:
        timers = [
            timer(prepared_step(script, [*argv, "--workers", "0", "--log", f"{folder}/{name}"]), repeats)
            for name, script in scripts.items()
        ]
    return dict(zip(scripts, in_turn(timers, rounds), strict=True))


def processes(count: int, argv: list[str], repeats: int, rounds: int) -> dict[str, Any]:
    """What scripts/bench/processes.py prints for that many processes, and the `images` (pairs of views) of a step."""
    args = fixmatch.parse_args([*argv, "--log", "-"])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "--"]
    words = [str(repeats), str(rounds), *argv, "--workers", "0"]
    command = [*launcher, str(Path(__file__).with_name("processes.py")), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]) | {"images": args.batch_size + args.unlabeled_batch_size}


def adapters(argv: list[str], repeats: int, rounds: int) -> dict[str, dict[str, Any]]:
    """For ERM with all weights and with each kind of adapter: the `seconds` per step of each round, and what
    scripts/bench/adapters.py prints at the end. Each runs in a process of its own, and they take turns.
    """
    program = [sys.executable, str(Path(__file__).with_name("adapters.py")), str(repeats)]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        children = [
            stack.enter_context(subprocess.Popen([*program, *argv, "--workers", "0", *flags], **options))
            for flags in ADAPTERS.values()
        ]
        seconds = in_turn([partial(_turn, child) for child in children], rounds)
        ends = [json.loads(child.communicate()[0]) for child in children]
    return {name: end | {"seconds": own} for name, end, own in zip(ADAPTERS, ends, seconds, strict=True)}


def _turn(child: subprocess.Popen) -> float:
    with suppress(BrokenPipeError):
        child.stdin.write("\n")
        child.stdin.flush()
    said = child.stdout.readline()
    if not said:
        raise UserError("a process that measures adapters ended: see above why")
    return json.loads(said)


def own_peak() -> float:
    """The peak of this process's memory in MiB: on CUDA, or without CUDA on the host."""
    if cuda := peak_on_cuda():
        return cuda
    status = Path("/proc/self/status")
    if status.exists():  # Linux's getrusage begins with the peak of the process that started this one
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes, on macOS


def peak_on_cuda() -> float:
    """The peak of this process's memory on CUDA in MiB; 0 without CUDA."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


def ideas(argv: list[str], repeats: int, rounds: int) -> dict[str, list[float]]:
    """name -> seconds per step of FixMatch as it is, and with each idea that the scripts do not use.

    The first number is the seconds of the first `repeats` steps, compilation included; then one for each round.
    """
    step = fixmatch.train_step
    settings = {
        "as it is": (fixmatch, "train_step", step),
        "fused SGD": (optim, "SGD", partial(optim.SGD, fused=True)),
        "cuDNN benchmark": (torch.backends.cudnn, "benchmark", True),
        "compiled": (fixmatch, "train_step", torch.compile(step)),
        "compiled, graphs": (fixmatch, "train_step", torch.compile(step, mode="reduce-overhead")),
    }
    timers = []
    with tempfile.TemporaryDirectory() as folder:
        for name, setting in settings.items():
            with set_to(*setting):
                prepared = prepared_step(fixmatch, [*argv, "--workers", "0", "--log", f"{folder}/{name}"])
            timers.append(timer(set_to(*setting)(prepared), repeats))
    first = [repeats * timer() for timer in timers]
    return {name: [once, *each] for name, once, each in zip(settings, first, in_turn(timers, rounds), strict=True)}


@contextmanager
def set_to(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within the block, `owner.name` is `value`."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


# Whole runs


def run_cell(script: ModuleType, argv: list[str]) -> dict[str, list[float]]:
    """Train as on the command line. Returns the seconds that each epoch's training and evaluation took."""
    times = {"train_one_epoch": [], "evaluate": []}

    def timed(name: str, function: Callable) -> Callable:
        def wrapper(*arguments):
            start = time.perf_counter()
            result = function(*arguments)
            synchronize()
            times[name].append(time.perf_counter() - start)
            return result

        return wrapper

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for name in times:
            owner = script if hasattr(script, name) else evaluate  # the scripts leave evaluation to their run
            stack.enter_context(mock.patch.object(owner, name, timed(name, getattr(owner, name))))
        script.main(script.parse_args([*argv, "--log", folder]))
    return times


def cell(argv: list[str], rounds: int) -> list[Row]:
    """Two epochs of both modes in turn; the first round only warms up."""
    args = fixmatch.parse_args(argv)
    images, iters = len(datasets.load(args.data, args.root).test), args.iters_per_epoch
    runs = [[run_cell(script, argv) for script in (fixmatch, plain)] for _ in range(rounds + 1)][1:]
    ours, other = zip(*runs, strict=True)

    def compare(name: str, unit: str, amount: int, seconds: Callable[[dict], float]) -> Row:
        return row(f"cell: {name}", unit, list(map(seconds, ours)), list(map(seconds, other)), amount)

    return [
        compare("start and first test", "steps/s", iters, lambda run: run["train_one_epoch"][0] + run["evaluate"][0]),
        compare("later steps", "steps/s", iters, lambda run: run["train_one_epoch"][1]),
        compare("first test", "images/s", images, lambda run: run["evaluate"][0]),
        compare("later tests", "images/s", images, lambda run: run["evaluate"][1]),
    ]


def memory(argv: list[str]) -> list[Row]:
    """The peak of memory of a run in both modes, measured once.

    A run of each comes before: what it leaves in this process counts for both.
    """
    for script in (fixmatch, plain):
        run_cell(script, argv)
    ours, other = (peak_memory(script, argv) for script in (fixmatch, plain))
    return [Row(f"memory: {k}", "MiB", ours[k], other[k], *[other[k] / ours[k]] * 3) for k in ours]


def peak_memory(script: ModuleType, argv: list[str]) -> dict[str, float]:
    """The peak of memory of a run in MiB: on the host, with the workers and with shared pages once, and on CUDA."""
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, sum(map(_proportional, _family())))

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run_cell(script, argv)
    finally:
        done.set()
        watcher.join()
    memory = {"host": peak} if peak else {}
    cuda = peak_on_cuda()
    return memory | ({"CUDA": cuda} if cuda else {})


def _family() -> Iterator[str]:
    """This process and its children, on Linux."""
    yield "self"
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended since
            yield from file.read_text().split()


def _proportional(pid: str) -> float:
    """The proportional set size in MiB: pages that n processes share count 1 / n in each."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # gone already, or no Linux
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


# The methods' own state


def state(device: torch.device, classes: int, rounds: int) -> list[Row]:
    """Time FlexMatch's bank for Food101's 75,000 images, and Self-Tuning's queue for `classes` (SUN397 has 397)."""
    timers = {"FlexMatch's bank": bank(device, 75_000, 101), "Self-Tuning's queue": queue(device, classes, 32, 1024)}
    return [row(f"state: {name}", "ms", *in_turn(pair, rounds), amount=0) for name, pair in timers.items()]


def bank(device: torch.device, images: int, classes: int) -> tuple[Timer, Timer]:
    """FlexMatch's thresholds and update for a batch of 32, with a bank that is half full."""
    torch.manual_seed(0)
    ours, other = flexmatch.Curriculum(images, classes).to(device), plain.Bank(images, classes, device)
    filled = torch.randperm(images, device=device)[: images // 2]
    guesses = torch.randint(classes, (len(filled),), device=device)
    ours.update(filled, guesses, guesses >= 0)
    other.update(filled, guesses, guesses >= 0)
    indices, pseudo_labels = torch.randperm(images, device=device)[:32], torch.randint(classes, (32,), device=device)
    is_confident = pseudo_labels % 2 == 0

    def ours_once():
        ours.thresholds(0.95, False)[pseudo_labels]
        ours.update(indices, pseudo_labels, is_confident)

    def plain_once():
        other.thresholds(pseudo_labels, 0.95)
        other.update(indices, pseudo_labels, is_confident)

    return timer(ours_once, 20), timer(plain_once)


def queue(device: torch.device, classes: int, K: int, projection_dim: int) -> tuple[Timer, Timer]:
    """Self-Tuning's loss with its gradient, and enqueue, for a batch of 32."""
    torch.manual_seed(0)
    queries, keys = (F.normalize(torch.randn(32, projection_dim, device=device), dim=1) for _ in range(2))
    queries.requires_grad_()
    labels = torch.randint(classes, (32,), device=device)
    ours = self_tuning.Queue(classes, K, projection_dim).to(device)
    other = plain.Queue(classes, K, projection_dim, device)

    def once(state: Any) -> None:
        state.loss(queries, keys, labels, 0.07).backward()
        state.enqueue(keys, labels)

    return timer(lambda: once(ours)), timer(lambda: once(other))
