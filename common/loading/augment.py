"""Weak, strong and test transforms of PIL images, and the normaliser that makes float tensors of their results.

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
    """Transforms in sequence: RGB image -> uint8 [3, H, W]. The sheet of samples shows its name."""

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
        default: squashed to a square of 256/224 of the size, centre crop.
        cifar:   resized to the size.
        native:  as it is.

    Args:
        spec: of the dataset: its own image size, and whether it may be flipped.
        image_size: in pixels.
        strong: see `policy`.

    Raises:
        UserError: native resizing, and the images have another size.
    """
    if val_resizing == "native" and image_size != spec.native_size:
        raise UserError(
            f"--image-size {image_size} contradicts native resizing: the images have {spec.native_size} pixels; give it"
        )
    flip = [T.RandomHorizontalFlip()] if spec.flip else []
    size: Any = spec.native_size  # without it, resizing is default
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

    As torchvision's pil_to_tensor, without its checks: they took a tenth of the time of a pair of small views.
    """
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class ReflectCrop:
    """A random crop with reflected padding, then a random flip. Same draws and same pixels as torchvision's.

    torchvision's RandomCrop and RandomHorizontalFlip took most of the time of a small view: they pad all four sides,
    although a crop shows two of them at most, and copy the image several times.

    Args:
        size: of the crop, in pixels.
        padding: in pixels, on every side.
        flip: whether half of the crops are mirrored.
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
    """For each row of the padded image, the row of the image that it shows: [length + 2 padding]."""
    return np.pad(np.arange(length), padding, mode="reflect")


def policy(auto_augment: str, norm_mean: Sequence[float], cutout: float) -> list[Operation]:
    """The operations that turn a weak view into a strong one.

    Args:
        auto_augment: timm's string, such as `rand-m10-n2-mstd2`; or `classic`, see `classic.Classic`.
        norm_mean: RandAugment's geometric operations and Cutout fill with this colour (per channel, of pixels in
            [0, 1]).
        cutout: largest side of Cutout's square, as a share of the image's; 0 for none.

    Raises:
        UserError: unknown `auto_augment`.
    """
    fill = [min(255, round(255 * m)) for m in norm_mean]
    operation = classic.Classic() if auto_augment == "classic" else rand_augment(auto_augment, fill)
    return [operation, classic.Cutout(cutout, fill)] if cutout else [operation]


def rand_augment(config: str, fill: Sequence[int]) -> RandAugment:
    """timm's RandAugment (arXiv:1909.13719), made safe against Pillow 13.

    Raises:
        UserError: the string does not describe a RandAugment.
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

    Bit-equal to ToTensor + Normalize on any device. The table of all values is computed on the CPU, since `x / 255` on
    CUDA rounds differently.
    """

    table: Tensor
    starts: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.mean, self.std = tuple(mean), tuple(std)
        levels = torch.arange(256, dtype=torch.uint8).div(255)
        table = [(levels - m) / s for m, s in zip(mean, std, strict=True)]
        self.register_buffer("table", torch.cat(table))
        self.register_buffer("starts", 256 * torch.arange(len(table), dtype=torch.int32))  # of each channel in it

    def forward(self, images: Tensor) -> Tensor:
        indices = images.permute(0, 2, 3, 1).contiguous() + self.starts
        values = self.table.index_select(0, indices.view(-1))  # three times as fast as table[indices]
        return values.view(indices.shape).permute(0, 3, 1, 2)
