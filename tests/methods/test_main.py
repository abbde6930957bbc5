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


STATE = [  # flags, the part of the state that `main` makes of them, and what that part holds
    ("mean_teacher", "--alpha 0.8", "teacher", {"alpha": 0.8}),
    ("self_tuning", "--m 0.8", "key_encoder", {"m": 0.8}),
    ("self_tuning", "--lr-gamma 0.3", "scheduler", {"gamma": 0.3}),
    ("debiasmatch", "--momentum 0.8", "q_hat", {"momentum": 0.8}),
    ("freematch", "--momentum 0.8 --max-tau 0.6", "curriculum", {"momentum": 0.8, "max_tau": 0.6}),
    ("softmatch", "--momentum 0.8 --n-sigma 3", "gaussian", {"momentum": 0.8, "n_sigma": 3}),
    ("adamatch", "--momentum 0.8 --window 3", "alignment", {"momentum": 0.8, "forget": 1}),
    ("adamatch", "--momentum 0.8 --window 0", "alignment", {"momentum": 0.8, "forget": pytest.approx(0.2)}),
    ("simmatch", "--bank-momentum 0.8", "bank", {"momentum": 0.8}),
    ("mixmatch", "--beta 0.3", "mixup", {"beta": 0.3, "one_lambda": False}),
    ("remixmatch", "--beta 0.3 --one-lambda", "mixup", {"beta": 0.3, "one_lambda": True}),
    ("remixmatch", "--momentum 0.8", "alignment", {"momentum": 0.8}),
]


@pytest.mark.parametrize(("method", "flags", "part", "values"), STATE)
def test_the_methods_state_has_the_flags_numbers(method, flags, part, values, tmp_path):
    made = started(method, *flags.split(), log=tmp_path / "run")[part]
    assert {name: getattr(made, name) for name in values} == values


@pytest.mark.parametrize(
    ("method", "flags", "part", "name", "shape"),
    [
        ("adamatch", "--window 3", "alignment", "window", (3, 10)),
        ("remixmatch", "--window 3", "alignment", "window", (3, 10)),
        ("comatch", "--window 3", "window", "means", (3, 10)),
        ("simmatch", "--window 3", "window", "means", (3, 10)),
        ("simmatch", "--projection-dim 5", "bank", "embeddings", (40, 5)),
        ("self_tuning", "--K 3 --projection-dim 5", "queue", "keys", (10, 3, 5)),
    ],
)
def test_the_methods_state_is_as_large_as_the_flags_say(method, flags, part, name, shape, tmp_path):
    assert getattr(started(method, *flags.split(), log=tmp_path / "run")[part], name).shape == shape
