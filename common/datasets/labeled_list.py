"""The list of labeled images: a CSV file that a person wrote, or a table of predict.py that a person corrected."""

import csv
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from common.datasets import class_names
from common.datasets.near_paths import NearPaths
from common.datasets.walk import EXTENSIONS
from common.errors import UserError

COLUMNS = ("path", "class", "confidence", "given")  # the columns that are read; only `path` is required
SEPARATORS = (",", ";", "\t")
ERROR = "error:"  # predict.py writes this into the confidence of an unreadable image

logger = logging.getLogger(__name__)


@dataclass
class Listed:
    """The content of a list.

    Attributes:
        labels: path below the root -> class, in the list's order.
        problems: an error message for each broken line.
        predicted: the paths of labels with a confidence: predictions that nobody has checked.
    """

    labels: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    predicted: set[str] = field(default_factory=set)


class _BrokenError(Exception):
    """A line cannot be used; the message says why."""


def read(
    file: Path, root: Path, found: Mapping[str, str], tested: Sequence[str], min_confidence: float | None = None
) -> Listed:
    """Read a list.

    A path may be relative to `root`, absolute, or relative to the current folder, as predict.py writes it. The first of
    these readings that names an image counts.

    Args:
        file: the list.
        root: the folder that holds the images.
        found: all images that may be labeled: path below the root -> path to open.
        tested: names of the folders of `root` with test images.
        min_confidence: rows with a lower confidence leave their images unlabeled. Rows without a confidence are labels.
            So are predictions of images that had a label before (predict.py's column `given`): that one counts.

    Raises:
        UserError: the file cannot be read, has no known columns, or lists nothing.
    """
    table = _Table(file)
    if min_confidence is not None and "confidence" not in table.columns:
        raise UserError(
            f"'{file}' has no column 'confidence', which --min-confidence needs: leave the flag out, or give a table "
            "of predict.py"
        )
    reader = _Reader(table, root, found, tested, min_confidence)
    listed = Listed()
    try:
        for line, row in table.rows():
            try:
                reader.take(listed, line, row)
            except _BrokenError as problem:
                listed.problems.append(f"'{file}', line {line}: {problem}")
    except csv.Error as error:  # the reader cannot continue
        line = table.reader.line_num
        listed.problems.append(f"'{file}', line {line}: {error}: close the quotes that are open, or remove them")
    if not listed.labels and not listed.problems:
        more = reader.left_out()
        raise UserError(f"'{file}' lists no images{f' ({more})' if more else ''}: add lines of a path and a class")
    if reader.left_out():
        logger.info(f"'{file}': {len(listed.labels):,} labels; {reader.left_out()}")
    gone = sorted(reader.unsure_classes - {"", *listed.labels.values()})
    if gone:
        logger.warning(
            f"'{file}': these classes have no row that reaches --min-confidence {min_confidence}, so the "
            f"network will not know them: {', '.join(map(repr, gone))}"
        )
    if listed.predicted:
        logger.warning(
            f"'{file}': {len(listed.predicted):,} of {len(listed.labels):,} labels have a confidence, so they are "
            "predictions. Empty it where you have checked the class"
        )
    return listed


class _Table:
    """The rows of a CSV file, and the meaning of its columns.

    Attributes:
        columns: name -> index.
        has_header: whether the first line names the columns. Otherwise they are path and class.
    """

    def __init__(self, file: Path):
        text, is_whole = _text(file)
        first = next((line for line in text.splitlines() if line.strip()), "")
        separator, header = ",", None
        for candidate in SEPARATORS:
            names = _words(next(csv.reader([first], delimiter=candidate, skipinitialspace=True), []), fold=True)
            if "path" in names:
                separator, header = candidate, names
        self.has_header, self.header = header is not None, header or ["path", "class"]
        self.separator = separator
        self.columns = {name: self.header.index(name) for name in COLUMNS if name in self.header}
        if not is_whole and "confidence" not in self.columns:
            raise UserError(f"'{file}' is not UTF-8: save it as 'CSV UTF-8', or name another --labeled-list")
        if "class" not in self.columns and len(self.header) > 1:
            raise UserError(
                f"'{file}', line 1: no column is called 'class', but {', '.join(map(repr, self.header))}: name the "
                "column with the classes 'class'"
            )
        # A quote is one after a space, too.
        self.reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True, skipinitialspace=True)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of every row that is neither empty nor a header."""
        for row in self.reader:
            words = [word.strip() for word in row]
            if any(words) and _words(words, fold=True) not in (self.header, ["path"], ["path", "class"]):
                yield self.reader.line_num, words


def _text(file: Path) -> tuple[str, bool]:
    """A file's text, and whether it is UTF-8. predict.py writes a file name that is not with the bytes that it has."""
    try:
        content = Path(os.path.expanduser(file)).read_bytes()
    except OSError as error:
        raise UserError(f"'{file}' cannot be read ({error.strerror}): name another --labeled-list") from None
    text = content.decode("utf-8-sig", "surrogateescape")  # spreadsheets write a byte order mark
    is_whole = "\0" not in text and not any("\udc80" <= letter <= "\udcff" for letter in text)
    return text.replace("\r\n", "\n").replace("\r", "\n"), is_whole


def _words(row: Sequence[str], fold: bool = False) -> list[str]:
    """The cells without spaces around them, and without empty cells at the end."""
    words = [word.strip().casefold() if fold else word.strip() for word in row]
    while words and not words[-1]:
        words.pop()
    return words


class _Reader:
    """Reads one row after the other, and finds duplicates and contradictions among them."""

    def __init__(
        self,
        table: _Table,
        root: Path,
        found: Mapping[str, str],
        tested: Sequence[str],
        min_confidence: float | None,
    ):
        self.table, self.root, self.found, self.tested = table, root, found, tested
        self.min_confidence = min_confidence
        self.lines: dict[str, int] = {}
        self.spellings: dict[str, tuple[str, int]] = {}
        self.unsure = self.unread = self.test_images = 0
        self.unsure_classes: set[str] = set()
        self.first_line: int | None = None
        self.near = NearPaths(found)

    def left_out(self) -> str:
        """How many rows gave no label and why, as text."""
        texts = [
            (self.unsure, f"below --min-confidence {self.min_confidence} are left unlabeled"),
            (self.unread, "could not be read by predict.py"),
            (self.test_images, "are test images and not used"),
        ]
        return ", ".join(f"{number:,} {text}" for number, text in texts if number)

    def take(self, listed: Listed, line: int, row: list[str]) -> None:
        """Add the row's label.

        Raises:
            _BrokenError: the row gives no usable label.
        """
        self.first_line = self.first_line or line
        if any(row[len(self.table.header) :]):
            self._refuse_columns(row)
        name, label, confidence, given = (self._cell(row, column) for column in COLUMNS)
        if confidence.startswith(ERROR) and not label:
            self.unread += 1
            return
        path = self._find(name)
        if path is None:
            if self._is_tested(name) and "confidence" in self.table.columns:
                self.test_images += 1
                return
            raise _BrokenError(self._why(name, line))
        if path in self.lines:
            raise _BrokenError(f"'{name}' stands in line {self.lines[path]}, too: remove one of them")
        self.lines[path] = line
        if confidence and given:  # nobody corrected this prediction, and the image has a label
            label, confidence = given, ""
        if self._is_unsure(confidence):
            self.unsure += 1
            self.unsure_classes.add(label)
            return
        listed.labels[path] = self._label(name, path, label, line)
        if confidence:
            listed.predicted.add(path)

    def _cell(self, row: list[str], column: str) -> str:
        index = self.table.columns.get(column, len(row))
        return row[index] if index < len(row) else ""

    def _refuse_columns(self, row: list[str]) -> NoReturn:
        if self.table.has_header:
            raise _BrokenError(
                f"has {len(row)} columns, but the header names {len(self.table.header)}: put quotes around a path that "
                "has a comma"
            )
        raise _BrokenError(
            f"has {len(row)} columns: give a path and a class, with quotes around a path that has a comma; or name the "
            "columns in the first line (path,class,confidence)"
        )

    def _is_unsure(self, confidence: str) -> bool:
        if self.min_confidence is None or not confidence:
            return False
        try:
            value = float(confidence)
        except ValueError:
            value = float("nan")
        if not 0 <= value <= 1:
            raise _BrokenError(f"confidence '{confidence}' is no number from 0 to 1: put one there, or leave it empty")
        return value < self.min_confidence

    def _label(self, name: str, path: str, given: str, line: int) -> str:
        known = class_of(path)
        label = given or known
        if label is None:
            raise _BrokenError(f"'{name}' has no class: add it after a comma")
        if known not in (None, label):
            here, there = class_names.apart(label, known)
            raise _BrokenError(f"'{name}' is {here} here, but its folder says {there}: use one of them")
        other, seen = self.spellings.setdefault(class_names.alike_key(label), (label, line))
        if other != label:
            here, there = class_names.apart(label, other)
            raise _BrokenError(f"class {here} is {there} in line {seen}: use one spelling")
        return label

    def _find(self, name: str) -> str | None:
        """The image's path below the root; None if there is no such image."""
        return next((path for path in self._meanings(name) if path in self.found), None)

    def _meanings(self, name: str) -> Iterator[str]:
        """The readings of a path, each as a path below the root."""
        if name and "\0" not in name:
            yield os.path.normpath(name)
            yield os.path.relpath(os.path.abspath(name), os.path.abspath(self.root))
            yield os.path.relpath(os.path.realpath(name), os.path.realpath(self.root))

    def _is_tested(self, name: str) -> bool:
        paths = [path for path in self._meanings(name) if path.split(os.sep)[0] in self.tested]
        return any(os.path.lexists(self.root / path) for path in paths)

    # Explain what is wrong with a path

    def _why(self, name: str, line: int) -> str:
        where = f"'{name}' is none of the images below '{self.root}'"
        if self._is_tested(name):
            return f"{where}, outside of {' and '.join(self.tested)}: it is for testing, remove it from the list"
        reason = self._wrong_form(name, line) or self._did_you_mean(name) or self._what_is_there(name)
        return f"{where}: {reason}"

    def _wrong_form(self, name: str, line: int) -> str | None:
        if not name:
            return "put a path there, or remove the line"
        slashes = name.replace("\\", "/")
        if slashes != name and self._find(slashes):
            return f"did you mean '{slashes}', with / in the place of \\?"
        if self.table.has_header:
            return None
        for separator, header in ((";", "path;class"), ("\t", "path and class, and a tab between them,")):
            if self._find(name.partition(separator)[0].strip()):
                return f"its columns are separated by {separator!r}, so put {header} into the first line"
        if line == self.first_line and not name.lower().endswith(EXTENSIONS) and not self._present(name):
            return "if it is a header, name the columns path and class"
        return None

    def _did_you_mean(self, name: str) -> str | None:
        near = self.near.to(name.replace("\\", "/"))
        if not near:
            return None
        texts = [class_names.apart(name, path)[1] for path in near[:2]]
        more = f" or one of {len(near) - 2:,} more" if len(near) > 2 else ""
        return f"did you mean {' or '.join(texts)}{more}?"

    def _present(self, name: str) -> list[str]:
        return [path for path in (os.path.join(self.root, name), name) if os.path.lexists(path)]

    def _what_is_there(self, name: str) -> str:
        paths = self._present(name)
        if not paths:
            return "there is no such file, restore it or remove its line"
        if os.path.isdir(paths[0]):
            return "it is a folder, name the images in it"
        if os.path.relpath(os.path.realpath(paths[0]), os.path.realpath(self.root)).startswith(os.pardir):
            return "it lies outside, put it below or remove its line"
        return f"it is hidden or of another kind, remove its line (images end with {', '.join(EXTENSIONS)})"


def class_of(path: str) -> str | None:
    """The class that an image's folder says, as in `train/CLASS/**`; None elsewhere."""
    first, *rest = path.split(os.sep)
    return rest[0] if first == "train" and len(rest) > 1 else None
