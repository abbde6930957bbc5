"""The command line that all scripts share. What a flag does belongs in `common/build.py`, not here.

values     what a flag's value may be
flags      the shared flags
resolve    what the flags that were not given stand for
arguments  the parser and its namespace
resume     what may differ between a run and the command that goes on with it, and what need not be repeated
parsing    a script's flags, and what it makes of a command line
launching  from an error to a line and an exit code
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
