"""Weak, strong and test transforms of Pillow images, and the normaliser that turns their results into floats.

A transform returns uint8; `Normalizer` turns a batch into floats on the device. Transforms draw from the global CPU
generators, which the loaders seed anew for every view.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import RandAugment, rand_augment_transform
from timm.data.auto_augment import posterize as timm_posterize
from torch import Tensor, nn
from torchvision import transforms as T

from common.datasets import Spec
from common.errors import UserError
from common.loading import classic

BILINEAR, BICUBIC = T.InterpolationMode.BILINEAR, T.InterpolationMode.BICUBIC
RESIZINGS = ("default", "cifar", "native")
Operation = Callable[[Image.Image], Image.Image]


class Transform(T.Compose):
    """Transforms in sequence: RGB image -> uint8 [3, H, W]. Its name is shown in views.png."""

    def __init__(self, name: str, steps: list):
        super().__init__([*steps, as_tensor])
        self.name = name


def transforms(
    spec: Spec, train_resizing: str, val_resizing: str, image_size: int, strong: Sequence[Operation]
) -> tuple[Transform, Transform, Transform]:
    """The weak, the strong and the test transform: RGB image -> uint8 [3, image_size, image_size].

    weak, by `train_resizing`, with a horizontal flip in half of the cases where the dataset allows it:
        default: RandomResizedCrop of 20 to 100 % of the area, bilinear.
        cifar:   a crop at the dataset's own size from the image padded by an eighth (reflected); enlarged, bicubic.
        native:  the same crop, not enlarged.
    strong: weak, then the operations of `strong` at the final size.
    test, by `val_resizing`:
        default: squashed to a square of 256/224 of `image_size`, then a centre crop.
        cifar:   resized to `image_size`.
        native:  unchanged.

    Args:
        spec: of the dataset: its image size, and whether images may be flipped.
        train_resizing, val_resizing: one of `RESIZINGS` each.
        image_size: side of the views in pixels.
        strong: see `policy`.

    Raises:
        UserError: resizing is native, and the images have another size than `image_size`.
    """
    if val_resizing == "native" and image_size != spec.native_size:
        raise UserError(
            f"--image-size {image_size} contradicts native resizing: the images have {spec.native_size} pixels; give it"
        )
    flip = [T.RandomHorizontalFlip()] if spec.flip else []
    size: Any = spec.native_size  # None only if resizing is default
    if train_resizing == "default":
        weak = [T.RandomResizedCrop(image_size, scale=(0.2, 1.0), interpolation=BILINEAR), *flip]
    elif train_resizing == "cifar":
        weak = [ReflectCrop(size, size // 8), *_enlarged(image_size), *flip]
    else:
        weak = [ReflectCrop(size, size // 8, spec.flip)]
    return (
        Transform("weak", weak),
        Transform("strong", [*weak, as_image, *strong]),
        test_transform(val_resizing, image_size),
    )


def test_transform(val_resizing: str, image_size: int) -> Transform:
    """The test transform alone; see `transforms`."""
    squash = [T.Resize((resized(val_resizing, image_size),) * 2, BICUBIC), T.CenterCrop(image_size)]
    return Transform("test", {"default": squash, "cifar": _enlarged(image_size), "native": []}[val_resizing])


def resized(val_resizing: str, image_size: int) -> int:
    """The side, in pixels, of the square to which a test image is resized before its centre is cropped."""
    return round(image_size * 256 / 224) if val_resizing == "default" else image_size


def _enlarged(image_size: int) -> list:
    return [as_image, T.Resize((image_size, image_size), BICUBIC)]


def as_image(pixels: Image.Image | np.ndarray) -> Image.Image:
    """Convert an array to a Pillow image. A Pillow image is returned as it is."""
    return Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels


def as_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """RGB image -> uint8 [3, H, W].

    Like torchvision's pil_to_tensor, but without its checks, which took a tenth of the time of a pair of small views.
    """
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class ReflectCrop:
    """A random crop with reflected padding, then a random flip: the same draws and pixels as torchvision's.

    torchvision's RandomCrop and RandomHorizontalFlip took most of the time of a small view. They pad all four sides,
    although a crop shows at most two of them, and copy the image several times.

    Args:
        size: side of the crop in pixels.
        padding: on every side, in pixels.
        flip: mirror half of the crops.
    """

    def __init__(self, size: int, padding: int, flip: bool = False):
        self.size, self.padding, self.flip = size, padding, flip

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB image -> uint8 [size, size, 3]."""
        pixels = np.asarray(image)
        rows, columns = map(self._drawn_positions, pixels.shape[:2])
        if self.flip and torch.rand(1).item() < 0.5:
            columns = columns[::-1]
        return pixels.take(rows, 0).take(columns, 1)

    def _drawn_positions(self, length: int) -> np.ndarray:
        mirrored = _mirrored_positions(length, self.padding)
        start = torch.randint(len(mirrored) - self.size + 1, (1,)).item()
        return mirrored[start : start + self.size]


@functools.cache
def _mirrored_positions(length: int, padding: int) -> np.ndarray:
    """For each row (or column) of the padded image, the one of the image that it shows: int [length + 2 padding]."""
    return np.pad(np.arange(length), padding, mode="reflect")


def policy(auto_augment: str, norm_mean: Sequence[float], cutout: float) -> list[Operation]:
    """The operations that turn a weak view into a strong one.

    Args:
        auto_augment: a RandAugment string of timm, such as `rand-m10-n2-mstd2`; or `classic`, see `classic.Classic`.
        norm_mean: the colour, per channel and from 0 to 1, with which RandAugment's geometric operations and Cutout
            fill.
        cutout: largest side of Cutout's square, as a fraction of the image's side; 0 for no Cutout.

    Raises:
        UserError: unknown `auto_augment`.
    """
    fill = [min(255, round(255 * m)) for m in norm_mean]
    operation = classic.Classic() if auto_augment == "classic" else rand_augment(auto_augment, fill)
    return [operation, classic.Cutout(cutout, fill)] if cutout else [operation]


def rand_augment(config: str, fill: Sequence[int]) -> RandAugment:
    """timm's RandAugment (arXiv:1909.13719), with a `posterize` that works with Pillow 13.

    Args:
        config: such as `rand-m10-n2-mstd2`.
        fill: colour, 0 to 255 per channel.

    Raises:
        UserError: `config` does not describe a RandAugment.
    """
    if not re.fullmatch(r"rand(-((m|n|mmax|inc)\d+|(p|mstd)\d+(\.\d+)?))*", config):
        raise UserError(f"--auto-augment '{config}' is not a RandAugment string such as rand-m10-n2-mstd2, nor classic")
    augment = rand_augment_transform(config, {"img_mean": tuple(fill), "interpolation": Image.Resampling.BILINEAR})
    for operation in augment.ops:
        if operation.aug_fn is timm_posterize:
            operation.aug_fn = posterize
    return augment


def posterize(image: Image.Image, bits: int, **kwargs: Any) -> Image.Image:
    """Keep the highest `bits` of each channel; 0 bits give black.

    timm asks for 0 bits about once in 170,000 strong images. Pillow before 13 answers with black, Pillow 13 with a
    ValueError that would end a worker hours into a run.
    """
    return timm_posterize(image, bits, **kwargs) if bits > 0 else Image.new(image.mode, image.size)


class Normalizer(nn.Module):
    """uint8 [B, 3, H, W] -> float32 of the same shape, channels_last in memory.

    Bit-equal to ToTensor + Normalize on any device: all 256 values of each channel are computed on the CPU and looked
    up, since `x / 255` rounds differently on CUDA.

    Args:
        mean, std: per channel, of pixels in [0, 1].
    """

    table: Tensor
    starts: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.mean, self.std = tuple(mean), tuple(std)
        levels = torch.arange(256, dtype=torch.uint8).div(255)
        table = [(levels - m) / s for m, s in zip(mean, std, strict=True)]
        self.register_buffer("table", torch.cat(table))
        self.register_buffer("starts", 256 * torch.arange(len(table), dtype=torch.int32))  # of each channel in `table`

    def forward(self, images: Tensor) -> Tensor:
        indices = images.permute(0, 2, 3, 1).contiguous() + self.starts
        values = self.table.index_select(0, indices.view(-1))  # three times as fast as table[indices]
        return values.view(indices.shape).permute(0, 3, 1, 2)
