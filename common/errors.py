"""The two ways in which a run ends early on purpose. `cli.launch` turns each into one line and an exit code."""


class UserError(Exception):
    """Bad input: the message is one line that names the culprit and the remedy. Exit code 2."""


class Interrupted(Exception):  # noqa: N818 (an interruption is no error)
    """The run was asked to stop by a signal, and saved itself first. Exit code 128 + `signum`."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum
