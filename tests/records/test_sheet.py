"""The sheet of augmented samples."""

from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageDraw

from common.records import sheet

TOP = 14 * 5 + 7  # three lines on what to look for, and two for the titles


def test_the_sheet_has_a_column_per_view_and_names_the_classes(tmp_path):
    views = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    labeled = sheet.Part({"labeled 1: weak": views}, ["cat", "dog\t", "a name that is longer than its image is wide"])
    unlabeled = sheet.Part({"unlabeled 1: weak": views + 99, "unlabeled 2: strong": views + 255}, ["owl", None, "cat"])
    texts = {}
    with mock.patch.object(ImageDraw.ImageDraw, "text", lambda self, place, text, **_: texts.setdefault(place, text)):
        sheet.save(tmp_path / "sheet.png", [labeled, unlabeled])
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape[0] == TOP + 3 * (14 + 98)
    for row in range(3):
        y = TOP + row * (14 + 98) + 14
        for column, level in enumerate((0, 99, 255)):
            assert (pixels[y : y + 96, 2 + 98 * column : 98 * (column + 1)] == level).all()
    assert [texts[2, TOP + 112 * row] for row in range(3)] == ["cat", "dog?", "a name that is.."]
    assert [texts[100, TOP + 112 * row] for row in range(3)] == ["owl", "?", "cat"]
    assert texts[198, TOP - 28] == "unlabeled 2\nstrong"
    assert "Can you name the class" in texts[2, 14]


def test_the_set_with_the_fewest_images_says_how_many_rows_there_are(tmp_path):
    few, many = (torch.zeros(number, 3, 96, 96, dtype=torch.uint8) for number in (2, 8))
    parts = [sheet.Part({"a 1: weak": many}, ["x"] * 8), sheet.Part({"b 1: weak": few}, ["y"] * 2)]
    sheet.save(tmp_path / "sheet.png", parts)
    assert Image.open(tmp_path / "sheet.png").height == TOP + 2 * (14 + 98)


def test_views_are_upright_and_have_their_colors(tmp_path):
    view = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    view[0, 0, :8] = 255  # red at the top
    view[0, 2, :, 24:] = 255  # blue at the right
    sheet.save(tmp_path / "sheet.png", [sheet.Part({"labeled 1: weak": view}, ["x"])])
    found = np.asarray(Image.open(tmp_path / "sheet.png"))[TOP + 14 : TOP + 14 + 96, 2 : 2 + 96]
    expected = np.zeros((96, 96, 3), dtype=np.uint8)
    expected[:24, :, 0] = 255
    expected[:, 72:, 2] = 255
    assert np.array_equal(found, expected)
