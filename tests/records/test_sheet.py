"""The sheet of augmented samples."""

import numpy as np
import torch
from PIL import Image

from common.records import sheet


def test_the_sheet_has_a_column_per_view(tmp_path):
    views = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    sheet.save(tmp_path / "sheet.png", {"weak": views, "strong": views + 255})
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (14 + 2 + 3 * 98, 2 + 2 * 98, 3)
    assert (pixels[16:110, 2:98] == 0).all()
    assert (pixels[16:110, 100:196] == 255).all()
