"""How many cores and how much memory a process may use: in a container or a batch job, less than the machine has.

The defaults of the flags `-j` and `--cache` follow from them. Neither flag changes a number of a run.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from common.system import processes

logger = logging.getLogger("common")
MIB = 2**20
MOST_WORKERS = 4  # of each set
LARGEST_CACHE = 4096  # MiB of each set: enough for the test images of every dataset here, at 224 pixels
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

# Where Linux says what a process may use. Tests replace these paths.
OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")


def cores() -> int:
    """Number of cores that this process may use, by its affinity and the quotas of its control groups."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for folder in _groups("cpu") if (quota := _cpu_quota(folder)))]))


def free_memory() -> int | None:
    """Bytes that this process may still take, of the machine and within its control groups; None if unknown."""
    free = [left for folder in _groups("memory") if (left := _memory_left(folder)) is not None]
    for line in _text(MEMORY).splitlines():
        if line.startswith("MemAvailable:"):
            free.append(1024 * int(line.split()[1]))
    return max(0, min(free)) if free else None


def workers(sets: int) -> int:
    """Loader processes for each of `sets` sets: together one per core, but at least one per set; on one core 0."""
    number = cores() // processes.local_count()
    return min(MOST_WORKERS, max(1, number // sets)) if number > 1 else 0


def cache(sets: int) -> int:
    """MiB for each of `sets` sets: together three eighths of the free memory, but at most 4 GiB for one."""
    free = free_memory()
    return 1024 if free is None else min(LARGEST_CACHE, 3 * free // 8 // sets // MIB)


def fit_threads() -> None:
    """Limit PyTorch's threads to the cores that `cores` counts, unless an environment variable sets them.

    PyTorch looks at the affinity only. In a container with a quota of two cores it would take a thread for each core of
    the machine.
    """
    if not any(name in os.environ for name in THREAD_VARIABLES) and torch.get_num_threads() > cores():
        torch.set_num_threads(cores())


def report(threads: int, workers: int, cache: int) -> None:
    """Log how a run uses the machine, and warn if that slows it down; see `advice`."""
    logger.info(
        f"cores: {cores()}, threads: {threads}, loader processes of each set: {workers}, memory for the images of each "
        f"set: {cache:,} MiB"
    )
    change = advice(threads, workers)
    if change is not None:
        logger.warning(change)


def advice(threads: int, workers: int) -> str | None:
    """One line on what to change if threads and loader processes outnumber the cores; None if they do not.

    Args:
        threads: of each process that trains.
        workers: loader processes of each set. Two sets, labeled and unlabeled images, are loaded at the same time.
    """
    number, count = cores(), processes.local_count()
    change = []
    if threads * count > number:
        change.append(f"OMP_NUM_THREADS={max(1, number // count)}")
    if workers > 0 and count * (threads + 2 * workers) > 2 * number:
        change.append(f"-j {max(0, min(workers - 1, number // count - (min(threads, number) + 1) // 2))}")
    load = os.getloadavg()[0]
    if not change and threads > 1 and load > number + 1:  # the load includes this process
        return (
            f"this machine is busy (load {load:.1f} on {number} cores): OMP_NUM_THREADS=1 may be several times as fast "
            f"as {threads} threads"
        )
    if not change:
        return None
    running = f"{threads} threads and 3 x {workers} loader processes"
    return (
        f"{f'{count} x ({running})' if count > 1 else running} share {number} cores and slow each other down: "
        f"{' and '.join(change)} would be faster"
    )


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control groups (versions 1 and 2), from its own up to the root."""
    for line in _text(OWN_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = GROUPS / controller if controllers else GROUPS
        own = root / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root))


def _cpu_quota(folder: Path) -> float | None:
    """The quota in cores, at least one; None if there is no limit."""
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    if not quota.strip().isdigit() or not period.strip().isdigit():  # max, or -1
        return None
    return max(1.0, int(quota) / int(period))


def _memory_left(folder: Path) -> int | None:
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, now = _text(folder / limit).strip(), _text(folder / used).strip()
        if most.isdigit() and now.isdigit():
            counts = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
            return int(most) - int(now) + int(counts.get(cached, 0))  # the kernel frees its cache when asked
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
