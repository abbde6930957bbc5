"""ImageFolder: your own images.

ROOT/train/CLASS/*      training images, one folder per class (sub-folders allowed)
ROOT/test/CLASS/*       optional: test images (or ROOT/val)
ROOT/unlabeled/**       optional: more unlabeled images, in any folders

With a list of the labeled images (`--labeled-list`), all images below ROOT are training images, in any folders or none,
except for those in ROOT/test and ROOT/val.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.datasets import class_names, labeled_list
from common.datasets.images import ImageSet
from common.datasets.labeled_list import class_of
from common.datasets.spec import Contents
from common.datasets.walk import (
    EXTENSIONS,
    Skipped,
    class_folders,
    count_unused,
    images_in,
    names_in,
    refuse_shared_folders,
)
from common.errors import UserError

TEST_FOLDERS = ("test", "val")  # folders of ROOT with test images

logger = logging.getLogger(__name__)


def load(root: Path) -> Contents:
    """Classes are the folders of `train` in alphabetical order; images are ordered by (class, relative path).

    Hidden files and folders are ignored. One warning counts everything else that is not used.

    Raises:
        UserError: a folder is missing, empty, not readable or spelled otherwise; there is only one class; `test` has a
            class that `train` lacks; two classes are one folder; or a link leads nowhere.
    """
    train_dir = root / "train"
    _refuse_missing((root, train_dir), "ImageFolder needs ROOT/train/CLASS/*, and ROOT/test/CLASS/* to test with")
    _refuse_other_spelling(root, ("train", "unlabeled"))
    test_dir = _test_folder(root)
    skipped = Skipped()
    count_unused(root, ("train", "unlabeled", *([] if test_dir is None else [test_dir.name])), skipped)
    classes = class_folders(train_dir, skipped)
    skipped.refuse_broken_links()
    if len(classes) == 1:
        raise UserError(f"'{train_dir}' has one class, '{classes[0]}': add others, or remove a folder that is too many")
    extra = sorted(images_in(root / "unlabeled", skipped)) if os.path.isdir(root / "unlabeled") else []
    labeled = _labeled_images(train_dir, classes, skipped, classes, "the train folder")
    tested = _test_images(test_dir, classes, skipped, "the train folder")
    skipped.refuse_broken_links()
    skipped.warn(root)
    _log_deep_classes(train_dir, [path for path, _ in labeled], classes)
    known, test_paths = [path for path, _ in labeled], [path for path, _ in tested]
    refuse_shared_folders([*known, *extra], test_paths)
    refuse_shared_folders(extra, known)
    train = ImageSet(known + extra, [label for _, label in labeled] + [-1] * len(extra))
    test = ImageSet(test_paths, [label for _, label in tested])
    class_names.warn(classes, train.labels, test.labels)
    return Contents(classes, train, test, candidates=len(labeled))


def load_listed(root: Path, file: Path, min_confidence: float | None = None) -> Contents:
    """Labels come from the list `file`; all other images below `root` are unlabeled.

    Classes are those of the list, in alphabetical order. The listed images come first, ordered by (class, path). The
    others follow, ordered by path. If they are in `train/CLASS`, their class is known, but only for the metrics.

    Args:
        root: the folder that holds the images.
        file: a CSV file with one image per line: its path and its class. The class may be omitted if the image is in
            `train/CLASS`. A first line may name the columns `path`, `class` and `confidence`, in any order and among
            others, which are ignored. With such a line, `;` or tabs may separate, too. See `labeled_list.read`.
        min_confidence: rows with a lower confidence leave their images unlabeled.

    Raises:
        UserError: as `load`; or a line is broken, which is named by its number.
    """
    found, listed, test_dir, skipped = _read_list(root, file, min_confidence)
    if listed.problems:
        more = f" (one of {len(listed.problems):,} broken lines: python -m common.datasets ROOT --check ImageFolder "
        more += "--labeled-list FILE lists them)"
        raise UserError(listed.problems[0] + (more if len(listed.problems) > 1 else ""))
    classes = sorted(set(listed.labels.values()))
    if len(classes) < 2:
        raise UserError(f"'{file}' has one class, '{classes[0]}': add images of others to it")
    tested = _test_images(test_dir, classes, skipped, f"'{file}'")
    skipped.refuse_broken_links()
    skipped.kinds.pop(file.suffix.lower(), None)  # the list itself may lie there
    skipped.warn(root)
    number = {name: c for c, name in enumerate(classes)}
    labeled = sorted((number[name], path) for path, name in listed.labels.items())
    others = sorted((path, number.get(class_of(path) or "", -1)) for path in found.keys() - listed.labels.keys())
    paths = [found[path] for path in [*(path for _, path in labeled), *(path for path, _ in others)]]
    refuse_shared_folders(paths, [path for path, _ in tested])
    train = ImageSet(paths, [label for label, _ in labeled] + [label for _, label in others])
    test = ImageSet([path for path, _ in tested], [label for _, label in tested])
    class_names.warn(classes, train.labels[: len(labeled)], test.labels)
    return Contents(classes, train, test, candidates=len(labeled), predicted=frozenset(listed.predicted))


def list_problems(root: Path, file: Path) -> list[str]:
    """An error message for each broken line of a list.

    Raises:
        UserError: the list cannot be read at all, or a folder is missing.
    """
    return _read_list(root, file, None)[1].problems


def _read_list(
    root: Path, file: Path, min_confidence: float | None
) -> tuple[dict[str, str], labeled_list.Listed, Path | None, Skipped]:
    """All images that may be labeled (path below the root -> path), the list, the test folder, and what is skipped."""
    _refuse_missing((root,), "name the folder that holds the images of --labeled-list")
    test_dir = _test_folder(root)
    skipped = Skipped()
    found = {os.path.relpath(path, root): path for path in images_in(root, skipped, leave_out=TEST_FOLDERS)}
    if test_dir is not None and test_dir.name == "test" and os.path.isdir(root / "val"):
        number = sum(1 for _ in images_in(root / "val", Skipped()))
        skipped.images.update({"in 'val'": number} if number else {})
    return found, labeled_list.read(file, root, found, TEST_FOLDERS, min_confidence), test_dir, skipped


def _refuse_missing(folders: Sequence[Path], needs: str) -> None:
    for folder in folders:
        if os.path.islink(folder) and not os.path.exists(folder):
            Skipped(links=[str(folder)]).refuse_broken_links()
        if not os.path.isdir(folder):  # unlike Path.is_dir, no error for names that are too long
            similar = _similar(folder)
            raise UserError(f"folder '{folder}' is missing{similar}: {needs}")


def _similar(folder: Path) -> str:
    names = os.listdir(folder.parent) if os.path.isdir(folder.parent) else []
    others = [name for name in sorted(names) if name.casefold() == folder.name.casefold() and name != folder.name]
    other = next((name for name in others if os.path.isdir(folder.parent / name)), None)
    return "" if other is None else f" ('{other}' is there: rename it)"


def _refuse_other_spelling(root: Path, folders: Sequence[str]) -> None:
    """A disk may take `Unlabeled` for `unlabeled`, but folders that are not used are told by their names."""
    names = names_in(root)
    for name in folders:
        if name not in names and os.path.isdir(root / name):
            raise UserError(f"folder '{root / name}' is spelled otherwise{_similar(root / name)}")


def _test_folder(root: Path) -> Path | None:
    """ROOT/test, or else ROOT/val; None if there is neither.

    Raises:
        UserError: it is a link that leads nowhere, as to an unmounted disk; or its name is spelled otherwise (`Test`).
    """
    names = names_in(root)  # a disk may take `Test` for `test`, but the images are looked for by name
    for folder in (root / "test", root / "val"):
        if folder.name in names:
            _refuse_missing((folder,), "test images are in one folder per class")
            return folder
    for folder in (root / "test", root / "val"):
        if _similar(folder):
            raise UserError(f"test images belong into '{folder}'{_similar(folder)}")
    return None


def _test_images(folder: Path | None, classes: list[str], skipped: Skipped, source: str) -> list[tuple[str, int]]:
    """The (path, class) of the test images; empty if there is no folder for them."""
    return [] if folder is None else _labeled_images(folder, classes, skipped, class_folders(folder, skipped), source)


def _labeled_images(
    folder: Path, classes: list[str], skipped: Skipped, folders: Sequence[str], source: str
) -> list[tuple[str, int]]:
    """The (path, class) of the images in the sub-folders `folders`, which are named after the classes."""
    unknown = sorted(set(folders) - set(classes))
    if unknown:
        _refuse_unknown(folder, unknown[0], classes, source)
    present = [(c, folder / name) for c, name in enumerate(classes) if name in set(folders)]
    samples = [(path, c) for c, images in present for path in sorted(images_in(images, skipped))]
    if not samples:
        raise UserError(f"'{folder}' has no images: put them into one folder per class ({', '.join(EXTENSIONS)})")
    _refuse_one_folder_for_two({os.path.dirname(path): c for path, c in samples})
    return samples


def _refuse_one_folder_for_two(class_of: Mapping[str, int]) -> None:
    known: dict[str, str] = {}
    for folder, c in class_of.items():
        other = known.setdefault(os.path.realpath(folder), folder)
        if class_of[other] != c:
            raise UserError(
                f"'{other}' and '{folder}' are one folder, by a link, so its images have two classes: remove the link"
            )


def _refuse_unknown(folder: Path, name: str, classes: Sequence[str], source: str) -> None:
    alike = next((known for known in classes if class_names.alike_key(known) == class_names.alike_key(name)), None)
    if alike is None:
        raise UserError(f"'{folder}' has the class '{name}', which {source} lacks: add or remove it")
    here, there = class_names.apart(name, alike)
    raise UserError(f"'{folder}' has the class {here}, which {source} lacks: did you mean {there}? Give both one name")


def _log_deep_classes(train_dir: Path, paths: Sequence[str], classes: Sequence[str]) -> None:
    """Log if all images lie deeper than in class folders: one folder too many would merge all classes into one."""
    below = [os.path.relpath(path, train_dir).split(os.sep) for path in paths]
    if all(len(parts) > 2 for parts in below):
        folders = sorted({parts[1] for parts in below})
        logger.info(
            f"classes are the folders of '{train_dir}' ({_some(classes)}), not those below them ({_some(folders)}), "
            "though all images are there"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
