"""The sheet of augmented samples, so that a person sees what the network sees."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.utils import make_grid

from common.system.files import write_whole


def save(path: Path, columns: dict[str, Tensor]) -> None:
    """Draw views side by side, one image a row, and write them as a PNG.

    Args:
        columns: title -> uint8 [N, 3, H, W].

    Raises:
        UserError: the file cannot be written.
    """
    margin, text_height = 2, 14
    titles = list(columns)
    views = torch.stack([view for row in zip(*columns.values(), strict=True) for view in row])
    scale = max(1, 96 // views.shape[-1])
    views = views.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    grid = make_grid(views, nrow=len(titles), padding=margin, pad_value=255)
    sheet = Image.new("RGB", (grid.shape[2], grid.shape[1] + text_height), "white")
    sheet.paste(Image.fromarray(np.ascontiguousarray(grid.permute(1, 2, 0).numpy())), (0, text_height))
    draw = ImageDraw.Draw(sheet)
    for i, title in enumerate(titles):
        draw.text((margin + i * (views.shape[3] + margin), 0), title, fill="black")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_whole(path, buffer.getbuffer())
