"""Saving and loading a dictionary of stateful objects, whole or not at all, and without running code."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError

# What reading a file that is no checkpoint can raise; the pickle module promises no less.
UNREADABLE = (
    *(OSError, RuntimeError, ValueError, TypeError, EOFError, LookupError, AttributeError, ImportError),
    *(pickle.UnpicklingError, zipfile.BadZipFile),
)


def save(path: Path, content: dict[str, Any]) -> None:
    """Write beside the target, flush to the disk, rename: whoever looks sees the old file or the new one, whole.

    Raises:
        UserError: the disk is full or not writable; the old file is as it was.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"cannot save '{path}' ({error.strerror}): free some space and run the same command again"
        ) from None


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU. Every byte is checked against the file's own checksums.

    Raises:
        UserError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"checksum of '{damaged}' differs")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"checkpoint '{path}' does not exist") from None
    except UNREADABLE as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"checkpoint '{path}' is damaged ({reason}): remove it, or start anew with --overwrite"
        ) from None


def snapshot(objects: dict[str, Any]) -> dict[str, Any]:
    """name -> state_dict of each object."""
    return {name: item.state_dict() for name, item in objects.items()}


def restore(objects: dict[str, Any], content: dict[str, Any], path: Path) -> None:
    """Load each object's state from `content`, strictly.

    Raises:
        UserError: a name is missing, or a state does not fit its object.
    """
    for name, item in objects.items():
        if name not in content:
            raise UserError(f"checkpoint '{path}' holds no '{name}': it is another script's")
        try:
            item.load_state_dict(content[name])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"the '{name}' of checkpoint '{path}' does not fit ({reason})") from None
