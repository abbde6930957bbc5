"""Run a shell file, or read the commands that it prints."""

import importlib
import os
import shlex
import subprocess

from tests.conftest import ROOT

# The methods of the published table, in its order, and how many epochs they have there.
EPOCHS = {"erm": 20} | dict.fromkeys(["pseudo_label", "pi_model", "mean_teacher"], 40)
EPOCHS |= dict.fromkeys(["uda", "fixmatch", "self_tuning"], 60) | dict.fromkeys(["flexmatch", "debiasmatch", "dst"], 90)


def shell(name: str, arguments: str = "", **environment: str) -> subprocess.CompletedProcess:
    taken = {"CUDA_VISIBLE_DEVICES", "METHODS", "ROWS", "SEEDS", "STEPS", "JOBS", "NPROC", "PYTHON", "DATA", "LOGS"}
    taken |= {"DRY_RUN", "WEIGHTS", "JPEG"}
    clean = {key: value for key, value in os.environ.items() if key not in taken}
    command = ["bash", f"scripts/{name}.sh", *shlex.split(arguments)]
    return subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=False)


def dry_run(name: str, arguments: str = "", **environment: str) -> list[list[str]]:
    """The words of each printed command."""
    done = shell(name, arguments, DRY_RUN="1", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines()]


def parse(command: list[str]) -> dict:
    """The script's name and its arguments, all that are in effect."""
    python, script, *argv = command
    assert python == "python"
    method = script.removesuffix(".py")
    return {"method": method} | vars(importlib.import_module(method).parse_args(argv))
