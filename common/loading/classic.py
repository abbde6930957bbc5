"""The strong augmentation of papers on training from scratch: random operations with random magnitudes, and Cutout.

It is RandAugment (arXiv:1909.13719) with magnitudes drawn uniformly instead of one magnitude for all operations. The
details are TorchSSL's, whose published figures we compare with: nearest-neighbour resampling, and black outside of a
moved image.

Pillow builds its lookup tables value by value in Python. For a small image that takes longer than everything else, so
three operations use NumPy: the same pixels, two to four times as fast.
"""

import functools
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

AFFINE = Image.Transform.AFFINE
LEVELS = np.arange(256)
CHANNELS = 256 * np.arange(3, dtype=np.uint16)  # the index at which each channel begins in a table of all three


def autocontrast(image: Image.Image) -> Image.Image:
    """Each channel's darkest value becomes 0 and its brightest 255. A channel of a single value is unchanged."""
    table = np.concatenate([_stretched(low, high) for low, high in _extrema(image)])
    return Image.fromarray(table[np.asarray(image) + CHANNELS])


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    return list(image.getextrema())  # type: ignore[arg-type]  # of an RGB image: a pair for each channel


@functools.cache
def _stretched(low: int, high: int) -> np.ndarray:
    scale = 255 / max(1, high - low)
    return (LEVELS * scale - low * scale if high > low else LEVELS).clip(0, 255).astype(np.uint8)


def posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keep the highest `bits`, 1 to 8, of each channel."""
    return Image.fromarray(np.asarray(image) & (256 - 2 ** (8 - bits)))


def solarize(image: Image.Image, threshold: float) -> Image.Image:
    """Invert all values from the threshold upwards."""
    pixels = np.asarray(image)
    return Image.fromarray(np.where(pixels < threshold, pixels, 255 - pixels))


# name -> (operation on an image and a magnitude, smallest magnitude, largest magnitude)
OPERATIONS = {
    "AutoContrast": (lambda image, _: autocontrast(image), 0, 0),
    "Brightness": (lambda image, v: ImageEnhance.Brightness(image).enhance(v), 0.05, 0.95),
    "Color": (lambda image, v: ImageEnhance.Color(image).enhance(v), 0.05, 0.95),
    "Contrast": (lambda image, v: ImageEnhance.Contrast(image).enhance(v), 0.05, 0.95),
    "Equalize": (lambda image, _: ImageOps.equalize(image), 0, 0),
    "Identity": (lambda image, _: image, 0, 0),
    "Posterize": (lambda image, v: posterize(image, int(v)), 4, 8),  # bits to keep
    "Rotate": (lambda image, v: image.rotate(v), -30, 30),  # degrees, counter-clockwise
    "Sharpness": (lambda image, v: ImageEnhance.Sharpness(image).enhance(v), 0.05, 0.95),
    "ShearX": (lambda image, v: image.transform(image.size, AFFINE, (1, v, 0, 0, 1, 0)), -0.3, 0.3),
    "ShearY": (lambda image, v: image.transform(image.size, AFFINE, (1, 0, 0, v, 1, 0)), -0.3, 0.3),
    "Solarize": (solarize, 0, 256),  # the threshold
    "TranslateX": (lambda image, v: image.transform(image.size, AFFINE, (1, 0, v * image.width, 0, 1, 0)), -0.3, 0.3),
    "TranslateY": (lambda image, v: image.transform(image.size, AFFINE, (1, 0, 0, 0, 1, v * image.height)), -0.3, 0.3),
}


class Classic:
    """RGB image -> RGB image: `number` operations one after the other, each with a random magnitude.

    The operations are drawn with replacement, and each drawn one is applied.
    """

    def __init__(self, number: int = 3):
        self.number = number

    def __call__(self, image: Image.Image) -> Image.Image:
        for operation, low, high in random.choices(list(OPERATIONS.values()), k=self.number):
            image = operation(image, random.uniform(low, high))
        return image


class Cutout:
    """RGB image -> RGB image with a square of one colour at a random position (arXiv:1708.04552).

    The square's centre is anywhere in the image. Parts outside of the image are cut off.

    Args:
        share: the square's side is drawn uniformly from 0 to this fraction of the image's width.
        fill: colour, 0 to 255 per channel.
    """

    def __init__(self, share: float, fill: Sequence[int]):
        self.share, self.fill = share, tuple(fill)

    def __call__(self, image: Image.Image) -> Image.Image:
        side = random.uniform(0, self.share) * image.width
        left = int(max(0, random.uniform(0, image.width) - side / 2))
        top = int(max(0, random.uniform(0, image.height) - side / 2))
        image = image.copy()
        ImageDraw.Draw(image).rectangle((left, top, int(left + side), int(top + side)), self.fill)  # both ends included
        return image
