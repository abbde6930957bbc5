"""Which images a wrong path may have meant: another case, folder or ending, or a typing error."""

import difflib
import functools
import os
import re
import unicodedata
from collections.abc import Callable, Collection

MOST_COMPARED = 100  # paths that are looked for among all others letter by letter, which is slow
MOST_SIBLINGS = 10_000


class NearPaths:
    """The images of a folder, to be asked for those that are near to a wrong path. A list may have many wrong ones.

    Args:
        found: their paths below the root.
    """

    def __init__(self, found: Collection[str]):
        self.found = found
        self.compared = 0  # how many paths were looked for letter by letter

    def to(self, name: str) -> list[str]:
        """The images that a path may have meant; an empty list if none is near."""
        for key, paths in self._by_keys:
            if key(name) in paths:
                return paths[key(name)]
        if self.compared >= MOST_COMPARED:
            return []
        self.compared += 1
        base, folder = os.path.basename(name), os.path.dirname(os.path.normpath(name))
        siblings = {os.path.basename(path): path for path in self.found if os.path.dirname(path) == folder}
        close = difflib.get_close_matches(base, list(siblings)[:MOST_SIBLINGS], n=1, cutoff=0.8)
        return [siblings[other] for other in close if _letters(other) != _letters(base)]

    @functools.cached_property
    def _by_keys(self) -> list[tuple[Callable[[str], str], dict[str, list[str]]]]:
        """The images by path without case, by name, and by name without ending."""
        found = []
        for key in (_plain, lambda path: _plain(os.path.basename(path)), _stem):
            paths: dict[str, list[str]] = {}
            for path in self.found:
                paths.setdefault(key(path), []).append(path)
            found.append((key, paths))
        return found


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", os.path.normpath(text)).casefold()


def _letters(name: str) -> str:
    """Without digits: IMG_0001.jpg and IMG_0002.jpg are two images, and no typing error."""
    return re.sub(r"\d", "", name)


def _stem(path: str) -> str:
    return os.path.splitext(_plain(os.path.basename(path)))[0]
