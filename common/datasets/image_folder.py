"""ImageFolder: your own images.

ROOT/train/CLASS/*      training images, one folder per class (sub-folders allowed)
ROOT/test/CLASS/*       test images (or ROOT/val)
ROOT/unlabeled/**       optional: more unlabeled images, in any folders

With a list of the labeled images (`--labeled-list`), the training images are all those below ROOT, in any folders or in
none, but for the folders test and val.
"""

import csv
import io
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from torchvision.datasets.folder import IMG_EXTENSIONS

from common.datasets.images import ImageSet
from common.errors import UserError

EXTENSIONS = (*IMG_EXTENSIONS, ".gif", ".jfif", ".avif")
HEADERS = (["path"], ["path", "class"])  # of a list

logger = logging.getLogger(__name__)


def load(root: Path) -> dict:
    """Classes are the folders of `train` in alphabetical order; images are ordered by (class, relative path).

    Hidden files and folders are left out, and so are files of other kinds, of which a warning tells.

    Raises:
        UserError: a folder is missing, empty or not readable, there is one class only, or `test` has one that `train`
            lacks.
    """
    train_dir, test_dir = root / "train", _test_folder(root)
    for folder in (root, train_dir, test_dir):
        if not os.path.isdir(folder):  # as Path's own, but false for names that are too long
            raise UserError(f"folder '{folder}' is missing: ImageFolder needs ROOT/train/CLASS/* and ROOT/test/CLASS/*")
    classes = _class_names(train_dir)
    if len(classes) == 1:
        raise UserError(f"'{train_dir}' has one class, '{classes[0]}': add others, or remove a folder that is too many")
    skipped: Counter[str] = Counter()
    extra = sorted(images_in(root / "unlabeled", skipped)) if os.path.isdir(root / "unlabeled") else []
    train, test = (_labeled_images(folder, classes, skipped, "the train folder") for folder in (train_dir, test_dir))
    warn_of_skipped(root, skipped)
    return {
        "classes": classes,
        "train": ImageSet([path for path, _ in train] + extra, [label for _, label in train] + [-1] * len(extra)),
        "test": ImageSet([path for path, _ in test], [label for _, label in test]),
        "candidates": len(train),
    }


def load_listed(root: Path, file: Path) -> dict:
    """Labels come from the images that `file` lists; all other images below `root` are unlabeled.

    Classes are those of the list in alphabetical order. The listed images come first, ordered by (class, path), the
    others follow, ordered by path; of those in `train/CLASS` the class is known, though only for the meters.

    Args:
        file: CSV, one image a line: its path below `root` and its class, which may be left out where the image is in
            `train/CLASS`. A first line `path` or `path,class` is a header; `;` and tabs separate, too.

    Raises:
        UserError: as `load`; or a line is broken, by its number.
    """
    test_dir = _test_folder(root)
    for folder in (root, test_dir):
        if not os.path.isdir(folder):
            raise UserError(f"folder '{folder}' is missing: --labeled-list needs ROOT/test/CLASS/* beside the images")
    skipped: Counter[str] = Counter()
    found = {os.path.relpath(path, root): path for path in images_in(root, skipped, leave_out=("test", "val"))}
    listed = _read_list(file, root, found)
    classes = sorted(set(listed.values()))
    if len(classes) < 2:
        raise UserError(f"'{file}' has one class, '{classes[0]}': add images of others to it")
    test = _labeled_images(test_dir, classes, skipped, f"'{file}'")
    skipped.pop(file.suffix, None)  # it may well lie there itself
    warn_of_skipped(root, skipped)
    number = {name: c for c, name in enumerate(classes)}
    labeled = sorted((number[name], path) for path, name in listed.items())
    others = sorted((path, number.get(_class_of(path) or "", -1)) for path in found.keys() - listed.keys())
    return {
        "classes": classes,
        "train": ImageSet(
            [found[path] for path in [*(path for _, path in labeled), *(path for path, _ in others)]],
            [label for label, _ in labeled] + [label for _, label in others],
        ),
        "test": ImageSet([path for path, _ in test], [label for _, label in test]),
        "candidates": len(labeled),
    }


def _test_folder(root: Path) -> Path:
    test, val = root / "test", root / "val"
    return val if not os.path.isdir(test) and os.path.isdir(val) else test


def _class_of(path: str) -> str | None:
    """The class that an image's folder tells: `train/CLASS/**`."""
    first, *rest = path.split(os.sep)
    return rest[0] if first == "train" and len(rest) > 1 else None


def _read_list(file: Path, root: Path, found: Mapping[str, str]) -> dict[str, str]:
    """Path below the root -> class, of every line of the list."""
    listed: dict[str, str] = {}
    lines: dict[str, int] = {}
    spellings: dict[str, tuple[str, int]] = {}
    for line, row in _rows(file):

        def refuse(what: str, line: int = line) -> NoReturn:
            raise UserError(f"'{file}', line {line}: {what}")

        if any(row[2:]):
            refuse(f"has {len(row)} columns: give a path and a class, with quotes around a path that has a comma")
        name, given = [*row, ""][:2]
        path = os.path.normpath(name)
        if path not in found:
            refuse(f"'{name}' is none of the images below '{root}', outside of test and val: put that right")
        if path in lines:
            refuse(f"'{name}' stands in line {lines[path]}, too: remove one of them")
        known = _class_of(path)
        label = given or known
        if label is None:
            refuse(f"'{name}' has no class: add it after a comma")
        if known not in (None, label):
            refuse(f"'{name}' is '{label}' here, but its folder says '{known}': use one of them")
        other, seen = spellings.setdefault(label.casefold(), (label, line))
        if other != label:
            refuse(f"class '{label}' is '{other}' in line {seen}: use one spelling")
        listed[path], lines[path] = label, line
    if not listed:
        raise UserError(f"'{file}' lists no images: add lines of a path and a class")
    return listed


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The numbers and the words of the lines that are neither empty nor a header."""
    try:
        text = file.expanduser().read_text(encoding="utf-8-sig")  # spreadsheets put a mark in front
    except UnicodeDecodeError:
        raise UserError(f"'{file}' is not UTF-8: save it as 'CSV UTF-8', or name another --labeled-list") from None
    except OSError as error:
        raise UserError(f"'{file}' cannot be read ({error.strerror}): name another --labeled-list") from None
    header = text.split("\n", 1)[0].strip().casefold()
    separator = next((s for s in ";\t" if header == f"path{s}class"), ",")
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    try:
        for row in reader:
            words = [word.strip() for word in row]
            if any(words) and [word.casefold() for word in words] not in HEADERS:
                yield reader.line_num, words
    except csv.Error as error:
        raise UserError(f"'{file}', line {reader.line_num}: {error}: put that right") from None


def warn_of_skipped(root: Path, skipped: Counter) -> None:
    """Tell which kinds of files below `root` are not taken for images, so that none is missed in silence."""
    if skipped:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in sorted(skipped.items()))
        logger.warning(f"'{root}' has files that are not taken for images ({kinds}): they are skipped")


def _class_names(folder: Path) -> list[str]:
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and not is_run(entry)
    )


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"folder '{error.filename}' cannot be read ({error.strerror}): change its permissions") from None


def is_run(folder: str | Path) -> bool:
    """Whether the images in a folder are those that a run draws, and no data."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in ("args.json", "labeled.json"))


def images_in(
    folder: Path,
    skipped: Counter,
    leave_out: Sequence[str] = (),
    onerror: Callable[[OSError], object] = _refuse,
) -> list[str]:
    """The images in a folder and all folders below it, each folder once, however many links lead to it.

    Folders of runs below it are left out: they hold pictures of the images that the run was trained on.

    Args:
        skipped: counts the other files, by kind.
        leave_out: names of sub-folders of `folder` that are not looked into.
        onerror: told of folders that cannot be read; by default a `UserError`.
    """
    images, seen = [], set()
    for parent, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()  # no further down
            continue
        seen.add(place)
        if is_run(parent) and parent != str(folder):
            skipped["folders of runs"] += 1
            folders.clear()
            continue
        left_out = leave_out if parent == str(folder) else ()
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in left_out)
        for name in names:
            if name.startswith("."):
                continue
            if name.lower().endswith(EXTENSIONS):
                images.append(os.path.join(parent, name))
            else:
                skipped[os.path.splitext(name)[1] or name] += 1
    return images


def _labeled_images(folder: Path, classes: list[str], skipped: Counter, source: str) -> list[tuple[str, int]]:
    unknown = sorted(set(_class_names(folder)) - set(classes))
    if unknown:
        raise UserError(f"'{folder}' has the class '{unknown[0]}', which {source} lacks: add or remove it")
    folders = [(c, folder / name) for c, name in enumerate(classes) if os.path.isdir(folder / name)]
    samples = [(path, c) for c, images in folders for path in sorted(images_in(images, skipped))]
    if not samples:
        raise UserError(f"'{folder}' has no images: put them into one folder per class ({', '.join(EXTENSIONS)})")
    return samples
