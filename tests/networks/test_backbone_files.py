"""Backbone files as programs write them: names with prefixes, pretraining's extras, and this project's own runs."""

import importlib
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import export
from common.errors import UserError
from common.loading.augment import Normalizer
from common.networks import backbones
from common.system import checkpoint
from tests.conftest import SMALL, assert_equal_states, train_small

NORMALIZER = Normalizer((0.5,) * 3, (0.5,) * 3)


def load(file: Path, arch: str = "test_resnet", size: int = 32) -> nn.Module:
    return backbones.backbone(arch, size, NORMALIZER, file=str(file))


def saved(tmp_path: Path, change, arch: str = "test_resnet") -> tuple[dict[str, torch.Tensor], Path]:
    """The backbone's part of a random network, and a file of all of it, changed."""
    torch.manual_seed(1)
    model = timm.create_model(arch)
    file = tmp_path / "weights.pth"
    torch.save(change({name: tensor.clone() for name, tensor in model.state_dict().items()}), file)
    model.reset_classifier(0)
    return dict(model.state_dict()), file


def prefixed(prefix: str):
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("prefix", ["module.", "backbone.", "_orig_mod.", "module.encoder.", "student.model."])
def test_a_prefix_of_all_names_is_dropped(tmp_path, prefix, arch, log):
    log.set_level("INFO")
    wanted, file = saved(tmp_path, prefixed(prefix), arch)
    assert_equal_states(dict(load(file, arch, 160).state_dict()), wanted)
    assert f"'{file}': names are taken without their prefix '{prefix}'" in log.messages


@pytest.mark.parametrize("entry", ["state_dict", "model", "model_state_dict"])
def test_what_stands_beside_the_network_is_left_out_and_named(tmp_path, entry, log):
    log.set_level("INFO")
    beside = {f"projection.{i}.weight": torch.zeros(1) for i in range(5)}
    wanted, file = saved(tmp_path, lambda s: {entry: prefixed("net.")(s) | beside, "epoch": 1})
    assert_equal_states(dict(load(file).state_dict()), wanted)
    names = "projection.0.weight, projection.1.weight, projection.2.weight and 2 more"
    assert f"'{file}': names are taken without their prefix 'net.'; {names} left out" in log.messages


@pytest.mark.parametrize(
    ("arch", "extra"),
    [
        ("test_vit", "mask_token"),
        ("test_vit", "module.mask_token"),
        ("test_resnet", "prototypes.weight"),
        ("test_resnet", "projection_head.0.weight"),
        ("swin_tiny_patch4_window7_224", "layers.0.blocks.1.attn_mask"),
        ("swin_tiny_patch4_window7_224", "layers.0.blocks.0.attn.relative_position_index"),
    ],
)
def test_what_only_pretraining_needs_is_left_out_and_named(tmp_path, arch, extra, log):
    log.set_level("INFO")
    prefix = "module." if extra.startswith("module.") else ""
    wanted, file = saved(tmp_path, lambda s: prefixed(prefix)(s) | {extra: torch.zeros(1, 64)}, arch)
    size = 224 if "swin" in arch else 160
    assert_equal_states(dict(load(file, arch, size).state_dict()), wanted)
    name = extra.removeprefix("module.")
    assert f"'{file}' has parts that only its pretraining needed: {name} left out" in log.messages


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: prefixed("online.")(s) | prefixed("target.")(s),
            r"holds several networks \(online\., target\.\): sa",
        ),
        (
            lambda s: prefixed("module.")({k: v for k, v in s.items() if k != "conv1.3.weight"}),
            r"lacks conv1\.3\.weight",
        ),
        (lambda s: prefixed("module.")(s | {"layer9.weight": torch.zeros(1)}), r"beyond the backbone, layer9\.weight"),
        (lambda s: {k: v for k, v in s.items() if k != "conv1.0.weight"}, r"lacks conv1\.0\.weight: it is"),
        (lambda s: {f"other{k}": v for k, v in s.items()}, r"lacks conv1\.0\.weight, "),
    ],
    ids=["two", "prefix and lacks", "prefix and surplus", "lacks the first", "no prefix but a longer word"],
)
def test_the_rest_is_as_strict_as_before(tmp_path, change, message):
    _, file = saved(tmp_path, change)
    with pytest.raises(UserError, match=message):
        load(file)


def test_an_exact_file_is_taken_as_it_stands(tmp_path, log):
    """A second network beside it has a prefix; it would be surplus, which is refused."""
    log.set_level("INFO")
    wanted, file = saved(tmp_path, lambda s: s)
    assert_equal_states(dict(load(file).state_dict()), wanted)
    assert not [message for message in log.messages if "weights.pth" in message]
    _, file = saved(tmp_path, lambda s: s | prefixed("ema.")(s))
    with pytest.raises(UserError, match=r"beyond the backbone, ema\.conv1\.0\.weight"):
        load(file)


RUNS = {
    "erm": "erm",
    "average": "fixmatch --ema 0.5",
    "teacher": "mean_teacher --eval-teacher",
    "more heads": "dst --width 8",
    "two": "self_tuning --K 4 --projection-dim 8 --milestones 1",
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_this_project_is_a_backbone_file(tmp_path, name):
    """Its best.pth, its latest.pth and its export hold the network that was tested, here after the only epoch."""
    method, *flags = RUNS[name].split()
    train_small(method, *flags, "--epochs", "1", "--lr", "0.1", log=tmp_path / "run")
    export.main(export.parse_args([str(tmp_path / "run"), str(tmp_path / "photos.safetensors")]))
    best = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pth")["model"]
    wanted = {key.removeprefix("backbone."): best[key] for key in best if key.startswith("backbone.")}
    for file in ("run/checkpoints/best.pth", "run/checkpoints/latest.pth", "photos.safetensors"):
        assert_equal_states(dict(load(tmp_path / file, "wrn_10_1_half").state_dict()), wanted)


def test_the_next_run_starts_from_it(tmp_path, log):
    train_small("erm", "--epochs", "1", log=tmp_path / "first")
    file = tmp_path / "first" / "checkpoints" / "best.pth"
    flags = [flag for flag in SMALL if flag != "--scratch"]
    script = importlib.import_module("fixmatch")
    argv = [*flags, "--pretrained-backbone", str(file), "--epochs", "1", "--log", str(tmp_path / "second")]
    assert script.main(script.parse_args(argv))["pretraining"] == "best"
    lines = (tmp_path / "second" / "log.txt").read_text()
    assert f"'{file}' is of a run of this project with --arch wrn_10_1_half: its tested network is taken" in lines


@pytest.mark.parametrize(
    ("args", "entries", "message"),
    [
        ({"adapter": 4}, {}, "is of a run with --adapter, whose parts no other network has: take another run's"),
        ({"lora": 4}, {"step": 6}, "does not hold the whole network that was tested: take the run's best.pth"),
        (
            {},
            {"step": 6, "evaluated": None},
            "does not hold the whole network that was tested: take the run's best.pth",
        ),
        ({}, {"evaluated": "teacher"}, "does not hold a dictionary of tensors"),
    ],
)
def test_runs_that_hold_a_network_only_in_part_are_refused(tmp_path, args, entries, message):
    content = {"args": {"arch": "test_resnet", "bottleneck_dim": 16} | args} | entries
    _, file = saved(tmp_path, lambda s: {"model": prefixed("backbone.")(s)} | content)
    with pytest.raises(UserError, match=message):
        load(file)


def test_a_best_network_with_lora_is_whole(tmp_path):
    """There LoRA is merged into timm's own names."""
    content = {"args": {"arch": "test_resnet", "bottleneck_dim": 16, "lora": 4}}
    wanted, file = saved(tmp_path, lambda s: {"model": prefixed("backbone.")(s)} | content)
    assert_equal_states(dict(load(file).state_dict()), wanted)
