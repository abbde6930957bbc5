"""What a process may use of the machine, read from files as Linux has them; and the defaults that follow."""

import os
from pathlib import Path

import pytest
import torch

import erm
from common import cli
from common.system import limits, processes
from common.system.limits import MIB
from tests.conftest import SMALL, assert_same_run, train_small

V2_IN_A_CONTAINER = {"groups/cpu.max": "150000 100000\n", "groups/memory.max": "max\n"}
V2_IN_A_JOB = {
    "groups/slurm/cpu.max": "max 100000\n",
    "groups/slurm/job_7/cpu.max": "300000 100000\n",
    "groups/slurm/job_7/step/cpu.max": "max 100000\n",
    "groups/slurm/job_7/memory.max": f"{3000 * MIB}\n",
    "groups/slurm/job_7/memory.current": f"{2500 * MIB}\n",
    "groups/slurm/job_7/memory.stat": f"anon {500 * MIB}\ninactive_file {1500 * MIB}\n",
}
V1 = {
    "groups/cpu/docker/cpu.cfs_quota_us": "50000\n",
    "groups/cpu/docker/cpu.cfs_period_us": "100000\n",
    "groups/cpu/cpu.cfs_quota_us": "-1\n",
    "groups/memory/docker/memory.limit_in_bytes": f"{1000 * MIB}\n",
    "groups/memory/docker/memory.usage_in_bytes": f"{900 * MIB}\n",
    "groups/memory/docker/memory.stat": "cache 5\ntotal_inactive_file 0\n",
    "groups/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "groups/memory/memory.usage_in_bytes": "1\n",
}
OWN = {
    "v2": "0::/\n",
    "job": "0::/slurm/job_7/step\n",
    "v1": "5:memory:/docker\n4:cpu,cpuacct:/docker\n1:name=systemd:/docker\n0::/\n",
    "v1 seen from inside": "5:memory:/docker/of/the/host\n4:cpu,cpuacct:/docker/of/the/host\n",
    "elsewhere": "0::/../..\n",
}
MACHINES = {  # name -> (its files, its own groups, cores of 8, free MiB of 6000)
    "no limits": ({}, "v2", 8, 6000),
    "container": (V2_IN_A_CONTAINER, "v2", 1, 6000),
    "job": (V2_IN_A_JOB, "job", 3, 2000),
    "another job": (V2_IN_A_JOB, "v2", 8, 6000),
    "version 1": (V1, "v1", 1, 100),
    "version 1 from inside": (
        {name.replace("docker/", ""): text for name, text in V1.items() if "docker" in name},
        "v1 seen from inside",
        1,
        100,
    ),
    "no such folder": ({}, "elsewhere", 8, 6000),
    "no Linux": (None, None, 8, None),
}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Pretend to be on a machine of 8 cores with these files."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name, path in (("OWN_GROUPS", "own"), ("GROUPS", "groups"), ("MEMORY", "meminfo")):
        monkeypatch.setattr(limits, name, tmp_path / path)

    def make(files: dict[str, str] | None, own: str | None) -> None:
        if files is None:
            return
        about = {"own": OWN[own], "meminfo": f"MemTotal: 9 kB\nMemAvailable: {6000 * 1024} kB\n"}
        for name, text in (files | about).items():
            path: Path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return make


@pytest.mark.parametrize("name", MACHINES)
def test_cores_and_free_memory(machine, name):
    files, own, cores, free = MACHINES[name]
    machine(files, own)
    assert limits.cores() == cores
    assert limits.free_memory() == (None if free is None else free * MIB)


def test_affinity_counts(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    machine({"groups/cpu.max": "400000 100000"}, "v2")
    assert limits.cores() == 2


@pytest.mark.parametrize(
    ("cores", "count", "for_three", "for_one"),
    [(1, 1, 0, 0), (2, 1, 1, 2), (4, 1, 1, 4), (8, 1, 2, 4), (64, 1, 4, 4), (16, 2, 2, 4), (2, 4, 0, 0)],
)
def test_workers_of_all_sets_are_counted(monkeypatch, cores, count, for_three, for_one):
    monkeypatch.setattr(limits, "cores", lambda: cores)
    monkeypatch.setattr(processes, "local_count", lambda: count)
    assert (limits.workers(sets=3), limits.workers(sets=1)) == (for_three, for_one)


@pytest.mark.parametrize(("free", "mib"), [(None, 1024), (800 * MIB, 100), (8192 * MIB, 1024), (2**40, 4096), (0, 0)])
def test_the_cache_is_a_part_of_the_free_memory(monkeypatch, free, mib):
    monkeypatch.setattr(limits, "free_memory", lambda: free)
    assert limits.cache(sets=3) == mib


@pytest.mark.parametrize(
    ("threads", "workers", "count", "change"),
    [
        (2, 0, 1, None),
        (1, 1, 1, None),
        (2, 4, 1, "-j 1"),
        (8, 0, 1, "OMP_NUM_THREADS=2"),
        (2, 0, 2, "OMP_NUM_THREADS=1"),
        (8, 4, 1, "OMP_NUM_THREADS=2 and -j 1"),
        (1, 4, 2, "-j 0"),
    ],
)
def test_a_hint_where_threads_and_processes_outnumber_two_cores(monkeypatch, threads, workers, count, change):
    monkeypatch.setattr(limits, "cores", lambda: 2)
    monkeypatch.setattr(processes, "local_count", lambda: count)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0, 0))
    advice = limits.advice(threads, workers)
    assert (advice is None) == (change is None)
    if change is not None:
        assert f": {change} would be faster" in advice


@pytest.mark.parametrize(("threads", "reported"), [(1, False), (2, True)])
def test_a_hint_where_others_keep_the_machine_busy(monkeypatch, threads, reported):
    monkeypatch.setattr(limits, "cores", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (3.51, 0, 0))
    line = "this machine is busy (load 3.5 on 2 cores): OMP_NUM_THREADS=1 may be several times as fast as 2 threads"
    assert limits.advice(threads, 0) == (line if reported else None)


@pytest.mark.parametrize("advice", ["fewer threads would be faster", None])
def test_a_hint_is_a_warning_and_none_is_no_line(advice, monkeypatch, log):
    log.set_level("INFO", "common")
    monkeypatch.setattr(limits, "advice", lambda threads, workers: advice)
    limits.report(2, 4, 100)
    assert [r.getMessage() for r in log.records if r.levelname == "WARNING"] == ([] if advice is None else [advice])


@pytest.mark.parametrize(("variable", "threads"), [(None, 2), ("OMP_NUM_THREADS", 3), ("MKL_NUM_THREADS", 3)])
def test_threads_are_no_more_than_the_cores_unless_somebody_says_so(monkeypatch, variable, threads):
    before = torch.get_num_threads()
    for name in limits.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "3")
    monkeypatch.setattr(limits, "cores", lambda: 2)
    try:
        torch.set_num_threads(3)
        cli.launch(lambda: None, lambda args: None)
        assert torch.get_num_threads() == threads
        limits.fit_threads()
        torch.set_num_threads(1)
        limits.fit_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_defaults_change_no_number_and_are_logged(machine, tmp_path):
    """Small runs are given --workers 0; here one follows the machine, and a file of its own says so."""
    machine({"groups/memory.max": "1", "groups/memory.current": "1"}, "v2")
    train_small("erm", log=tmp_path / "reported")
    argv = [*SMALL, "--log", str(tmp_path / "default")]
    del argv[argv.index("--workers") : argv.index("--workers") + 2]
    args = erm.parse_args(argv)
    assert (args.workers, args.cache) == (None, None)
    erm.main(args)
    assert_same_run(tmp_path / "reported", tmp_path / "default")
    lines = (tmp_path / "default" / "log.txt").read_text().splitlines()
    assert "cores: 8, threads: 1, loader processes of each set: 2, memory for the images of each set: 0 MiB" in lines
    assert "loader processes of each set: 0" in (tmp_path / "reported" / "log.txt").read_text()
