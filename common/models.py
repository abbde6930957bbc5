"""Backbones from timm, strict loading of backbone files, and the classifier that all methods train."""

import difflib
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from common import checkpoint
from common.errors import UserError
from common.wide_resnet import WideResNet  # the import also registers its networks with timm

logger = logging.getLogger(__name__)

# Bare names mean torchvision's first ImageNet weights, which the published table was made with; timm's own default
# for `resnet50` is another recipe. A tagged name such as resnet50.a1_in1k is taken as it stands.
TORCHVISION_V1 = {
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
}


def timm_name(arch: str) -> str:
    """The timm model that `--arch` means.

    Raises:
        UserError: timm has no such model.
    """
    name = f"{arch}.tv_in1k" if arch in TORCHVISION_V1 else arch
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), n=3)
    elif tag and name not in timm.list_pretrained(f"{base}.*"):
        near = timm.list_pretrained(f"{base}.*")
    else:
        return name
    hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists all"
    raise UserError(f"unknown model '{arch}': {hint}")


def backbone(
    arch: str,
    image_size: int,
    norm_mean: Sequence[float],
    norm_std: Sequence[float],
    scratch: bool = False,
    file: str | None = None,
    no_pool: bool = False,
) -> nn.Module:
    """A timm model without its classifier: [B, 3, image_size, image_size] -> pooled features [B, D].

    Args:
        arch: `--arch`; see `timm_name`.
        image_size: side of the images in pixels.
        norm_mean, norm_std: how they are normalised; a model pretrained otherwise draws a warning.
        scratch: start from random weights.
        file: start from this backbone file in place of timm's weights; never touches the network.
        no_pool: the caller counts on a model that pools its features in its own way, which the ResNets do not.

    Raises:
        UserError: unknown model, no such weights, a failed download, an unfit file or image size, `no_pool` refused.
    """
    name = timm_name(arch)
    download = not scratch and file is None
    model = _create(name, download)
    if no_pool and isinstance(model, timm.models.ResNet | WideResNet):
        raise UserError(f"'{arch}' ends in feature maps, which need pooling: drop --no-pool")
    if isinstance(model, WideResNet) and image_size > 96:
        logger.warning(
            f"'{name}' is made for small images, and {image_size} pixels make it slow: see --train-resizing native"
        )
    if file is not None:
        load_backbone(model, file)
    if download:
        _warn_of_other_statistics(model, name, norm_mean, norm_std)
    model.feature_dim = _feature_dim(model, name, image_size)
    return model


def _create(name: str, download: bool) -> nn.Module:
    if download and name not in timm.list_pretrained():
        raise UserError(f"'{name}' has no pretrained weights: add --scratch, or --pretrained-backbone FILE")
    try:
        return timm.create_model(name, pretrained=download, num_classes=0)
    except OSError as error:  # the hub's errors are OSErrors
        reason = str(error).split("\n")[0]
        raise UserError(
            f"the weights of '{name}' could not be downloaded ({reason}): connect to the internet once, "
            "or give --pretrained-backbone FILE or --scratch"
        ) from None


def _warn_of_other_statistics(model: nn.Module, name: str, mean: Sequence[float], std: Sequence[float]) -> None:
    own = [*model.pretrained_cfg["mean"], *model.pretrained_cfg["std"]]
    if any(abs(a - b) > 1e-3 for a, b in zip(own, [*mean, *std], strict=True)):
        flags = "--norm-mean {:g} {:g} {:g} --norm-std {:g} {:g} {:g}".format(*own)
        logger.warning(f"'{name}' was pretrained with other statistics than images are normalised with here: {flags}")


@torch.no_grad()
def _feature_dim(model: nn.Module, name: str, image_size: int) -> int:
    """Ask the model itself: timm's `num_features` is not what every family returns."""
    was_training = model.training
    try:
        features = model.eval()(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError) as error:  # ViT and Swin take one size, Inception no small ones
        size, reason = model.pretrained_cfg["input_size"][-1], str(error).split("\n")[0]
        raise UserError(f"'{name}' cannot take {image_size}-pixel images ({reason}): try --image-size {size}") from None
    model.train(was_training)
    return features.shape[1]


def read_checkpoint(file: str | Path) -> Any:
    """What a .pth or .safetensors file holds; no code in it is ever run.

    Raises:
        UserError: the file is missing, not a checkpoint, or holds more than tensors and plain values.
    """
    file = Path(file)
    if not os.path.isfile(file):  # as Path's own, but false for names that are too long
        what = "is a folder" if os.path.isdir(file) else "does not exist"
        raise UserError(f"file '{file}' {what}: give the path of a .pth or .safetensors file")
    try:
        return load_file(file) if file.suffix == ".safetensors" else checkpoint.load_safely(file)
    except (*checkpoint.UNREADABLE, SafetensorError) as error:
        reason = checkpoint.why(error)
        raise UserError(
            f"'{file}' is not a checkpoint that can be loaded safely ({reason}): download or convert it again"
        ) from None


def read_state_dict(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a .pth or .safetensors file.

    Raises:
        UserError: see `read_checkpoint`; or it holds other things than tensors.
    """
    state = read_checkpoint(file)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(key, str) and is_plain(state[key]) for key in state):
        raise UserError(f"'{file}' does not hold a dictionary of tensors: save the state_dict of a backbone")
    return state


def is_plain(value: Any) -> bool:
    """Whether it is a tensor such as weights are: dense, real, not quantized, and with values."""
    if not isinstance(value, Tensor) or value.is_meta or value.is_quantized:
        return False
    return value.layout == torch.strided and not value.is_complex()


def load_backbone(model: nn.Module, file: str | Path) -> None:
    """Load a backbone file strictly: it must hold every tensor of the model, and beyond them only a classifier.

    Raises:
        UserError: see `read_state_dict`; or keys are missing, left over, of other shapes or types, or not finite.
    """
    state = read_state_dict(file)
    if any(".encoder_q." in key or key.startswith(("module.encoder", "module.base_encoder")) for key in state):
        raise UserError(
            f"'{file}' is an unconverted MoCo checkpoint: run "
            f"python convert_moco_to_pretrained.py {file} BACKBONE_OUT FC_OUT and pass BACKBONE_OUT"
        )
    heads = model.pretrained_cfg["classifier"] or ()  # timm gives one name, several, or none
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    state = {key: value for key, value in state.items() if not key.startswith(heads)}
    wanted = model.state_dict()
    # Buffers that count batches came with PyTorch 0.4.1; older files lack them, and they do not change a result.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in wanted]
    shapes = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    floats = {key for key in wanted if wanted[key].is_floating_point()}
    integers = [key for key in wanted if key in state and key in floats and not state[key].is_floating_point()]
    problems = {
        "lacks": missing,
        "has, beyond the backbone,": surplus,
        "has other shapes for": shapes,
        "has whole numbers for": integers,
    }
    for problem, keys in problems.items():
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise UserError(f"'{file}' {problem} {', '.join(keys[:3])}{more}: it is a file for another --arch")
    broken = checkpoint.not_finite(state)
    if broken is not None:
        raise UserError(f"'{file}' holds NaN or infinity in {broken}: train, convert or download it again")
    model.load_state_dict(state, strict=False)


def sha256(file: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class ImageClassifier(nn.Module):
    """backbone -> bottleneck -> head: images [B, 3, H, W] -> float32 logits [B, C].

    Args:
        backbone: gives features [B, backbone.feature_dim].
        num_classes: C.
        bottleneck_dim: width of the bottleneck (Linear, BatchNorm, ReLU, Dropout 0.5).
        precision: of backbone and bottleneck: `float32`, or `bf16` for autocast to bfloat16. Weights and what comes
            out, features and logits, are float32 either way.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, bottleneck_dim: int = 1024, precision: str = "float32"):
        super().__init__()
        self.precision = precision
        self.backbone = backbone
        self.bottleneck = nn.Sequential(
            nn.Linear(backbone.feature_dim, bottleneck_dim), nn.BatchNorm1d(bottleneck_dim), nn.ReLU(), nn.Dropout(0.5)
        )
        nn.init.normal_(self.bottleneck[0].weight, std=0.005)
        nn.init.constant_(self.bottleneck[0].bias, 0.1)
        self.head = nn.Linear(bottleneck_dim, num_classes)
        self.feature_dim = bottleneck_dim
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """The bottleneck's output [B, bottleneck_dim], after dropout in train mode."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features = self.bottleneck(self.backbone(images))
        return features.float()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def parameter_groups(self, lr: float, finetune: bool) -> list[dict]:
        """Groups for the optimizer: with `finetune`, the backbone learns at a tenth of the rate."""
        return [
            {"params": self.backbone.parameters(), "lr": 0.1 * lr if finetune else lr},
            {"params": self.bottleneck.parameters(), "lr": lr},
            {"params": self.head.parameters(), "lr": lr},
        ]
