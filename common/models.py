"""Backbones from timm, strict loading of backbone files, and the classifier that all methods train."""

import contextlib
import difflib
import hashlib
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import DropPath, resample_abs_pos_embed
from timm.models import PretrainedCfg, VisionTransformer, get_pretrained_cfg
from torch import Tensor, nn

from common import batch_norm, checkpoint, processes
from common.augment import Normalizer
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


def own_config(arch: str, scratch: bool, file: str | None) -> PretrainedCfg | None:
    """What timm knows of the weights that a backbone starts from: their input size and statistics, among others.

    None where it knows nothing: of random weights, and of a file, unless a tagged name says which weights it holds.
    The bare names of torchvision's ResNets have None, too: the published table was made with the dataset's statistics.

    Raises:
        UserError: timm has no such model.
    """
    if scratch or arch in TORCHVISION_V1 or (file is not None and "." not in arch):
        return None
    config = get_pretrained_cfg(timm_name(arch))
    return config if config is not None and config.has_weights else None


def backbone(
    arch: str,
    image_size: int,
    normalizer: Normalizer,
    scratch: bool = False,
    file: str | None = None,
    no_pool: bool = False,
    drop_path: float | None = None,
) -> nn.Module:
    """A timm model without its classifier: [B, 3, image_size, image_size] -> pooled features [B, D].

    Args:
        arch: `--arch`; see `timm_name`.
        image_size: side of the images in pixels. A network that takes one size alone is made for this one; pretrained
            position embeddings are resampled to it.
        normalizer: how images are normalised; a model pretrained otherwise draws a warning.
        scratch: start from random weights.
        file: start from this backbone file in place of timm's weights; never touches the network.
        no_pool: the caller counts on a model that pools its features in its own way, which the ResNets do not.
        drop_path: rate of the last residual branch that is left out in training (arXiv:1603.09382), falling to 0 at
            the first one; None: the model's own rate.

    Raises:
        UserError: unknown model, no such weights, a failed download, an unfit file or image size, `no_pool` refused,
            no residual branches to leave out.
    """
    name = timm_name(arch)
    download = not scratch and file is None
    model = _of_size(name, image_size, download, {} if drop_path is None else {"drop_path_rate": drop_path})
    if no_pool and isinstance(model, timm.models.ResNet | WideResNet):
        raise UserError(f"'{arch}' ends in feature maps, which need pooling: drop --no-pool")
    if isinstance(model, WideResNet) and image_size > 96:
        logger.warning(
            f"'{name}' is made for small images, and {image_size} pixels make it slow: see --train-resizing native"
        )
    if file is not None:
        load_backbone(model, file)
    if download:
        _warn_of_other_statistics(model, name, normalizer)
    return model


def _of_size(name: str, image_size: int, download: bool, options: dict[str, float]) -> nn.Module:
    """As timm makes it, where that takes the images; else as timm makes it for their size."""
    generator = torch.get_rng_state()
    model = _create(name, download, options)
    try:
        model.feature_dim = _feature_dim(model, image_size)
        return model
    except (AssertionError, RuntimeError) as error:  # ViT and Swin are made for one size, Inception takes no small ones
        size, reason = model.pretrained_cfg["input_size"][-1], str(error).split("\n")[0]
    try:
        torch.set_rng_state(generator)
        model = _create(name, download, options | {"img_size": image_size})
        model.feature_dim = _feature_dim(model, image_size)
        return model
    except (AssertionError, RuntimeError, TypeError, ValueError, ArithmeticError):  # no such option, or no such size
        raise UserError(
            f"'{name}' cannot take {image_size}-pixel images ({reason}): try --image-size {size}, without native "
            "resizing"
        ) from None


def _create(name: str, download: bool, options: dict[str, float]) -> nn.Module:
    if download and name not in timm.list_pretrained():
        raise UserError(f"'{name}' has no pretrained weights: add --scratch, or --pretrained-backbone FILE")
    try:
        with processes.first_of_machine_first() if download else contextlib.nullcontext():
            model = timm.create_model(name, pretrained=download, num_classes=0, **options)
    except OSError as error:  # the hub's errors are OSErrors
        reason = str(error).split("\n")[0]
        raise UserError(
            f"the weights of '{name}' could not be downloaded ({reason}): connect to the internet once, "
            "or give --pretrained-backbone FILE or --scratch"
        ) from None
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        model = None
    if options.get("drop_path_rate") and not (model and any(isinstance(m, DropPath) for m in model.modules())):
        raise UserError(f"--drop-path: '{name}' has no residual branches to leave out: drop the flag")
    return model


def _warn_of_other_statistics(model: nn.Module, name: str, normalizer: Normalizer) -> None:
    own = [*model.pretrained_cfg["mean"], *model.pretrained_cfg["std"]]
    if any(abs(a - b) > 1e-3 for a, b in zip(own, [*normalizer.mean, *normalizer.std], strict=True)):
        flags = "--norm-mean {:g} {:g} {:g} --norm-std {:g} {:g} {:g}".format(*own)
        logger.warning(f"'{name}' was pretrained with other statistics than images are normalised with here: {flags}")


@torch.no_grad()
def _feature_dim(model: nn.Module, image_size: int) -> int:
    """Ask the model itself: timm's `num_features` is not what every family returns."""
    was_training = model.training
    features = model.eval()(torch.zeros(1, 3, image_size, image_size))
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

    A ViT's position embeddings are resampled to the model's, where only their number differs.

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
    state = _with_resampled_positions(state, model)
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


def _with_resampled_positions(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state for the model's number of patches, where it is a ViT's of another one (and square)."""
    if not isinstance(model, VisionTransformer) or model.pos_embed is None or "pos_embed" not in state:
        return state
    found, wanted = state["pos_embed"], model.pos_embed
    other_tokens = 0 if model.no_embed_class else model.num_prefix_tokens
    if found.ndim != 3 or found.shape[::2] != wanted.shape[::2] or found.shape[1] in (wanted.shape[1], other_tokens):
        return state
    patches = max(0, found.shape[1] - other_tokens)
    if math.isqrt(patches) ** 2 != patches or not found.is_floating_point():
        return state  # load_backbone says what is wrong
    grid = list(model.patch_embed.grid_size)
    return state | {"pos_embed": resample_abs_pos_embed(found, new_size=grid, num_prefix_tokens=other_tokens)}


def sha256(file: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class ImageClassifier(nn.Module):
    """backbone -> bottleneck -> head: images [B, 3, H, W] -> float32 logits [B, C].

    Its features, what comes out of the bottleneck, have `feature_dim` dimensions.

    Args:
        backbone: gives features [B, backbone.feature_dim].
        num_classes: C.
        bottleneck_dim: width of the bottleneck (Linear, BatchNorm, ReLU, Dropout 0.5); 0 for none.
        precision: of backbone and bottleneck: `float32`, or `bf16` for autocast to bfloat16. Weights and what comes
            out, features and logits, are float32 either way.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, bottleneck_dim: int = 1024, precision: str = "float32"):
        super().__init__()
        self.precision = precision
        self.backbone = backbone
        self.bottleneck = _bottleneck(backbone.feature_dim, bottleneck_dim) if bottleneck_dim else nn.Identity()
        self.feature_dim = bottleneck_dim or backbone.feature_dim
        self.head = nn.Linear(self.feature_dim, num_classes)
        self.to(memory_format=torch.channels_last)
        batch_norm.over_processes(self)

    def features(self, images: Tensor) -> Tensor:
        """The bottleneck's output [B, feature_dim], after dropout in train mode."""
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


def _bottleneck(in_dim: int, out_dim: int) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(in_dim, out_dim), nn.BatchNorm1d(out_dim), nn.ReLU(), nn.Dropout(0.5))
    nn.init.normal_(layers[0].weight, std=0.005)
    nn.init.constant_(layers[0].bias, 0.1)
    return layers


def passes(model: nn.Module, views: Sequence[Tensor], no_grad: Tensor, joint: bool) -> list[Tensor]:
    """The logits of several views: a pass for each, one after the other, or one for all.

    In train mode a pass has BatchNorm statistics of its own. In one for all, the views share them, and so a gradient
    flows through them from the logits of one view into the features of all.

    Args:
        model: [B, 3, H, W] -> [B, C].
        views: of any numbers of images.
        no_grad: the one of the views whose logits are targets: nothing flows back from them.
        joint: one pass for all.
    """
    if joint:
        logits = model(torch.cat(list(views))).split([len(x) for x in views])
        return [each.detach() if x is no_grad else each for x, each in zip(views, logits, strict=True)]
    logits = []
    for x in views:
        with torch.set_grad_enabled(x is not no_grad):
            logits.append(model(x))
    return logits
