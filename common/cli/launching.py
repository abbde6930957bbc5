"""The one place where an error becomes a line and an exit code."""

import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

from common.cli.parsing import Arguments
from common.errors import Interrupted, UserError
from common.system import processes


def launch(parse_args: Callable[[], Arguments], main: Callable[[Arguments], Any]) -> None:
    """Run a script. Bad input is one line on stderr and exit code 2; a signal's exit code is 128 + its number."""
    code, line = 0, None
    try:
        main(parse_args())
    except UserError as error:
        code, line = 2, "error: " + str(error).replace("\n", "\\n")  # the name of a file may have one
    except Interrupted as interruption:
        code, line = 128 + interruption.signum, str(interruption)
    except torch.OutOfMemoryError as error:
        reason = ". ".join(str(error).split(". ")[:2])  # what was asked for; the rest is about the allocator
        code, line = 2, f"error: {reason}: take a smaller --batch-size, or a device with more memory"
    except KeyboardInterrupt:  # before the first step or after the last: the run heeds signals itself in between
        code, line = 128 + signal.SIGINT, "stopped by SIGINT, with nothing new to save: the same command continues"
    processes.leave(code, line)
    if code:
        sys.exit(code)
