"""A loss or a weight that is no longer finite ends the run by the next print, names its step, and is never saved."""

import os
import signal

import pytest
import torch

from common.errors import UserError
from common.training.guard import Guard
from common.training.meters import Meters
from tests.conftest import final_state, read_rows

BAD = [float("nan"), float("inf"), -float("inf")]


def spoil(monkeypatch, number: int, change) -> None:
    """Let the `number`-th step's metrics go through `change(metrics, model)`."""
    import erm

    original, steps = erm.train_step, []

    def spoiled(model, *args):
        metrics = original(model, *args)
        steps.append(1)
        return metrics | (change(metrics, model) or {}) if len(steps) == number else metrics

    monkeypatch.setattr(erm, "train_step", spoiled)


def nan_loss(metrics, model):
    return {"loss": metrics["loss"] * float("nan")}


@pytest.mark.parametrize("value", BAD)
def test_meters_keep_the_first_bad_step_and_its_metrics(value):
    meters = Meters(torch.device("cpu"))
    assert meters.first_not_finite() is None
    good, bad = torch.tensor(1.0), torch.tensor(value)
    for step, (a, b) in enumerate([(good, good), (good, bad), (good, good), (bad, good)], start=41):
        meters.update({"a": a, "b": b, "pair": (good, torch.tensor(0.0))}, step)
    step, metrics = meters.first_not_finite()
    assert step == 42
    assert metrics == pytest.approx({"a": 1, "b": value, "pair": None}, nan_ok=True)
    meters.reset()
    meters.update({"a": good}, 45)
    assert meters.first_not_finite() is None


def test_the_step_its_losses_and_its_learning_rates_are_named(small_run, tmp_path, monkeypatch):
    """The second epoch's first step, seen at the print after its second."""
    spoil(monkeypatch, 4, nan_loss)
    with pytest.raises(UserError) as error:
        small_run("erm", "--finetune", "--lr", "0.01", "--lr-gamma", "1", "--lr-decay", "1")
    message = str(error.value)
    assert message.startswith("loss not finite at step 4: loss nan, accuracy_l ")
    assert "(learning rates 0.00025, 0.0025, 0.0025)" in message  # 0.01 / (1 + 3), a tenth for the backbone
    assert "the checkpoint of step 3 is kept: start anew with a smaller --lr" in message
    assert "\n" not in message
    assert final_state(tmp_path / "run")["step"] == 3
    assert len(read_rows(tmp_path / "run")) == 1


def test_the_rates_of_the_last_step_alone_are_kept_after_a_look():
    """A save after it names them. Those of earlier steps would pile up over a run."""
    guard, optimizer = Guard(Meters(torch.device("cpu"))), torch.optim.SGD([torch.zeros(1)], lr=1.0)
    bad = {"model": {"weight": torch.tensor([float("nan")])}}
    for step in (1, 2, 3):
        optimizer.param_groups[0]["lr"] = step / 10
        guard.note_rates(step, {"optimizer": optimizer})
    guard.check_metrics(3)
    guard.note_rates(4, {"optimizer": optimizer})
    for step, rates in [(1, "see --lr"), (2, "see --lr"), (3, "0.3"), (4, "0.3")]:
        with pytest.raises(UserError, match=rf"at step {step}: .*learning rates {rates}\)"):
            guard.check_weights(bad, step)


def test_before_the_first_checkpoint(small_run, tmp_path, monkeypatch):
    spoil(monkeypatch, 1, nan_loss)
    with pytest.raises(UserError, match=r"at step 1: .* nothing was saved yet"):
        small_run("erm")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_nothing_is_read_from_the_device_between_prints(small_run, monkeypatch):
    reads = []
    original = Meters.first_not_finite
    monkeypatch.setattr(Meters, "first_not_finite", lambda self: reads.append(1) or original(self))
    small_run("erm", "--epochs", "1", "--iters-per-epoch", "6", "--print-freq", "3")
    assert len(reads) == 4  # at two prints, before the epoch's row, and before its save


def break_weight(metrics, model):
    with torch.no_grad():
        model.head.weight[0, 0] = float("inf")


@pytest.mark.parametrize("change", [nan_loss, break_weight])
def test_a_signal_does_not_save_what_is_not_finite(small_run, tmp_path, monkeypatch, change):
    """The signal comes in the very step, long before the next print."""
    spoil(monkeypatch, 4, lambda *a: os.kill(os.getpid(), signal.SIGTERM) or change(*a))
    with pytest.raises(UserError, match="at step 4"):
        small_run("erm", "--print-freq", "100")
    assert final_state(tmp_path / "run")["step"] == 3


def break_momentum(model, optimizer):
    next(iter(optimizer.state.values()))["momentum_buffer"].fill_(float("inf"))


def break_head(model, optimizer):
    break_weight(None, model)


@pytest.mark.parametrize("number", [3, 6])
@pytest.mark.parametrize(
    ("change", "culprit"), [(break_head, "test_loss"), (break_momentum, r"optimizer\.state\.0\.momentum_buffer")]
)
def test_what_went_bad_in_an_epochs_last_step_is_not_saved(small_run, tmp_path, monkeypatch, number, change, culprit):
    """Its loss was computed before the update, and was finite. The scores tell of weights, the save of the rest."""
    import erm

    original, steps = erm.train_step, []

    def spoiled(model, optimizer, *args):
        metrics = original(model, optimizer, *args)
        steps.append(1)
        if len(steps) == number:
            change(model, optimizer)
        return metrics

    monkeypatch.setattr(erm, "train_step", spoiled)
    checkpoints = tmp_path / "run" / "checkpoints"
    with pytest.raises(UserError, match=rf"{culprit} not finite at step {number}: .*learning rates 0\.0029"):
        small_run("erm")
    saved = checkpoints / "latest.pth"
    assert saved.exists() == (number == 6)
    if number == 6:
        assert final_state(tmp_path / "run")["step"] == 3
        assert torch.load(checkpoints / "best.pth", weights_only=True)["model"]["head.weight"].isfinite().all()
