"""Running commands: JOBS at a time, spread over the GPUs."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.cells.environment import count, fail, interpreter, launcher

LONGEST = 60  # lines of a traceback


@dataclass(frozen=True)
class Job:
    """A command that is running.

    Attributes:
        position: of the command, in the list of all.
        output: the file with what it prints; None: the terminal.
    """

    position: int
    process: subprocess.Popen
    output: Path | None


def run(commands: list[str], collected: str | None = None) -> int:
    """Run all the commands, then print a summary.

    Args:
        commands: one a line, as a shell would read them.
        collected: the folder of runs whose tables are shown at the end.

    Returns:
        the exit status: 0 where all have succeeded, 1 where one has not, 130 after a signal.
    """
    if not shutil.which(launcher()[0]):
        fail(f"'{launcher()[0]}' is no program here: activate its environment, or name one with PYTHON")
    signals: list[int] = []
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(signum, lambda signum, frame: signals.append(signum))
    with tempfile.TemporaryDirectory() as folder:
        codes = _run_all(commands, signals, Path(folder))
    finished = sum(code == 0 for code in codes.values())
    print(f"\n{finished} of {len(commands)} cells are finished", flush=True)
    for position, command in enumerate(commands):
        if position not in codes:
            print(f"not run: {command}", file=sys.stderr)
        elif codes[position] != 0:
            print(f"exit code {codes[position]}: {command}", file=sys.stderr)
    if signals:
        return 130
    if collected and finished:
        shown = subprocess.run([interpreter(), "scripts/collect_results.py", collected], check=False)
        if shown.returncode:
            return 1  # it has said why
    return 0 if finished == len(commands) else 1


def _run_all(commands: list[str], signals: list[int], folder: Path) -> dict[int, int]:
    """Run the commands until all are done or a signal came.

    A signal is passed on to the running scripts, which save themselves; no other command is begun then.

    Args:
        signals: those that came so far; the handlers append to it.
        folder: for the output of commands that run side by side.

    Returns:
        the command's position -> its exit code, of those that were begun.
    """
    jobs = count("JOBS")
    gpus = _spread_gpus(jobs)
    waiting = list(enumerate(commands))
    running: dict[int, Job] = {}  # by slot: one of JOBS
    codes: dict[int, int] = {}
    passed_on = 0
    while running or (waiting and not signals):
        for slot in range(jobs):
            if slot not in running and waiting and not signals:
                position, command = waiting.pop(0)
                print(f"== {position + 1}/{len(commands)}: {command}", flush=True)
                output = folder / str(position) if jobs > 1 else None
                running[slot] = Job(position, _start(command, gpus[slot], output), output)
        time.sleep(0.02)
        while passed_on < len(signals):
            passed_on += 1
            for job in running.values():
                job.process.terminate()
        for slot, job in list(running.items()):
            code = job.process.poll()
            if code is not None:
                del running[slot]
                codes[job.position] = code if code >= 0 else 128 - code  # a signal's number, as a shell counts it
                if code != 0 and job.output:
                    sys.stderr.write(_why(job.output))
                if code == 1 and len(codes) == 1 and _lacks_torch():
                    fail(f"'{interpreter()}' has no torch: run `. .venv/bin/activate`, or name another with PYTHON")
    return codes


def _start(command: str, gpus: str | None, output: Path | None) -> subprocess.Popen:
    """Start a command in a session of its own, so that the terminal's signals reach it only through us, and once."""
    environment = os.environ if gpus is None else os.environ | {"CUDA_VISIBLE_DEVICES": gpus}
    options = {"stdin": subprocess.DEVNULL, "env": environment, "start_new_session": True}
    words = ["bash", "-c", f"exec {command}"]  # printf %q quotes bytes beyond ASCII as bash alone reads them
    if output is None:
        return subprocess.Popen(words, **options)
    with open(output, "wb") as file:
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, **options)


def _lacks_torch() -> bool:
    """Whether the interpreter runs, but not in the project's environment."""
    code = "import importlib.util, sys; sys.exit(9 if importlib.util.find_spec('torch') is None else 0)"
    return subprocess.run([interpreter(), "-c", code], capture_output=True, check=False).returncode == 9


def _why(path: Path) -> str:
    """Of a failed command's output the line that says why, or its traceback; else its last line.

    torchrun adds a report of its own after these.
    """
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    said = [line for line in lines if line.startswith(("error: ", "stopped by "))]
    if said:
        return said[0]
    first = next((i for i, line in enumerate(lines) if line.startswith("Traceback ")), len(lines) - 1)
    return "".join(lines[max(first, 0) :][:LONGEST])


def _spread_gpus(jobs: int) -> list[str | None]:
    """The CUDA_VISIBLE_DEVICES of each slot; None leaves it as it is.

    Each slot has as many GPUs as a cell has processes. After the last GPU it begins with the first again.
    """
    gpus = _all_gpus() if jobs > 1 else []
    if not gpus:
        return [None] * jobs
    each = count("NPROC")
    slots = [range(slot * each, (slot + 1) * each) for slot in range(jobs)]
    return [",".join(dict.fromkeys(gpus[i % len(gpus)] for i in slot)) for slot in slots]


def _all_gpus() -> list[str]:
    """Those of CUDA_VISIBLE_DEVICES, or all that nvidia-smi lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []
