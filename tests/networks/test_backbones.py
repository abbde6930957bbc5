"""timm's families by name, strict loading of backbone files, and the classifier."""

import copy
import functools
import re
import socket

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import DropPath
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn
from torch.nn import functional as F

from common.errors import UserError
from common.loading.augment import Normalizer
from common.networks import backbone_files, backbones, classifier, pretrained
from common.training import optim
from tests.conftest import assert_equal_states

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALIZER = Normalizer(MEAN, STD)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(pretrained, "_look_for_hub", lambda name: None)  # what would download is replaced


def scratch(arch: str, size: int = 32, **options) -> nn.Module:
    return backbones.backbone(arch, size, NORMALIZER, scratch=True, **options)


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("resnet18", 64),
        ("resnet50.a1_in1k", 64),
        ("vit_tiny_patch16_224", 224),
        ("swin_tiny_patch4_window7_224", 224),
        ("convnext_atto", 64),
        ("efficientnet_b0", 64),
        ("mobilenetv3_small_050", 64),
        ("wrn_28_2", 32),
    ],
)
def test_every_family_gives_float32_logits_and_gradients(arch, size):
    model = classifier.ImageClassifier(scratch(arch, size), 10, 16)
    logits = model(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 10)
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert {key.split(".")[0] for key in model.state_dict()} == {"backbone", "bottleneck", "head"}


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("resnet50", "resnet50.tv_in1k"),
        ("resnet18", "resnet18.tv_in1k"),
        ("wide_resnet101_2", "wide_resnet101_2.tv_in1k"),
        ("resnext50_32x4d", "resnext50_32x4d.tv_in1k"),
        ("resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("resnet26", "resnet26"),
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224"),
        ("wrn_28_2", "wrn_28_2"),
    ],
)
def test_a_bare_name_means_torchvisions_weights_and_any_other_is_timms_own(arch, name):
    assert backbones.timm_name(arch) == name


def test_every_torchvision_name_has_its_weights_in_timm():
    for arch in backbones.TORCHVISION_V1:
        assert backbones.timm_name(arch) in timm.list_pretrained()


@pytest.mark.parametrize(
    ("arch", "hint"),
    [
        ("resnet5", "did you mean .*resnet50"),
        ("resnet50.a9_in1k", r"did you mean .*resnet50\.a1_in1k"),
        ("xyzzy", r"timm\.list_models"),
    ],
)
def test_unknown_names_have_a_hint(arch, hint):
    with pytest.raises(UserError, match=f"unknown model '{arch}': {hint}"):
        backbones.timm_name(arch)


# The papers round them: 1.5, 23.4 and 5.9 million. wrn_28_2_leaky by hand: 2,032 biases of convolutions more than
# wrn_28_2, and 192 parameters of two norms less.
WIDE = [
    ("wrn_28_2", 10, 1_467_610),
    ("wrn_10_1", 10, 77_850),
    ("wrn_28_8", 100, 23_401_012),
    ("wrn_28_2_leaky", 10, 1_469_450),
    ("wrn_28_8_leaky", 100, 23_408_324),
    ("wrn_37_2_leaky", 10, 5_933_322),
    ("wrn_10_1_half_leaky", 10, 78_090),
]


@pytest.mark.parametrize(("arch", "classes", "number"), WIDE)
def test_wide_resnets_are_timms_and_of_the_papers_size(arch, classes, number):
    model = timm.create_model(arch, num_classes=classes)
    assert sum(p.numel() for p in model.parameters()) == number
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, classes)


def test_leaky_wide_resnets_are_torchssls():
    """A transcription of its forward, from the weights: block by block, in float64."""
    torch.manual_seed(0)
    model = timm.create_model("wrn_10_1_half_leaky", num_classes=4).double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    weights = dict(model.named_parameters())

    def conv(x, name, stride=1):
        kernel = weights[f"{name}.weight"]
        return F.conv2d(x, kernel, weights[f"{name}.bias"], stride, padding=kernel.shape[2] // 2)

    def norm(x, name):
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        scale, shift = (weights[f"{name}.{part}"][None, :, None, None] for part in ("weight", "bias"))
        x = (x - mean) / (var + 0.001).sqrt() * scale + shift
        return x.where(x > 0, 0.1 * x)

    images = torch.randn(6, 3, 28, 28, dtype=torch.float64)
    x = stem = conv(images, "conv1", 2)
    x = x + conv(norm(conv(norm(x, "layers.0.bn1"), "layers.0.conv1"), "layers.0.bn2"), "layers.0.conv2")
    for block in ("layers.1", "layers.2"):  # raw into both branches
        inner = conv(norm(conv(x, f"{block}.conv1", 2), f"{block}.bn2"), f"{block}.conv2")
        x = conv(x, f"{block}.shortcut", 2) + inner
    logits = norm(x, "bn").mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]
    torch.testing.assert_close(model(images), logits)
    statistics = model.layers[0].bn1.running_mean
    torch.testing.assert_close(statistics, 0.001 * stem.mean((0, 2, 3)))  # after one step


def test_weights_that_do_not_exist_are_refused():
    with pytest.raises(UserError, match="'wrn_28_2' has no pretrained weights: add --scratch"):
        backbones.backbone("wrn_28_2", 32, NORMALIZER)


def test_a_failed_download_is_one_line(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host\nat length")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"'resnet18\.tv_in1k' could not be downloaded \(no route to host\)"):
        backbones.backbone("resnet18", 32, NORMALIZER)


@pytest.mark.parametrize(("arch", "size", "warned"), [("wrn_10_1", 224, 1), ("wrn_10_1", 96, 0), ("resnet18", 224, 0)])
def test_networks_for_small_images_warn_of_large_ones(log, arch, size, warned):
    backbones.backbone(arch, size, NORMALIZER, scratch=True)
    assert (
        len([message for message in log.messages if "224 pixels make it slow: see --train-resizing" in message])
        == warned
    )


@pytest.mark.parametrize(("mean", "warned"), [(MEAN, False), ((0.5, 0.5, 0.5), True)])
def test_other_statistics_than_the_pretrained_ones_draw_a_warning(monkeypatch, log, mean, warned):
    monkeypatch.setattr(timm, "create_model", lambda *a, create=timm.create_model, **k: create(a[0], num_classes=0))
    backbones.backbone("resnet18", 32, Normalizer(mean, STD))
    assert any("--norm-mean 0.485 0.456 0.406" in message for message in log.messages) is warned


@pytest.mark.parametrize(("arch", "size"), [("vit_tiny_patch16_224", 64), ("swin_tiny_patch4_window7_224", 64)])
def test_networks_for_one_size_are_made_for_the_images(arch, size):
    torch.manual_seed(0)
    model = scratch(arch, size)
    torch.manual_seed(0)
    wanted = timm.create_model(arch, num_classes=0, img_size=size)
    assert model.feature_dim == wanted.num_features
    assert_equal_states(dict(model.state_dict()), dict(wanted.state_dict()))


@pytest.mark.parametrize(("arch", "size"), [("test_vit", 160), ("resnet18", 64)])
def test_networks_that_take_the_images_are_timms_to_the_bit(arch, size):
    torch.manual_seed(0)
    model = scratch(arch, size)
    torch.manual_seed(0)
    assert_equal_states(dict(model.state_dict()), dict(timm.create_model(arch, num_classes=0).state_dict()))


@pytest.mark.parametrize("class_token", [True, False], ids=["class token embedded", "not embedded"])
def test_position_embeddings_of_a_file_are_resampled_as_timm_does(tmp_path, monkeypatch, class_token):
    create = functools.partial(timm.create_model, no_embed_class=not class_token)
    monkeypatch.setattr(timm, "create_model", create)
    state, file = backbone_file(tmp_path, arch="vit_tiny_patch16_224")
    model = backbones.backbone("vit_tiny_patch16_224", 64, NORMALIZER, file=file)
    wanted, loaded = checkpoint_filter_fn(dict(state), model), model.state_dict()
    assert all(torch.equal(loaded[key], wanted[key]) for key in loaded)
    assert loaded["pos_embed"].shape == (1, 16 + class_token, 192)


def test_position_embeddings_of_another_width_are_refused(tmp_path):
    _, file = backbone_file(tmp_path, lambda s: s | {"pos_embed": torch.zeros(1, 5, 32)}, arch="test_vit")  # of 64
    with pytest.raises(UserError, match="has other shapes for pos_embed"):
        backbones.backbone("test_vit", 32, NORMALIZER, file=file)


@pytest.mark.parametrize(
    ("arch", "rate", "rates"),
    [
        ("vit_tiny_patch16_224", None, [0] * 12),
        ("vit_tiny_patch16_224", 0.22, [0.02 * i for i in range(12)]),
        ("swin_tiny_patch4_window7_224", None, [0.1 / 11 * i for i in range(12)]),
        ("resnet18", 0.14, [0.02 * i for i in range(8)]),
    ],
)
def test_drop_path_rises_to_its_rate(arch, rate, rates):
    model = scratch(arch, 32, drop_path=rate)
    branches = [m for name, m in model.named_modules() if re.search(r"drop_path2?$", name)]
    assert [m.drop_prob for m in branches if isinstance(m, DropPath) and m.drop_prob] == pytest.approx(
        [p for p in rates if p]
    )


def test_drop_path_without_branches_is_refused():
    for arch in ("wrn_10_1", "vgg11"):
        with pytest.raises(UserError, match=f"--drop-path: '{arch}' has no residual branches"):
            scratch(arch, 32, drop_path=0.1)


@pytest.mark.parametrize("arch", ["ghostnet_050", "wrn_10_1", "resnet18"])
def test_a_drop_path_of_0_is_taken_by_every_network(arch):
    torch.manual_seed(0)
    model = scratch(arch, 32, drop_path=0)
    torch.manual_seed(0)
    assert_equal_states(dict(model.state_dict()), dict(scratch(arch, 32).state_dict()))


@pytest.mark.parametrize(
    ("arch", "size", "shape"), [("test_vit", 160, r"\[101, 64\]"), ("resnet18", 64, r"\[512, 2, 2\]")]
)
def test_encoders_that_give_tokens_or_maps_are_refused(monkeypatch, arch, size, shape):
    monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, global_pool=""))
    with pytest.raises(UserError, match=f"^'.*' is no classifier: it gives tokens or maps of the shape {shape} for an"):
        scratch(arch, size)


def test_no_pool_is_for_models_that_pool():
    for arch in ("resnet18", "wrn_10_1"):
        with pytest.raises(UserError, match="drop --no-pool"):
            scratch(arch, no_pool=True)
    assert scratch("mobilenetv3_small_050", no_pool=True).feature_dim == 1024


def test_the_bottleneck_and_the_head_of_a_classifier():
    torch.manual_seed(0)
    model = classifier.ImageClassifier(scratch("wrn_10_1"), 10)
    linear, norm, relu, dropout = model.bottleneck
    assert (linear.in_features, linear.out_features, model.feature_dim) == (64, 1024, 1024)
    assert linear.weight.std().item() == pytest.approx(0.005, rel=0.02)
    assert abs(linear.weight.mean().item()) < 1e-4
    assert (linear.bias == 0.1).all()
    assert [type(norm), type(relu), dropout.p] == [nn.BatchNorm1d, nn.ReLU, 0.5]
    x = torch.randn(4, 3, 32, 32)
    model.eval()
    assert torch.equal(model(x), model.head(model.features(x)))
    assert model.features(x).shape == (4, 1024)
    assert torch.equal(model.features(x), model.bottleneck(model.backbone(x)))


INSIDE = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture
def matmul():
    """PyTorch's settings of CUDA's matrix products; the one that is tested is put back afterwards."""
    before = torch.backends.cuda.matmul.allow_tf32
    yield torch.backends.cuda.matmul
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("precision", classifier.PRECISIONS)
def test_tf32_is_allowed_where_it_is_asked_for(matmul, precision):
    classifier.ImageClassifier(scratch("wrn_10_1"), 10, precision=precision)
    assert matmul.allow_tf32 == (precision == "tf32")


def test_a_run_in_tf32_records_it_and_goes_on_in_nothing_else(matmul, small_run):
    assert small_run("erm", "--precision", "tf32")["precision"] == "tf32"
    assert matmul.allow_tf32
    with pytest.raises(UserError, match="--precision"):
        small_run("erm")


@pytest.mark.parametrize(("precision", "inside"), INSIDE.items())
def test_precision_is_inside_and_float32_outside(matmul, precision, inside):
    torch.manual_seed(0)
    model = classifier.ImageClassifier(scratch("wrn_10_1"), 10, precision=precision)
    seen = []
    for module in (model.backbone.conv1, model.bottleneck[0], model.head):
        module.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    x = torch.randn(4, 3, 32, 32)
    logits = model(x)
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert seen == [inside, inside, torch.float32]
    assert logits.dtype == model.features(x).dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {torch.float32}
    assert model.eval()(x).dtype == torch.float32


def test_bf16_has_the_same_names_and_nearly_the_same_logits():
    torch.manual_seed(0)
    exact = classifier.ImageClassifier(scratch("wrn_10_1"), 10).eval()
    rough = classifier.ImageClassifier(scratch("wrn_10_1"), 10, precision="bf16").eval()
    rough.load_state_dict(exact.state_dict())
    x = torch.randn(4, 3, 32, 32)
    a, b = exact(x), rough(x)
    assert not torch.equal(a, b)
    assert (a - b).abs().max() < 0.02 * a.abs().max()


def test_without_a_bottleneck_the_head_reads_the_backbone():
    backbone = backbones.backbone("wrn_10_1_half", 32, NORMALIZER, scratch=True)
    model = classifier.ImageClassifier(backbone, 5, bottleneck_dim=0).eval()
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(model(images), backbone(images) @ model.head.weight.T + model.head.bias)
    assert {name.partition(".")[0] for name in model.state_dict()} == {"backbone", "head"}
    optim.create("sgd", model, lr=0.1, wd=0.1, no_decay_on_norms=True).step()


@pytest.mark.parametrize(("finetune", "rates"), [(True, [0.003, 0.03, 0.03]), (False, [0.03] * 3)])
def test_parameter_groups(finetune, rates):
    model = classifier.ImageClassifier(scratch("wrn_10_1"), 10, 16)
    optimizer = torch.optim.SGD(model.parameter_groups(0.03, finetune), momentum=0.9)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(rates)
    members = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    parts = (model.backbone, model.bottleneck, model.head)
    assert members == [[id(p) for p in part.parameters()] for part in parts]
    assert sum(map(len, members)) == len([*model.parameters()])


def backbone_file(tmp_path, change=lambda state: state, name="weights.pth", arch="resnet18"):
    """A file of random weights of timm's model with its classifier, changed; (its tensors, its path)."""
    torch.manual_seed(1)
    state = {key: value.clone() for key, value in timm.create_model(arch).state_dict().items()}
    content = change(state)
    save = save_file if name.endswith("safetensors") else torch.save
    save(content, tmp_path / name)
    return state, str(tmp_path / name)


def without(*prefixes):
    return lambda state: {k: v for k, v in state.items() if not k.startswith(prefixes)}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda s: s, "weights.pth"),
        (lambda s: s, "weights.safetensors"),
        (without("fc."), "weights.pth"),
        (without("fc."), "weights.safetensors"),
        (lambda s: {"state_dict": s, "epoch": 800}, "weights.pth"),
        (lambda s: {k: v for k, v in s.items() if "num_batches" not in k}, "weights.pth"),
        (lambda s: s | {"fc.weight": torch.zeros(10, 512)}, "weights.pth"),
    ],
    ids=["pth", "safetensors", "no classifier", "no classifier in safetensors", "nested", "old", "other classifier"],
)
def test_backbone_files_are_loaded_whole(tmp_path, change, name):
    state, file = backbone_file(tmp_path, change, name)
    loaded = backbones.backbone("resnet18", 32, NORMALIZER, file=file).state_dict()
    assert len(loaded) > 100
    assert all(torch.equal(loaded[key], state[key]) for key in loaded if "num_batches" not in key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layer4.1.conv2"), r"lacks layer4\.1\.conv2\.weight"),
        (without("layer4.1.bn2.running_mean"), r"lacks layer4\.1\.bn2\.running_mean"),
        (lambda s: {}, "lacks conv1.weight, .* more"),
        (lambda s: s | {"layer5.weight": torch.zeros(1)}, r"beyond the backbone, layer5\.weight"),
        (lambda s: s | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, r"other shapes for conv1\.weight"),
        (lambda s: s | {"bn1.bias": torch.zeros(64, dtype=torch.int8)}, r"whole numbers for bn1\.bias"),
        (lambda s: {"state_dict": s, "more": 1} and [1, 2], "does not hold a dictionary of tensors"),
        (
            lambda s: {"state_dict": {f"module.encoder_q.{k}": v for k, v in s.items()}},
            r"unconverted MoCo checkpoint: run python convert_moco_to_pretrained\.py .*weights\.pth ",
        ),
    ],
    ids=["conv", "buffer", "empty", "surplus", "shape", "type", "list", "moco"],
)
def test_unfit_backbone_files_are_refused(tmp_path, change, message):
    _, file = backbone_file(tmp_path, change)
    with pytest.raises(UserError, match=message) as error:
        backbones.backbone("resnet18", 32, NORMALIZER, file=file)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04", b"\x80\x02."])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        backbone_files.read_state_dict(tmp_path / name)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"'/nowhere\.pth' does not exist"):
        backbone_files.read_state_dict("/nowhere.pth")


def test_a_model_of_another_family_loads_from_a_file(tmp_path):
    """Its classifier has another name."""
    state, file = backbone_file(tmp_path, arch="mobilenetv3_small_050")
    loaded = backbones.backbone("mobilenetv3_small_050", 32, NORMALIZER, file=file).state_dict()
    assert torch.equal(loaded["conv_stem.weight"], state["conv_stem.weight"])


def test_building_a_backbone_is_repeatable():
    torch.manual_seed(3)
    first = copy.deepcopy(scratch("wrn_10_1").state_dict())
    torch.manual_seed(3)
    assert all(map(torch.equal, first.values(), scratch("wrn_10_1").state_dict().values()))
