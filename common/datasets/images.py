"""A set of images with labels, in a fixed order: files on disk or one array in memory."""

import hashlib
import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.errors import UserError, reason

# What Pillow raises for files that are not images, or damaged ones; tests/long/damaged_images.py looks for more.
# SyntaxError means a broken PNG. RuntimeError comes from AVIF, ZeroDivisionError from an animation without duration,
# and AttributeError from a truncated header.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, ZeroDivisionError, AttributeError),
    *(struct.error, Image.DecompressionBombError),
)

ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {  # value of the tag -> how to turn the image upright; 1 is upright
    **{2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM},
    **{5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE},
    8: Image.Transpose.ROTATE_90,
}
OTHERWISE = "use default, or resize them"


class ImageSet:
    """Images with labels, in a fixed order.

    Args:
        images: N file paths, or a uint8 array [N, H, W] (grey) or [N, H, W, 3] (RGB).
        labels: N class indices; -1 if unknown.
        upright: turn images as their EXIF orientation says.
        balanced: training batches are drawn evenly over the classes; see `evenly`.
    """

    def __init__(
        self,
        images: Sequence[str | Path] | np.ndarray,
        labels: Sequence[int] | np.ndarray,
        upright: bool = False,
        balanced: bool = False,
    ):
        self.images, self.upright, self.balanced = images, upright, balanced
        self.labels = np.asarray(labels, dtype=np.int64)
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images, but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The image's file name without its folders; for an array, its number."""
        return f"#{index}" if isinstance(self.images, np.ndarray) else os.path.basename(self.images[index])

    def load(self, index: int, least: int | None = None) -> Image.Image:
        """The image as RGB. Grey becomes three equal channels, and transparency is dropped. Of an animation, frame one.

        Args:
            index: the image's position in the set.
            least: decode a JPEG at a reduced size, with both sides of at least so many pixels. That is faster.

        Raises:
            UserError: the file is missing, cannot be decoded, or does not fit into the memory.
        """
        if isinstance(self.images, np.ndarray):
            return Image.fromarray(self.images[index]).convert("RGB")
        path = self.images[index]
        try:
            with Image.open(path) as image:
                if least is not None:
                    image.draft(None, (least, least))  # None keeps the mode
                return _to_upright_rgb(image) if self.upright else _to_rgb(image)
        except FileNotFoundError:
            raise UserError(f"image '{path}' is missing: restore it, or remove it from the dataset's lists") from None
        except MemoryError:
            raise UserError(
                f"image '{path}' does not fit into the memory: make it smaller, or take fewer loader processes with -j"
            ) from None
        except UNREADABLE as error:
            raise UserError(f"image '{path}' cannot be read ({reason(error)}): replace or remove it") from None

    def unreadable(self) -> list[str]:
        """Decode every image. Returns an error message for each that cannot be decoded, in order."""

        def problem(index: int) -> str | None:
            try:
                self.load(index)
            except UserError as error:
                return str(error)
            return None

        if isinstance(self.images, np.ndarray):  # they were decoded when they were read
            return []
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases Python's lock while it decodes
            found = tqdm(pool.map(problem, range(len(self))), total=len(self), unit=" images", disable=None)
            return [text for text in found if text is not None]

    def thumbnail(self, index: int, side: int) -> Image.Image:
        """The image as RGB, upright, and at most `side` pixels wide and high, for people to look at. Never enlarged.

        Raises:
            UserError: see `load`.
        """
        image = ImageSet(self.images, self.labels, upright=True).load(index, 2 * side)
        image.thumbnail((side, side))
        return image

    def fingerprint(self, root: Path) -> str:
        """Fingerprint of labels and of paths relative to `root` (of pixels, for an array)."""
        digest = hashlib.sha256(self.labels.tobytes())
        if isinstance(self.images, np.ndarray):
            digest.update(np.ascontiguousarray(self.images).data)
        else:
            digest.update(b"\0".join(os.fsencode(os.path.relpath(path, root)) for path in self.images))
        return digest.hexdigest()

    def below(self, root: Path, indices: Sequence[int]) -> list[str]:
        """The files at `indices` as paths below `root`; an empty list if the images are an array."""
        if isinstance(self.images, np.ndarray):
            return []
        return [os.path.relpath(self.images[i], root) for i in indices]

    def oriented(self, upright: bool) -> "ImageSet":
        """The same images, turned as their EXIF orientation says, or as they are stored."""
        return ImageSet(self.images, self.labels, upright, self.balanced)

    def evenly(self) -> "ImageSet":
        """The same images, from which a `TrainLoader` draws all classes equally often. Each must have a label."""
        return ImageSet(self.images, self.labels, self.upright, balanced=True)

    def subset(self, indices: np.ndarray) -> "ImageSet":
        """The images at `indices` (int [M]), in that order."""
        chosen = self.images[indices] if isinstance(self.images, np.ndarray) else [self.images[i] for i in indices]
        return ImageSet(chosen, self.labels[indices], self.upright, self.balanced)


def sizes(paths: Sequence[str | Path]) -> list[tuple[int, int]]:
    """Width and height in pixels of each image. Reads only their headers.

    Raises:
        UserError: an image cannot be read.
    """
    with ThreadPoolExecutor() as pool:  # a network disk is mostly waiting
        return list(pool.map(_size, paths))


def one_size(paths: Sequence[str | Path], needed_by: str) -> int:
    """The side in pixels of images that are squares of one size. Reads only their headers.

    Args:
        paths: of the images.
        needed_by: the flag that needs squares of one size, for messages.

    Raises:
        UserError: an image is not a square, is of another size than the first, or cannot be read.
    """
    found = sizes(paths)
    width, height = found[0]
    for path, size in zip(paths, found, strict=True):
        if size[0] != size[1]:
            raise UserError(
                f"image '{path}' has {size[0]} x {size[1]} pixels, and {needed_by} needs squares: {OTHERWISE}"
            )
        if size != (width, height):
            raise UserError(
                f"image '{path}' has {size[0]} x {size[1]} pixels and '{paths[0]}' {width} x {height}, but {needed_by} "
                f"needs images of one size: {OTHERWISE}"
            )
    return width


def turned(paths: Sequence[str | Path]) -> list[str | Path]:
    """The files that `ImageSet(..., upright=True)` would turn. Reads only their headers."""
    with ThreadPoolExecutor() as pool:
        return [path for path, is_turned in zip(paths, pool.map(_is_turned, paths), strict=True) if is_turned]


def _is_turned(path: str | Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.format != "TIFF" and _orientation(image) in UPRIGHT
    except UNREADABLE:
        return False  # reported when it is loaded


def _size(path: str | Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except UNREADABLE as error:
        raise UserError(f"image '{path}' cannot be read ({reason(error)}): replace or remove it") from None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, if there is none, or if the EXIF is damaged, which leaves the pixels whole."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except UNREADABLE:
        return 1


def _to_upright_rgb(image: Image.Image) -> Image.Image:
    image.load()  # Pillow turns a TIFF itself, and drops its tag
    method = UPRIGHT.get(_orientation(image))
    rgb = _to_rgb(image)
    return rgb if method is None else rgb.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    # Pillow converts grey images of more than 8 bits to RGB by clipping at 255, which makes them nearly white.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = Image.fromarray(np.rint(np.asarray(image, dtype=np.float64) / 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits, whose range is not known: save it with 8 or 16 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # converting directly, Pillow would warn
    return image.convert("RGB")
