"""The two ways in which a run ends early on purpose, and what other libraries' errors say.

`cli.launch` turns the two into one line and an exit code.
"""


def reason(error: Exception) -> str:
    """What another library's error says, in one line; its type if it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the number and the file's name
    return " ".join(str(error).split()) or type(error).__name__


class UserError(Exception):
    """Bad input. The message is one line that names what is wrong and what to do. Exit code 2."""


class Interrupted(Exception):  # noqa: N818 (an interruption is no error)
    """A signal asked the run to stop; it saved itself first. Exit code 128 + `signum`."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum
