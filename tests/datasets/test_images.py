"""Every kind of image file becomes RGB with its own brightness, and what has none is refused."""

import struct
import warnings
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from common.datasets.images import ORIENTATION, UNREADABLE, UPRIGHT, ImageSet, turned
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


# Damaged files


def test_a_damaged_avif_is_named(tmp_path):
    """Its decoder raises RuntimeError."""
    path = tmp_path / "a.avif"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"mdat") + 4 :] = bytes(len(content) - content.index(b"mdat") - 4)
    path.write_bytes(content)
    with pytest.raises(RuntimeError), Image.open(path) as image:
        image.load()
    with pytest.raises(UserError, match=rf"'{path}' cannot be read \(.*\): replace or remove it"):
        load(path)


@pytest.mark.parametrize("error", UNREADABLE)
def test_whatever_pillow_raises_is_named(tmp_path, monkeypatch, error):
    monkeypatch.setattr(Image, "open", mock.Mock(side_effect=error("bad\nfile")))
    with pytest.raises(UserError, match=r"'.*a.png' cannot be read \(bad file\): replace or remove it"):
        load(tmp_path / "a.png")


def test_an_image_that_does_not_fit_into_the_memory_is_named(tmp_path, monkeypatch):
    """Its message must not be a worker's traceback, and the steps before it must not be lost."""
    monkeypatch.setattr(Image, "open", mock.Mock(side_effect=MemoryError))
    with pytest.raises(UserError, match=r"'.*a.png' does not fit into the memory: make it smaller, or take"):
        load(tmp_path / "a.png")


# EXIF orientation

STRIPES = [[(250, 0, 0)] * 32, [(0, 250, 0)] * 32, [(0, 0, 250)] * 16 + [(0, 0, 0)] * 16]  # of 8 rows each


def photo(path: Path, orientation: int) -> np.ndarray:
    """Save what shows STRIPES when it is turned as its tag says. Returns the stripes' pixels."""
    upright = Image.fromarray(np.repeat(np.array(STRIPES, dtype=np.uint8), 8, axis=0))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    undone = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}  # a turn back, not the same turn
    method = UPRIGHT.get(orientation)
    stored = upright if method is None else upright.transpose(undone.get(orientation, method))
    stored.save(path, exif=exif, **({"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}))
    return np.asarray(upright)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_images_are_turned_where_it_is_asked_for(tmp_path, name, orientation):
    expected = photo(tmp_path / name, orientation)
    assert np.abs(np.array(ImageSet([tmp_path / name], [0], upright=True).load(0)) - expected.astype(int)).max() < 50
    subset = ImageSet([tmp_path / name], [0], upright=True).subset(np.array([0]))
    assert subset.load(0).size == (32, 24)
    assert ImageSet([tmp_path / name], [0]).load(0).size == ((24, 32) if orientation in range(5, 9) else (32, 24))
    with Image.open(tmp_path / name) as image:
        assert ImageSet([tmp_path / name], [0]).load(0).tobytes() == image.convert("RGB").tobytes()
    assert turned([tmp_path / name]) == ([tmp_path / name] if orientation in range(2, 9) else [])


def test_a_turned_grey_image_of_16_bits_is_scaled(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    Image.fromarray(GREY16).save(tmp_path / "a.png", exif=exif)
    turned = np.asarray(ImageSet([tmp_path / "a.png"], [0], upright=True).load(0))
    assert turned.tolist() == grey([row[::-1] for row in GREY8[::-1]])


def test_pillow_turns_a_tiff_itself_and_it_is_not_turned_twice(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(GREY16).save(tmp_path / "a.tif", exif=exif, compression="tiff_lzw")
    images = [ImageSet([tmp_path / "a.tif"], [0], upright).load(0) for upright in (False, True)]
    assert images[0].size == (2, 3)
    assert images[0].tobytes() == images[1].tobytes()
    assert turned([tmp_path / "a.tif"]) == []


def test_what_cannot_be_read_is_not_turned(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"none")
    assert turned([tmp_path / "a.jpg"]) == []


def test_the_fingerprint_is_of_images_and_labels_in_their_order(tmp_path):
    """Wherever the folder lies."""
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for images, swapped in ((pixels, pixels[::-1]), (files, files[::-1])):
        fingerprint = ImageSet(images, [0, 1]).fingerprint(tmp_path)
        others = [
            ImageSet(images, [0, 0]),
            ImageSet(images, [1, 0]),
            ImageSet(swapped, [0, 1]),
            ImageSet(images[:1], [0]),
        ]
        assert len({fingerprint, *(other.fingerprint(tmp_path) for other in others)}) == 5
        assert ImageSet(images, np.array([0, 1])).fingerprint(tmp_path) == fingerprint
    moved = ImageSet([tmp_path / "x" / "a.png", tmp_path / "x" / "b.png"], [0, 1])
    assert moved.fingerprint(tmp_path / "x") == ImageSet(files, [0, 1]).fingerprint(tmp_path)


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_damaged_exif_leaves_the_pixels_whole(tmp_path, ending):
    file = tmp_path / f"x.{ending}"
    Image.new("RGB", (8, 6), (9, 9, 9)).save(file, exif=b"garbage garbage")
    with pytest.raises(SyntaxError):
        Image.open(file).getexif()
    images = ImageSet([file], [0], upright=True)
    assert images.load(0).size == images.thumbnail(0, 32).size == (8, 6)


def test_copies_of_a_set_keep_all_that_it_is():
    even = ImageSet(np.zeros((3, 8, 8), dtype=np.uint8), [0, 1, 1], upright=True).evenly()
    assert (even.upright, even.balanced) == (True, True)
    assert (even.subset(np.array([0])).upright, even.subset(np.array([0])).balanced) == (True, True)
    assert (even.oriented(False).upright, even.oriented(False).balanced) == (False, True)
