"""The sessions of a run: under which conditions it began, and resumed each time."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy
import PIL
import timm
import torch
import torchvision

from common.system import files, processes


def current(step: int, device: torch.device, script: Path) -> dict[str, Any]:
    """The conditions under which a training begins, or resumes after `step`: device, threads, versions and so on.

    Args:
        script: the method's file. None is recorded for its content if there is no such file.
    """
    return {
        "from_step": step,
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
        "versions": _versions(),
        "script_sha256": script_sha256(script),
        "git_commit": _git_commit(),
    }


def at_work(sessions: list[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    """Those that made a step. A run that was stopped after its last checkpoint has one that did not.

    Args:
        sessions: of a run, from its beginning.
        steps: of all sessions together.
    """
    ends = [*(session["from_step"] for session in sessions[1:]), steps]
    return [session for session, end in zip(sessions, ends, strict=False) if session["from_step"] < end]


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two sessions and may change numbers, such as `torch 2.8.0 (was 2.7.1)`."""
    flat = [{**each, **each["versions"]} for each in (before, now)]
    names = ["device", "processes", *now["versions"]]  # a CPU's name has its threads
    old, new = ({name: each.get(name) for name in names} for each in flat)
    others = [f"{name} {new[name]} (was {old[name]})" for name in names if old[name] != new[name]]
    return [*others, "a script that has changed"] if is_other_script(before, now.get("script_sha256")) else others


def script_sha256(script: Path) -> str | None:
    """Of the method's file; None if there is no such file."""
    return files.sha256(script) if script.is_file() else None


def is_other_script(recorded: dict[str, Any], now: str | None) -> bool:
    """Whether a session or a result has another script's SHA-256 than `now`. False if one of the two is not known."""
    before = recorded.get("script_sha256")
    return None not in (before, now) and before != now


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


def _versions() -> dict[str, str]:
    modules = {"torch": torch, "torchvision": torchvision, "timm": timm, "numpy": numpy, "pillow": PIL}
    return {"python": platform.python_version()} | {name: str(module.__version__) for name, module in modules.items()}


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # not a git repository
