"""The parser class of all programs, and the namespace that it fills."""

import argparse
import difflib
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from common.cli import flags
from common.errors import UserError


class Arguments(argparse.Namespace):
    """The parsed flags. Their parser is in a slot, so `vars()` gives the flags alone."""

    __slots__ = ("parser",)


class Parser(argparse.ArgumentParser):
    """argparse's parser, but a bad command line is a `UserError` that suggests the flag that was meant, and
    flags cannot be abbreviated.

    Args:
        shown: names of the flags that `--help` shows; `--help-all` shows all. If empty, `--help` shows all flags, and
            there is no `--help-all`.
        example: a command, for `--help`.
        kwargs: arguments of argparse's parser. `--help-all` ends with the description, and `--help` begins with its
            first paragraph.
    """

    def __init__(self, *, shown: Collection[str] = (), example: str = "", **kwargs: Any):
        super().__init__(allow_abbrev=False, **kwargs)
        self.shown, self.example = shown, example
        if shown:
            self.add_argument("--help-all", action=_HelpAll, help="show all flags and the method's formula, and exit")

    def error(self, message: str) -> NoReturn:
        listed = f"(--help{'-all' if self.shown else ''} lists all flags)"
        raise UserError(f"{message}{self._did_you_mean(message)} {listed}")

    def _did_you_mean(self, message: str) -> str:
        unknown, _, words = message.partition(": ")
        if unknown != "unrecognized arguments":
            return ""
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        near = [_nearest(word.partition("=")[0], known) for word in words.split() if word.startswith("--")]
        meant = list(dict.fromkeys(flag for flag in near if flag is not None))
        return f": did you mean {' and '.join(meant)}?" if meant else ""

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
        """What `--help-all` prints: all groups of flags, then the description."""
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


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Prints `-b, --batch-size B` instead of `-b B, --batch-size B`, and X for a value without a name."""

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
    """`--help-all`: print the full help and exit."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs, nargs=0, default=argparse.SUPPRESS)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        assert isinstance(parser, Parser)  # noqa: S101 (for mypy)
        print(parser.format_all(), end="")
        parser.exit()


def _nearest(flag: str, known: Sequence[str]) -> str | None:
    """The only known flag that begins with `flag`, or the one with the most similar spelling; None if there is none."""
    longer = [other for other in known if other.startswith(flag)]
    near = difflib.get_close_matches(flag.replace("_", "-"), known, n=1, cutoff=0.75)
    return longer[0] if len(longer) == 1 else next(iter(near), None)
