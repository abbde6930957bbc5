"""Which flags may differ when a run is resumed. All others must be the same as in the run.

Other things are compared elsewhere: images and labels in `records/folder.py`; the file of initial weights in
`networks/initial_weights.py`; versions and device in `records/session.py`.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.cli.arguments import Arguments, Parser
from common.cli.resolve import resolve
from common.errors import UserError

# These flags may differ: none of them can change a number, as far as devices agree. Whether another root holds the same
# images is checked by fingerprint.
FREE = {"root", "log", "workers", "cache", "print_freq", "phase", "checkpoint", "device", "overwrite", "tensorboard"}
START = {"scratch", "pretrained_backbone", "init_from"}  # where the weights come from before they are trained


def completed(args: Arguments, saved: dict[str, Any]) -> argparse.Namespace:
    """A saved run's arguments, completed by the defaults of flags that did not exist then.

    Args:
        args: present arguments, with their parser.
        saved: the saved arguments.

    Raises:
        UserError, TypeError, ValueError: `saved` is not what a run wrote.
    """
    before = argparse.Namespace(**{key: args.parser.get_default(key) for key in vars(args)} | saved)
    if not isinstance(before.arch, str):
        raise TypeError("'arch' is not a name")
    resolve(before)
    if isinstance(before.labeled_list, str):  # older runs recorded `~` as it was
        before.labeled_list = os.path.expanduser(before.labeled_list)
    return before


def differences(args: Arguments, saved: dict[str, Any]) -> list[str]:
    """The flags that can change a number and differ from those of a saved run, such as `--lr 0.01 (was 0.03)`.

    If a flag did not exist when the run was saved, its default counts as the run's value.

    Raises:
        UserError: `saved` is not what a run wrote.
    """
    before = _completed_or_refused(args, saved)
    free = FREE | START if args.phase == "test" else FREE
    keys = sorted((set(vars(args)) | set(saved)) - free)
    return [
        f"--{key.replace('_', '-')} {getattr(args, key, None)} (was {getattr(before, key)})"
        for key in keys
        if getattr(args, key, None) != getattr(before, key)
    ]


def _completed_or_refused(args: Arguments, saved: dict[str, Any]) -> argparse.Namespace:
    try:
        return completed(args, saved)
    except (UserError, TypeError, ValueError) as error:
        file = Path(args.log) / "args.json"
        raise UserError(f"'{file}' is not what a run wrote ({error}): remove it, or choose another --log") from None


def take_flags_of_tested(p: Parser, argv: Sequence[str]) -> None:
    """With `--phase test`, make the flags of the run in `--log` the parser's defaults, so that none must be repeated.

    Raises:
        UserError: the folder's arguments are not what a run wrote; or there is no run, and the command is too short
            without it.
    """
    asked = Parser(add_help=False)
    asked.add_argument("--phase")
    asked.add_argument("--log", default=p.get_default("log"))
    known, _ = asked.parse_known_args(argv)
    if known.phase != "test":
        return
    file = Path(os.path.expanduser(known.log)) / "args.json"
    saved = _saved(file)
    if saved is None:
        # `Folder` will say what is wrong, but only if the command has the required flags and gets that far.
        if not os.path.isfile(file) and not any(word.startswith(("-d", "--data")) for word in argv):
            raise UserError(f"'{known.log}' holds no run to test: train first, or name its folder with --log")
        return
    blank = Arguments(**{action.dest: action.default for action in p._actions if action.dest != "help"})
    blank.parser, blank.log = p, known.log
    _completed_or_refused(blank, saved)
    start = {f"--{name.replace('_', '-')}" for name in START}
    other = START if start & {word.partition("=")[0] for word in argv} else set()  # the given one replaces the run's
    for action in p._actions:
        if action.dest in saved.keys() - FREE - other | ({"root"} & saved.keys()):
            action.default, action.required = saved[action.dest], False
            if not action.option_strings:
                action.nargs = argparse.OPTIONAL


def _saved(file: Path) -> dict[str, Any] | None:
    """The arguments in an args.json; None if there are none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    saved = content.get("args") if isinstance(content, dict) else None
    return saved if isinstance(saved, dict) else None
