"""Warn of class names that may be typing errors, and compare the class names of a run with a dataset's."""

import logging
import re
import unicodedata
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

SHOWN = 3  # of each kind of warning
LETTERS = 4  # shorter words often differ by one letter without an error: cat, bat, rat


def warn(classes: Sequence[str], train_labels: np.ndarray, test_labels: np.ndarray) -> None:
    """Warn of names that look alike, and of classes without test images.

    Args:
        classes: the class names.
        train_labels, test_labels: int64, indices into `classes`; -1 if unknown.
    """
    numbers = np.bincount(train_labels[train_labels >= 0], minlength=len(classes))
    tested = np.bincount(test_labels[test_labels >= 0], minlength=len(classes))
    near = _pairs(classes)
    alike = [pair for pair in near if alike_key(classes[pair[0]]) == alike_key(classes[pair[1]])]
    for a, b in alike[:SHOWN]:
        shown = " and ".join(apart(classes[a], classes[b]))
        logger.warning(f"classes {shown} look alike: if they are one class, give it one name")
    typed = [pair for pair in near if pair not in alike and _may_be_typed(classes[pair[0]], classes[pair[1]])]
    for a, b in typed[:SHOWN]:
        logger.warning(
            f"classes '{classes[a]}' ({numbers[a]:,} images) and '{classes[b]}' ({numbers[b]:,}) differ by one letter: "
            "if one is a typing error, correct it"
        )
    if tested.any():
        warn_of_untested(classes, np.flatnonzero(tested == 0).tolist(), "test")


def warn_of_untested(classes: Sequence[str], untested: Sequence[int], kind: str) -> None:
    """Warn of classes that are not measured.

    Args:
        classes: the class names.
        untested: indices of those without an image to measure by; there may be none.
        kind: of images that measure: `test` or `held-out`.
    """
    if not len(untested):
        return
    texts, near = [], _pairs(classes)
    for c in untested[:SHOWN]:
        others = [classes[a if b == c else b] for a, b in near if c in (a, b)]
        meant = next((other for other in others if _may_be_typed(classes[c], other, letters=1)), None)
        texts.append(f"'{classes[c]}'" + ("" if meant is None else f" (is it '{meant}'?)"))
    more = f" and {len(untested) - SHOWN:,} more" if len(untested) > SHOWN else ""
    logger.warning(f"no {kind} image has the class {', '.join(texts)}{more}: nothing tells how well it is learned")


def alike_key(name: str) -> str:
    """A key that ignores what readers hardly see: case, spaces at the ends, and the two encodings of an umlaut."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold().strip())


def apart(a: str, b: str) -> tuple[str, str]:
    """Two names in quotes. If they would look the same, special characters are shown by number."""
    same = unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", b)
    return (ascii(a), ascii(b)) if same else (f"'{a}'", f"'{b}'")


def _pairs(classes: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of classes whose names, case aside, are equal or one edit apart: a letter added, lost, replaced or swapped.

    Such names become equal if a letter is removed from each or from one. So only names that share such a shorter form
    are compared.
    """
    shorter: dict[str, set[int]] = {}
    keys = [alike_key(name) for name in classes]
    for c, key in enumerate(keys):
        for text in {key, *(key[:i] + key[i + 1 :] for i in range(len(key)))}:
            shorter.setdefault(text, set()).add(c)
    pairs = {pair for group in shorter.values() for pair in combinations(sorted(group), 2)}
    return sorted((a, b) for a, b in pairs if _is_one_edit(keys[a], keys[b]))


def _is_one_edit(a: str, b: str) -> bool:
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    a, b = a[start:], b[start:]
    swapped = a[:2] == b[1::-1] and a[2:] == b[2:]
    return a == b or a[1:] == b or a == b[1:] or a[1:] == b[1:] or swapped


def _may_be_typed(a: str, b: str, letters: int = LETTERS) -> bool:
    """Whether a typing error may explain the difference. Not in short words or numbers: `type A` and `type B`."""
    words_a, words_b = (re.findall(r"[^\W\d_]+|[\d_\W]", alike_key(name)) for name in (a, b))
    changed = [word for pair in zip(words_a, words_b, strict=False) if pair[0] != pair[1] for word in pair]
    return len(words_a) == len(words_b) and all(word.isalpha() and len(word) >= letters for word in changed)


def first_difference(trained: Any, here: Sequence[str]) -> str:
    """How the names of a network's outputs differ from those of a dataset, as `number 2 is 'cat' there and 'dog' here`.

    Args:
        trained: what the checkpoint holds as class names. It may be anything.
        here: the dataset's class names.
    """
    names = [str(name) for name in trained] if isinstance(trained, list) else []
    if len(names) != len(here):
        return f"{len(names)} there, {len(here)} here"
    number = next((i for i, pair in enumerate(zip(names, here, strict=True)) if pair[0] != pair[1]), 0)
    return f"number {number + 1} is '{names[number]}' there and '{here[number]}' here"
