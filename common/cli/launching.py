"""The one place where an error becomes a line and an exit code."""

import io
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

from common.errors import Interrupted, UserError
from common.system import console, limits, memory, processes


def launch(parse_args: Callable[[], Any], main: Callable[[Any], Any]) -> None:
    """Run a script. Bad input is one line on stderr and exit code 2; a signal's exit code is 128 + its number.

    A program whose output is no longer read, as by `| head -1`, ends with SIGPIPE's code and says nothing. (A training
    goes on; see `progress.log_to`.)

    What the terminal's encoding lacks, in the name of a file or a class, is printed as its number.
    """
    code, line = 0, None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        limits.fit_threads()
        with console.printing():
            main(parse_args())
    except console.ReaderGone as gone:
        code = gone.code
    except UserError as error:
        code, line = 2, "error: " + str(error).replace("\n", "\\n")  # the name of a file may have one
    except Interrupted as interruption:
        code, line = 128 + interruption.signum, str(interruption)
    except (RuntimeError, MemoryError, OSError) as error:
        reason = memory.shortage(error)
        if reason is None:
            raise
        sizes = "--batch-size" if isinstance(error, torch.OutOfMemoryError) else "--batch-size, --image-size or network"
        code, line = 2, f"error: {reason}: take a smaller {sizes}, or a device with more memory"
    except KeyboardInterrupt:  # before the first step or after the last: the run heeds signals itself in between
        code, line = 128 + signal.SIGINT, "stopped by SIGINT, with nothing new to save: the same command continues"
    console.give_up_if_broken()
    processes.leave(code, line)
    if code:
        sys.exit(code)
