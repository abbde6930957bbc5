"""Save and load a dictionary of stateful objects: whole or not at all, and without running code from the file."""

import io
import logging
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.system import memory
from common.system.files import write_whole

logger = logging.getLogger(__name__)

# What reading a file that is not a checkpoint can raise. The pickle module documents no narrower list.
UNREADABLE = (
    *(OSError, RuntimeError, ValueError, TypeError, EOFError, LookupError, AttributeError, ImportError),
    *(pickle.UnpicklingError, zipfile.BadZipFile),
)


class DamagedError(UserError):
    """The file is not what `save` wrote, or is damaged.

    Attributes:
        problem: what is wrong, without what to do about it.
    """

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}: {remedy}")
        self.problem = problem


def name_of(network: nn.Module, state: dict[str, Any]) -> str | None:
    """The dotted name under which a state holds a network, such as `teacher.network`; None if it does not."""
    modules = (item.named_modules(prefix=name) for name, item in state.items() if isinstance(item, nn.Module))
    return next((name for named in modules for name, module in named if module is network), None)


def save(path: Path, content: dict[str, Any], previous: Path | None = None) -> None:
    """Replace `path` by a checkpoint of `content`. The old file becomes `previous`, if given.

    Raises:
        UserError: the disk is full or not writable; the old file is left as it was.
    """
    buffer = io.BytesIO()  # writing directly, torch.save would hide a full disk behind its own error
    torch.save(content, buffer)
    write_whole(path, buffer.getbuffer(), previous)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU. Every byte is checked against the checksums in the file.

    Raises:
        UserError: the file does not exist or may not be read.
        DamagedError: it is cut off or changed, or holds more than tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(f"checksum of '{broken}' differs")
        content = load_safely(path)
        if not isinstance(content, dict):
            raise ValueError("not a dictionary")
        return content
    except FileNotFoundError:
        raise UserError(f"checkpoint '{path}' does not exist: train first, or name another --log") from None
    except PermissionError:
        raise UserError(f"checkpoint '{path}' may not be read: change its permissions") from None
    except UNREADABLE as error:
        if memory.shortage(error):
            raise
        raise DamagedError(
            f"checkpoint '{path}' is damaged ({why(error)})", "remove it, or start anew with --overwrite"
        ) from None


def load_safely(path: Path) -> Any:
    """Read any file of `torch.save` onto the CPU, without running code from it. Raises one of `UNREADABLE`."""
    with warnings.catch_warnings(action="ignore"):  # about old protocols, TorchScript, sparse tensors
        return torch.load(path, map_location="cpu", weights_only=True)


def why(error: Exception) -> str:
    """The reason for one of `UNREADABLE`, in one line."""
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    # torch's own message recommends unsafe loading
    return "neither tensors nor plain values, or not only them" if "weights_only" in reason else reason


def load_newest(latest: Path, previous: Path) -> tuple[dict[str, Any], Path] | None:
    """The content and the path of the newer of two checkpoints; None if there is neither.

    If `latest` is damaged and `previous` is whole, `latest` is moved aside. Otherwise the next save would replace the
    only good checkpoint by the damaged one.

    Raises:
        UserError: see `load`.
    """
    if not previous.is_file():
        return (load(latest), latest) if latest.is_file() else None
    if not latest.is_file():  # killed between the two renames of a save
        return load(previous), previous
    try:
        return load(latest), latest
    except DamagedError as error:
        content = load(previous)
        aside = latest.with_name("damaged.pth")
        os.replace(latest, aside)
        logger.warning(f"{error.problem}: moved to '{aside}'; taking '{previous}' instead")
        return content, previous


def snapshot(objects: dict[str, Any]) -> dict[str, Any]:
    """name -> state_dict of each object."""
    return {name: item.state_dict() for name, item in objects.items()}


def part(content: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The state that a checkpoint holds under a dotted name such as `teacher.network`; None if it holds none."""
    entry, _, inner = name.partition(".")
    state = content.get(entry)
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        return None
    prefix = f"{inner}." if inner else ""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def not_finite(state: dict[str, Any]) -> str | None:
    """The dotted name of a tensor in a nested state that holds NaN or infinity; None if all are finite."""
    finite = {name: tensor.isfinite().all() for name, tensor in _tensors(state, "") if tensor.is_floating_point()}
    return next((name for name, good in finite.items() if not good), None)


def _tensors(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))


def restore(objects: dict[str, Any], content: dict[str, Any], path: Path, values: Sequence[str] = ()) -> None:
    """Load each object's state from `content`, strictly.

    Args:
        objects: name -> object with `load_state_dict`.
        content: what `load` returned.
        path: of the checkpoint, for messages.
        values: names of plain values that must be in `content`, too.

    Raises:
        UserError: a name is missing, or a state does not fit its object.
    """
    missing = [name for name in (*objects, *values) if name not in content]
    if missing:
        raise UserError(f"checkpoint '{path}' holds no '{missing[0]}': it is another script's; choose another --log")
    for name, item in objects.items():
        try:
            item.load_state_dict(content[name])
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            if memory.shortage(error):
                raise  # not the checkpoint's fault
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"the '{name}' of checkpoint '{path}' does not fit ({reason}): choose another --log"
            ) from None
