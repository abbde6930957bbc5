"""What a script's `main` puts together, besides its loaders: random streams, banks, and the network that is tested."""

import importlib
from unittest import mock

import pytest
import torch

from common.errors import UserError
from common.run import Run
from common.system import checkpoint, seeding
from tests.conftest import assert_equal_states, final_state, train_small
from tests.helpers import steps

SHARED = {"vat": "random", "adamatch": "mixing", "mixmatch": "mixup", "remixmatch": "mixup"}


def started(method: str, *flags: str, log) -> dict:
    """The state that `main` gives to `run.start`, and torch's random numbers after it."""
    found = {}

    def start(run, state, evaluated):
        begin(run, state, evaluated)
        found.update(state, evaluated=evaluated, numbers=torch.rand(3))
        raise UserError("started")

    begin = Run.start
    with mock.patch.object(Run, "start", start), pytest.raises(UserError, match="started"):
        train_small(method, *flags, log=log)
    return found


@pytest.mark.parametrize("method", SHARED)
def test_random_numbers_for_whole_batches_have_the_runs_seed(method, tmp_path):
    part = started(method, "--seed", "5", log=tmp_path / "run")[SHARED[method]]
    (stream,) = [module for module in part.modules() if isinstance(module, seeding.SharedRandom)]
    assert stream.seed == 5


def test_dropout_draws_other_numbers_with_another_seed(tmp_path):
    """On the same labels, so that seeds differ in nothing but the draws."""
    first, second, again = (
        started("fixmatch", "--seed", seed, "--split-seed", "0", log=tmp_path / name)["numbers"]
        for seed, name in (("1", "a"), ("2", "b"), ("1", "c"))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_each_row_of_simmatchs_bank_has_its_images_label(tmp_path):
    found, step = [], importlib.import_module("simmatch").train_step

    def checked(model, window, bank, optimizer, batch_l, batch_u, args):
        found.append(torch.equal(bank.one_hot[batch_l.indices].argmax(dim=1), batch_l.labels))
        return step(model, window, bank, optimizer, batch_l, batch_u, args)

    with mock.patch("simmatch.train_step", checked):
        train_small("simmatch", log=tmp_path / "run")
    assert found == [True] * 6


def test_comatchs_bank_holds_both_batches(tmp_path):
    flags = "-b 6 --unlabeled-batch-size 10 --bank-batches 3 --projection-dim 4"
    bank = started("comatch", *flags.split(), log=tmp_path / "run")["bank"]
    assert [len(tensor) for tensor in bank.buffers() if tensor.dim()] == [3 * (6 + 10)] * 2


@pytest.mark.parametrize("method", steps.METHODS)
def test_the_trained_network_is_tested_and_kept(method, tmp_path):
    """Not a teacher or a slow copy, unless --ema asks for one."""
    ema = ["--ema", "0"] if method in ("adamatch", *steps.WITH_PROJECTOR, *steps.MIXED) else []
    train_small(method, *ema, "--epochs", "1", "-i", "1", log=tmp_path / "run")
    latest = final_state(tmp_path / "run")
    assert latest["evaluated"] == "model"
    assert_equal_states(checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pth")["model"], dict(latest["model"]))
