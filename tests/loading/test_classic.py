"""The classic operations and Cutout, each against numbers that NumPy works out from what it is said to do."""

import random

import numpy as np
import pytest
from PIL import Image, ImageOps

from common.loading import classic

SIZE = 12
PIXELS = np.random.default_rng(0).integers(20, 220, size=(SIZE, SIZE, 3), dtype=np.uint8)


def apply(name: str, magnitude: float, pixels: np.ndarray = PIXELS) -> np.ndarray:
    return np.asarray(classic.OPERATIONS[name][0](Image.fromarray(pixels), magnitude))


def luma(pixels: np.ndarray) -> np.ndarray:
    """ITU-R 601, in whole numbers."""
    return (pixels.astype(np.int64) @ [19595, 38470, 7471] + 2**15) >> 16


def blend(other: np.ndarray, magnitude: float) -> np.ndarray:
    """A share `magnitude` of the image, and the rest of another."""
    return other + magnitude * (PIXELS.astype(float) - other)


def smooth() -> np.ndarray:
    """Each pixel five times and its eight neighbours once; the border stays."""
    out, inner = PIXELS.astype(float), np.zeros((SIZE - 2, SIZE - 2, 3))
    for dy in range(3):
        for dx in range(3):
            weight = 5 if (dy, dx) == (1, 1) else 1
            inner += weight * PIXELS[dy : dy + SIZE - 2, dx : dx + SIZE - 2].astype(float) / 13
    out[1:-1, 1:-1] = np.floor(inner + 0.5)
    return out


@pytest.mark.parametrize("magnitude", [0.05, 0.5, 0.95])
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("Brightness", np.zeros(PIXELS.shape)),
        ("Color", luma(PIXELS)[..., None]),
        ("Contrast", np.full(PIXELS.shape, int(luma(PIXELS).mean() + 0.5))),
        ("Sharpness", smooth()),
    ],
)
def test_enhancements_blend_with_another_image(name, other, magnitude):
    assert np.abs(apply(name, magnitude) - blend(other, magnitude)).max() <= 1  # fractions are cut off


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("AutoContrast", lambda image, _: ImageOps.autocontrast(image)),
        ("Posterize", lambda image, v: ImageOps.posterize(image, int(v))),
        ("Solarize", ImageOps.solarize),
    ],
)
def test_what_numpy_does_has_pillows_pixels(name, theirs):
    """Of images of all ranges of values, one single value among them."""
    operation, low, high = classic.OPERATIONS[name]
    rng = np.random.default_rng(0)
    for lightest in range(1, 257):
        darkest = rng.integers(0, lightest)
        image = Image.fromarray(rng.integers(darkest, lightest, (9, 7, 3), dtype=np.uint8))
        magnitude = rng.uniform(low, high)
        assert np.array_equal(operation(image, magnitude), theirs(image, magnitude)), (darkest, lightest, magnitude)


def test_autocontrast_stretches_each_channel():
    low, high = PIXELS.min((0, 1)).astype(float), PIXELS.max((0, 1)).astype(float)
    assert np.abs(apply("AutoContrast", 0) - 255 * (PIXELS - low) / (high - low)).max() <= 1


def test_equalize_spreads_the_ranks():
    """52 neighbouring levels of 5 pixels each: the darkest becomes 0, the next 5, and the brightest 255."""
    levels = np.random.default_rng(0).permutation(np.repeat(np.arange(52), 5)).reshape(20, 13, 1)
    pixels = np.repeat(levels + 90, 3, axis=2).astype(np.uint8)
    assert np.array_equal(apply("Equalize", 0, pixels), np.repeat(5 * levels, 3, axis=2))


def test_identity():
    assert np.array_equal(apply("Identity", 0), PIXELS)


@pytest.mark.parametrize(("magnitude", "mask"), [(4.0, 0b11110000), (4.9, 0b11110000), (7.99, 0b11111110)])
def test_posterize_keeps_the_highest_bits(magnitude, mask):
    assert np.array_equal(apply("Posterize", magnitude), PIXELS & mask)


@pytest.mark.parametrize("threshold", [0.0, 99.5, 100.0, 256.0])
def test_solarize_inverts_what_is_not_below(threshold):
    assert np.array_equal(apply("Solarize", threshold), np.where(threshold > PIXELS, PIXELS, 255 - PIXELS))


def warped(where) -> np.ndarray:
    """Each pixel's centre (x, y) is looked up at `where(x, y)`, in the pixel that holds it; black outside."""
    out = np.zeros_like(PIXELS)
    for row in range(SIZE):
        for column in range(SIZE):
            x, y = where(column + 0.5, row + 0.5)
            if 0 <= x < SIZE and 0 <= y < SIZE:
                out[row, column] = PIXELS[int(y), int(x)]
    return out


@pytest.mark.parametrize("v", [-0.29, 0.13, 0.3])
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("ShearX", lambda x, y, v: (x + v * y, y)),
        ("ShearY", lambda x, y, v: (x, y + v * x)),
        ("TranslateX", lambda x, y, v: (x + v * SIZE, y)),
        ("TranslateY", lambda x, y, v: (x, y + v * SIZE)),
    ],
)
def test_shears_and_translations(name, where, v):
    assert np.array_equal(apply(name, v), warped(lambda x, y: where(x, y, v)))


@pytest.mark.parametrize("degrees", [-29.0, 17.0, 30.0])
def test_rotation_is_against_the_clock_around_the_middle(degrees):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    middle = SIZE / 2

    def where(x, y):
        x, y = x - middle, y - middle
        return cos * x - sin * y + middle, sin * x + cos * y + middle

    assert np.array_equal(apply("Rotate", degrees), warped(where))
    assert not apply("Rotate", degrees)[0, 0].any()  # black where nothing is left


def test_the_list_is_the_papers():
    """FixMatch's table of operations; the ranges as TorchSSL has them."""
    enhancements = dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), (0.05, 0.95))
    geometry = dict.fromkeys(("ShearX", "ShearY", "TranslateX", "TranslateY"), (-0.3, 0.3))
    none = dict.fromkeys(("AutoContrast", "Equalize", "Identity"), (0, 0))
    others = {"Posterize": (4, 8), "Rotate": (-30, 30), "Solarize": (0, 256)}
    assert {name: ends for name, (_, *ends) in classic.OPERATIONS.items()} == {
        name: list(ends) for name, ends in (enhancements | geometry | none | others).items()
    }


def test_three_of_them_with_replacement_and_even_magnitudes(monkeypatch):
    applied = []
    recording = {
        name: (lambda image, v, name=name: applied.append((name, v)) or image, low, high)
        for name, (_, low, high) in classic.OPERATIONS.items()
    }
    monkeypatch.setattr(classic, "OPERATIONS", recording)
    random.seed(0)
    image = Image.fromarray(PIXELS)
    for _ in range(2000):
        classic.Classic()(image)
    assert len(applied) == 6000
    triples = [{name for name, _ in applied[i : i + 3]} for i in range(0, 6000, 3)]
    assert any(len(names) < 3 for names in triples)
    for name, (_, low, high) in classic.OPERATIONS.items():
        drawn = [v for other, v in applied if other == name]
        assert len(drawn) == pytest.approx(6000 / 14, rel=0.2)
        counts, _ = np.histogram(drawn, bins=4, range=(low, high)) if high > low else ([len(drawn) / 4] * 4, None)
        assert min(counts) > 0.7 * len(drawn) / 4


@pytest.mark.parametrize(
    ("draws", "rows", "columns"),
    [
        ((6, 5, 3), (0, 6), (2, 8)),  # side 6 around (x 5, y 3)
        ((4, 0, 11.5), (9, 12), (0, 4)),  # cut at the edges; the first corner is moved inside, not the second
    ],
)
def test_cutout_is_a_square_of_one_colour(monkeypatch, draws, rows, columns):
    drawn = iter(draws)
    monkeypatch.setattr(classic.random, "uniform", lambda low, high: next(drawn))
    cutout = classic.Cutout(0.5, (125, 123, 114))
    drawn = iter((draws[0] / SIZE, *draws[1:]))
    image = Image.fromarray(PIXELS)
    expected = PIXELS.copy()
    expected[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = (125, 123, 114)
    assert np.array_equal(np.asarray(cutout(image)), expected)
    assert np.array_equal(np.asarray(image), PIXELS)  # the decoded image is kept for the next view


def test_cutouts_sides_are_drawn_evenly():
    random.seed(0)
    cutout, black = classic.Cutout(0.5, (255, 255, 255)), Image.new("RGB", (64, 64))
    sides = [(np.asarray(cutout(black))[..., 0] > 0).any(0).sum() for _ in range(1500)]
    assert max(sides) in (32, 33)  # half the width, and the pixel at its end
    assert np.mean(sides) == pytest.approx(15.2, rel=0.1)  # 16 and the pixel, less what the edges cut


def test_cutouts_centre_is_anywhere():
    """Squares of a pixel, in an image that is wider than high."""
    random.seed(0)
    cutout, black = classic.Cutout(1e-6, (255, 255, 255)), Image.new("RGB", (40, 20))
    places = np.array([np.argwhere(np.asarray(cutout(black))[..., 0])[0] for _ in range(4000)])
    for axis, length in enumerate((20, 40)):
        counts, _ = np.histogram(places[:, axis], bins=4, range=(0, length))
        assert counts.min() > 880  # of 1,000
