"""What flags become: each function of `common.build` hands every flag to the parameter that it is for."""

import math
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from timm.layers import DropPath

import fixmatch
from common import build
from common.datasets import SPECS
from common.loading import augment
from common.networks.classifier import ImageClassifier
from common.system import limits


def arguments(*flags: str):
    return fixmatch.parse_args(["data", "-d", "Digits", *flags])


def rates(steps: int, *flags: str) -> list[float]:
    """The rates, relative to the first group's, before each of so many steps and after the last."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, found = build.schedule(optimizer, arguments(*flags)), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*found, optimizer.param_groups[0]["lr"]]


def test_gamma_and_decay_are_not_exchanged():
    assert rates(3, "--lr-gamma", "1", "--lr-decay", "2") == pytest.approx([1, 1 / 4, 1 / 9, 1 / 16])


def test_the_cosine_ends_with_the_last_epoch():
    """At cos(7 pi / 16), which is 0.195; halfway, after the first of two epochs, at cos(7 pi / 32)."""
    found = rates(8, "--lr-scheduler", "cos", "--epochs", "2", "-i", "4")
    assert (found[4], found[8]) == pytest.approx((math.cos(7 * math.pi / 32), math.cos(7 * math.pi / 16)))


def test_the_warm_up_rises_in_so_many_steps():
    found = rates(5, "--lr-warm-up-steps", "4", "--lr-gamma", "1", "--lr-decay", "1", "--epochs", "1", "-i", "100")
    assert found == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0.5])


def test_strong_views_are_filled_with_the_mean_and_not_with_the_deviation():
    flags = "--cutout 0.3 --norm-mean 0.2 0.4 0.6 --norm-std 0.1 0.1 0.1 --auto-augment classic"
    args = arguments(*flags.split())
    with mock.patch.object(augment, "policy", return_value=[]) as policy:
        build.views(SPECS["Digits"], args)
    policy.assert_called_once_with("classic", [0.2, 0.4, 0.6], 0.3)


def test_views_for_training_and_for_tests_have_their_own_resizing():
    flags = "--train-resizing default --val-resizing cifar --image-size 16"
    weak, _, test = build.views(SPECS["Digits"], arguments(*flags.split()))
    assert "RandomResizedCrop" in repr(weak)
    assert "CenterCrop" not in repr(test)
    assert "Resize" in repr(test)


def test_loaders_have_the_runs_seed_and_device():
    run = SimpleNamespace(device=torch.device("cpu"))
    options = build.loading(run, arguments("--seed", "7", "-j", "2", "--cache", "5"))
    assert {key: options[key] for key in ("seed", "workers", "cache", "device")} == {
        **{"seed": 7, "workers": 2, "cache": 5},
        "device": run.device,
    }


def test_the_last_residual_branch_is_dropped_at_the_flags_rate():
    args = arguments("-a", "resnet18", "--scratch", "--image-size", "32", "--drop-path", "0.14")
    model = build.classifier(ImageClassifier, 10, args)
    rates = [module.drop_prob for module in model.backbone.modules() if isinstance(module, DropPath)]
    assert [rate for rate in rates if rate] == pytest.approx([0.02 * i for i in range(1, 8)])


def test_three_sets_share_the_machine(monkeypatch):
    monkeypatch.setattr(limits, "cores", lambda: 8)
    monkeypatch.setattr(limits, "free_memory", lambda: 800 * limits.MIB)
    options = build.loading(SimpleNamespace(device=torch.device("cpu")), arguments())
    assert (options["workers"], options["cache"]) == (2, 100)
