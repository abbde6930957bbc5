"""Types of flags' values, for `add_argument(type=...)`. A bad value becomes a one-line error."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal


def path(text: str) -> str:
    """The path of a file or folder. `~` is expanded even where the shell does not, as in `--log=~/runs`.

    An empty path is refused: it comes from an unset variable, and would silently mean the current folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("must be the name of a file or folder, got ''")
    return os.path.expanduser(text)


def filepath(text: str) -> Path:
    """Like `path`, but returns a `Path`, for programs that do not record their arguments as JSON."""
    return Path(path(text))


def number_or_all(text: str) -> int | Literal["all"]:
    """A number of labels per class, or `all`."""
    return "all" if text == "all" else _number_or_all(text)


def fold(text: str) -> str:
    """A part of several, such as `1/5`."""
    number, _, folds = text.partition("/")
    if not (number.isdecimal() and folds.isdecimal() and 1 <= int(number) <= int(folds) and 2 <= int(folds) < 1000):
        raise argparse.ArgumentTypeError(f"must be a part of two or more, 1/5 say, got '{text}'")
    return f"{int(number)}/{int(folds)}"


LARGEST = {int: 2**32, float: 3e38}  # well within PyTorch's int64 and float32


def number(convert: type, accepts: Callable[[Any], bool], expected: str) -> Callable[[str], Any]:
    """A type for numbers.

    Args:
        convert: `int` or `float`.
        accepts: whether a value is in range.
        expected: the range in words, to follow `must be` in a message.
    """

    def parse_number(text: str) -> Any:
        try:
            value = convert(text)
            good = abs(value) < math.inf and accepts(value)
        except ValueError:
            good = False
        if not good:
            raise argparse.ArgumentTypeError(f"must be {expected}, got '{text}'")
        if abs(value) > LARGEST[convert]:
            raise argparse.ArgumentTypeError(f"must be at most {LARGEST[convert]:g}, got '{text}'")
        return value

    return parse_number


positive_int = number(int, lambda x: x > 0, "a whole number of 1 or more")
_number_or_all = number(int, lambda x: x > 0, "a whole number of 1 or more, or all")
non_negative_int = number(int, lambda x: x >= 0, "a whole number of 0 or more")
seed = number(int, lambda x: 0 <= x < 2**32, "a whole number from 0 to 4294967295")
finite = number(float, lambda x: True, "a finite number")
positive = number(float, lambda x: x > 0, "a finite number above 0")
non_negative = number(float, lambda x: x >= 0, "a finite number of 0 or more")
fraction = number(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")
