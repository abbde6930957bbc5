"""Stopped half-way through epochs and between them, a resumed run ends as one that nothing stopped: bit for bit."""

import importlib
import itertools
import os
import signal
from pathlib import Path
from unittest import mock

import pytest
import torch

from common.errors import Interrupted
from tests.conftest import assert_equal_states, final_state, train_small

# Flags that let the method's own state change the six steps: low thresholds, fast averages, full weights.
RUNS = {
    "pseudo_label": "pseudo_label --threshold 0.11",
    "pi_model": "pi_model --warm-up-epochs 1",
    "mean_teacher": "mean_teacher --warm-up-epochs 1 --alpha 0.5 --eval-teacher",
    "uda": "uda --threshold 0.11",
    "flexmatch": "flexmatch --threshold 0.5 --lr 1",
    "debiasmatch": "debiasmatch --threshold 0.11 --momentum 0.5",
    "debiasmatch, persistent": "debiasmatch --threshold 0.11 --momentum 0.5 --persistent-q-hat",
    "self_tuning": "self_tuning --K 4 --projection-dim 8 --m 0.5 --milestones 1",
    "dst": "dst --threshold 0.11 --width 8",
}
STOPS = (2, 3, 5)  # in the middle of the first epoch, between its last step and its test, and in the second


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """For networks as small as this one, a second thread costs more than it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


@pytest.mark.parametrize("name", RUNS)
def test_stopped_and_resumed_is_uninterrupted(name, tmp_path):
    method, *flags = RUNS[name].split()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = train_small(method, *flags, log=whole)
    for before, stop in itertools.pairwise((0, *STOPS)):
        stop_in_step(stop - before, method, *flags, log=parts)
        assert final_state(parts)["step"] == stop
    resumed = train_small(method, *flags, log=parts)

    a, b = final_state(whole), final_state(parts)
    for state in (a, b):
        del state["seconds"], state["args"]  # the latter hold the folder
    assert_equal_states(a, b)
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()
    assert all(resumed[key] == result[key] for key in result if "top1" in key)
