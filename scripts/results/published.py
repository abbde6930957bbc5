"""The published table, and the settings that it was made with."""

import csv
import functools
import importlib
import os
import shlex
import subprocess
from typing import Any

from scripts.results.runs import NOT_SETTINGS, ROOT, Cell, Place, Run

ARCH = "resnet50"
PRETRAININGS = {"supervised": "supervised", "moco": "moco_v2_800ep_backbone"}  # in the table -> in result.json


@functools.cache
def accuracies() -> dict[Place, float]:
    """All published figures, in the order of the table."""
    with open(ROOT / "scripts" / "results" / "published.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return {
        Place(row["dataset"], ARCH, PRETRAININGS[row["pretraining"]], _row(row["method"])): float(row["accuracy"])
        for row in rows
    }


def _row(method: str) -> str:
    return "erm, 4 labels" if method == "erm" else method


def datasets() -> list[str]:
    return list(dict.fromkeys(place.dataset for place in accuracies()))


def rows() -> list[str]:
    """The published rows, and ERM with 10 labels, which has commands but no published figures."""
    first, *others = dict.fromkeys(place.row for place in accuracies())
    return [first, "erm, 10 labels", *others]


def holds(place: Place) -> bool:
    """Whether it belongs to the published table, be it as a row of its own."""
    return (
        place.arch == ARCH
        and place.pretraining in PRETRAININGS.values()
        and place.dataset in datasets()
        and (place.row in rows() or "," not in place.row)
    )


def departures(cell: Cell) -> list[str]:
    """The flags in which a cell is not what its shell file runs, as `--epochs 1 (published: 60)`."""
    run = cell.runs[0]
    # The name comes from a file: of those that it may have, none is run but a published method's shell file.
    is_published = run.result["method"] in {row.partition(",")[0] for row in rows()}
    return differences(run, (_command(run) if is_published else None) or {})


def differences(run: Run, command: dict[str, Any]) -> list[str]:
    """The flags in which a run departs from a command's arguments, as `--epochs 1 (published: 60)`."""
    return [
        f"--{key.replace('_', '-')} {run.args[key]} (published: {value})"
        for key, value in command.items()
        if key in run.args and key not in NOT_SETTINGS and run.args[key] != value
    ]


def _command(run: Run) -> dict[str, Any] | None:
    """All arguments of the shell file's command for the run's place; None where it has no such command."""
    method, place = run.result["method"], run.place
    moco = place.pretraining == PRETRAININGS["moco"]
    for _python, _script, *argv in _dry_run(method):
        if place.dataset in argv and ("--pretrained-backbone" in argv) == moco:
            args = vars(importlib.import_module(method).parse_args(argv))
            if args.get("oracle", False) == run.result["oracle"] and (
                args["num_samples_per_class"] == run.result["num_samples_per_class"]
            ):
                return args
    return None


@functools.cache
def _dry_run(method: str) -> list[list[str]]:
    file = ROOT / "scripts" / f"{method}.sh"
    if not file.exists():
        return []
    environment = {key: value for key, value in os.environ.items() if key not in {"ROWS", "SEEDS", "JOBS"}}
    done = subprocess.run(
        ["bash", str(file)], env=environment | {"DRY_RUN": "1"}, capture_output=True, text=True, check=True
    )
    return [shlex.split(line) for line in done.stdout.splitlines()]
