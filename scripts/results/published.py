"""The published table, and the settings that it was made with."""

import csv
import functools
import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts.results.cells import Cell
from scripts.results.runs import ROOT, CellKey, Run

ARCH = "resnet50"
PRETRAININGS = {"supervised": "supervised", "moco": "moco_v2_800ep_backbone"}  # in the table -> in result.json
SELECTING = {"METHODS", "ROWS", "SEEDS", "STEPS", "JOBS", "NPROC"}  # variables that change what a shell file prints


def read_figures(name: str) -> list[dict[str, str]]:
    """The lines of a file in figures/, without comments."""
    with open(Path(__file__).parent / "figures" / name, encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@functools.cache
def accuracies() -> dict[CellKey, float]:
    """All published figures, in the order of the table."""
    rows = read_figures("published.csv")
    return {
        CellKey(row["dataset"], ARCH, PRETRAININGS[row["pretraining"]], _row(row["method"])): float(row["accuracy"])
        for row in rows
    }


def _row(method: str) -> str:
    return "erm, 4 labels" if method == "erm" else method


def datasets() -> list[str]:
    return list(dict.fromkeys(key.dataset for key in accuracies()))


def rows() -> list[str]:
    """The published rows, and ERM with 10 labels, which has commands but no published figures."""
    first, *others = dict.fromkeys(key.row for key in accuracies())
    return [first, "erm, 10 labels", *others]


def holds(key: CellKey) -> bool:
    """Whether a key belongs to the published table. A method that is not in the table gets a row of its own."""
    return (
        key.arch == ARCH
        and key.pretraining in PRETRAININGS.values()
        and key.dataset in datasets()
        and (key.row in rows() or "," not in key.row)
    )


def departures(cell: Cell) -> list[str]:
    """The flags in which a cell differs from its shell file's command, as `--epochs 1 (published: 60)`."""
    run = cell.runs[0]
    # The method's name comes from a file of the run, so it may be any. Only the shell file of a method is run.
    methods = {file.stem for file in ROOT.glob("*.py")} & {file.stem for file in (ROOT / "scripts").glob("*.sh")}
    return differences(run.settings, (_command(run) if run.result["method"] in methods else None) or {})


def differences(settings: dict[str, Any], command: dict[str, Any], depth: int = 2) -> list[str]:
    """The flags in which a run's settings depart from a command's arguments, as `--epochs 1 (published: 60)`.

    Args:
        depth: how many folders below LOGS V-PET's sources are. LOGS itself makes no difference.
    """
    settings, command = (_relative(arguments, depth) for arguments in (settings, command))
    return [
        f"--{key.replace('_', '-')} {settings[key]} (published: {value})"
        for key, value in command.items()
        if key in settings and settings[key] != value
    ]


def _relative(arguments: dict[str, Any], depth: int) -> dict[str, Any]:
    """The arguments, with the folders of sources relative to LOGS."""
    if not arguments.get("sources"):
        return arguments
    return arguments | {"sources": ["/".join(Path(source).parts[-depth:]) for source in arguments["sources"]]}


def _command(run: Run) -> dict[str, Any] | None:
    """All arguments of the shell file's command for the run's key; None where it has no such command."""
    key = run.key
    moco = key.pretraining == PRETRAININGS["moco"]
    for command in commands(run.result["method"]):
        if key.dataset in command and ("--pretrained-backbone" in command) == moco:
            args = arguments(command)
            if args.get("oracle", False) == run.result["oracle"] and (
                args["num_samples_per_class"] == run.result["num_samples_per_class"]
            ):
                return args
    return None


@functools.cache
def commands(name: str, *words: str) -> list[list[str]]:
    """The commands that a shell file prints for these words; none where it refuses them.

    Args:
        name: of the shell file. It is executed, so an unchecked name from a run's files must not come here.
    """
    environment = {key: value for key, value in os.environ.items() if key not in SELECTING}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / f"{name}.sh"), *words],
        env=environment | {"DRY_RUN": "1", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 2:
        return []
    done.check_returncode()
    return [shlex.split(line) for line in done.stdout.splitlines()]


def arguments(command: list[str]) -> dict[str, Any]:
    """All arguments of a command, defaults included."""
    _python, script, *argv = command
    return vars(importlib.import_module(Path(script).stem).parse_args(argv))
