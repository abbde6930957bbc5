"""Runs that are stopped or killed at a certain moment, in this process."""

import importlib
import os
import signal
from pathlib import Path
from unittest import mock

import pytest

from common.errors import Interrupted
from tests.conftest import train_small


class Killed(BaseException):
    """In place of SIGKILL: nothing in the code may catch it, and nothing is saved."""


def at_call(monkeypatch, target, name: str, number: int, act) -> None:
    """Call `act` in place of the number-th call of target.name, or before it if `act` returns."""
    original, calls = getattr(target, name), []

    def counting(*args, **kwargs):
        calls.append(name)
        if len(calls) == number:
            act()
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, counting)


def kill() -> None:
    raise Killed


def stop_in_step(number: int, method: str, *flags: str, log: Path) -> None:
    """Train, with a SIGTERM that arrives during this process's `number`-th step."""
    script = importlib.import_module(method)
    train_step, taken = script.train_step, []

    def interrupted(*args):
        taken.append(1)
        if len(taken) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*args)

    with mock.patch.object(script, "train_step", interrupted), pytest.raises(Interrupted):
        train_small(method, *flags, log=log)
