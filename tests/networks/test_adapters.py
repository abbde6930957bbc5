"""LoRA and AdaptFormer: what is frozen never changes, what is trained is all that is saved, merged it is the same."""

import copy
import itertools
import sys
from unittest import mock

import pytest
import timm
import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import nn
from torch.nn import functional as F

from common import trained
from common.errors import UserError
from common.loading.augment import Normalizer
from common.networks import adapters, backbones
from common.networks.adapters import AdaptFormer, Merged
from common.networks.classifier import ImageClassifier
from common.networks.ema import ModelEma
from tests import conftest
from tests.conftest import assert_equal_states, assert_same_run, final_state, read_rows, train_small
from tests.helpers.stops import stop_in_step
from tests.long import adapters_matrix
from tests.methods.test_methods import METHODS

SWIN = {"embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)}
KINDS = [{"lora": 4}, {"adapter": 8}]
VIT = "-a test_vit --optimizer adamw --lr 0.01 --epochs 1 --iters-per-epoch 3".split()


@pytest.fixture(autouse=True)
def _peft(request):
    if "lora" in request.node.name:
        pytest.importorskip("peft")


def backbone(arch: str = "test_vit", size: int = 32, **widths) -> nn.Module:
    torch.manual_seed(0)
    model = backbones.backbone(arch, size, Normalizer([0.5] * 3, [0.5] * 3), scratch=True)
    adapters.insert(model, size, **widths)
    return model


def classifier(arch: str = "test_vit", size: int = 32, **widths) -> ImageClassifier:
    return ImageClassifier(backbone(arch, size, **widths), 10, bottleneck_dim=0)


def images(size: int = 32) -> torch.Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))


def step(model: nn.Module, number: int = 3) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for i in range(number):
        torch.manual_seed(i)
        optimizer.zero_grad()
        F.cross_entropy(model(images()), torch.arange(4)).backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize("widths", KINDS, ids=str)
def test_at_first_the_network_is_the_plain_one_bit_for_bit(widths):
    plain, adapted = backbone().eval(), backbone(**widths).eval()
    assert torch.equal(plain(images()), adapted(images()))
    assert adapted.feature_dim == 64


@pytest.mark.parametrize("widths", KINDS, ids=str)
def test_an_average_shares_what_is_frozen_and_nothing_else(widths):
    model = classifier(**widths)
    network = ModelEma(model, 0.9).network
    assert {b.data_ptr() for b in network.buffers()} == {b.data_ptr() for b in model.buffers()}
    assert not {p.data_ptr() for p in network.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert torch.equal(network.eval()(images()), model.eval()(images()))
    assert adapters.frozen_weights(classifier()) == []


@pytest.mark.parametrize("widths", KINDS, ids=str)
def test_what_is_frozen_never_changes_and_everything_else_does(widths):
    model, plain = classifier(**widths), backbone().state_dict()
    names = model.backbone.inserted.names_here()
    before = copy.deepcopy(dict(model.named_parameters()))
    step(model)
    tensors = dict(model.backbone.named_buffers())
    assert all(torch.equal(tensors[names[name]], plain[name]) for name in plain)
    assert not [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    width = {"lora": 6 * (4 * 64 + 4 * 192), "adapter": 6 * (2 * 64 * 8 + 8 + 64)}[next(iter(widths))]
    assert sum(p.numel() for p in model.backbone.parameters()) == width
    assert model.backbone.training is False
    assert model.train().backbone.blocks[0].training


@pytest.mark.parametrize("widths", KINDS, ids=str)
def test_a_checkpoint_holds_what_is_trained_and_a_fingerprint(widths):
    model = classifier(**widths)
    state = model.state_dict()
    assert state.keys() == dict(model.named_parameters()).keys() | {"backbone.inserted._extra_state"}
    step(model)
    restored = classifier(**widths)
    restored.load_state_dict(model.state_dict())
    assert torch.equal(restored.eval()(images()), model(images()))

    other = backbones.backbone("test_vit", 32, Normalizer([0.5] * 3, [0.5] * 3), scratch=True)
    adapters.insert(other, 32, **widths)
    with pytest.raises(UserError, match="trained in another frozen backbone than this one: give --scratch or"):
        other.load_state_dict(model.backbone.state_dict())


def test_lora_merged_is_a_plain_network_with_the_same_outputs():
    model = classifier(lora=4)
    step(model)
    state, plain = Merged(model).state_dict(), classifier()
    assert list(plain.state_dict()) == [*state]
    changed = [name for name in state if not torch.equal(state[name], plain.state_dict()[name])]
    assert changed == [*(f"backbone.blocks.{i}.attn.qkv.weight" for i in range(6)), "head.weight", "head.bias"]
    plain.load_state_dict(state)
    assert (plain.eval()(images()) - model(images())).abs().max() < 1e-5

    layer = model.backbone.blocks[2].attn.qkv
    by_hand = layer.base_layer.weight + layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.equal(state["backbone.blocks.2.attn.qkv.weight"], by_hand)


@pytest.mark.parametrize("widths", KINDS, ids=str)
def test_merged_states_are_loaded_into_networks_with_adapters(widths):
    model, other = classifier(**widths), classifier(**widths)
    step(model)
    step(other, 2)
    Merged(other).load_state_dict(Merged(model).state_dict())
    assert (other(images()) - model(images())).abs().max() < 1e-5
    for spoil in ({"head.weight": torch.zeros(10)}, {"more": torch.zeros(1)}):
        with pytest.raises(ValueError, match="is missing, surplus, or of another shape"):
            Merged(other).load_state_dict(Merged(model).state_dict() | spoil)


def test_the_state_of_a_network_without_adapters_is_its_own():
    model = classifier()
    assert_equal_states(Merged(model).state_dict(), dict(model.state_dict()))


def test_adaptformer_against_numbers_by_hand():
    """The block's norm gives (1, -1) for (3, 1), its MLP doubles that; the bottleneck reads (3, 1) itself."""
    block = AdaptFormer(nn.LayerNorm(2, eps=0), nn.Linear(2, 2, bias=False), 2, 3).eval()
    with torch.no_grad():
        block.mlp.weight.copy_(2 * torch.eye(2))
        block.down.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, -1]]))  # relu(3, 1, -4 + 1)
        block.down.bias.copy_(torch.tensor([0.0, 0, 1]))
        block.up.weight.copy_(torch.tensor([[1.0, 2, 9], [0, -1, 9]]))
        block.up.bias.copy_(torch.tensor([0.0, 5]))
    # 2 * (1, -1) + 0.1 * (3 + 2, -1 + 5)
    torch.testing.assert_close(block(torch.tensor([[3.0, 1.0]])), torch.tensor([[2.5, -1.6]]))
    assert (block.dropout.p, block.train().dropout.training) == (0.1, True)


def test_adaptformer_stands_within_the_blocks_residual_branch():
    model = backbone(adapter=8).eval()
    block = model.blocks[0]
    nn.init.normal_(block.mlp.up.weight)
    x = torch.randn(2, 5, 64)
    after_attention = x + block.attn(block.norm1(x))
    bottleneck = block.mlp.up(F.relu(block.mlp.down(after_attention)))
    wanted = after_attention + block.mlp.mlp(block.mlp.norm(after_attention)) + 0.1 * bottleneck
    torch.testing.assert_close(block(x), wanted)


def test_lora_has_the_papers_scale_and_dropout():
    layer = backbone(lora=4).blocks[0].attn.qkv
    assert (layer.scaling["default"], layer.lora_dropout["default"].p) == (1, 0.1)


@pytest.mark.parametrize("widths", KINDS, ids=str)
def test_a_frozen_batchnorm_keeps_its_statistics(widths):
    model = ImageClassifier(backbone("mobilevit_xxs", 32, **widths), 3, 8)
    copied = copy.deepcopy(model).train()
    before = copy.deepcopy(dict(copied.backbone.named_buffers()))
    copied(images())
    assert_equal_states(dict(copied.backbone.named_buffers()), before)
    norms = [m for m in copied.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 20
    assert not any(norm.training for norm in norms)
    assert copied.bottleneck[1].num_batches_tracked == 1  # this one is trained


def small(kind: type, **options) -> nn.Module:
    torch.manual_seed(0)
    model = (
        kind(img_size=32, patch_size=4, window_size=2, num_classes=0, **options)
        if options
        else kind(img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    )
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):  # some begin at zero
            nn.init.normal_(module.weight)
    return model


@pytest.mark.parametrize(
    ("make", "widths", "message"),
    [
        (lambda: timm.create_model("test_resnet"), {"lora": 4}, "--lora: a ResNet has no place for adapters: choose a"),
        (lambda: timm.create_model("test_resnet"), {"adapter": 4}, "--adapter: a ResNet has no place for adapters"),
        (lambda: small(Beit), {"lora": 4}, "--lora: adapters have no effect in a Beit, or the wrong one: choose a ViT"),
        (lambda: small(Eva), {"lora": 4}, "--lora: adapters have no effect in a Eva, or the wrong one"),
        (
            lambda: small(SwinTransformerV2, **SWIN),
            {"lora": 4},
            "--lora: adapters have no effect in a SwinTransformerV2",
        ),
        (lambda: small(SwinTransformerV2, **SWIN), {"adapter": 4}, "--adapter: .* SwinTransformerV2, or the wrong one"),
    ],
    ids=["ResNet lora", "ResNet adapter", "BEiT lora", "EVA lora", "Swin v2 lora", "Swin v2 adapter"],
)
def test_networks_in_which_adapters_do_nothing_are_refused(make, widths, message):
    """Of the last, because its norm comes after the MLP."""
    with pytest.raises(UserError, match=message):
        adapters.insert(make(), 32, **widths)


def test_without_peft_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"--lora needs the package peft: run pip install peft"):
        backbone(lora=4)


RUNS = [*zip(METHODS, itertools.cycle(["--lora 2", "--adapter 4"])), ("mean_teacher", "--lora 2")]
OWN = ("mean_teacher", "self_tuning", "dst", "comatch", "simmatch", "remixmatch", "noisy_student", "v_pet")


@pytest.mark.parametrize(("method", "kind"), RUNS)
def test_all_scripts_train_and_test_them(tmp_path, method, kind):
    """Half of them in bfloat16, with a linear head and a running average.

    ERM, and those that have a network, a copy of it or rounds of their own, are also interrupted and continued;
    `python tests/long/adapters_matrix.py` does it with all.
    """
    flags = [*VIT, *METHODS[method].split(), *kind.split()]
    flags += "--bottleneck-dim 1024 --no-bottleneck --precision bf16 --ema 0.5".split() if len(method) % 2 else []
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_small(method, *flags, log=whole)
    if method in ("erm", *OWN):
        stop_in_step(2, method, *flags, log=parts)
        train_small(method, *flags, log=parts)
        assert_same_run(whole, parts)
    scores = train_small(method, *flags, "--phase", "test", log=whole)
    assert scores["test_loss"] == pytest.approx(read_rows(whole)[-1]["test_loss"], rel=0.01)  # merged, in bfloat16
    states = [state for state in final_state(whole).values() if isinstance(state, dict)]
    assert sum(t.numel() for state in states for t in state.values() if isinstance(t, torch.Tensor)) < 150_000


@pytest.mark.parametrize("kind", ["--lora 2", "--adapter 4"])
def test_the_newest_checkpoint_is_tested_with_the_backbone_that_it_was_trained_with(tmp_path, kind):
    """That of best.pth needs no other file."""
    torch.manual_seed(3)
    file = tmp_path / "backbone.pth"
    torch.save(timm.create_model("test_vit", num_classes=0, img_size=64).state_dict(), file)
    flags = [flag for flag in (*VIT, *kind.split()) if flag != "--scratch"]
    start = ["--pretrained-backbone", str(file)]
    with mock.patch.object(conftest, "SMALL", [flag for flag in conftest.SMALL if flag != "--scratch"]):
        result = train_small("mean_teacher", *flags, *start, log=tmp_path / "run")
        newest = ["--phase", "test", "--checkpoint", "latest"]
        scores = train_small("mean_teacher", *flags, *start, *newest, log=tmp_path / "run")
        assert scores["top1"] == result["last_top1"]
        with pytest.raises(UserError, match="trained in another frozen backbone than this one: give --scratch or"):
            train_small("mean_teacher", *flags, *newest, "--scratch", log=tmp_path / "run")
        loaded = [trained.load(tmp_path / "run", name).model(images()) for name in ("best", "latest")]
        torch.testing.assert_close(*loaded, rtol=0, atol=1e-5)
        file.unlink()
        assert train_small("mean_teacher", *flags, *start, "--phase", "test", log=tmp_path / "run")["top1"] > 0


def test_the_matrix_in_short_of_lora_and_the_others(capsys, monkeypatch):
    """`python tests/long/adapters_matrix.py` tries all scripts, another network, and bfloat16."""
    monkeypatch.setattr(adapters_matrix, "NETWORKS", ("test_vit",))
    monkeypatch.setattr(adapters_matrix, "ROUNDING", {"float32": 1e-4})
    assert adapters_matrix.main(["--methods", "erm"]) == 0
    assert "3 of 3 combinations" in capsys.readouterr().out
