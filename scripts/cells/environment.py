"""What the user asks for, in environment variables and on the command line."""

import os
import sys
from typing import NoReturn


def fail(message: str) -> NoReturn:
    """End the program with one line that says what is wrong."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def variable(name: str, default: str) -> str:
    """An environment variable. An empty one counts as not set."""
    return os.environ.get(name) or default


def is_whole_number(text: str) -> bool:
    """Whether the text is a number without sign or leading zeros."""
    return text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")


def count(name: str) -> int:
    """A variable that holds a number of 1 or more; 1 where it is not set."""
    text = variable(name, "1")
    if not is_whole_number(text) or text == "0":
        fail(f"{name} takes a whole number of 1 or more, not '{text}'")
    return int(text)


def seeds() -> list[str]:
    words = variable("SEEDS", "0").split()
    for word in words:
        if not is_whole_number(word):
            fail(f"SEEDS takes whole numbers, not '{word}'")
    return words


def data_folder() -> str:
    return variable("DATA", "data")


def logs_folder() -> str:
    return variable("LOGS", "logs")


def interpreter() -> str:
    return variable("PYTHON", "python")


def launcher() -> list[str]:
    """The words before the script's name: Python, or torchrun where each cell has NPROC processes."""
    python, processes = interpreter(), count("NPROC")
    if processes == 1:
        return [python]
    torchrun = ["torchrun"] if python == "python" else [python, "-m", "torch.distributed.run"]
    own_port = ["--standalone"] if count("JOBS") > 1 else []
    # torchrun's flags end at `--`: without it, our --log is an ambiguous abbreviation of three of them.
    return [*torchrun, *own_port, "--nproc-per-node", str(processes), "--"]


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The words before `--`, and the extra flags after it."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end + 1 :]
