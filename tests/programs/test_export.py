"""Exported networks are what they were: loaded by the docs' lines, which know nothing of this project, and as ONNX."""

import ast
import errno
import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open

import export
from common import trained
from common.datasets.images import ImageSet
from common.errors import UserError
from common.loading import augment
from tests.conftest import ROOT, final_state, train_small

RUNS = {
    "timm": ("dst", "--width 8 -a test_resnet"),
    "enlarged": ("erm", "-a test_resnet --train-resizing cifar --val-resizing cifar --image-size 48"),
    "photographs": ("erm", "-a test_resnet --val-resizing default --train-resizing default --image-size 64"),
    "vit": ("self_tuning", "--K 4 --projection-dim 8 --milestones 1 -a test_vit --no-bottleneck --bottleneck-dim 1024"),
    "bf16": ("fixmatch", "--precision bf16"),
    "average": ("mean_teacher", "--ema 0.5"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A function: name of a run -> its folder."""
    folder = tmp_path_factory.mktemp("export")

    def run(name: str) -> Path:
        if not (folder / name).exists():
            method, flags = RUNS[name]
            train_small(method, *flags.split(), "--epochs", "1", "--lr", "0.1", log=folder / name)
        return folder / name

    return run


@pytest.fixture
def photo(tmp_path, monkeypatch) -> Image.Image:
    monkeypatch.chdir(tmp_path)
    image = Image.effect_noise((32, 32), 60).convert("RGB")
    image.save("photo.png")
    return image


def write(run: Path, *flags: str) -> None:
    export.main(export.parse_args([str(run), "photos.safetensors", *flags]))


def expected(run: Path, image: Image.Image) -> torch.Tensor:
    """The logits that the run's own network gives in float32, prepared by the project's own means."""
    network = trained.load(run, "best")
    network.model.precision = "float32"
    view = augment.test_transform(network.args.val_resizing, network.args.image_size)(image)
    with torch.no_grad():
        return network.model(augment.Normalizer(network.args.norm_mean, network.args.norm_std)(view[None]))


def printed() -> str:
    """The lines of docs/own_images.md that load an exported network."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "own_images.md").read_text(), re.M | re.S)
    (lines,) = [block for block in blocks if "safe_open" in block]
    return lines


@pytest.mark.parametrize("name", RUNS)
def test_the_printed_lines_load_it_and_predict_the_same(name, world, photo, capsys):
    write(world(name))
    capsys.readouterr()
    known: dict = {}
    exec(printed(), known)  # noqa: S102 (our own)
    logits = expected(world(name), photo)
    with torch.no_grad():
        assert torch.allclose(known["model"](known["prepare"](photo)[None]), logits, atol=1e-5)
    assert capsys.readouterr().out == f"{trained.load(world(name), 'best').classes[logits.argmax()]}\n"


@pytest.mark.parametrize("kind", ["png", "tiff", "big endian", "pgm"])
def test_the_printed_lines_take_grey_images_of_16_bits_as_the_suite_does(kind, world, photo):
    levels = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    grey = Image.fromarray(levels)
    if kind == "big endian":
        grey = Image.frombytes("I;16B", grey.size, levels.astype(">u2").tobytes())
    grey.save("photo.png", {"png": "png", "pgm": "ppm"}.get(kind, "tiff"))  # Pillow looks at the content
    write(world("timm"))
    known: dict = {}
    exec(printed(), known)  # noqa: S102 (our own)
    expected_image = ImageSet(["photo.png"], [-1]).load(0)
    taken = known["image"].convert("RGB")
    assert np.array_equal(np.asarray(taken), np.asarray(expected_image))
    assert np.asarray(taken).mean() == 127.5


def test_the_printed_lines_are_few_and_plain():
    """Ten of them load the network, six prepare an image and predict."""
    lines = [line for line in printed().splitlines() if line]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    tree = ast.parse("\n".join(imports)).body
    names = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in tree if isinstance(node, ast.ImportFrom)}
    assert names == {"json", "PIL", "safetensors", "timm", "torch", "torchvision"}
    assert len(lines) - len(imports) == 16


def test_the_metadata_says_how_to_prepare_images(world, photo):
    for name, sizes in (("timm", (32, 32)), ("enlarged", (48, 48)), ("photographs", (73, 64))):
        write(world(name))
        with safe_open("photos.safetensors", "pt") as file:
            about = {key: json.loads(value) for key, value in file.metadata().items()}
        assert (about["resize"], about["crop"]) == sizes
        assert about["mean"] == [0.3092] * 3
        assert about["classes"] == [str(digit) for digit in range(10)]
        assert about["arch"] == "test_resnet"
        assert about["checkpoint"] == "best.pth"


@pytest.mark.parametrize("name", ["timm", "average"])
def test_onnx_takes_batches_of_any_size(name, world, photo):
    onnx = pytest.importorskip("onnx")
    run = world(name)
    with warnings.catch_warnings(action="error"):
        write(run, "--onnx")
    content = Path("photos.onnx").read_bytes()
    onnx.checker.check_model(content)
    network, _ = export.plain_network(trained.load(run, "best"))
    for number in (1, 5):
        images = torch.randn(number, 3, 32, 32)
        with torch.no_grad():
            assert torch.allclose(
                torch.from_numpy(export.run_onnx(content, images.numpy())), network(images), atol=1e-4
            )
    model = onnx.load_from_string(content)
    with safe_open("photos.safetensors", "pt") as file:
        assert {entry.key: entry.value for entry in model.metadata_props} == file.metadata()


def test_what_onnx_lacks_is_one_line(world, photo, capsys):
    """This network resamples its position embeddings to images of another size than its own."""
    pytest.importorskip("onnx")
    with pytest.raises(UserError, match=r"^this network cannot be exported to ONNX \(.*bicubic.*\): leave --onnx out$"):
        write(world("vit"), "--onnx")
    assert "graph(" not in capsys.readouterr().out
    assert os.listdir() == ["photo.png"]


def test_onnx_that_computes_something_else_is_not_written(world, photo, monkeypatch):
    pytest.importorskip("onnx")
    run_onnx = export.run_onnx
    run = world("timm")
    monkeypatch.setattr(export, "run_onnx", lambda *args: run_onnx(*args) + 2e-3)
    with pytest.raises(UserError, match=r"^in ONNX the network's logits differ by 2.0e-03: leave --onnx out$"):
        write(run, "--onnx")
    assert os.listdir() == ["photo.png"]


def test_without_the_package_onnx_the_flag_is_refused(world, photo, monkeypatch):
    run = world("timm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^--onnx needs the package onnx: run pip install onnx, or leave it out$"):
        write(run, "--onnx")


def test_a_full_disk_leaves_the_old_file(world, photo, monkeypatch):
    old, new = world("timm"), world("average")
    write(old)
    before = Path("photos.safetensors").read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"^cannot save 'photos.safetensors' \(No space left on device\): free some"):
        write(new)
    assert Path("photos.safetensors").read_bytes() == before
    assert sorted(os.listdir()) == ["photo.png", "photos.safetensors"]


@pytest.mark.parametrize("flags", ["--lora 2", "--adapter 4"])
def test_lora_is_exported_and_adaptformers_are_refused(flags, photo, tmp_path, capsys):
    """LoRA is merged, and exported; AdaptFormers stay what they are, which no plain network is."""
    if "lora" in flags:
        pytest.importorskip("peft")
    flags = [*f"-a test_vit --epochs 1 --lr 0.1 {flags}".split()]
    train_small("erm", *flags, log=tmp_path / "run")
    logits = []

    def heard(model, *args):
        with model.register_forward_hook(lambda *call: logits.append(call[2])):
            return evaluate(model, *args)

    evaluate = importlib.import_module("common.training.evaluate").evaluate
    with mock.patch("common.training.evaluate.evaluate", heard):
        train_small("erm", *flags, "--phase", "test", log=tmp_path / "run")
    network = trained.load(tmp_path / "run", "best")
    data = importlib.import_module("common.datasets").load("Digits", ".")
    views = torch.stack([augment.as_tensor(data.test.load(i)) for i in range(len(data.test))])
    with torch.no_grad():
        own = network.model(augment.Normalizer(network.args.norm_mean, network.args.norm_std)(views))
    assert torch.allclose(own, logits[0], atol=1e-5)
    if "--lora" in flags:
        write(tmp_path / "run")
    else:
        with pytest.raises(
            UserError, match=r"^timm alone cannot make the network of .*AdaptFormers: choose another run$"
        ):
            write(tmp_path / "run")


ALONE = """
import json, sys
import timm, torch
from PIL import Image

model = timm.create_model("local-dir:photos_model", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(prepare(Image.open("photo.png").convert("RGB"))[None])[0]
print(json.dumps([logits.tolist(), model.pretrained_cfg["label_names"], [m for m in sys.modules if m == "common"]]))
"""


def write_folder(run: Path) -> None:
    export.main(export.parse_args([str(run), "photos_model", "--timm"]))


def test_timm_alone_loads_its_own_format(tmp_path, photo, capsys):
    """Resized to a square and cropped, from a photo that is none; in a process that knows nothing of this project."""
    flags = "-a test_resnet --val-resizing default --train-resizing default --image-size 64 --no-bottleneck"
    train_small("erm", *flags.split(), "--bottleneck-dim", "1024", "--lr", "0.1", log=tmp_path / "run")
    write_folder(tmp_path / "run")
    assert 'timm.create_model("local-dir:photos_model", pretrained=True)' in capsys.readouterr().out
    image = photo.resize((90, 50))
    image.save("photo.png")
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True, env=own)
    logits, names, project = json.loads(done.stdout)
    assert torch.allclose(torch.tensor(logits), expected(tmp_path / "run", image), atol=1e-4)
    assert (names, project) == ([str(i) for i in range(10)], [])


def test_timm_resizes_to_the_pixel_as_the_suite_does():
    """It rounds size / crop_pct down, which without care is a pixel less at some sizes."""
    for resizing in augment.RESIZINGS:
        for size in range(16, 1025):
            resized = augment.resized(resizing, size)
            assert math.floor(size / export.crop_pct(resizing, size)) == resized


def test_timms_format_keeps_the_size_of_a_vit(world, photo):
    write_folder(world("vit"))
    model = timm.create_model("local-dir:photos_model", pretrained=True).eval()
    with torch.no_grad():
        logits = model(timm.data.create_transform(**timm.data.resolve_model_data_config(model))(photo)[None])[0]
    assert torch.allclose(logits, expected(world("vit"), photo), atol=1e-4)


def test_timms_format_keeps_a_vit_at_its_own_size(tmp_path, photo):
    """timm would make it for 224, and resample its positions."""
    flags = "-a test_vit --no-bottleneck --bottleneck-dim 1024 --image-size 160 --epochs 1 -i 1"
    train_small("erm", *flags.split(), "--train-resizing", "cifar", "--val-resizing", "cifar", log=tmp_path / "run")
    write_folder(tmp_path / "run")
    model = timm.create_model("local-dir:photos_model", pretrained=True).eval()
    assert model.patch_embed.img_size == (160, 160)
    state = final_state(tmp_path / "run")["model"]
    assert torch.equal(model.pos_embed, state["backbone.pos_embed"])


@pytest.mark.parametrize(
    ("own", "options", "fixed", "made_with"),
    [
        ({"fixed_input_size": True, "input_size": (3, 224, 224)}, {}, False, {"img_size": 224}),  # as MViTv2 takes it
        ({"fixed_input_size": True, "input_size": (3, 128, 128)}, {}, True, {"img_size": 128}),
        ({"fixed_input_size": True, "input_size": (3, 224, 224)}, {"img_size": 128}, True, {"img_size": 128}),
        ({"input_size": (3, 224, 224)}, {}, False, {}),  # a convolutional network
    ],
)
def test_timm_makes_the_network_for_the_size_that_it_had_here(own, options, fixed, made_with):
    args = SimpleNamespace(image_size=128, val_resizing="cifar", norm_mean=[0], norm_std=[1], exif_orientation=False)
    backbone = SimpleNamespace(feature_dim=8)
    run = SimpleNamespace(args=args, model=SimpleNamespace(backbone=backbone), classes=["a", "b"])
    config = export.timm_config(run, "mvitv2_tiny.fb_in1k", options, "head", own)
    assert (config["pretrained_cfg"]["fixed_input_size"], config["model_args"]) == (fixed, made_with)
    assert config["pretrained_cfg"]["input_size"] == [3, 128, 128]


def test_the_checkpoint_that_is_asked_for_is_exported(world, photo, tmp_path):
    run = shutil.copytree(world("timm"), tmp_path / "copy")
    (run / "checkpoints" / "best.pth").unlink()
    write(run, "--checkpoint", "latest")
    with safe_open("photos.safetensors", "pt") as file:
        assert json.loads(file.metadata()["checkpoint"]) == "latest.pth"
        assert torch.equal(file.get_tensor("head.weight"), final_state(run)["model"]["head.weight"])


def test_timms_format_has_no_place_for_a_bottleneck(world, photo):
    with pytest.raises(UserError, match="has a bottleneck, which timm lacks: train again, and add --no-bottleneck"):
        write_folder(world("timm"))
    assert not Path("photos_model").exists()
