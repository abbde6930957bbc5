"""Files: written whole or not at all, and their SHA-256."""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from common.errors import UserError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # on network disks that do not support locks


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
