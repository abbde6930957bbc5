"""Which flags may differ when a run is resumed; all others must be those of the run that is there.

What else is compared: the images and labels in `records/folder.py`; the backbone file, versions and the device in
`run.py`.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from common.cli.parsing import Arguments
from common.cli.resolve import resolve
from common.errors import UserError

# These flags may differ when a run is resumed: none of them can change a number, as far as devices agree. Whether
# another root holds the same images is told by their fingerprint.
FREE = {"root", "log", "workers", "cache", "print_freq", "phase", "checkpoint", "device", "overwrite", "tensorboard"}
START = {"scratch", "pretrained_backbone", "init_from"}  # where the weights come from before they are trained


def completed(args: Arguments, saved: dict[str, Any]) -> argparse.Namespace:
    """A saved run's arguments, and the defaults of those flags of `args`' parser that are younger than it.

    Raises:
        UserError, TypeError, ValueError: the arguments are none that a run wrote.
    """
    before = argparse.Namespace(**{key: args.parser.get_default(key) for key in vars(args)} | saved)
    resolve(before)
    if isinstance(before.labeled_list, str):  # older runs kept a `~` as it was
        before.labeled_list = os.path.expanduser(before.labeled_list)
    return before


def differences(args: Arguments, saved: dict[str, Any]) -> list[str]:
    """The flags that can change a number and differ from those of a saved run, as `--lr 0.01 (was 0.03)`.

    A flag that the saved run does not know, because it is younger, takes its default there.

    Raises:
        UserError: the arguments are none that a run wrote.
    """
    try:
        before = completed(args, saved)
    except (UserError, TypeError, ValueError) as error:
        file = Path(args.log) / "args.json"
        raise UserError(f"'{file}' is not what a run wrote ({error}): remove it, or choose another --log") from None
    free = FREE | START if args.phase == "test" else FREE
    keys = sorted((set(vars(args)) | set(saved)) - free)
    return [
        f"--{key.replace('_', '-')} {getattr(args, key, None)} (was {getattr(before, key)})"
        for key in keys
        if getattr(args, key, None) != getattr(before, key)
    ]
