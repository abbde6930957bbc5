"""The parser that all scripts share, and what it makes of a command line."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from common.cli import flags
from common.cli.resolve import resolve
from common.errors import UserError


class Arguments(argparse.Namespace):
    """The parsed flags; `vars()` gives them all. Their parser stays in a slot, out of `vars()`."""

    __slots__ = ("parser",)


class Parser(argparse.ArgumentParser):
    """argparse, but a bad command line is a `UserError`."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists all flags)")


def parser(
    method: str,
    doc: str,
    *,
    unlabeled: bool = True,
    schedule: bool = True,
    strong_labeled: bool = True,
    joint_passes: bool = False,
) -> Parser:
    """A parser with the flags that all methods share.

    Args:
        method: the script's name; the default of `--log` is `logs/<method>`.
        doc: the script's docstring.
        unlabeled: whether the method draws batches of unlabeled images.
        schedule: whether it follows one of the schedules `exp` and `cos`.
        strong_labeled: whether the strong views of labeled images have a loss of their own, and it a weight.
        joint_passes: whether its views may share a pass; see `classifier.passes`.
    """
    p = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    flags.add_data(p)
    flags.add_views(p)
    flags.add_model(p, joint_passes)
    flags.add_optimization(p, unlabeled, schedule, strong_labeled)
    flags.add_run(p, method)
    return p


def parse(p: Parser, argv: Sequence[str] | None) -> Arguments:
    """Parse, and fill in what depends on the dataset's name. Reads no file.

    Raises:
        UserError: a flag is unknown, out of range, or at odds with the dataset.
    """
    args = p.parse_args(argv, namespace=Arguments())
    args.parser = p
    resolve(args)
    frozen = args.lora or args.adapter
    if args.phase == "test" and (args.checkpoint == "best" or not frozen):
        # The checkpoint holds all the weights: nothing is downloaded or looked for.
        args.scratch, args.pretrained_backbone, args.init_from = True, None, None
    return args
