"""What a flag's value may be: functions from its text, for `add_argument(type=...)`. A wrong text is one line."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal


def path(text: str) -> str:
    """A file or folder; `~` is the home folder also where the shell does not see it, as in `--log=~/runs`.

    An empty path, from a variable that the shell does not know, would silently mean the current folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("must be the name of a file or folder, got ''")
    return os.path.expanduser(text)


def filepath(text: str) -> Path:
    """As `path`, and gives a `Path`: for programs that record no arguments."""
    return Path(path(text))


def number_or_all(text: str) -> int | Literal["all"]:
    """A number of labels per class, or all."""
    return "all" if text == "all" else _number_or_all(text)


def fold(text: str) -> str:
    """Which part of how many, as `1/5`."""
    number, _, folds = text.partition("/")
    if not (number.isdecimal() and folds.isdecimal() and 1 <= int(number) <= int(folds) and 2 <= int(folds) < 1000):
        raise argparse.ArgumentTypeError(f"must be a part of two or more, 1/5 say, got '{text}'")
    return f"{int(number)}/{int(folds)}"


LARGEST = {int: 2**32, float: 3e38}  # what PyTorch's own integers and float32 can hold, with something to spare


def number(convert: type, accepts: Callable[[Any], bool], what: str) -> Callable[[str], Any]:
    """A type of numbers: those of `int` or `float` that are accepted. `what` says which, after `must be`."""

    def parse_number(text: str) -> Any:
        try:
            value = convert(text)
            good = abs(value) < math.inf and accepts(value)
        except ValueError:
            good = False
        if not good:
            raise argparse.ArgumentTypeError(f"must be {what}, got '{text}'")
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
