"""The parser that all scripts share, and what it makes of a command line."""

import argparse
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from common.cli import flags
from common.cli.resolve import resolve
from common.errors import UserError


class Arguments(argparse.Namespace):
    """The parsed flags; `vars()` gives them all. Their parser stays in a slot, out of `vars()`."""

    __slots__ = ("parser",)


class Parser(argparse.ArgumentParser):
    """argparse, but a bad command line is a `UserError`.

    Args:
        shown: names of the flags that `--help` shows; `--help-all` shows the others, too. Empty: there are few flags,
            and `--help` shows all.
        example: a command, for `--help`.
        kwargs: as argparse takes them. Where there is `--help-all`, the description ends it, and its first paragraph
            begins `--help`.
    """

    def __init__(self, *, shown: Collection[str] = (), example: str = "", **kwargs: Any):
        super().__init__(**kwargs)
        self.shown, self.example = shown, example
        if shown:
            self.add_argument("--help-all", action=_HelpAll, help="show all flags and the method's formula, and exit")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help{'-all' if self.shown else ''} lists all flags)")

    def format_help(self) -> str:
        if not self.shown:
            return super().format_help()
        formatter = self._beginning((self.description or "").split("\n\n")[0])
        groups = {False: "flags", True: "flags of this method"}
        for own, title in groups.items():
            formatter.start_section(title)
            for group in self._action_groups:
                if (group.title == flags.METHOD) == own:
                    actions = group._group_actions  # argparse has no other way to them
                    formatter.add_arguments([action for action in actions if own or action.dest in self.shown])
            formatter.end_section()
        return formatter.format_help()

    def format_all(self) -> str:
        """What `--help-all` prints: the groups of flags, and then the description."""
        formatter = self._beginning("")
        for group in self._action_groups:
            formatter.start_section(group.title)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        formatter.add_text(self.description)
        return formatter.format_help()

    def _beginning(self, text: str) -> argparse.HelpFormatter:
        formatter = self._get_formatter()
        formatter.add_text(" ".join(text.split()))
        formatter.add_text(f"example: {self.example}")
        return formatter


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Shorter lines: `-b, --batch-size B` in place of `-b B, --batch-size B`, and X for a value without a name."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return "X"


class _HelpAll(argparse.Action):
    """`--help-all`: print all there is to say, and exit."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs, nargs=0, default=argparse.SUPPRESS)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        assert isinstance(parser, Parser)  # noqa: S101 (for mypy)
        print(parser.format_all(), end="")
        parser.exit()


def parser(
    method: str,
    doc: str,
    *,
    unlabeled: bool = True,
    schedule: bool = True,
    strong_labeled: bool = True,
    joint_passes: bool = False,
    example: str = "",
) -> Parser:
    """A parser with the flags that all methods share.

    Args:
        method: the script's name; the default of `--log` is `logs/<method>`.
        doc: the script's docstring.
        unlabeled: whether the method draws batches of unlabeled images.
        schedule: whether it follows one of the schedules `exp` and `cos`.
        strong_labeled: whether the strong views of labeled images have a loss of their own, and it a weight.
        joint_passes: whether its views may share a pass; see `classifier.passes`.
        example: flags that the method requires, for the command that `--help` shows.
    """
    words = f"python {method}.py data -d CIFAR100 -a resnet50 --finetune {example} --log logs/{method}/cifar100"
    p = Parser(
        shown=flags.SHOWN,
        example=" ".join(words.split()),
        description=doc,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
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
