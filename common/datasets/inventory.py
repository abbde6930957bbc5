"""An inventory of image files: their names, classes, sizes, and enough of their contents to notice a changed image.

A file of up to 12 KiB is read completely. Of a larger one, only three pieces of 4 KiB are read (the first, the middle
and the last), and its size counts, too. So photographs take no longer than thumbnails. If a file has the size and
modification time that an earlier inventory recorded, it is assumed unchanged and is not read again.
"""

import csv
import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from common.datasets.images import ImageSet
from common.errors import UserError, reason

PIECE = 4096
COLUMNS = ("path", "set", "class", "bytes", "modified", "content")


class Entry(NamedTuple):
    """One file.

    Attributes:
        part: the set it belongs to, `train` or `test`.
        label: its class name; empty if unknown.
        size: in bytes.
        modified: modification time in nanoseconds. It is no part of the fingerprint, since a copy has another.
        content: the first 16 digits of a SHA-256, see the module; empty if the file cannot be read.
    """

    part: str
    label: str
    size: int
    modified: int
    content: str


Inventory = dict[str, Entry]  # path below the root -> its file


def read(parts: dict[str, ImageSet], classes: Sequence[str], root: Path, known: Inventory) -> Inventory:
    """Take the inventory of some sets of images.

    Args:
        parts: name -> set. Sets in memory have no files, and are left out.
        classes: the class names; labels are indices into them.
        root: the folder that the names are relative to.
        known: an earlier inventory, or an empty one.
    """
    found = [
        (part, str(path), classes[label] if label >= 0 else "")
        for part, images in parts.items()
        if isinstance(images.images, list)
        for path, label in zip(images.images, images.labels.tolist(), strict=True)
    ]
    names = [_below(path, str(root)) for _, path, _ in found]
    jobs = [(path, known.get(name)) for name, (_, path, _) in zip(names, found, strict=True)]
    with ThreadPoolExecutor(16) as pool:  # a network disk is mostly waiting
        pieces = pool.map(_look_at_all, (jobs[i : i + 500] for i in range(0, len(jobs), 500)))
        files = [file for piece in pieces for file in piece]
    return {name: Entry(part, label, *file) for name, (part, _, label), file in zip(names, found, files, strict=True)}


def _below(path: str, root: str) -> str:
    """`os.path.relpath`, but faster for the usual case of paths below the root."""
    return path[len(root) + 1 :] if path.startswith(root + os.sep) else os.path.relpath(path, root)


def _look_at_all(jobs: Sequence[tuple[str, Entry | None]]) -> list[tuple[int, int, str]]:
    return [_look(*job) for job in jobs]


def _look(path: str, known: Entry | None) -> tuple[int, int, str]:
    """Size, modification time and content of a file; zeros and an empty text if it cannot be read."""
    try:
        status = os.stat(path)
        size, modified = status.st_size, status.st_mtime_ns
        if known is not None and (size, modified) == (known.size, known.modified):
            return size, modified, known.content
        digest = hashlib.sha256(str(size).encode())
        with open(path, "rb", buffering=0) as stream:
            if size <= 3 * PIECE:
                digest.update(stream.read())
            else:
                for start in (0, (size - PIECE) // 2, size - PIECE):
                    stream.seek(start)
                    digest.update(stream.read(PIECE))
        return size, modified, digest.hexdigest()[:16]
    except OSError:  # the loader reports it when it decodes the file
        return 0, 0, ""


def fingerprint(inventory: Inventory) -> str:
    """Fingerprint of everything but the modification times."""
    digest = hashlib.sha256()
    for name, entry in inventory.items():
        fields = (name, entry.part, entry.label, str(entry.size), entry.content)
        digest.update(b"\0".join(map(os.fsencode, fields)) + b"\0")
    return digest.hexdigest()


def differences(before: Inventory, now: Inventory) -> list[str]:
    """What has changed, such as `2 are of another class ('train/cat/1.png' for one)`; empty if nothing has."""
    both = [name for name in now if name in before]
    kinds = {
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
        "in another set": [name for name in both if now[name].part != before[name].part],
        "of another class": [name for name in both if now[name].label != before[name].label],
        "of another content": [
            name for name in both if (now[name].size, now[name].content) != (before[name].size, before[name].content)
        ],
    }
    return [
        f"{len(names):,} {'is' if len(names) == 1 else 'are'} {kind} ('{names[0]}'{' for one' if names[1:] else ''})"
        for kind, names in kinds.items()
        if names
    ]


def replaced(inventory: Inventory, root: Path) -> list[str]:
    """The names below a root of files that are others than they were. Files that are gone are not among them.

    Args:
        inventory: what they were.
        root: where they are now.
    """
    jobs = [(str(root / name), entry) for name, entry in inventory.items()]
    with ThreadPoolExecutor(16) as pool:
        now = list(pool.map(lambda job: _look(*job), jobs))
    return [
        name
        for (name, entry), (path, _), (size, _, content) in zip(inventory.items(), jobs, now, strict=True)
        if (size, content) != (entry.size, entry.content) and os.path.lexists(path)
    ]


def to_csv(inventory: Inventory) -> bytes:
    """The inventory as a CSV table, which people can read, too."""
    text = io.StringIO()
    rows = ((name, *entry) for name, entry in inventory.items())
    plain, quoting = csv.writer(text, lineterminator="\n"), csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in (COLUMNS, *rows):
        # Python 3.11 leaves a carriage return without quotes.
        (quoting if "\r" in row[0] else plain).writerow(row)
    return text.getvalue().encode(errors="surrogateescape")


def from_csv(file: Path) -> Inventory:
    """Read what `to_csv` wrote.

    Raises:
        UserError: the file cannot be read, or is not such a table.
    """
    try:
        text = file.read_bytes().decode("utf-8", "surrogateescape")  # read_text would make a newline of each "\r"
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        if tuple(next(rows)) != COLUMNS:
            raise ValueError("other columns")
        return {
            name: Entry(part, label, int(size), int(modified), content)
            for name, part, label, size, modified, content in rows
        }
    except (OSError, ValueError, StopIteration, csv.Error) as error:
        raise UserError(f"'{file}' cannot be read ({reason(error)}): remove it, or choose another --log") from None
