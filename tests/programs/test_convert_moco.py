"""The MoCo converter: the backbone that comes out is the query encoder's, and nothing else is ever written or run."""

import argparse
import functools
import os

import pytest
import timm
import torch
from torch import nn

import convert_moco_to_pretrained as converter
from common.errors import UserError
from common.loading.augment import Normalizer
from common.networks import backbones

STATISTICS = {"image_size": 64, "normalizer": Normalizer((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


@functools.cache
def encoder(seed: int, arch: str = "resnet50", head: str = "fc") -> nn.Module:
    """A network whose BatchNorm statistics are its own, with MoCo v2's projection head in place of its classifier.

    To be read only.
    """
    torch.manual_seed(seed)
    model = timm.create_model(arch, num_classes=0)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    setattr(model, head, nn.Sequential(nn.Linear(model.num_features, 32), nn.ReLU(), nn.Linear(32, 8)))
    return model


def prefixed(prefix: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def query():
    return encoder(0)


def moco_v2(query: nn.Module) -> dict:
    """As MoCo's main_moco.py saves it."""
    state = prefixed("module.encoder_q.", query) | prefixed("module.encoder_k.", encoder(1))
    state |= {"module.queue": torch.randn(8, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    momentum = {0: {"momentum_buffer": torch.zeros(3)}}
    optimizer = {"state": momentum, "param_groups": [{"lr": 0.03, "nesterov": False, "params": [0]}]}
    return {"epoch": 800, "arch": "resnet50", "state_dict": state, "optimizer": optimizer}


def moco_v3(query: nn.Module) -> dict:
    state = prefixed("module.base_encoder.", query) | prefixed("module.momentum_encoder.", encoder(1))
    state |= prefixed("module.predictor.", nn.Linear(8, 8))
    return {"epoch": 300, "arch": "resnet50", "state_dict": state, "optimizer": {}, "scaler": {"scale": 65536.0}}


def dino(query: nn.Module) -> dict:
    body = {key: value for key, value in query.state_dict().items() if not key.startswith("fc.")}
    teacher = {f"backbone.{key}": value for key, value in body.items()} | prefixed("head.", query.fc)
    student = prefixed("module.backbone.", encoder(1))
    return {"student": student, "teacher": teacher, "epoch": 800, "args": argparse.Namespace(lr=0.3, arch="resnet50")}


def convert(content, folder) -> tuple:
    paths = [folder / name for name in ("input.pth.tar", "out/backbone.pth", "out/fc.pth")]
    torch.save(content, paths[0])
    converter.main(converter.parse_args([str(path) for path in paths]))
    return paths[1], paths[2]


@pytest.mark.parametrize("make", [moco_v2, moco_v3, dino])
def test_the_backbone_is_the_query_encoders(make, query, tmp_path, capsys):
    backbone_out, fc_out = convert(make(query), tmp_path)
    backbone = backbones.backbone("resnet50", **STATISTICS, file=backbone_out).eval()
    images = torch.randn(2, 3, 64, 64)
    body = timm.create_model("resnet50", num_classes=0).eval()
    body.load_state_dict({key: value for key, value in query.state_dict().items() if not key.startswith("fc.")})
    with torch.no_grad():
        assert torch.equal(backbone(images), body(images))

    fc = torch.load(fc_out, weights_only=True)
    expected = {key: value for key, value in query.state_dict().items() if key.startswith("fc.")}
    if make is dino:
        expected = {key.replace("fc.", "head."): value for key, value in expected.items()}
    assert fc.keys() == expected.keys()
    assert all(torch.equal(fc[key], expected[key]) for key in fc)

    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"wrote '{backbone_out}': 318 tensors, 23,508,032 parameters"
    assert shown[1] == f"wrote '{fc_out}': 4 tensors, {2048 * 32 + 32 + 32 * 8 + 8:,} parameters"
    assert shown[2].endswith(f": train with --pretrained-backbone {backbone_out} -a resnet50")
    assert sorted(path.name for path in backbone_out.parent.iterdir()) == ["backbone.pth", "fc.pth"]


def test_a_checkpoint_of_moco_v1_without_module(query, tmp_path):
    """From a run on one GPU; v1's head is one layer, and batches were not counted before PyTorch 0.4.1."""
    state = {key: value for key, value in moco_v2(query)["state_dict"].items() if "num_batches_tracked" not in key}
    state = {key.removeprefix("module."): value for key, value in state.items() if ".fc." not in key}
    state["encoder_q.fc.weight"] = torch.zeros(128, 2048)
    backbone_out, fc_out = convert({"state_dict": state}, tmp_path)
    backbones.backbone("resnet50", **STATISTICS, file=backbone_out)
    assert torch.load(fc_out, weights_only=True).keys() == {"fc.weight"}


@pytest.mark.parametrize(("arch", "shown"), [("resnet18", "resnet18"), ("resnet26", "not known")])
def test_other_architectures_are_recognized_or_said_to_be_unknown(arch, shown, tmp_path, capsys):
    backbone_out, _ = convert({"state_dict": prefixed("module.encoder_q.", encoder(0, arch))}, tmp_path)
    backbones.backbone(arch, **STATISTICS, file=backbone_out)
    assert shown in capsys.readouterr().out.splitlines()[2]


def test_a_vision_transformer_of_moco_v3(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(converter, "ARCHITECTURES", ["vit_small_patch16_224", "vit_tiny_patch16_224"])
    vit = encoder(0, "vit_tiny_patch16_224", head="head")  # a small one in the place of ViT-B
    backbone_out, fc_out = convert({"state_dict": prefixed("module.base_encoder.", vit)}, tmp_path)
    backbones.backbone("vit_tiny_patch16_224", **STATISTICS | {"image_size": 224}, file=backbone_out)
    assert all(key.startswith("head.") for key in torch.load(fc_out, weights_only=True))
    assert "-a vit_tiny_patch16_224" in capsys.readouterr().out


def test_the_vit_s_of_moco_v3_has_other_heads_than_timms_and_is_refused(tmp_path):
    vit = encoder(0, "vit_small_patch16_224", head="head")
    with pytest.raises(UserError, match="is the ViT-S of MoCo v3, which has 12 attention heads, and timm's"):
        convert({"state_dict": prefixed("module.base_encoder.", vit)}, tmp_path)
    assert not list(tmp_path.glob("*out*"))


BAD = {
    "a classifier": ({"state_dict": {"conv1.weight": torch.zeros(1)}}, "holds no query encoder"),
    "a key encoder alone": ({"state_dict": {"module.encoder_k.conv1.weight": torch.zeros(1)}}, "no query encoder"),
    "a head alone": ({"state_dict": {"module.encoder_q.fc.0.weight": torch.zeros(1)}}, "no query encoder"),
    "a list": ([torch.zeros(1)], "no query encoder"),
    "a plain value in the encoder": ({"state_dict": {"module.encoder_q.conv1.weight": 1.0}}, "more than tensors"),
}


@pytest.mark.parametrize("kind", BAD)
def test_files_without_a_query_encoder_are_refused(kind, tmp_path):
    content, message = BAD[kind]
    with pytest.raises(UserError, match=message) as error:
        convert(content, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def small_moco() -> dict:
    return {"state_dict": {"module.encoder_q.conv1.weight": torch.ones(3), "module.encoder_q.fc.bias": torch.ones(1)}}


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    backbone_out, fc_out = convert(small_moco(), tmp_path)
    before = backbone_out.read_bytes(), fc_out.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        convert({"state_dict": {"module.encoder_q.conv1.weight": torch.zeros(9)}}, tmp_path)
    assert (backbone_out.read_bytes(), fc_out.read_bytes()) == before
    assert sorted(path.name for path in backbone_out.parent.iterdir()) == ["backbone.pth", "fc.pth"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("missing.pth", "b.pth", "f.pth"), r"'\S*missing.pth' does not exist"),
        (("in.pth", "in.pth", "f.pth"), "three different files"),
        (("in.pth", "b.pth", "b.pth"), "three different files"),
        (("in.pth", "in.pth/b.pth", "f.pth"), "cannot make the folder of"),
        (("in.pth", "b" * 253, "f.pth"), r"cannot save '\S*b' \(File name too long\)"),
        (("in.pth", "b.pth"), "FC_OUT"),
    ],
)
def test_bad_paths(names, message, tmp_path):
    torch.save(small_moco(), tmp_path / "in.pth")
    before = (tmp_path / "in.pth").read_bytes()
    with pytest.raises(UserError, match=message):
        converter.main(converter.parse_args([str(tmp_path / name) for name in names]))
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]
    assert (tmp_path / "in.pth").read_bytes() == before
