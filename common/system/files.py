"""Files: written whole or not at all, JSON objects, and SHA-256."""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from common.errors import UserError, reason

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # on network disks that do not support locks
LOCK = ".lock"

logger = logging.getLogger(__name__)


def make_and_lock(folder: Path, flag: str) -> TextIO:
    """Make a folder, and lock it against other processes for as long as the file that is returned is open.

    A POSIX lock: it ends with the process, however that ends, and forked workers do not inherit it.

    Args:
        folder: may exist.
        flag: names it on the command line.

    Raises:
        UserError: another process holds the lock, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_special(folder / LOCK)
        lock = open(folder / LOCK, "w")  # noqa: SIM115 (the caller keeps it open)
    except OSError as error:
        raise UserError(f"cannot write to '{folder}' ({error.strerror}): choose another {flag}") from None
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UserError(f"another process is using '{folder}': wait for it, or choose another {flag}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            lock.close()
            raise UserError(f"cannot write to '{folder}' ({error.strerror}): choose another {flag}") from None
        logger.warning(
            f"the disk of '{folder}' knows no locks ({error.strerror}): see to it yourself that no other process works "
            "there"
        )
    return lock


def write_whole(path: Path, content: bytes | memoryview, previous: Path | None = None) -> None:
    """Write to a file next to the target, flush it to the disk, and rename it.

    So a reader sees the whole old file or the whole new one.

    Args:
        path: the file to write or replace, or a link to it.
        content: all of it.
        previous: where to move the old file, if it is to be kept.

    Raises:
        UserError: the disk is full or not writable (the old file is left as it was); or `path` is a folder, a device
            or a pipe.
    """
    with _temporary(path, previous) as temporary, open(temporary, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """Write a text file piece by piece. As with `write_whole`, it appears once it is complete, and not after an error.

    Raises:
        UserError: see `write_whole`.
    """
    with _temporary(path) as temporary, open(temporary, "w", encoding="utf-8", errors="surrogateescape") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object, readable for people. Raises as `write_whole`, and a `ValueError` for NaN and infinity."""
    write_whole(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path, remedy: str = "remove it, or choose another --log") -> dict[str, Any]:
    """Read a JSON object from a file.

    Args:
        path: of the file.
        remedy: what to do if that fails, for the message.

    Raises:
        UserError: the file cannot be read, or holds no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{path}' cannot be read ({reason(error)}): {remedy}") from None


def sha256(file: str | Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"'{file}' cannot be read ({error.strerror}): restore it") from None


def refuse_special(path: Path) -> None:
    """Refuse to replace or write into a device, a pipe or a socket.

    Raises:
        UserError: the path is one of these, or a link to one.
    """
    with contextlib.suppress(OSError):  # nothing is there, or opening it will raise a better error
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UserError(f"cannot save '{path}' (it is no regular file): choose another name, or remove it")


@contextlib.contextmanager
def _temporary(path: Path, previous: Path | None = None) -> Iterator[Path]:
    refuse_special(path)
    if os.path.islink(path):  # the link stays, and the file that it names is replaced
        path = Path(os.path.realpath(path))
    temporary = path.with_name(path.name + ".tmp")
    refuse_special(temporary)
    try:
        yield temporary
        if previous is not None and path.is_file():
            os.replace(path, previous)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the cause of the error may also prevent its removal
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        remedy = "free some space" if error.errno in FULL else "put that right"
        raise UserError(f"cannot save '{path}' ({error.strerror}): {remedy}, and run the same command again") from None
