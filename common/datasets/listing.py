"""What files of images hold: names, classes, sizes, and enough of their contents to notice another image.

Of a file of up to 12 KiB all bytes count, of a larger one its size and three pieces: the first, the middle and the last
4 KiB. Reading them takes as long for photographs as for thumbnails. Where a listing is there already, a file of the
same size and time of modification is taken for the same, and not read again.
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
from common.errors import UserError

PIECE = 4096
COLUMNS = ("path", "set", "class", "bytes", "modified", "content")


class Entry(NamedTuple):
    """One file.

    Attributes:
        part: `train` or `test`.
        label: its class; empty where nobody knows it.
        size: in bytes.
        modified: when, in nanoseconds. It says nothing of the image: a copy has another.
        content: the beginning of a SHA-256, see the module; empty where the file cannot be read.
    """

    part: str
    label: str
    size: int
    modified: int
    content: str


Listing = dict[str, Entry]  # path below the root -> its file


def read(parts: dict[str, ImageSet], classes: Sequence[str], root: Path, known: Listing) -> Listing:
    """Look at all files of some sets of images.

    Args:
        parts: name -> set; sets in memory have no files.
        classes: the class names; labels are indices into them.
        root: the folder below which the files are.
        known: a listing of before.
    """
    found = [
        (part, str(path), classes[label] if label >= 0 else "")
        for part, images in parts.items()
        if isinstance(images.images, list)
        for path, label in zip(images.images, images.labels.tolist(), strict=True)
    ]
    names = [_below(path, str(root)) for _, path, _ in found]
    jobs = [(path, known.get(name)) for name, (_, path, _) in zip(names, found, strict=True)]
    with ThreadPoolExecutor(16) as pool:  # on a network's disk it is the waiting that counts
        pieces = pool.map(_look_at_all, (jobs[i : i + 500] for i in range(0, len(jobs), 500)))
        files = [file for piece in pieces for file in piece]
    return {name: Entry(part, label, *file) for name, (part, _, label), file in zip(names, found, files, strict=True)}


def _below(path: str, root: str) -> str:
    """`os.path.relpath`, but faster for the usual case of paths below the root."""
    return path[len(root) + 1 :] if path.startswith(root + os.sep) else os.path.relpath(path, root)


def _look_at_all(jobs: Sequence[tuple[str, Entry | None]]) -> list[tuple[int, int, str]]:
    return [_look(*job) for job in jobs]


def _look(path: str, known: Entry | None) -> tuple[int, int, str]:
    """Size, time and content of a file."""
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
    except OSError:  # who decodes it will say what is wrong
        return 0, 0, ""


def sha256(listing: Listing) -> str:
    """Fingerprint of all but the times of modification."""
    digest = hashlib.sha256()
    for name, entry in listing.items():
        fields = (name, entry.part, entry.label, str(entry.size), entry.content)
        digest.update(b"\0".join(map(os.fsencode, fields)) + b"\0")
    return digest.hexdigest()


def differences(before: Listing, now: Listing) -> list[str]:
    """What has changed, as `2 have another class ('train/cat/1.png' for one)`; empty where nothing has."""
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


def to_csv(listing: Listing) -> bytes:
    """The listing as a table, for a person, too."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((name, *entry) for name, entry in listing.items())
    return text.getvalue().encode(errors="surrogateescape")


def from_csv(file: Path) -> Listing:
    """What `to_csv` wrote.

    Raises:
        UserError: it cannot be read, or is no such table.
    """
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        if tuple(next(rows)) != COLUMNS:
            raise ValueError("other columns")
        return {
            name: Entry(part, label, int(size), int(modified), content)
            for name, part, label, size, modified, content in rows
        }
    except (OSError, ValueError, StopIteration, csv.Error) as error:
        raise UserError(f"'{file}' cannot be read ({error}): remove it, or choose another --log") from None
