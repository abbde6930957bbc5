"""Backbones (`--arch`): timm's networks without their classifier, with pretrained or random weights."""

import contextlib
import difflib
import logging
from typing import Any

import timm
import torch
from timm.layers import DropPath
from timm.models import PretrainedCfg, get_deprecated_models, get_pretrained_cfg
from torch import Tensor, nn

from common.errors import UserError
from common.loading.augment import Normalizer
from common.networks import pretrained
from common.networks.backbone_files import TimmModel, load_backbone
from common.system import memory
from common.wide_resnet import WideResNet  # the import also registers its networks with timm

logger = logging.getLogger(__name__)

# These bare names mean torchvision's first ImageNet weights, with which the published table was made. timm's own
# default weights for `resnet50` are of another recipe. A tagged name such as resnet50.a1_in1k means those weights.
TORCHVISION_V1 = {
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
}

NO_BRANCHES = "has no residual branches to leave out: drop the flag"


def timm_name(arch: str) -> str:
    """The timm model that `--arch` means. A deprecated name becomes its present one.

    Raises:
        UserError: timm has no such model.
    """
    name = f"{arch}.tv_in1k" if arch in TORCHVISION_V1 else get_deprecated_models().get(arch) or arch
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), n=3)
    elif tag and name not in timm.list_pretrained(f"{base}.*"):
        near = timm.list_pretrained(f"{base}.*")
    else:
        return name
    hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists all"
    raise UserError(f"unknown model '{arch}': {hint}")


def weights_name(arch: str) -> str | None:
    """The tagged name of the pretrained weights that `--arch` means; without a tag, timm's default weights.

    None if timm has no weights for it.

    Raises:
        UserError: timm has no such model.
    """
    config = get_pretrained_cfg(timm_name(arch))
    return f"{config.architecture}.{config.tag}" if config is not None and config.has_weights else None


def own_config(arch: str, scratch: bool, file: str | None) -> PretrainedCfg | None:
    """timm's description of the weights that a backbone starts from: their input size, statistics and more.

    None for random weights, and for a file, unless a tagged name says which weights the file holds. None for the bare
    names of torchvision's ResNets, too, since the published table was made with the dataset's statistics.

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
        image_size: side of the images in pixels. A network that takes only one size is made for this one, and its
            pretrained position embeddings are resampled to it.
        normalizer: how images are normalised. A model that was pretrained with other statistics logs a warning.
        scratch: start from random weights.
        file: start from this backbone file instead of timm's weights. Then nothing is downloaded.
        no_pool: refuse models that end in feature maps, such as ResNets.
        drop_path: stochastic depth (arXiv:1603.09382): the rate at which the last residual branch is dropped in
            training. It falls linearly to 0 at the first branch. None: the model's own rate.

    Raises:
        UserError: the model is unknown or gives no pooled features; there are no such weights, or their download fails;
            the file or the image size does not fit; `no_pool` or `drop_path` does not suit the model.
    """
    name = timm_name(arch)
    download = not scratch and file is None
    if download:
        name = _with_weights(arch)
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


def _with_weights(arch: str) -> str:
    name = weights_name(arch)
    if name is None:
        raise UserError(f"'{arch}' has no pretrained weights: add --scratch, or --pretrained-backbone FILE")
    if name != arch:
        logger.info(f"'{arch}' starts from timm's weights '{name}'")
    return name


def _of_size(name: str, image_size: int, download: bool, options: dict[str, Any]) -> TimmModel:
    """timm's network as it is, if it takes images of this size; otherwise made for the size (`img_size`)."""
    generator = torch.get_rng_state()
    model = _create(name, download, options)
    try:
        model.feature_dim = _feature_dim(model, name, image_size)
        return model
    except (AssertionError, RuntimeError) as error:  # ViT and Swin take one size only, and Inception no small one
        if memory.shortage(error):
            raise
        size, reason = model.pretrained_cfg["input_size"][-1], str(error).split("\n")[0]
    try:
        torch.set_rng_state(generator)
        model = _create(name, download, options | {"img_size": image_size})
        model.feature_dim = _feature_dim(model, name, image_size)
        return model
    except (AssertionError, RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        if memory.shortage(error):
            raise
        # The network has no option `img_size`, or cannot be made for this size.
        raise UserError(
            f"'{name}' cannot take {image_size}-pixel images ({reason}): try --image-size {size}, without native "
            "resizing"
        ) from None


def _create(name: str, download: bool, options: dict[str, Any]) -> TimmModel:
    rate = options.get("drop_path_rate")
    try:
        with pretrained.of_weights(name) if download else contextlib.nullcontext():
            model = timm.create_model(name, pretrained=download, num_classes=0, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        if rate == 0:  # the same network as without the option
            return _create(name, download, {key: value for key, value in options.items() if key != "drop_path_rate"})
        raise UserError(f"--drop-path: '{name}' {NO_BRANCHES}") from None
    if rate and not any(isinstance(m, DropPath) for m in model.modules()):
        raise UserError(f"--drop-path: '{name}' {NO_BRANCHES}")
    return model


def _warn_of_other_statistics(model: TimmModel, name: str, normalizer: Normalizer) -> None:
    own = [*model.pretrained_cfg["mean"], *model.pretrained_cfg["std"]]
    if any(abs(a - b) > 1e-3 for a, b in zip(own, [*normalizer.mean, *normalizer.std], strict=True)):
        flags = "--norm-mean {:g} {:g} {:g} --norm-std {:g} {:g} {:g}".format(*own)
        logger.warning(f"'{name}' was pretrained with other statistics than images are normalised with here: {flags}")


@torch.no_grad()
def _feature_dim(model: nn.Module, name: str, image_size: int) -> int:
    """D, found by a forward pass: timm's `num_features` is not the output's size in every family."""
    was_training = model.training
    features = model.eval()(torch.zeros(1, 3, image_size, image_size))
    model.train(was_training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        shape = f" of the shape {list(features.shape[1:])}" if isinstance(features, Tensor) else ""
        raise UserError(
            f"'{name}' is no classifier: it gives tokens or maps{shape} for an image in place of one row of features; "
            "choose another --arch"
        )
    return features.shape[1]
