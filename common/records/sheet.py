"""`views.png`: a sheet of augmented samples, which shows people what the network sees."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from common.records.report import printable, short
from common.system.files import write_whole

MARGIN, TEXT, LINE = 2, 11, 14  # between images; height of letters and of a line of them
SIDE = 96  # smaller images are enlarged
NOTES = (
    "The first views of the run, as the network sees them. Above each image is its class (training does not see it for",
    "unlabeled images). Can you name the class in every view? If objects are cut off, try another --train-resizing or",
    "--image-size. If text is mirrored, try --no-flip. If images lie on their side, try --exif-orientation.",
)


class Part(NamedTuple):
    """The views of some images of one set.

    Attributes:
        views: title, such as `labeled 1: weak` -> uint8 [N, 3, H, W].
        classes: the class name of each image; None if unknown.
    """

    views: dict[str, Tensor]
    classes: Sequence[str | None]


def save(path: Path, parts: Sequence[Part]) -> None:
    """Draw the views as a PNG: one image of each part per row, its views side by side.

    Raises:
        UserError: the file cannot be written.
    """
    buffer = io.BytesIO()
    _draw(parts).save(buffer, "PNG")
    write_whole(path, buffer.getbuffer())


def _draw(parts: Sequence[Part]) -> Image.Image:
    columns = [(title, views) for part in parts for title, views in part.views.items()]
    rows = min(len(views) for _, views in columns)
    scale = max(1, SIDE // columns[0][1].shape[-1])
    side = scale * columns[0][1].shape[-1]
    font = ImageFont.load_default(TEXT)
    width = max(len(columns) * (side + MARGIN) + MARGIN, *(int(font.getlength(note)) + 2 * MARGIN for note in NOTES))
    top = LINE * (len(NOTES) + 2) + LINE // 2
    sheet = Image.new("RGB", (width, top + rows * (LINE + side + MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, note in enumerate(NOTES):
        draw.text((MARGIN, i * LINE), note, font=font, fill="black")

    x = MARGIN
    for part in parts:
        for i, name in enumerate(part.classes[:rows]):
            text = "?" if name is None else short(printable(name), side * len(part.views) // 6)
            draw.text((x, top + i * (LINE + side + MARGIN)), text, font=font, fill="black")
        for title, views in part.views.items():
            stream, _, name = title.partition(": ")
            draw.text((x, top - 2 * LINE), f"{stream}\n{name}", font=font, fill="dimgray")
            for i, view in enumerate(views[:rows]):
                sheet.paste(_picture(view, scale), (x, top + i * (LINE + side + MARGIN) + LINE))
            x += side + MARGIN
    return sheet


def _picture(view: Tensor, scale: int) -> Image.Image:
    enlarged = view.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
    return Image.fromarray(np.ascontiguousarray(torch.movedim(enlarged, 0, 2).numpy()))
