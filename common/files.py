"""Writing files whole or not at all."""

import contextlib
import errno
import os
from pathlib import Path

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
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if previous is not None and path.is_file():
            os.replace(path, previous)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # what kept it from being written may keep it from being removed
            temporary.unlink()
        remedy = "free some space" if error.errno in FULL else "put that right"
        raise UserError(f"cannot save '{path}' ({error.strerror}): {remedy}, and run the same command again") from None
