"""Whatever is wrong with the input: one line that names it and says what to do, exit code 2, nothing touched.

`python -m pytest tests/run/test_bad_input.py` counts them.
"""

import importlib
import json
import os
import re
import shlex
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import timm
import torch
from PIL import Image

from common import cli
from common.datasets import inventory
from common.datasets.images import ImageSet
from tests.conftest import ROOT, SMALL, train_small
from tests.datasets.test_images import png
from tests.helpers import datasets_on_disk
from tests.programs.test_convert_moco import small_moco

Spoil = Callable[[Path], None]


class Bad(NamedTuple):
    """A command, after what `spoil` did to the world, and the line that it must end with (a regular expression).

    The command begins with the script; where no data root follows, it trains on the world's images. `@` stands for
    the world's folder.
    """

    command: str
    message: str
    spoil: Spoil = lambda world: None


def write(path: str, content: bytes) -> Spoil:
    return lambda world: (world / path).write_bytes(content)


def remove(path: str) -> Spoil:
    return lambda world: shutil.rmtree(world / path) if (world / path).is_dir() else (world / path).unlink()


def cut(path: str, kind: str) -> Spoil:
    """A real image file, of which the second half is missing."""

    def spoil(world: Path) -> None:
        Image.effect_noise((64, 64), 50).convert("RGB").save(world / path, kind)
        os.truncate(world / path, (world / path).stat().st_size // 2)

    return spoil


def image(path: str, mode: str) -> Spoil:
    return lambda world: Image.new(mode, (40, 30)).save(world / path)


def link(path: str, target: str) -> Spoil:
    def spoil(world: Path) -> None:
        if (world / path).is_dir():
            shutil.rmtree(world / path)
        (world / path).unlink(missing_ok=True)
        (world / path).symlink_to(target)

    return spoil


def saved(path: str, content: object) -> Spoil:
    return lambda world: torch.save(content, world / path)


def backbone(change: Callable[[dict], dict]) -> Spoil:
    """The world's backbone file, with other tensors."""
    return lambda world: torch.save(change(torch.load(world / "backbone.pth")), world / "backbone.pth")


def edited(path: str, **values: object) -> Spoil:
    """A JSON file with other values."""
    return lambda world: (world / path).write_text(json.dumps(json.loads((world / path).read_text()) | values))


def dataset(name: str, file: str, content: bytes | None) -> Spoil:
    """A small dataset in its own format in the folder `data`, one of whose files is replaced or removed."""

    def spoil(world: Path) -> None:
        datasets_on_disk.WRITERS[name](world / "data")
        (remove if content is None else lambda path: write(path, content))(f"data/{file}")(world)

    return spoil


def complex_(state: dict) -> dict:
    return state | {"bn.bias": state["bn.bias"].to(torch.complex64)}


def on_meta(state: dict) -> dict:
    return state | {"bn.bias": state["bn.bias"].to("meta")}


def folder(path: str) -> Spoil:
    return lambda world: (world / path).mkdir(parents=True)


def instead(name: str) -> Spoil:
    """A folder in the place of a file of the finished run."""

    def spoil(world: Path) -> None:
        (world / "run" / name).unlink()
        (world / "run" / name).mkdir()

    return spoil


def pipe(path: str) -> Spoil:
    def spoil(world: Path) -> None:
        (world / path).parent.mkdir(exist_ok=True)
        os.mkfifo(world / path)

    return spoil


def gone(world: Path) -> None:
    """The finished run, unfinished, and its checkpoints are lost."""
    (world / "run" / "result.json").unlink()
    shutil.rmtree(world / "run" / "checkpoints")


def argument(name: str, value: object) -> Spoil:
    """The finished run's args.json, with another value of an argument."""

    def spoil(world: Path) -> None:
        file = world / "run" / "args.json"
        content = json.loads(file.read_text())
        content["args"][name] = value
        file.write_text(json.dumps(content))

    return spoil


def latest(name: str, value: object) -> Spoil:
    """The finished run, unfinished, with another part in its newest checkpoint."""

    def spoil(world: Path) -> None:
        (world / "run" / "result.json").unlink()
        file = world / "run" / "checkpoints" / "latest.pth"
        torch.save(torch.load(file) | {name: value}, file)

    return spoil


def labeled(world: Path) -> None:
    """The finished run is one of the world's own images, and has a label for digit.png."""
    argument("data", "ImageFolder")(world)
    argument("root", str(world))(world)
    images = ImageSet([str(world / "digit.png")], [0])
    (world / "run" / "images.csv").write_bytes(inventory.to_csv(inventory.read({"train": images}, ["3"], world, {})))
    edited("run/labeled.json", names=["digit.png"])(world)


def unlabeled(world: Path) -> None:
    labeled(world)
    (world / "run" / "labeled.json").write_text("{")


def rows(*lines: str) -> Spoil:
    """A list of labeled images."""
    return write("list.csv", "".join(f"{line}\n" for line in lines).encode())


def squares(unlike: int) -> Spoil:
    """All images have 32 x 32 pixels, but one may have others."""

    def spoil(world: Path) -> None:
        for path in (world / "images").rglob("*.png"):
            size = unlike if path.parent.name == "unlabeled" and path.name == "0.png" else 32
            Image.new("RGB", (size, size)).save(path)

    return spoil


def tensorboard_file(world: Path) -> None:
    pytest.importorskip("tensorboard")
    (world / "new").mkdir()
    (world / "new" / "tensorboard").write_text("mine")


CAT = "images/train/cat/0.png"
TRAIN = "images/train"
NATIVE = "--train-resizing native --val-resizing native"
LISTED = "erm --labeled-list @/list.csv --num-samples-per-class all"
TWO = ("unlabeled/0.png,cat", "unlabeled/1.png,dog")
RUN_OF_DIGITS = "data -d Digits @run"
EXPORT = "export @/run @/x.safetensors"
PREDICT = "predict @/run @/x.png --device cpu"
IMAGE = "predict @/run @/digit.png --device cpu"
LABEL = "scripts.label @/images @/list.csv 5 --out @/new -a test_resnet --device cpu"
NO_TAR = "this Python cannot unpack archives safely"  # before 3.11.4
LONG = "x" * 300  # no file system has such a name
NO_TENSORS = "'@/b.pth' does not hold a dictionary of tensors: save the state_dict"
AGAIN = "run its command again, or remove it"
NO_LORA = "--lora: a .*ResNet has no place for adapters: choose a ViT such|--lora needs .* peft: run pip install peft"
RUN = "fixmatch data -d Digits @run"  # the flags of the finished run follow in `argv`
FROM_RUN = "erm data -d Digits --num-samples-per-class 4 --init-from @/run"
VOTE = "v_pet data -d Digits --num-samples-per-class 4 --sources @/run"
HELP = r" \(--help-all lists all flags\)"

BAD = [
    # Flags that all scripts share
    Bad("erm data", f"required: -d/--data{HELP}"),
    Bad("erm -d Digits --log", "argument --log: expected one argument"),
    Bad("erm data -d Cifar10", "unknown dataset 'Cifar10': choose from .*CIFAR10"),
    Bad("erm data -d Digits extra", f"unrecognized arguments: extra{HELP}"),
    Bad("erm --learning 1", f"unrecognized arguments: --learning 1: did you mean --learning-rate.{HELP}"),
    Bad("erm --lr nan", "--lr.* must be a finite number above 0, got 'nan'"),
    Bad("erm --lr 0", "--lr.* must be a finite number above 0, got '0'"),
    Bad("erm --lr=-0.1", "--lr.* must be a finite number above 0, got '-0.1'"),
    Bad("erm --lr inf", "--lr.* must be a finite number above 0, got 'inf'"),
    Bad("erm --lr 0,1", "--lr.* must be a finite number above 0, got '0,1'"),
    Bad("erm --wd=-1", "--wd.* must be a finite number of 0 or more, got '-1'"),
    Bad("erm --wd nan", "--wd.* must be a finite number of 0 or more, got 'nan'"),
    Bad("erm --lr-gamma=-1", "--lr-gamma.* must be a finite number of 0 or more, got '-1'"),
    Bad("erm --lr-decay nan", "--lr-decay.* must be a finite number of 0 or more, got 'nan'"),
    Bad("erm --lr-scheduler step", "--lr-scheduler: invalid choice: 'step' .*exp"),
    Bad("erm --optimizer adam", "--optimizer: invalid choice: 'adam' .*adamw"),
    Bad("erm --no-bottleneck --bottleneck-dim 64", "--bottleneck-dim 64 contradicts --no-bottleneck: choose one"),
    Bad("erm --cutout 1.5", "--cutout: must be a number from 0 to 1, got '1.5'"),
    Bad("erm --cutout 16", "--cutout: must be a number from 0 to 1, got '16'"),
    Bad("erm --cutout=-0.1", "--cutout: must be a number from 0 to 1, got '-0.1'"),
    Bad("erm --cutout nan", "--cutout: must be a number from 0 to 1, got 'nan'"),
    Bad("erm data -d Digits --cutout 4px", "--cutout: must be a number from 0 to 1, got '4px'"),
    Bad("erm --auto-augment classic-n2", "--auto-augment 'classic-n2' is not a RandAugment string .*, nor classic"),
    Bad("erm --labeled-in-unlabeled", "unrecognized arguments: --labeled-in-unlabeled"),
    Bad("erm --ema 1", "--ema: must be a number of 0 or more and below 1, got '1'"),
    Bad("erm --ema=-0.1", "--ema: must be a number of 0 or more and below 1, got '-0.1'"),
    Bad("erm --ema 1.001", "--ema: must be a number of 0 or more and below 1, got '1.001'"),
    Bad("erm --ema", "--ema: expected one argument"),
    Bad("erm --no-decay-on-norms 0", "unrecognized arguments: 0"),
    Bad("erm --joint-passes", "unrecognized arguments: --joint-passes"),
    Bad("erm --ema nan", "--ema: must be a number of 0 or more and below 1, got 'nan'"),
    Bad("erm --layer-decay 0", "--layer-decay: must be a number above 0 and at most 1, got '0'"),
    Bad("erm --layer-decay nan", "--layer-decay: must be a number above 0 and at most 1, got 'nan'"),
    Bad("erm --layer-decay 1.1", "--layer-decay: must be a number above 0 and at most 1, got '1.1'"),
    Bad("erm --layer-decay 0.5", "--layer-decay: WideResNet does not tell its layers: leave it out"),
    Bad("erm --lr-warm-up-steps=-1", "--lr-warm-up-steps: must be a whole number of 0 or more, got '-1'"),
    Bad("erm --lr-warm-up-steps 4", "--lr-warm-up-steps 4 takes all of the 4 steps: take fewer"),
    Bad("self_tuning --lr-warm-up-steps 1", "unrecognized arguments: --lr-warm-up-steps 1"),
    Bad("erm --trade-off-cls-strong=-1", "--trade-off-cls-strong.* 0 or more, got '-1'"),
    Bad("erm --trade-off-cls-strong none", "--trade-off-cls-strong.* 0 or more, got 'none'"),
    Bad("self_tuning --trade-off-cls-strong 0", "unrecognized arguments: --trade-off-cls-strong 0"),
    Bad("erm -b 0", "--batch-size: must be a whole number of 1 or more, got '0'"),
    Bad("erm -b 2.5", "--batch-size: must be a whole number of 1 or more, got '2.5'"),
    Bad("erm -b 1", "a labeled batch of one image cannot pass BatchNorm: two images or more are needed"),
    Bad("erm --unlabeled-batch-size 4", "unrecognized arguments: --unlabeled-batch-size 4"),
    Bad("erm --epochs 0", "--epochs: must be a whole number of 1 or more, got '0'"),
    Bad("erm --iters-per-epoch 0", "--iters-per-epoch: must be a whole number of 1 or more, got '0'"),
    Bad("erm --workers=-1", "--workers: must be a whole number of 0 or more, got '-1'"),
    Bad("erm --print-freq 0", "--print-freq: must be a whole number of 1 or more, got '0'"),
    Bad("erm --seed=-1", "--seed: must be a whole number from 0 to 4294967295, got '-1'"),
    Bad("erm --seed 4294967296", "--seed: must be a whole number from 0 to 4294967295, got '4294967296'"),
    Bad("erm --split-seed 1e3", "--split-seed: must be a whole number from 0 to 4294967295, got '1e3'"),
    Bad("erm --num-samples-per-class 0", "--num-samples-per-class: must be .* of 1 or more, or all, got '0'"),
    Bad("erm --num-samples-per-class 4.5", "--num-samples-per-class: must be .* of 1 or more, or all, got '4.5'"),
    Bad("erm --bottleneck-dim 0", "--bottleneck-dim: must be a whole number of 1 or more, got '0'"),
    Bad("erm --image-size 0", "--image-size: must be a whole number of 1 or more, got '0'"),
    Bad("erm --norm-mean 0.5", "--norm-mean takes 3 values, one per channel, got 1"),
    Bad("erm --norm-std 1 1 1 1", "--norm-std takes 3 values, one per channel, got 4"),
    Bad("erm --norm-std 1 0 1", "--norm-std: must be a finite number above 0, got '0'"),
    Bad("erm --norm-mean 0 nan 0", "--norm-mean: must be a finite number, got 'nan'"),
    Bad("erm --auto-augment rnad-m10", "--auto-augment 'rnad-m10' is not .* such as rand-m10-n2-mstd2"),
    Bad(
        "erm data -d DTD --train-resizing native --val-resizing native",
        "--train-resizing native .* DTD has not: use default",
    ),
    Bad("erm data -d DTD --val-resizing cifar", "--val-resizing cifar .* DTD has not: use default"),
    Bad(
        "erm --val-resizing cifar", "--val-resizing cifar is for small images of one size: give --train-resizing cifar"
    ),
    Bad("erm --val-resizing native", "--train-resizing and --val-resizing must both be native, or neither"),
    Bad("erm data -d Digits --train-resizing native", "--train-resizing and --val-resizing must both be native"),
    Bad(
        "erm data -d Digits --train-resizing native --val-resizing native --image-size 64",
        "--image-size 64 contradicts native resizing, which leaves Digits at 32 pixels: leave it out, or",
    ),
    Bad("erm --generated-split", "--generated-split is not for ImageFolder: leave it out"),
    Bad("erm --precision fp16", "--precision: invalid choice: 'fp16' .*bf16"),
    Bad("erm --phase analysis", "--phase: invalid choice: 'analysis' .*test"),
    Bad("erm --checkpoint last", "--checkpoint: invalid choice: 'last' .*latest"),
    Bad("erm --device cuda:99", "--device cuda:99 cannot be used .*: try --device cpu"),
    Bad("erm --device tpu", "--device tpu cannot be used .*: try --device cpu"),
    Bad("erm --epochs 99999999999", r"--epochs: must be at most 4.29\S+, got '99999999999'"),
    Bad(f"erm --iters-per-epoch {'9' * 400}", r"--iters-per-epoch: must be at most 4.29\S+, got '999"),
    Bad(f"erm --seed {'9' * 400}", "--seed: must be a whole number from 0 to 4294967295, got '999"),
    Bad("erm --lr 1e308", r"--lr.* must be at most 3e\+38, got '1e308'"),
    Bad("erm --wd 1e308", r"--wd.* must be at most 3e\+38, got '1e308'"),
    Bad("erm --auto-augment rand-n2.5", "--auto-augment 'rand-n2.5' is not .* such as rand-m10-n2-mstd2"),
    Bad("erm --auto-augment rand-m1.5", "--auto-augment 'rand-m1.5' is not .* such as rand-m10-n2-mstd2"),
    Bad("erm --auto-augment ''", "--auto-augment '' is not .* such as rand-m10-n2-mstd2"),
    Bad("erm --log ''", "--log: must be the name of a file or folder, got ''"),
    Bad("erm --pretrained-backbone ''", "--pretrained-backbone: must be the name of a file or folder, got ''"),
    Bad("erm '' -d ImageFolder", "root: must be the name of a file or folder, got ''"),
    # Flags of single methods
    Bad("fixmatch --threshold 7", "--threshold: must be a number from 0 to 1, got '7'"),
    Bad("fixmatch --threshold=-0.1", "--threshold: must be a number from 0 to 1, got '-0.1'"),
    Bad("fixmatch --threshold nan", "--threshold: must be a number from 0 to 1, got 'nan'"),
    Bad("fixmatch --thresh 0.9", "unrecognized arguments: --thresh 0.9"),
    Bad("fixmatch --oracle", "unrecognized arguments: --oracle"),
    Bad("fixmatch --trade-off-self-training inf", "--trade-off-self-training: must be .* 0 or more, got 'inf'"),
    Bad("fixmatch --unlabeled-batch-size 0", "--unlabeled-batch-size: must be .* 1 or more, got '0'"),
    Bad("fixmatch --unlabeled-batch-size 1", "unlabeled batch of one image cannot pass BatchNorm: two images or more"),
    Bad("pi_model --warm-up-epochs=-1", "--warm-up-epochs: must be .* 0 or more, got '-1'"),
    Bad("pseudo_label --warm-up-epochs 40%", "--warm-up-epochs: must be .* 0 or more, got '40%'"),
    Bad("pseudo_label --ramp-up linear", "unrecognized arguments: --ramp-up linear"),
    Bad("pseudo_label --joint-passes", "unrecognized arguments: --joint-passes"),
    Bad("pseudo_label --labeled-statistics no", "unrecognized arguments: no"),
    Bad("pi_model --ramp-up cos", "--ramp-up: invalid choice: 'cos' .*linear"),
    Bad("pi_model --one-sided 1", "unrecognized arguments: 1"),
    Bad("mean_teacher --one-sided", "unrecognized arguments: --one-sided"),
    Bad("fixmatch --labeled-statistics", "unrecognized arguments: --labeled-statistics"),
    Bad("dst --joint-passes", "unrecognized arguments: --joint-passes"),
    Bad("pi_model --trade-off-con nan", "--trade-off-con: must be .* 0 or more, got 'nan'"),
    Bad("mean_teacher --alpha 1.5", "--alpha: must be a number from 0 to 1, got '1.5'"),
    Bad("uda --T 0", "--T: must be a finite number above 0, got '0'"),
    Bad("uda --uda-variant mine", "--uda-variant: invalid choice: 'mine' .*paper"),
    Bad("self_tuning --K 0", "--K: must be a whole number of 1 or more, got '0'"),
    Bad("self_tuning --m 2", "--m: must be a number from 0 to 1, got '2'"),
    Bad("self_tuning --milestones 3 x", "--milestones: must be a whole number of 1 or more, got 'x'"),
    Bad("self_tuning --projection-dim 0", "--projection-dim: must be a whole number of 1 or more, got '0'"),
    Bad("self_tuning --lr-scheduler cos", "unrecognized arguments: --lr-scheduler cos"),
    Bad("debiasmatch --tau=-1", "--tau: must be a finite number of 0 or more, got '-1'"),
    Bad("debiasmatch --momentum nan", "--momentum: must be a number from 0 to 1, got 'nan'"),
    Bad("dst --eta=-1", "--eta: must be a finite number of 0 or more, got '-1'"),
    Bad("dst --width 0", "--width: must be a whole number of 1 or more, got '0'"),
    Bad("freematch --max-tau 1.5", "--max-tau: must be a number from 0 to 1, got '1.5'"),
    Bad("freematch --trade-off-fairness=-1", "--trade-off-fairness: must be .* 0 or more, got '-1'"),
    Bad("softmatch --n-sigma 0", "--n-sigma: must be a finite number above 0, got '0'"),
    Bad("adamatch --window 1.5", "--window: must be a whole number of 0 or more, got '1.5'"),
    Bad("adamatch --threshold 2", "--threshold: must be a number from 0 to 1, got '2'"),
    Bad("adamatch --warm-up-epochs=-1", "--warm-up-epochs: must be a whole number of 0 or more, got '-1'"),
    Bad("comatch --trade-off-cls-strong 0", "unrecognized arguments: --trade-off-cls-strong 0"),
    Bad("comatch --graph-threshold 80%", "--graph-threshold: must be a number from 0 to 1, got '80%'"),
    Bad("comatch --bank-batches 0", "--bank-batches: must be a whole number of 1 or more, got '0'"),
    Bad("simmatch --T 0", "--T: must be a finite number above 0, got '0'"),
    Bad("simmatch --bank-momentum=-0.1", "--bank-momentum: must be a number from 0 to 1, got '-0.1'"),
    Bad("noisy_student --rounds 0", "--rounds: must be a whole number of 1 or more, got '0'"),
    Bad("noisy_student --threshold 2", "--threshold: must be a number from 0 to 1, got '2'"),
    Bad("v_pet", "the following arguments are required: --sources"),
    Bad("v_pet --sources", "--sources: expected at least one argument"),
    Bad("v_pet --sources ''", "--sources: must be the name of a file or folder, got ''"),
    Bad(
        "v_pet --sources @/nirgends", "'@/nirgends' holds no finished run: run its command to the end, or name another"
    ),
    Bad("v_pet --sources @/run", "'@/run' holds no finished run: run", remove("run/result.json")),
    Bad("v_pet --sources @/run", "'@/run' was trained on other images or labels than this run is to be: choose runs"),
    Bad("v_pet --sources @/run", "'@/run' holds no finished run: run", remove("run/checkpoints/latest.pth")),
    Bad("v_pet --sources @/images", "'@/images' holds no finished run: run its command to the end, or name another"),
    Bad(f"{VOTE} --split-seed 3", "'@/run' was trained on other images or labels than this run is to be: choose runs"),
    Bad(f"{VOTE} --num-samples-per-class 3", "'@/run' was trained on other images or labels than this run is to be"),
    Bad(VOTE, "labeled.json' cannot be read .*: name another run", write("run/labeled.json", b"{")),
    Bad("v_pet --sources @/run @/run/../run", "--sources names a run twice: give each of them once"),
    Bad("v_pet --sources @/run --passes 0", "--passes: must be a whole number of 1 or more, got '0'"),
    Bad("v_pet --sources @/run --target votes", "--target: invalid choice: 'votes' .*softmax-counts"),
    # Models and backbone files
    Bad("erm -a resnet5", "unknown model 'resnet5': did you mean resnet50"),
    Bad("erm -a resnet50.mine", r"unknown model 'resnet50\.mine': did you mean resnet50\."),
    Bad("erm -a wrn_28_2_leak", "unknown model 'wrn_28_2_leak': did you mean .*wrn_28_2_leaky"),
    Bad("erm -a wrn_37_2_leaky --no-pool", "'wrn_37_2_leaky' ends in feature maps, which need pooling: drop --no-pool"),
    Bad(
        "erm -a wrn_10_1_half_leaky --pretrained-backbone @/backbone.pth",
        "'@/backbone.pth' lacks .*: it is a file for another --arch",
    ),
    Bad("erm --no-pool", "'wrn_10_1_half' ends in feature maps, which need pooling: drop --no-pool"),
    Bad("erm -a vit_tiny_patch16_224 --image-size 8", r"cannot take 8-pixel images .*: try --image-size 224, without"),
    Bad("erm --lora 0", "--lora: must be a whole number of 1 or more, got '0'"),
    Bad("erm --lora 2.5", "--lora: must be a whole number of 1 or more, got '2.5'"),
    Bad("erm -a test_resnet --lora 4", NO_LORA),
    Bad("fixmatch --lora 4", NO_LORA),
    Bad("erm --lora", "--lora: expected one argument"),
    Bad("erm --adapter=-1", "--adapter: must be a whole number of 1 or more, got '-1'"),
    Bad("erm --lora 4 --adapter 16", "--adapter: not allowed with argument --lora"),
    Bad("erm --adapter 16", "--adapter: a WideResNet has no place for adapters: choose a ViT such as vit_small"),
    Bad("mean_teacher -a test_resnet --adapter 16", "--adapter: a ResNet has no place for adapters: choose a ViT such"),
    Bad("self_tuning -a test_convnext --adapter 4", "--adapter: a ConvNeXt has no place for adapters: choose a ViT"),
    Bad("erm --no-bottleneck 8", "unrecognized arguments: 8"),
    Bad("erm -a test_vit --image-size 8", r"'test_vit' cannot take 8-pixel images .*: try --image-size 160, without"),
    Bad("erm -a resnet18 --drop-path=-0.1", "--drop-path: must be a number of 0 or more and below 1, got '-0.1'"),
    Bad("erm -a vgg11 --drop-path 0.1", "--drop-path: 'vgg11' has no residual branches to leave out: drop the flag"),
    Bad("erm -a resnet18 --drop-path nan", "--drop-path: must be a number of 0 or more and below 1, got 'nan'"),
    Bad("erm -a resnet18 --drop-path 1", "--drop-path: must be a number of 0 or more and below 1, got '1'"),
    Bad("erm --drop-path 0.1", "--drop-path: 'wrn_10_1_half' has no residual branches to leave out: drop the flag"),
    Bad("erm --pretrained-backbone x.pth --scratch", "--scratch: not allowed with argument --pretrained-backbone"),
    Bad("erm -a inception_v3", r"'inception_v3' cannot take 32-pixel images .*: try --image-size 299, without"),
    Bad("erm --pretrained-backbone @/näh.pth", "file '@/näh.pth' does not exist: give the path of a .pth"),
    Bad("erm --pretrained-backbone @/images", "file '@/images' is a folder: give the path of a .pth"),
    Bad(f"erm --pretrained-backbone @/{LONG}", f"file '@/{LONG}' does not exist: give the path of a .pth"),
    Bad(
        "erm --pretrained-backbone '@/zwei\nZeilen'", r"file '@/zwei\\nZeilen' does not exist: give the path of a .pth"
    ),
    Bad(
        "erm --pretrained-backbone @/b.pth",
        r"'@/b.pth' is not a checkpoint .* safely \(Ran out of input|EOFError\)",
        write("b.pth", b""),
    ),
    Bad(
        "erm --pretrained-backbone @/b.pth",
        r"'@/b.pth' is not .* safely \(neither tensors nor",
        write("b.pth", b"<html>"),
    ),
    Bad(
        "erm --pretrained-backbone @/b.safetensors",
        "'@/b.safetensors' is not a checkpoint",
        write("b.safetensors", b"x"),
    ),
    Bad("erm --pretrained-backbone @/b.pth", NO_TENSORS, saved("b.pth", [1])),
    Bad("erm --pretrained-backbone @/b.pth", NO_TENSORS, saved("b.pth", torch.zeros(3))),
    Bad("erm --pretrained-backbone @/b.pth", NO_TENSORS, saved("b.pth", {1: torch.zeros(3)})),
    Bad("erm --pretrained-backbone @/b.pth", NO_TENSORS, saved("b.pth", {"state_dict": None})),
    Bad("erm --pretrained-backbone @/backbone.pth", NO_TENSORS.replace("b.pth", "backbone.pth"), backbone(complex_)),
    Bad("erm --pretrained-backbone @/backbone.pth", NO_TENSORS.replace("b.pth", "backbone.pth"), backbone(on_meta)),
    Bad(
        "erm --pretrained-backbone @/backbone.pth -a resnet18",
        "'@/backbone.pth' lacks .*: it is a file for another --arch",
    ),
    Bad(
        "erm --pretrained-backbone @/backbone.pth",
        "'@/backbone.pth' lacks bn.weight: it is a file for another --arch",
        backbone(lambda state: {key: value for key, value in state.items() if key != "bn.weight"}),
    ),
    Bad(
        "erm --pretrained-backbone @/backbone.pth",
        "'@/backbone.pth' holds NaN or infinity in bn.bias: .* download it again",
        backbone(lambda state: state | {"bn.bias": state["bn.bias"] / 0}),
    ),
    Bad(
        "erm --pretrained-backbone @/backbone.pth",
        "'@/backbone.pth' has whole numbers for bn.bias: it is a file for another --arch",
        backbone(lambda state: state | {"bn.bias": state["bn.bias"].long()}),
    ),
    Bad(
        "erm --pretrained-backbone @/b.pth",
        "'@/b.pth' is an unconverted MoCo checkpoint: run python convert_moco_to_pretrained.py @/b.pth ",
        saved("b.pth", small_moco()),
    ),
    # A finished run to start from
    Bad("erm --init-from ''", "--init-from: must be the name of a file or folder, got ''"),
    Bad("erm --init-from @/nirgends", "--init-from: '@/nirgends' holds no finished run: run its command to the end"),
    Bad("erm --init-from @/images", "--init-from: '@/images' holds no finished run: run its command to the end"),
    Bad("erm --init-from @/run", "'@/run' holds no finished run: run its", remove("run/result.json")),
    Bad("erm --init-from @/run", "'@/run' holds no finished run: run its", remove("run/checkpoints/best.pth")),
    Bad("erm --init-from @/run", r"for other classes than '@/images' has \(10 there, 2 here\): give both the same, or"),
    Bad("erm --init-from @/new", "--init-from and --log name the same folder: choose another --log"),
    Bad(
        "erm --pretrained-backbone @/new/checkpoints/best.pth",
        "--pretrained-backbone is a checkpoint of the run in --log: choose another --log",
    ),
    Bad(f"{FROM_RUN} -a wrn_10_1", "'@/run' has --arch wrn_10_1_half, not wrn_10_1: give that, or name another run"),
    Bad(FROM_RUN, "best.pth' is damaged .*: remove it", write("run/checkpoints/best.pth", b"PK\3\4")),
    Bad(FROM_RUN, "best.pth' is not what a run wrote: name another", saved("run/checkpoints/best.pth", {"model": [1]})),
    # The converter
    Bad("convert_moco_to_pretrained @/in.pth @/out.pth", "required: FC_OUT"),
    Bad("convert_moco_to_pretrained @/in.pth @/a.pth @/b.pth", "file '@/in.pth' does not exist"),
    Bad("convert_moco_to_pretrained @/images @/a.pth @/b.pth", "file '@/images' is a folder: give the path"),
    Bad(
        "convert_moco_to_pretrained @/in.pth @/a.pth @/b.pth", "'@/in.pth' is not a checkpoint", write("in.pth", b"PK")
    ),
    Bad("convert_moco_to_pretrained @/backbone.pth @/a.pth @/b.pth", "'@/backbone.pth' holds no query encoder"),
    Bad(
        "convert_moco_to_pretrained @/in.pth @/in.pth @/b.pth",
        "must be three different files",
        saved("in.pth", small_moco()),
    ),
    Bad(
        "convert_moco_to_pretrained @/in.pth @/in.pth/a @/b.pth",
        "cannot make the folder of",
        saved("in.pth", small_moco()),
    ),
    Bad(
        "convert_moco_to_pretrained @/in.pth @/images @/b.pth",
        r"cannot save '@/images' \(Is a directory\): put that right",
        saved("in.pth", small_moco()),
    ),
    Bad(
        "convert_moco_to_pretrained @/in.pth @/a.pth @/b.pth",
        "'@/in.pth' holds NaN or infinity in conv1.weight: train or download it again",
        saved("in.pth", {"state_dict": {"module.encoder_q.conv1.weight": torch.zeros(3) / 0}}),
    ),
    Bad(
        "convert_moco_to_pretrained @/in.pth @/a.pth @/b.pth",
        "the encoder of '@/in.pth' holds more than tensors: download it again",
        saved("in.pth", {"state_dict": {"module.encoder_q.conv1.weight": None}}),
    ),
    # Folders of images
    Bad(f"erm @/{LONG} -d ImageFolder", f"folder '@/{LONG}' is missing: ImageFolder needs ROOT/train"),
    Bad(f"erm @/{LONG} -d SUN397", f"'@/{LONG}/SUN397.*' is missing, and SUN397 cannot be downloaded, for"),
    Bad(f"erm @/{LONG} -d DTD", f"cannot download DTD to '@/{LONG}' .*: make room, or name another root|{NO_TAR}"),
    Bad("erm @/backbone.pth -d DTD", f"cannot download DTD to '@/backbone.pth' .*: make room, or name|{NO_TAR}"),
    Bad("erm", "class 'x.png' has 0 training images, fewer", lambda w: (w / "images/train/x.png").mkdir()),
    Bad("erm @/nirgends -d ImageFolder", "folder '@/nirgends' is missing: ImageFolder needs ROOT/train"),
    Bad("erm @/backbone.pth -d ImageFolder", "folder '@/backbone.pth' is missing: ImageFolder needs ROOT/train"),
    Bad("erm", "folder '@/images/train' is missing: ImageFolder needs", remove("images/train")),
    Bad(
        "erm",
        r"folder '@/images/train' is missing \('TRAIN' is there: rename it\): ImageFolder needs",
        lambda w: (w / "images/train").rename(w / "images/TRAIN"),
    ),
    Bad("erm", "'@/images/train/ox' is a link to '/nowhere', which is missing: mount", link(f"{TRAIN}/ox", "/nowhere")),
    Bad(
        "erm",
        r"'@/images/test' has the class 'a\\u0308ffchen', which the train folder lacks: did you mean '\\xe4ffchen'",
        lambda w: [(w / "images" / name).mkdir() for name in ("train/äffchen", "test/a\u0308ffchen")],
    ),
    Bad("erm", "'@/images/test' is a link to '/nowhere', which is missing: mount", link("images/test", "/nowhere")),
    Bad(
        "erm",
        r"test images belong into '@/images/test' \('Test' is there: rename it\)",
        lambda w: (w / "images/test").rename(w / "images/Test"),
    ),
    Bad("erm --val-fold 1", "--val-fold: must be a part of two or more, 1/5 say, got '1'"),
    Bad("erm --val-fold 0/5", "--val-fold: must be a part of two or more, 1/5 say, got '0/5'"),
    Bad("erm --val-fold 6/5", "--val-fold: must be a part of two or more, 1/5 say, got '6/5'"),
    Bad("erm --val-fold 1/1", "--val-fold: must be a part of two or more, 1/5 say, got '1/1'"),
    Bad("erm --val-fold 1/2 --val-per-class 1", "--val-fold and --val-per-class both hold images out: choose one"),
    Bad("erm --val-fold 1/900", "--val-fold 1/900: .* are too few for 900 parts: ask for fewer"),
    Bad("erm", "'@/images/train' has one class, 'cat': add others, or remove a folder", remove("images/train/dog")),
    Bad("erm", "'@/images/test' has no images: put them into one folder per class", remove("images/test/cat/0.png")),
    Bad("erm", "class 'äffchen' has 0 training images, fewer than", lambda w: (w / "images/train/äffchen").mkdir()),
    Bad(
        "erm",
        "the class 'äffchen', which the train folder lacks: add or",
        lambda w: (w / "images/test/äffchen").mkdir(),
    ),
    Bad("erm --val-per-class -1", "--val-per-class: must be a whole number of 0 or more, got '-1'"),
    Bad("fixmatch --val-per-class some", "--val-per-class: must be a whole number of 0 or more, got 'some'"),
    Bad("erm --val-per-class 3", "class 'cat' has 1 training images next to the labeled ones for --val-per-class 3"),
    Bad("erm --num-samples-per-class all --val-per-class 3", "class 'cat' has 3 labels, one of which has to stay"),
    Bad("erm --oracle --val-per-class 3", "class 'cat' has 3 labels, one of which has to stay, for --val-per-class 3"),
    Bad("erm --num-samples-per-class 4", "class 'cat' has 3 training images, fewer than"),
    Bad("fixmatch --num-samples-per-class 3", "the unlabeled set is empty: ask for fewer", remove("images/unlabeled")),
    Bad("erm --num-samples-per-class every", "must be a whole number of 1 or more, or all, got 'every'"),
    Bad(
        "erm --num-samples-per-class all",
        "class 'x' has 0 training images, a label .*: add images",
        folder(f"{TRAIN}/x"),
    ),
    Bad(
        "erm --oracle", "class 'x' has 0 training images, none to train on: add images or remove", folder(f"{TRAIN}/x")
    ),
    # Small images
    Bad(
        "erm --train-resizing cifar",
        f"image '@/{CAT}' has 40 x 30 pixels, and --train-resizing cifar needs squares: use",
    ),
    Bad(f"erm {NATIVE}", f"image '@/{CAT}' has 40 x 30 pixels, and --train-resizing native needs squares: use default"),
    Bad(
        f"erm {NATIVE}",
        r"unlabeled/0.png' has 40 x 40 pixels and '\S* .*cat/0.png' 32 x 32, .*: use default",
        squares(40),
    ),
    Bad(f"erm {NATIVE} --image-size 28", "--image-size 28 contradicts native .* have 32 pixels; give", squares(32)),
    Bad(f"erm {NATIVE}", f"image '@/{CAT}' cannot be read .*: replace or remove it", write(CAT, b"GIF")),
    Bad("erm --flip 0", "unrecognized arguments: 0"),
    # Lists of labeled images
    Bad("erm data -d Digits --labeled-list x", "--labeled-list is not for Digits, which has labels .*: leave it out"),
    Bad("erm --labeled-list ''", "--labeled-list: must be the name of a file or folder, got ''"),
    Bad("erm --labeled-list @/list.csv", r"'@/list.csv' cannot be read \(No such file .*\): name another"),
    Bad("erm --labeled-list @/images", r"'@/images' cannot be read \(Is a directory\): name another --labeled-list"),
    Bad(f"erm --labeled-list @/{LONG}", r"cannot be read \(File name too long\): name another --labeled-list"),
    Bad(
        LISTED, "'@/list.csv' is not UTF-8: save it as 'CSV UTF-8'", write("list.csv", b"train/cat/0.png,\xe4ffchen\n")
    ),
    Bad(LISTED, "'@/list.csv' lists no images: add lines of a path and a class", rows()),
    Bad(LISTED, "'@/list.csv' lists no images: add lines of a path and a class", rows("path,class", "", ",,")),
    Bad(LISTED, "'@/list.csv' has one class, 'cat': add images of others", rows("unlabeled/0.png,cat")),
    Bad(LISTED, "'@/list.csv', line 2: 'x.png' is none of the images below", rows("unlabeled/0.png,cat", "x.png,dog")),
    Bad(LISTED, "line 1: 'test/cat/0.png' is none of the images below .*, outside of test", rows("test/cat/0.png,cat")),
    Bad(LISTED, "line 1: '../list.csv' is none .*: it lies outside, put it below or remove", rows("../list.csv,cat")),
    Bad(
        LISTED, "line 1: '/etc/passwd' is none of .*: it lies outside, put it below or remove", rows("/etc/passwd,cat")
    ),
    Bad(
        LISTED, "line 2: 'gone.png' .*: there is no such file, restore it", rows("unlabeled/0.png,cat", "gone.png,cat")
    ),
    Bad(LISTED, "line 2: 'unlabeled' .*: it is a folder, name the images in it", rows(TWO[0], "unlabeled,cat")),
    Bad(
        LISTED,
        "line 2: 'unlabeled/a.heic' .*: it is hidden or of another kind, remove",
        lambda w: [spoil(w) for spoil in (write("images/unlabeled/a.heic", b""), rows(*TWO[:1], "unlabeled/a.heic,c"))],
    ),
    Bad(LISTED, "line 1: '0.JPG' is none .*: did you mean 'train/[a-z]*/0.png' or '.*' or one", rows("0.JPG,cat")),
    Bad(LISTED, "line 1: '3.png' is none of the images .*: did you mean 'unlabeled/3.png'", rows("3.png,cat")),
    Bad(LISTED, "line 1: 'unlabeled/3a.png' .*: did you mean 'unlabeled/3.png'", rows("unlabeled/3a.png,cat")),
    Bad(LISTED, "line 1: 'unlabeled/33.png' .*: there is no such file, restore it", rows("unlabeled/33.png,cat")),
    Bad(LISTED, r"did you mean 'unlabeled/3.png', with / in the place of \\", rows("unlabeled\\3.png,cat")),
    Bad(LISTED, "line 1: .*: its columns are separated by ';', so put path;class into", rows("unlabeled/3.png;cat")),
    Bad(LISTED, "its columns are separated by '.t', so put path and class, and a", rows("unlabeled/3.png\tcat")),
    Bad(LISTED, "line 1: 'file' is none .*: if it is a header, name the columns path", rows("file,label", *TWO)),
    Bad(LISTED, "line 1: no column is called 'class', but 'path', 'label': name the", rows("path,label", *TWO)),
    Bad(
        LISTED, "line 2: has 3 columns, but the header names 2: put quotes", rows("path,class", "unlabeled/0,5.png,cat")
    ),
    Bad(
        f"{LISTED} --min-confidence 0.5",
        "'@/list.csv' has no column 'confidence', which --min-confidence needs: leave",
        rows(*TWO),
    ),
    Bad(
        f"{LISTED} --min-confidence 0.5",
        "line 2: confidence 'high' is no number from 0 to 1: put one",
        rows("path,class,confidence", "unlabeled/0.png,cat,high", *TWO),
    ),
    Bad(
        f"{LISTED} --min-confidence 0.5",
        r"'@/list.csv' lists no images \(1 below --min-confidence 0.5 are left unlabeled\): add",
        rows("path,class,confidence", "unlabeled/0.png,cat,0.4"),
    ),
    Bad(f"{LISTED} --min-confidence 50", "--min-confidence: must be a number from 0 to 1, got '50'"),
    Bad("erm --min-confidence 0.5", "--min-confidence is for --labeled-list: give a table of predict.py with it"),
    Bad("erm data -d Digits --exif-orientation", "--exif-orientation is for ImageFolder: leave it out"),
    Bad(
        LISTED,
        r"line 1: .* \(one of 2 broken lines: python -m common.datasets ROOT --check ImageFolder --labeled-list",
        rows("gone.png,cat", "lost.png,cat", *TWO),
    ),
    Bad(
        LISTED,
        r"line 2: class 'a\\u0308ffchen' is '\\xe4ffchen' in line 1: use one",
        rows("unlabeled/0.png,äffchen", "unlabeled/1.png,a\u0308ffchen"),
    ),
    Bad(LISTED, "line 1: '' is none of the images below", rows(",cat")),
    Bad(
        LISTED,
        "line 3: 'unlabeled/0.png' stands in line 1, too: remove",
        rows("unlabeled/0.png,a", "", "unlabeled/0.png,a"),
    ),
    Bad(LISTED, "line 2: './unlabeled//0.png' stands in line 1", rows("unlabeled/0.png,a", "./unlabeled//0.png,b")),
    Bad(LISTED, "line 1: 'unlabeled/0.png' has no class: add it after a comma", rows("unlabeled/0.png")),
    Bad(LISTED, "line 1: 'unlabeled/0.png' has no class: add it after a comma", rows("unlabeled/0.png,")),
    Bad(LISTED, "line 1: 'train/cat/0.png' is 'dog' here, but its folder says 'cat': use", rows("train/cat/0.png,dog")),
    Bad(LISTED, "line 2: class 'Cat' is 'cat' in line 1: use one", rows("unlabeled/0.png,cat", "unlabeled/1.png,Cat")),
    Bad(LISTED, "line 1: has 3 columns: give a path and a class, with quotes", rows("unlabeled/0,5.png,cat")),
    Bad(LISTED, "line 1: unexpected end of data: close the quotes", rows("'unlabeled/0.png,cat".replace("'", '"'))),
    Bad(
        LISTED,
        "'@/images/test' has the class 'dog', which '@/list.csv' lacks",
        rows("unlabeled/0.png,cat", "unlabeled/1.png,ox"),
    ),
    Bad(LISTED + " --num-samples-per-class 2", "class 'cat' has 1 training images, fewer than", rows(*TWO)),
    Bad(
        "erm @/nirgends -d ImageFolder --labeled-list x",
        "folder '@/nirgends' is missing: name the folder that holds the images of --labeled-list",
    ),
    Bad(LISTED, "'@/images/test' is a link to 'no', which is missing: mount", link("images/test", "no")),
    Bad(
        f"fixmatch {RUN_OF_DIGITS} --num-samples-per-class all",
        r"--num-samples-per-class all \(was 4\); choose another --log",
    ),
    # Images
    Bad("erm --oracle", f"image '@/{CAT}' cannot be read .*: replace or remove it", write(CAT, b"")),
    Bad(
        "erm --oracle",
        f"image '@/{CAT}' cannot be read .*: replace or remove it",
        write(CAT, b"<html>not found</html>"),
    ),
    Bad("erm --oracle", f"image '@/{CAT}' cannot be read .*truncated.*: replace or remove it", cut(CAT, "PNG")),
    Bad("erm --oracle", f"image '@/{CAT}' cannot be read .*truncated.*: replace or remove it", cut(CAT, "JPEG")),
    Bad("erm --oracle -j 1", f"image '@/{CAT}' cannot be read .*: replace or remove it", cut(CAT, "JPEG")),
    Bad(
        "erm --oracle", f"image '@/{CAT}' cannot be read .*bomb.*: replace", write(CAT, png(20_000, 20_000, 8, 0, b""))
    ),
    Bad("erm --oracle", f"'@/{CAT}' is a link to 'nowhere', which is missing: mount its disk", link(CAT, "nowhere")),
    Bad("erm --oracle -b 7", "tif' cannot be read .pixels of 32 bits.*: replace", image("images/train/cat/f.tif", "F")),
    Bad("erm", "image '@/images/test/cat/ö 1.png' cannot be read", write("images/test/cat/ö 1.png", b"\x89PNG")),
    Bad("erm -j 1", "image '@/images/test/cat/ö 1.png' cannot be read", write("images/test/cat/ö 1.png", b"\x89PNG")),
    Bad(
        "fixmatch -b 2 --unlabeled-batch-size 6",
        "unlabeled/0.png' cannot be read",
        write("images/unlabeled/0.png", b"GIF"),
    ),
    # Lists and archives of the known datasets
    Bad(
        "erm @/data -d StanfordCars", "'@/data/stanford_cars.*' is missing, and StanfordCars cannot be downloaded, for"
    ),
    Bad("erm @/data -d SUN397", "'@/data/SUN397.*' is missing, and SUN397 cannot be downloaded, for"),
    Bad("erm @/data -d DTD --any-counts", "train1.txt", dataset("DTD", "dtd/dtd/labels/train1.txt", None)),
    Bad(
        "erm @/data -d DTD --any-counts",
        "DTD under '@/data' is incomplete or damaged .*: restore its files",
        dataset("DTD", "dtd/dtd/labels/test1.txt", b"\xff\xfe\n"),
    ),
    Bad("erm @/data -d CUB200 --any-counts", "images.txt", dataset("CUB200", "CUB_200_2011/images.txt", b"1 a b c\n")),
    Bad("erm @/data -d CUB200 --any-counts", "images.txt", dataset("CUB200", "CUB_200_2011/images.txt", b"")),
    Bad(
        "erm @/data -d Food101 --any-counts",
        "Food101 under '@/data' is incomplete or damaged .*: restore its files",
        dataset("Food101", "food-101/meta/test.json", b"[1, 2"),
    ),
    Bad(
        "erm @/data -d Food101 --any-counts",
        "Food101 under '@/data' has 'apple_pie' in the list of one split only: restore",
        dataset("Food101", "food-101/meta/train.json", b"{}"),
    ),
    Bad(
        "erm @/data -d OxfordIIITPets --any-counts",
        "OxfordIIITPet under '@/data' is incomplete or damaged .*: restore its files",
        dataset("OxfordIIITPets", "oxford-iiit-pet/annotations/trainval.txt", b"nobody_1 x y z\n"),
    ),
    Bad(
        "erm @/data -d SUN397 --any-counts",
        "image '@/data/SUN397/a/abbey/no_such.jpg' is missing, one of 1: restore them",
        dataset("SUN397", "SUN397/Partitions/Testing_01.txt", b"/a/abbey/no_such.jpg\n"),
    ),
    Bad("erm @/data -d CIFAR10", "CIFAR10.*: ", dataset("CIFAR10", "cifar-10-batches-py/data_batch_1", b"\x80")),
    Bad(
        "erm @/data -d Food101 --any-counts",
        "Food101 under '@/data' is incomplete or damaged .*: restore its files",
        dataset("Food101", "food-101/meta/train.json", b'["apple_pie"]'),
    ),
    Bad(
        "erm @/data -d Food101 --any-counts",
        "Food101 under '@/data' is incomplete or damaged .*: restore its files",
        dataset("Food101", "food-101/meta/train.json", b'{"apple_pie": 5}'),
    ),
    Bad(
        "erm @/data -d CUB200 --any-counts",
        "'@/data/CUB_200_2011/classes.txt' cannot be read .lines must begin with a number.: restore it",
        dataset("CUB200", "CUB_200_2011/classes.txt", b"one a\ntwo b\n"),
    ),
    # The log folder
    Bad("erm --log @/new", "cannot write '@/new/log.txt' .*: remove it, or choose", folder("new/log.txt")),
    *(
        Bad(
            f"erm --log @/images {flag}",
            f"'@/images' holds files, but no args.json of a run .'{name}' is one.: choose another --log",
            write(f"images/{name}", b"mine"),
        )
        for flag in ("", "--overwrite")
        for name in ("labeled.json", "report.png", "views.png", "metrics.jsonl", "checkpoints", "tensorboard")
    ),
    Bad("erm --log @/images --overwrite", "'@/images/args.json' is not a run's: rem", write("images/args.json", b"{}")),
    *(
        Bad(f"{RUN} --overwrite", f"'@/run/{name}' is a folder, which no run makes: remove it", instead(name))
        for name in ("metrics.jsonl", "report.png", "checkpoints/best.pth")
    ),
    Bad(
        f"{RUN} --overwrite", "'@/run/checkpoints' is no folder, as a run's is: rem", link("run/checkpoints", "nowhere")
    ),
    Bad("erm --log @/new", "cannot save '@/new/log.txt' .it is no regular file.: choose", pipe("new/log.txt")),
    Bad("erm --log @/new", "cannot save '@/new/.lock' .it is no regular file.: choose", pipe("new/.lock")),
    Bad(f"{PREDICT} --out /dev/null", "cannot save '/dev/null' .it is no regular file.: choose another name"),
    Bad(f"{PREDICT} --out @/pipe", "cannot save '@/pipe' .it is no regular file.: choose", pipe("pipe")),
    Bad(
        f"{PREDICT} --out @/table", "cannot save '@/table' .it is no regular file.: choose", link("table", "/dev/null")
    ),
    Bad(f"{PREDICT} --out @/x", "cannot save '@/x.tmp' .it is no regular file.: choose", pipe("x.tmp")),
    Bad(
        "export @/run @/x.safetensors",
        "cannot save '@/x.safetensors' .it is no regular file.: choose",
        link("x.safetensors", "/dev/null"),
    ),
    Bad(
        RUN,
        "'@/run' holds an interrupted run without its checkpoints: restore .*, or start anew with --overwrite",
        gone,
    ),
    Bad("erm --log @/backbone.pth", "cannot write to '@/backbone.pth' .*: choose another --log"),
    Bad("erm --log @/backbone.pth/run", "cannot write to '@/backbone.pth/run' .*: choose another --log"),
    Bad("erm --log /proc/run", "cannot write to '/proc/run' .*: choose another --log"),
    Bad(
        "erm --log @/images", "'@/images' holds files, but no args.json .*: choose", write("images/result.json", b"{}")
    ),
    Bad(
        "erm --phase test --log @/images", "'@/images' holds no run to test: train first, or name its folder with --log"
    ),
    # A run that is there already
    Bad(f"{RUN} --lr 0.5", r"'@/run' holds a run with other arguments: --lr 0\.5 \(was 0\.003\); choose another --log"),
    Bad(f"{RUN} --seed 1", r"other arguments: --seed 1 \(was 0\), --split-seed 1 \(was 0\); choose another --log"),
    Bad(f"{RUN} -a wrn_10_1", r"other arguments: --arch wrn_10_1 \(was wrn_10_1_half\); choose another --log"),
    Bad(f"{RUN} --ema 0.9", r"other arguments: --ema 0\.9 \(was None\); choose another --log"),
    Bad(f"{RUN} --joint-passes", r"other arguments: --joint-passes True \(was False\); choose another --log"),
    Bad(
        f"{RUN} --auto-augment classic",
        r"--auto-augment classic \(was rand-m10-n2-mstd2\), --cutout 0\.5 \(was 0\.0\); choose another --log",
    ),
    Bad(RUN.replace("fixmatch", "erm"), r"other arguments: method erm \(was fixmatch\).*; choose another --log"),
    Bad(RUN.replace("fixmatch", "pseudo_label"), r"method pseudo_label \(was fixmatch\), .*; choose another --log"),
    Bad(f"{RUN} --optimizer adamw", r"other arguments: --optimizer adamw \(was sgd\); choose another --log"),
    Bad(f"{RUN} --adapter 4", r"other arguments: --adapter 4 \(was None\); choose another --log"),
    Bad(
        f"{RUN} --no-bottleneck --bottleneck-dim 1024", r"--bottleneck-dim 0 \(was 16\), --no-bottleneck True .*choose"
    ),
    Bad(f"{RUN} --overwrite --num-samples-per-class 500", "fewer than"),
    Bad(RUN, "'@/run/args.json' cannot be read .*: remove it, or choose another --log", write("run/args.json", b"{")),
    Bad(RUN, "'@/run/args.json' cannot be read .*recursion.*: remove it", write("run/args.json", b"[" * 100_000)),
    Bad(RUN, "'@/run/args.json' is not a run's: remove it", write("run/args.json", b"{}")),
    Bad(RUN, "'@/run/args.json' is not what a run wrote .*: remove it, or choose", argument("data", "Nope")),
    Bad(RUN, "'@/run/args.json' is not what a run wrote .*: remove it, or choose", argument("norm_mean", 5)),
    Bad(RUN, r"'@/run/args.json' is not what a run wrote \('arch' is not a name\): remove it", argument("arch", 5)),
    Bad(RUN, "'@/run/args.json' is not what a run wrote .*: remove it, or choose", argument("auto_augment", None)),
    Bad(
        RUN, "'@/run/result.json' cannot be read .*: remove it, or choose another --log", write("run/result.json", b"")
    ),
    Bad(
        f"{RUN} --phase test",
        "checkpoint '@/run/checkpoints/best.pth' does not exist: train first",
        remove("run/checkpoints/best.pth"),
    ),
    Bad(f"{RUN} --phase test", "best.pth' is damaged .*: remove it", write("run/checkpoints/best.pth", b"PK\3\4")),
    Bad(
        f"{RUN} --phase test",
        "best.pth' holds no 'model': it is another script's",
        saved("run/checkpoints/best.pth", {}),
    ),
    Bad(
        f"{RUN} --phase test --checkpoint latest",
        "the 'model' of checkpoint '@/run/checkpoints/latest.pth' does not fit .*: choose another --log",
        saved("run/checkpoints/latest.pth", {"model": {"head.weight": torch.zeros(3)}}),
    ),
    *(
        Bad(RUN, f"'{name}' of checkpoint '@/run/checkpoints/latest.pth' does not fit .*: choose", latest(name, value))
        for name, value in {"model": [1], "optimizer": [], "scheduler": [1], "meters": None, "rng": {}}.items()
    ),
    Bad(RUN, "latest.pth' is another script's: choose another --log", latest("step", "x")),
    Bad(RUN, "latest.pth' is another script's: choose another --log", latest("history", None)),
    Bad(f"{RUN} --phase test", "best.pth' is damaged .not a dictionary.", saved("run/checkpoints/best.pth", [1])),
    Bad(RUN, "'@/run/result.json' is not a run's: remove it", write("run/result.json", b"{}")),
    Bad("erm --log @/new", "'@/new' holds files, but no args.json .*: choose", folder("new/checkpoints")),
    Bad(f"erm --phase test --log @/{LONG}", f"'@/{LONG}' holds no run to test: train first"),
    Bad("erm --device meta", "--device meta cannot be used .*: try --device cpu"),
    Bad(f"{RUN} --continue", "unrecognized arguments: --continue"),
    # Predictions
    Bad("predict @/run", "the following arguments are required: IMAGES"),
    Bad("predict '' x.png", "RUN_FOLDER: must be the name of a file or folder, got ''"),
    Bad("predict @/nirgends x.png", "'@/nirgends' holds no run: name the folder that was --log of a training"),
    Bad(f"predict @/{LONG} x.png", f"'@/{LONG}' holds no run: name the folder"),
    Bad("predict @/images @/images", "'@/images' holds no run: name the folder"),
    Bad("predict @/run x.png --checkpoint newest", "--checkpoint: invalid choice: 'newest'"),
    Bad("predict @/run x.png --top 0", "--top: must be a whole number of 1 or more, got '0'"),
    Bad("predict @/run x.png --top 11", "--top 11 is more than the run's 10 classes: ask for fewer, or --all"),
    Bad("predict @/run x.png --top 2 --all", "--all: not allowed with argument --top"),
    Bad("predict @/run x.png -b 0", "--batch-size: must be a whole number of 1 or more, got '0'"),
    Bad("predict @/run x.png --device meta", "--device meta cannot be used .*: try --device cpu"),
    Bad(f"{PREDICT} --out ''", "--out: must be the name of a file or folder, got ''"),
    Bad(f"{PREDICT} --out @/images", r"cannot save '@/images' \(Is a directory\): put that right, and run"),
    Bad(f"{PREDICT} --out @/nirgends/x", r"cannot save '@/nirgends/x' \(No such file .*\): put that right, and run"),
    Bad(PREDICT, r"none of 1 images could be read, not '@/x.png' for one \(there is no such file\): name others"),
    Bad(PREDICT, "'@/run' has no checkpoint 'best' yet: train to the end", remove("run/checkpoints/best.pth")),
    Bad(PREDICT, "best.pth' is damaged .*: remove it", write("run/checkpoints/best.pth", b"PK\3\4")),
    Bad(PREDICT, "best.pth' holds no 'model': name another run", saved("run/checkpoints/best.pth", {"model": [1]})),
    Bad(PREDICT, "best.pth' holds no names of classes.*: use", saved("run/checkpoints/best.pth", {"model": {}})),
    Bad(f"{PREDICT} --checkpoint latest", "latest.pth' does not fit", latest("model", {})),
    Bad(PREDICT, r"'@/run/args.json' cannot be read .*: name the folder of another run", write("run/args.json", b"{")),
    Bad(
        PREDICT,
        r"'@/run/args.json' is not what a run wrote \(data\): name another run",
        edited("run/args.json", args=5),
    ),
    Bad(PREDICT, r"args.json' is not what a run wrote \(method\): name another", edited("run/args.json", method=[])),
    Bad(PREDICT, "unknown model 'resnet1': did you mean", argument("arch", "resnet1")),
    *(
        Bad(PREDICT, rf"args.json' is not what a run wrote \({name}\): name another run", argument(name, value))
        for name, value in {
            "arch": 5,
            "lora": "4",
            "adapter": 0,
            "bottleneck_dim": -1,
            "precision": 16,
            "val_resizing": ["native"],
        }.items()
    ),
    *(
        Bad(PREDICT, rf"args.json' is not what a run wrote \({name}\): name another run", argument(name, value))
        for name, value in {"image_size": "32", "norm_mean": [1, 2], "norm_std": [0, 1, 1]}.items()
    ),
    Bad(PREDICT, "'model' of checkpoint '@/run/checkpoints/best.pth' does not fit", argument("bottleneck_dim", 5)),
    Bad("predict @/run x.png --uncertain 0", "--uncertain: must be a whole number of 1 or more, got '0'"),
    Bad("predict @/run x.png --uncertain all", "--uncertain: must be a whole number of 1 or more, got 'all'"),
    Bad("predict @/run x.png --page ''", "--page: must be the name of a file or folder, got ''"),
    Bad("predict @/run x.png --page @/x --out @/./x", "--page and --out name the same file: choose another name for"),
    Bad(f"{PREDICT} --page @/p.html", r"none of 1 images could be read, not '@/x.png' for one .*: name others"),
    Bad(f"{IMAGE} --page @/images", r"cannot save '@/images' \(Is a directory\): put that right"),
    Bad(f"{IMAGE} --page @/nirgends/p.html", r"--page '@/nirgends/p.html': there is no such folder: make it"),
    Bad(f"{IMAGE} --page @/pipe", "cannot save '@/pipe' .it is no regular file.: choose", pipe("pipe")),
    Bad(
        f"{IMAGE} --uncertain 3 --page @/p.html", "all 1 images have labels already, or are for testing: name", labeled
    ),
    Bad(f"{IMAGE} --uncertain 3", "labeled.json' cannot be read .*: name the folder of another run", unlabeled),
    # Exports
    Bad("export @/run", "the following arguments are required: OUT"),
    Bad("export @/run @/x.pth", "OUT '@/x.pth' must end with .safetensors: give it that ending"),
    Bad(
        "export @/run @/x --timm",
        "--timm: '@/run/checkpoints/best.pth' has a bottleneck, which timm lacks: train again",
    ),
    Bad("export @/run @/x.safetensors --timm", "--timm writes a folder, .* has a file's ending: name it without"),
    Bad("export @/run @/x --timm --onnx", "argument --onnx: not allowed with argument --timm|--timm: not allowed with"),
    Bad("export @/nirgends @/x.safetensors", "'@/nirgends' holds no run: name the folder"),
    Bad(f"{EXPORT} --checkpoint last", "--checkpoint: invalid choice: 'last'"),
    Bad("export @/run @/nirgends/x.safetensors", r"cannot save '@/nirgends/x.safetensors' \(No such .*: put that"),
    Bad(EXPORT, r"cannot save '@/x.safetensors' \(Is a directory\): put that", folder("x.safetensors")),
    Bad(f"export @/run @/{LONG}.safetensors", r"cannot save .* \(File name too long\): put that right"),
    Bad(EXPORT, "'@/run' has no checkpoint 'best' yet: train to the end", remove("run/checkpoints/best.pth")),
    Bad(EXPORT, "best.pth' is damaged .*: remove it", write("run/checkpoints/best.pth", b"PK\3\4")),
    # The other programs
    Bad("scripts.label @/nirgends @/list.csv --out @/new", "folder '@/nirgends' is missing: name the", rows(*TWO)),
    Bad("scripts.label @/images @/no.csv --out @/new", "there is no list '@/no.csv': name another, or write lines"),
    Bad("scripts.label @/images @/images --out @/new", "there is no list '@/images': name another, or write lines"),
    Bad("scripts.label @/images", "the following arguments are required: LABELS.csv"),
    Bad("scripts.label @/images @/list.csv 0", "MINUTES: must be a finite number above 0, got '0'"),
    Bad("scripts.label @/images @/list.csv soon", "MINUTES: must be a finite number above 0, got 'soon'"),
    Bad("scripts.label @/images @/list.csv --out @/images/new", "--out '@/images/new' and PHOTOS must not lie within"),
    Bad("scripts.label @/images/train @/list.csv --out @/images", "PHOTOS must not lie within each other: choose"),
    Bad(f"{LABEL} --scratch --weights @/backbone.pth", "--scratch begins with random weights, .* give one of them"),
    Bad(
        f"{LABEL} --out @/run", "'@/run' holds files, but no label.json of a call .*: choose another --out", rows(*TWO)
    ),
    Bad(f"{LABEL} --out @/list.csv", r"cannot write to '@/list.csv' \(File exists\): choose another --out", rows(*TWO)),
    Bad(LABEL, "'@/list.csv' has one class, 'cat': add images of others", rows("unlabeled/0.png,cat")),
    Bad(LABEL, "line 2: 'no.png' is none of the images below '@/images'", rows("unlabeled/0.png,cat", "no.png,dog")),
    Bad(f"{LABEL} --device nope", "--device nope cannot be used .*: try --device cpu", rows(*TWO)),
    Bad(f"{LABEL} --image-size 0", "--image-size: must be a whole number of 1 or more, got '0'"),
    Bad(f"{LABEL} --seed -1", "--seed: must be a whole number from 0 to 4294967295, got '-1'"),
    Bad(f"{LABEL} --weights @/no.pth", "'@/no.pth'", rows(*TWO)),
    Bad(f"{LABEL} --minutes 5", "unrecognized arguments: --minutes"),
    Bad(
        f"{LABEL} --out @/old",
        "'@/old/label.json' cannot be read .*: remove it, or choose another --out",
        lambda w: [(w / "old").mkdir(), (w / "old/label.json").write_text("{"), rows(*TWO)(w)],
    ),
    Bad(
        f"{LABEL} --out @/old",
        "'@/old/label.json' is none that this program wrote: remove it, or choose another --out",
        lambda w: [(w / "old").mkdir(), (w / "old/label.json").write_text("{}"), rows(*TWO)(w)],
    ),
    Bad("scripts.collect_results @/images", "no finished run below @/images"),
    Bad(
        "scripts.collect_results @/run",
        "'@/run/args.json' is damaged .*: run its command again, or remove it",
        write("run/args.json", b"{"),
    ),
    Bad(
        "scripts.collect_results @/run",
        "'@/run/args.json' is damaged .*recursion.*: run its command again, or remove it",
        write("run/args.json", b"[" * 100_000),
    ),
    Bad(
        "scripts.collect_results @/run",
        "'@/run/result.json' is damaged .*: run its command again, or remove it",
        write("run/result.json", b"["),
    ),
    Bad(f"scripts.collect_results @/{LONG}", f"folder '@/{LONG}' does not exist: name one that holds runs"),
    Bad("scripts.collect_results @/run", f"args.json' is damaged .*object.*: {AGAIN}", edited("run/args.json", args=5)),
    Bad("scripts.collect_results @/run", f"args.json' .*'epochs'.*: {AGAIN}", edited("run/args.json", args={})),
    Bad("scripts.collect_results @/run", f"result.json' .*object.*: {AGAIN}", write("run/result.json", b"[]")),
    Bad("scripts.collect_results @/run", f"result.json' .*'method'.*: {AGAIN}", write("run/result.json", b"{}")),
    Bad("scripts.collect_results @/run", f"'last_top1'.*: {AGAIN}", edited("run/result.json", last_top1="high")),
    Bad("scripts.collect_results @/run", f"'dataset'.*: {AGAIN}", edited("run/result.json", dataset=["CIFAR10"])),
    Bad("scripts.collect_results @/run", f"metrics.jsonl' .*: {AGAIN}", write("run/metrics.jsonl", b"{}\n5\n")),
    Bad("scripts.collect_results @/run", f"args.json' .*'sources'.*: {AGAIN}", argument("sources", 5)),
    Bad("scripts.collect_results @/run --csv @/images", r"cannot save '@/images' \(Is a directory\): put that right"),
    Bad("scripts.benchmark --rounds 0", "--rounds: must be a whole number of 1 or more, got '0'"),
    Bad(
        "scripts.benchmark --quick --device cpu --sections steps -- -a resnet1", "unknown model 'resnet1': did you mean"
    ),
    Bad("common.datasets.__main__ --check DTD", "--check and --download need the folder .*: name it first"),
    Bad("common.datasets.__main__ @/nirgends --check DTD", "DTD is not under '@/nirgends': try --download DTD"),
    Bad(
        "common.datasets.__main__ @/images --check ImageFolder --labeled-list @/list.csv",
        "'@/list.csv' has 2 broken lines: correct them, or remove them",
        rows("gone.png,cat", "lost.png,cat"),
    ),
    Bad("common.datasets.__main__ @/images --check DTD --labeled-list x", "is for --check ImageFolder: leave it out"),
    Bad(
        "common.datasets.__main__ @/images --labeled-list x", "--labeled-list is for --check ImageFolder: leave it out"
    ),
    Bad("common.datasets.__main__ @/nirgends --check Mine", "--check: invalid choice: 'Mine'"),
]
SCRATCH = (
    "-a wrn_10_1_half --scratch --image-size 32 --num-samples-per-class 2 -b 2 --bottleneck-dim 8 --epochs 1 "
    "--iters-per-epoch 4 --workers 0 --device cpu --any-counts"
).split()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    train_small("fixmatch", log=folder)
    return folder


@pytest.fixture
def world(tmp_path, finished) -> Path:
    """A folder with images, a backbone file and a finished run, which has spaces and an umlaut in its name."""
    world = tmp_path / "die Wörld"
    for name in ("train/cat", "train/dog", "test/cat", "test/dog", "unlabeled"):
        (world / "images" / name).mkdir(parents=True)
    for name in ("train/cat/0", "train/cat/1", "train/cat/2", "train/dog/0", "train/dog/1", "train/dog/2"):
        Image.new("RGB", (40, 30), (80, 0, 0)).save(world / "images" / f"{name}.png")
    for name in ("test/cat/0", "unlabeled/0", "unlabeled/1", "unlabeled/2", "unlabeled/3"):
        Image.new("RGB", (40, 30), (0, 80, 0)).save(world / "images" / f"{name}.png")
    Image.new("RGB", (32, 32)).save(world / "digit.png")
    torch.save(timm.create_model("wrn_10_1_half", num_classes=0).state_dict(), world / "backbone.pth")
    shutil.copytree(finished, world / "run")
    return world


def argv(command: str, world: Path) -> tuple[str, list[str]]:
    """The module and its arguments: a later flag replaces an earlier one."""
    script, *words = shlex.split(command)
    if "@run" in words:
        words = [*SMALL, "--log", "@/run", *words[words.index("@run") + 1 :]]
    elif "." not in script and "moco" not in script and script not in ("predict", "export"):
        named = words and not words[0].startswith("-")
        data = [] if named else ["@/images"] if "-d" in words else ["@/images", "-d", "ImageFolder"]
        start = [flag for flag in SCRATCH if flag != "--scratch" or "--pretrained-backbone" not in words]
        words = [*words[: 3 if named else 0], *data, *start, "--log", "@/new", *words[3 if named else 0 :]]
        words += ["--scratch"] if "--pretrained-backbone x.pth --scratch" in command else []
    return script, [word.replace("@", str(world)) for word in words]


REMEDY = (
    "must|needs ROOT|takes|required|are needed|choose|--help|did you mean|leave it out|drop|try|give|use |ask for|"
    "add|put|restore|replace|remove|download|convert|save the|free some space|make room|train first|name|run |such as|"
    "not allowed with|another"
)
# What is found only after a run has begun: it goes on when that is put right.
BEGUN = "cannot be read|views.png|tensorboard"


def files(world: Path) -> dict[Path, bytes]:
    """All but logs and locks, which a run that only looked may leave."""
    paths = [path for path in world.rglob("*") if path.is_file() and path.name not in ("log.txt", ".lock", "views.png")]
    return {path: path.read_bytes() for path in paths}


@pytest.mark.parametrize("bad", BAD, ids=[f"{i}: {bad.command[:80]}" for i, bad in enumerate(BAD)])
def test_one_line_and_nothing_touched(bad, world, capsys):
    bad.spoil(world)
    before = files(world)
    script, words = argv(bad.command, world)
    module = importlib.import_module(script)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        with pytest.raises(SystemExit) as end:
            cli.launch(lambda: module.parse_args(words), module.main)
    assert not [str(each.message) for each in warned if issubclass(each.category, UserWarning | RuntimeWarning)]
    shown = capsys.readouterr().err
    assert end.value.code == 2
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert re.search(REMEDY, re.sub("'.*?'", "", shown))
    assert re.search(bad.message.replace("@", re.escape(str(world))), shown)
    after = files(world)
    assert {path: after.get(path) for path in before} == before
    begun = re.search(BEGUN, bad.message)  # then the steps so far may have been saved
    assert not [path for path in after if path.suffix in (".tmp", *(() if begun else (".pth",))) and path not in before]
    assert not (world / "new" / "result.json").exists()
    if not begun:
        assert not (world / "new" / "args.json").exists()


def test_names_with_spaces_and_umlauts_are_fine(world):
    """What is in the table is refused for its own sake."""
    for command in ("erm --oracle", "fixmatch --pretrained-backbone @/backbone.pth --log '@/mein Lauf'"):
        script, words = argv(command, world)
        module = importlib.import_module(script)
        module.main(module.parse_args(words))
    assert (world / "new" / "result.json").exists()
    assert (world / "mein Lauf" / "checkpoints" / "best.pth").exists()


def test_the_docs_count_them():
    row = re.search(r"^\| bad input: .*", (ROOT / "docs" / "guarantees.md").read_text(), re.M)[0]
    assert row.split("|")[2:4] == [f" {len(BAD)} "] * 2
