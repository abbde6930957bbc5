"""The schedules at steps worked by hand, for a backbone that learns at a tenth of the rate."""

import pytest
import torch
from torch import nn

from common import optim
from common.errors import UserError


def make(name: str, gamma=0.0004, decay=0.75, total=10_000):
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 0.003}, {"params": weights[1:], "lr": 0.03}], lr=1)
    return optimizer, optim.schedule(optimizer, name, gamma, decay, total)


def rates(optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def advance(optimizer, scheduler, steps: int) -> None:
    for _ in range(steps):
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", ["exp", "cos"])
def test_the_first_step_has_the_full_rate(name):
    optimizer, _ = make(name)
    assert rates(optimizer) == [0.003, 0.03]


@pytest.mark.parametrize(
    ("name", "step", "factor"),
    [
        ("exp", 2_500, 2**-0.75),  # 1 + 0.0004 * 2,500 = 2
        ("exp", 7_500, 4**-0.75),
        ("exp", 10_000, 0.299),
        ("cos", 5_000, 0.773),  # cos(7 pi / 32)
        ("cos", 10_000, 0.195),  # cos(7 pi / 16)
        ("cos", 12_000, 0.0),  # beyond a quarter of the wave it stays at 0
    ],
)
def test_known_steps(name, step, factor):
    optimizer, scheduler = make(name)
    advance(optimizer, scheduler, step)
    assert rates(optimizer) == pytest.approx([0.003 * factor, 0.03 * factor], abs=2e-5)


def test_gamma_and_decay_matter_to_exp():
    optimizer, scheduler = make("exp", gamma=1.0, decay=2.0)
    advance(optimizer, scheduler, 3)
    assert rates(optimizer) == pytest.approx([0.003 / 16, 0.03 / 16])


def test_cos_depends_on_the_length_of_the_run():
    optimizer, scheduler = make("cos", total=8)
    advance(optimizer, scheduler, 8)
    assert rates(optimizer) == pytest.approx([0.003 * 0.19509, 0.03 * 0.19509], rel=1e-4)


@pytest.mark.parametrize("name", ["exp", "cos"])
def test_state_goes_through_a_checkpoint(name, tmp_path):
    optimizer, scheduler = make(name, total=20)
    advance(optimizer, scheduler, 7)
    torch.save([optimizer.state_dict(), scheduler.state_dict()], tmp_path / "state.pth")
    resumed, resumed_scheduler = make(name, total=20)
    for item, state in zip(
        (resumed, resumed_scheduler), torch.load(tmp_path / "state.pth", weights_only=True), strict=True
    ):
        item.load_state_dict(state)
    for _ in range(5):
        assert rates(resumed) == rates(optimizer)
        advance(optimizer, scheduler, 1)
        advance(resumed, resumed_scheduler, 1)


def test_other_names_are_refused():
    with pytest.raises(UserError, match="'step'"):
        make("step")
