"""Every kind of image file becomes RGB with its own brightness, and what has none is refused."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.datasets.images import ImageSet
from common.errors import UserError

GREY16 = np.array([[0, 257, 32896], [65535, 1000, 40000]], dtype=np.uint16)
# 1000 / 257 = 3.89, 40000 / 257 = 155.6
GREY8 = [[0, 1, 128], [255, 4, 156]]


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # another test's file may be collected here
        yield


def load(path: Path) -> list:
    """Rows of pixels of (red, green, blue)."""
    image = ImageSet([path], [0]).load(0)
    assert image.mode == "RGB"
    return np.asarray(image).tolist()


def grey(rows: list) -> list:
    return [[[value] * 3 for value in row] for row in rows]


def png(width: int, height: int, depth: int, color_type: int, rows: bytes) -> bytes:
    """PNG files that Pillow reads and does not write; `rows` begin with their filter byte, 0."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "big_endian.tif", "grey.pgm"])
def test_grey_images_of_16_bits_are_scaled_and_not_clipped(tmp_path, name):
    path = tmp_path / name
    if name == "grey.pgm":
        path.write_bytes(b"P5 3 2 65535\n" + GREY16.astype(">u2").tobytes())
    elif name == "big_endian.tif":
        Image.frombytes("I;16B", (3, 2), GREY16.astype(">u2").tobytes()).save(path)
    else:
        Image.fromarray(GREY16).save(path)
    assert load(path) == grey(GREY8)


def test_grey_images_of_10_bits(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 1023\n" + np.array([0, 1023, 512], dtype=">u2").tobytes())
    assert load(tmp_path / "a.pgm") == grey([[0, 255, 128]])


def test_color_images_of_16_bits(tmp_path):
    pixel = np.array([65535, 32896, 300], dtype=">u2").tobytes()
    (tmp_path / "a.png").write_bytes(png(1, 1, 16, 2, b"\0" + pixel))
    (tmp_path / "a.ppm").write_bytes(b"P6 1 1 65535\n" + pixel)
    assert load(tmp_path / "a.png") == load(tmp_path / "a.ppm") == [[[255, 128, 1]]]


def test_grey_with_transparency_of_16_bits(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1, 1, 16, 4, b"\0" + np.array([32896, 65535], dtype=">u2").tobytes()))
    assert load(tmp_path / "a.png") == grey([[128]])


@pytest.mark.parametrize(
    ("mode", "color", "rgb"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 90, (90, 90, 90)),
        ("LA", (90, 128), (90, 90, 90)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 128), (10, 20, 30)),
    ],
)
def test_modes_of_8_bits(tmp_path, mode, color, rgb):
    Image.new(mode, (2, 1), color).save(tmp_path / "a.png")
    assert load(tmp_path / "a.png") == [[list(rgb)] * 2]


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128])])
def test_palettes(tmp_path, transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", **({} if transparency is None else {"transparency": transparency}))
    assert load(tmp_path / "a.png") == [[[10, 20, 30], [200, 100, 50]]]


def test_cmyk(tmp_path):
    """No ink at all is white; the black ink alone is its complement."""
    image = Image.new("CMYK", (16, 8))
    image.paste((0, 0, 0, 155), (8, 0, 16, 8))
    image.save(tmp_path / "a.jpg", quality=100)
    row = load(tmp_path / "a.jpg")[0]
    assert row[0] == [255, 255, 255]
    assert np.allclose(row[15], 100, atol=2)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_animations_give_their_first_image(tmp_path, name):
    first, second = (Image.new("RGB", (4, 4), color) for color in ((0, 0, 255), (255, 255, 0)))
    lossless = {"lossless": True} if name.endswith("webp") else {}
    first.save(tmp_path / name, save_all=True, append_images=[second], **lossless)
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == 2
    assert load(tmp_path / name) == [[[0, 0, 255]] * 4] * 4


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_images_of_32_bits_are_refused(tmp_path, kind):
    """Their range is anybody's guess: [0, 1], [0, 255], [0, 65535]."""
    path = tmp_path / "a.tif"
    Image.fromarray(GREY16.astype(kind)).save(path)
    with pytest.raises(UserError, match=rf"'{path}' cannot be read \(pixels of 32 bits.*8 or 16 bits\): replace"):
        load(path)
