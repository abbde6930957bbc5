"""Find the images in a folder, and record everything in it that is not used."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NoReturn

from torchvision.datasets.folder import IMG_EXTENSIONS

from common.errors import UserError

EXTENSIONS = (*IMG_EXTENSIONS, ".gif", ".jfif", ".avif")
# Folders that operating systems and network disks create: thumbnails, deleted files.
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "System Volume Information"}
SYSTEM_FOLDERS |= {"@Recently-Snapshot", "lost+found"}
RUN_FILES = {"args.json", "labeled.json"}  # a folder that holds both is a run folder
COUNTED = 10_000  # stop counting the images of an unused folder here
SHOWN = 10  # entries of a kind in the warning of what is not used

logger = logging.getLogger(__name__)


@dataclass
class Skipped:
    """Counts what lies in a folder and is not used.

    Attributes:
        kinds: files that are not images, by their lower-case ending, or by name if they have none.
        images: unused images, by where they are.
        folders: system folders, by name, and run folders.
        links: paths of links to images or folders that do not exist.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    links: list[str] = field(default_factory=list)

    def warn(self, root: Path) -> None:
        """Count everything in one warning, so that no image is silently ignored. What is most frequent is named."""
        found = {
            "images that are not used": _listed(self.images, len(self.images)),
            "files that are not taken for images": _listed(self.kinds),
            "folders that hold no data": _listed(self.folders),
            "broken links": f"{len(self.links):,}" if self.links else "",
        }
        texts = [f"{what} ({numbers})" for what, numbers in found.items() if numbers]
        if texts:
            logger.warning(f"'{root}' has {' and '.join(texts)}: they are skipped")

    def refuse_broken_links(self) -> None:
        """Refuse links that lead nowhere: a class on an unmounted disk must not go missing.

        Raises:
            UserError: there is such a link.
        """
        if self.links:
            more = f", as are {len(self.links) - 1:,} more links" if len(self.links) > 1 else ""
            target = os.readlink(self.links[0])
            raise UserError(
                f"'{self.links[0]}' is a link to '{target}', which is missing{more}: mount its disk, or remove the link"
            )


def _listed(numbers: Counter[str], most: int = SHOWN) -> str:
    """The most frequent entries by name, and how many others there are."""
    shown = sorted(numbers.most_common(most))
    others = numbers.total() - sum(number for _, number in shown)
    words = [f"{number:,}{'+' if number == COUNTED else ''} {what}" for what, number in shown]
    return ", ".join([*words, *([f"{others:,} of other kinds"] if others else [])])


def images_in(
    folder: Path,
    skipped: Skipped,
    leave_out: Sequence[str] = (),
    onerror: Callable[[OSError], object] | None = None,
) -> Iterator[str]:
    """The images in a folder and all folders below it. Each folder is visited once, even if several links lead to it.

    Hidden files and folders, system folders and run folders are left out.

    Args:
        folder: where to begin.
        skipped: counts everything else that is not used.
        leave_out: names of sub-folders of `folder` to skip.
        onerror: called for folders that cannot be read; by default a `UserError` is raised.
    """
    seen, waiting = set(), [os.fspath(folder)]
    while waiting:
        parent = waiting.pop()
        real_path = os.path.realpath(parent)
        if real_path in seen:
            continue
        seen.add(real_path)
        try:
            entries = _entries(parent)
        except OSError as error:
            (onerror or _refuse)(error)
            continue
        is_top = parent == os.fspath(folder)
        if not is_top and {entry.name for entry in entries} >= RUN_FILES:
            skipped.folders["of runs"] += 1  # the pictures that a run draws are no training data
            continue
        folders, images = sort_out(entries, skipped)
        yield from images
        waiting += [path for name, path in reversed(folders) if not (is_top and name in leave_out)]


def _entries(folder: str | Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def sort_out(entries: Sequence[os.DirEntry], skipped: Skipped) -> tuple[list[tuple[str, str]], list[str]]:
    """The (name, path) of the folders, and the paths of the images, among the entries of one folder."""
    folders, images = [], []
    for entry in entries:
        is_image = entry.name.lower().endswith(EXTENSIONS)
        if entry.name.startswith("."):
            if is_image and not entry.name.startswith("._"):  # macOS writes one for every file
                skipped.images["hidden"] += 1
        elif _is(entry.is_dir):
            if entry.name in SYSTEM_FOLDERS:
                skipped.folders[entry.name] += 1
            else:
                folders.append((entry.name, entry.path))
        elif _is(entry.is_file):
            if is_image:
                images.append(entry.path)
            else:
                skipped.kinds[_kind(entry.name)] += 1
        elif entry.is_symlink() and (is_image or not os.path.splitext(entry.name)[1]):  # or to a folder
            skipped.links.append(entry.path)
            images += [entry.path] if is_image else []
        else:
            skipped.kinds["broken link" if entry.is_symlink() else "pipe or device"] += 1
    return folders, images


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # circular links, or an unmounted disk
        return False


def _kind(name: str) -> str:
    return os.path.splitext(name)[1].lower() or name


def class_folders(folder: Path, skipped: Skipped) -> list[str]:
    """The names of a folder's sub-folders, in alphabetical order. `skipped` counts everything else in it.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        folders, images = sort_out(_entries(folder), skipped)
    except OSError as error:
        _refuse(error)
    if images:
        skipped.images[f"directly in '{folder.name}'"] += len(images)
    return [name for name, path in folders if not is_run(path)]


def is_run(folder: str | Path) -> bool:
    """Whether a folder is a run folder, whose images are drawings and not data."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in RUN_FILES)


def count_unused(root: Path, used: Sequence[str], skipped: Skipped) -> None:
    """Count in `skipped` the images below `root` that are not in one of its folders `used`."""
    folders, images = sort_out(_entries_or_refuse(root), unread := Skipped())
    if images:
        skipped.images[f"directly in '{root.name or root}'"] += len(images)
    skipped.folders += unread.folders
    skipped.links += [path for path in unread.links if os.path.basename(path) in used]
    for name, path in folders:
        if name in used or is_run(path):
            continue
        found = images_in(Path(path), Skipped(), onerror=lambda error: None)
        number = sum(1 for _ in islice(found, COUNTED))
        if number:
            skipped.images[f"in '{name}'{_meant(name)}"] += number


def _meant(name: str) -> str:
    """A hint for folders whose name is probably a misspelled `unlabeled`."""
    return ", which is not 'unlabeled'" if name.casefold().startswith(("unlabel", "unlabl")) else ""


def names_in(folder: Path) -> list[str]:
    """The names in a folder, as they are spelled there.

    Raises:
        UserError: it cannot be read.
    """
    return [entry.name for entry in _entries_or_refuse(folder)]


def _entries_or_refuse(folder: Path) -> list[os.DirEntry]:
    try:
        return _entries(folder)
    except OSError as error:
        _refuse(error)


def refuse_shared_folders(images: Sequence[str], others: Sequence[str]) -> None:
    """Refuse two sets of images if one folder holds some of both, under two names. Links to single files may be meant.

    Raises:
        UserError: there is such a folder.
    """
    known = {os.path.realpath(folder): folder for folder in {os.path.dirname(path) for path in others}}
    for folder in sorted({os.path.dirname(path) for path in images}):
        other = known.get(os.path.realpath(folder))
        if other is not None:
            raise UserError(
                f"'{folder}' and '{other}' are one folder, by a link, so its images would be in two sets: remove the "
                "link"
            )


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"folder '{error.filename}' cannot be read ({error.strerror}): change its permissions") from None
