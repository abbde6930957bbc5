"""Writing files whole or not at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from common.errors import UserError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_whole(path: Path, content: bytes | memoryview, previous: Path | None = None) -> None:
    """Write beside the target, flush to the disk, rename: whoever looks sees the old file or the new one, whole.

    Args:
        path: the file to write or replace.
        content: all of it.
        previous: where the old file goes, if it is to be kept.

    Raises:
        UserError: the disk is full or not writable; the old file is as it was.
    """
    with _beside(path, previous) as temporary, open(temporary, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """A text file that is written piece by piece, and as whole as by `write_whole`: left by an error, it never was.

    Raises:
        UserError: see `write_whole`.
    """
    with _beside(path) as temporary, open(temporary, "w", encoding="utf-8", errors="surrogateescape") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def _beside(path: Path, previous: Path | None = None) -> Iterator[Path]:
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        if previous is not None and path.is_file():
            os.replace(path, previous)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # what kept it from being written may keep it from being removed
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        remedy = "free some space" if error.errno in FULL else "put that right"
        raise UserError(f"cannot save '{path}' ({error.strerror}): {remedy}, and run the same command again") from None
