"""Run a script. This is the only place where an error becomes a line and an exit code."""

import io
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

from common.errors import Interrupted, UserError
from common.system import console, limits, memory, processes


def launch(parse_args: Callable[[], Any], main: Callable[[Any], Any]) -> None:
    """Run a script. Bad input ends with one line on stderr and exit code 2, a signal with 128 + its number.

    If nobody reads a program's output any more, as after `| head -1`, it ends silently with SIGPIPE's code. (A training
    goes on; see `log.send_to`.) Characters that the terminal cannot encode are printed as numbers.

    Args:
        parse_args: makes the arguments from `sys.argv`.
        main: takes them.
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
        code, line = 2, "error: " + str(error).replace("\n", "\\n")  # a file name may contain one
    except Interrupted as interruption:
        code, line = 128 + interruption.signum, str(interruption)
    except (RuntimeError, MemoryError, OSError) as error:
        reason = memory.shortage(error)
        if reason is None:
            raise
        sizes = "--batch-size" if isinstance(error, torch.OutOfMemoryError) else "--batch-size, --image-size or network"
        code, line = 2, f"error: {reason}: take a smaller {sizes}, or a device with more memory"
    except KeyboardInterrupt:  # before the first step or after the last; in between, the run handles signals
        code, line = 128 + signal.SIGINT, "stopped by SIGINT, with nothing new to save: the same command continues"
    console.give_up_if_broken()
    processes.leave(code, line)
    if code:
        sys.exit(code)
