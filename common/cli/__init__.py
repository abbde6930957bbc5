"""The command line that all scripts share. What a flag does belongs in `common/build.py`, not here.

values     the types of flags' values
flags      the shared flags
resolve    the values of flags that were not given
arguments  the classes of parser and namespace
resume     which flags may differ when a run is resumed, and which need not be repeated when it is tested
parsing    make a script's parser, and parse a command line
launching  run a script: errors become a line and an exit code
"""

from common.cli.arguments import Arguments, Parser
from common.cli.launching import launch
from common.cli.parsing import parse, parser
from common.cli.resume import FREE, completed, differences
from common.cli.values import (
    filepath,
    finite,
    fraction,
    non_negative,
    non_negative_int,
    number_or_all,
    path,
    positive,
    positive_int,
    seed,
)

__all__ = [
    "FREE",
    "Arguments",
    "Parser",
    "completed",
    "differences",
    "filepath",
    "finite",
    "fraction",
    "launch",
    "non_negative",
    "non_negative_int",
    "number_or_all",
    "parse",
    "parser",
    "path",
    "positive",
    "positive_int",
    "seed",
]
