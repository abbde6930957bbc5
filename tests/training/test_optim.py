"""The optimizers' groups and steps, and the schedules, at numbers worked by hand."""

import copy

import pytest
import timm
import torch
from torch import nn

from common.errors import UserError
from common.networks import classifier
from common.training import optim


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
def test_the_rate_of_a_step_by_hand(name, step, factor):
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


def test_a_warm_up_goes_before_a_schedule_for_the_rest():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = optim.schedule(optimizer, "cos", 0, 0, total_steps=12, warm_up_steps=4)
    seen = []
    for _ in range(12):
        seen += rates(optimizer)
        advance(optimizer, scheduler, 1)
    assert seen[:5] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert seen[8] == pytest.approx(0.4 * 0.77301, rel=1e-4)  # half of the rest: cos(7 pi / 32)
    assert rates(optimizer) == pytest.approx([0.4 * 0.19509], rel=1e-4)


def test_exp_counts_from_the_end_of_the_warm_up():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = optim.schedule(optimizer, "exp", 1.0, 2.0, total_steps=10, warm_up_steps=2)
    advance(optimizer, scheduler, 3)
    assert rates(optimizer) == pytest.approx([1 / 4])  # t = 1


class Two(nn.Module):
    """A backbone of one weight and a head of one, each with a gradient."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(1, 1, bias=False), nn.Linear(1, 1)
        for value, p in zip((2.0, 1.0, 0.5), self.parameters(), strict=True):
            nn.init.constant_(p, value)
            p.grad = torch.full_like(p, 0.1)

    def parameter_groups(self, lr, finetune):
        return [
            {"params": self.backbone.parameters(), "lr": 0.1 * lr if finetune else lr},
            {"params": self.head.parameters(), "lr": lr},
        ]


def values(model: nn.Module) -> list[float]:
    return [p.item() for p in model.parameters()]


def test_a_step_of_sgd():
    model = Two()
    optim.create("sgd", model, lr=0.5, wd=0.2, finetune=True).step()
    # g = 0.1 + 0.2 w; Nesterov's first step is g + 0.9 g
    expected = [2 - 0.05 * 1.9 * 0.5, 1 - 0.5 * 1.9 * 0.3, 0.5 - 0.5 * 1.9 * 0.2]
    assert values(model) == pytest.approx(expected)


def test_a_step_of_adamw():
    model = Two()
    optim.create("adamw", model, lr=0.5, wd=0.2, finetune=True).step()
    # w (1 - lr wd), and the first step of Adam is the whole rate in the gradient's direction
    expected = [2 * (1 - 0.05 * 0.2) - 0.05, 1 * (1 - 0.5 * 0.2) - 0.5, 0.5 * (1 - 0.5 * 0.2) - 0.5]
    assert values(model) == pytest.approx(expected)


def test_biases_and_norms_are_spared():
    model = Two()
    optim.create("adamw", model, lr=0.5, wd=0.2, no_decay_on_norms=True).step()
    assert values(model) == pytest.approx([2 * 0.9 - 0.5, 1 * 0.9 - 0.5, 0.5 - 0.5], abs=1e-6)


def test_by_default_the_groups_are_the_models_own():
    model = Two()
    optimizer = optim.create("sgd", model, 0.5, 0.2)
    own = torch.optim.SGD(model.parameter_groups(0.5, False), momentum=0.9, weight_decay=0.2, nesterov=True)
    assert optimizer.state_dict() == own.state_dict()
    assert [g["params"] for g in optimizer.param_groups] == [g["params"] for g in own.param_groups]


def test_what_is_frozen_is_left_out():
    model = Two()
    model.backbone.requires_grad_(False)
    optimizer = optim.create("adamw", model, 0.5, 0.2)
    assert [len(group["params"]) for group in optimizer.param_groups] == [0, 2]


def by_name(model: nn.Module, optimizer, key: str) -> dict[str, float]:
    names = {p: name for name, p in model.named_parameters()}
    found = {names[p]: group[key] for group in optimizer.param_groups for p in group["params"]}
    assert found.keys() == set(names.values())
    return found


@pytest.fixture(scope="module")
def vit():
    """Two blocks: a stem, which is layer 1, and the layers 2 and 3; bottleneck and head come after."""
    backbone = timm.create_model("test_vit", num_classes=0, depth=2)
    backbone.feature_dim = backbone.num_features
    return classifier.ImageClassifier(backbone, 3, 8)


def test_each_layer_learns_at_a_part_of_the_next_ones_rate(vit):
    found = by_name(vit, optim.create("adamw", vit, lr=0.8, wd=0.1, finetune=True, layer_decay=0.5), "lr")
    expected = {"backbone.pos_embed": 0.01, "backbone.patch_embed.proj.weight": 0.01, "backbone.norm.weight": 0.04}
    expected |= {"backbone.blocks.0.mlp.fc1.bias": 0.02, "backbone.blocks.1.attn.qkv.weight": 0.04}
    expected |= {"bottleneck.0.weight": 0.8, "head.bias": 0.8}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_what_a_vit_exempts_is_spared_too(vit):
    found = by_name(vit, optim.create("sgd", vit, 0.8, 0.1, layer_decay=0.5, no_decay_on_norms=True), "weight_decay")
    decayed = {name for name, value in found.items() if value}
    assert {found[name] for name in decayed} == {0.1}
    assert decayed == {name for name in found if name.endswith("weight") and "norm" not in name} - {
        "bottleneck.1.weight"
    }
    assert "backbone.pos_embed" in found


def test_what_a_network_exempts_by_a_pattern_is_spared_too(vit, monkeypatch):
    """As timm reads these names: XCiT has one."""
    monkeypatch.setattr(vit.backbone, "no_weight_decay", lambda: {"patch_*.weight"})
    found = by_name(vit, optim.create("sgd", vit, 0.8, 0.1, no_decay_on_norms=True), "weight_decay")
    assert (found["backbone.patch_embed.proj.weight"], found["backbone.pos_embed"]) == (0.0, 0.1)


def test_a_run_goes_on_with_the_groups_it_had(vit):
    model = copy.deepcopy(vit)
    optimizers = [optim.create("adamw", model, 0.01, 0.1, True, 0.7, True) for _ in range(2)]
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    assert by_name(model, optimizers[0], "lr") == by_name(model, optimizers[1], "lr")


def test_other_optimizers_and_networks_without_layers_are_refused():
    with pytest.raises(UserError, match="'adam': choose sgd or adamw"):
        optim.create("adam", Two(), 0.1, 0.1)
    with pytest.raises(UserError, match="--layer-decay: Linear does not tell its layers: leave it out"):
        optim.create("sgd", Two(), 0.1, 0.1, layer_decay=0.5)


def test_five_steps_of_adamw():
    """The first step alone does not depend on the betas."""
    model = Two()
    optimizer = optim.create("adamw", model, lr=0.5, wd=0.0)
    expected, m, v = 2.0, 0.0, 0.0
    for t, g in enumerate((3.0, 0.1, 0.1, 0.1, 0.1), start=1):
        for p in model.parameters():
            p.grad = torch.full_like(p, g)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        expected -= 0.5 * (m / (1 - 0.9**t)) / (v / (1 - 0.999**t)) ** 0.5
    assert values(model)[0] == pytest.approx(expected, rel=1e-4)
