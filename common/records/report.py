"""`report.png`: a tested network's confusion matrix, its weakest classes and its most confident errors on a page.

Drawn with Pillow in a tenth of a second, so every run can have one.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.datasets.images import ImageSet
from common.training import confusion
from common.training.confusion import Misclassified

GAP = 24  # pixels between the parts
RIGHT, WRONG, EMPTY = (24, 84, 156), (196, 30, 30), (235, 235, 235)
LISTED = 15  # lines of each list
TILE, TEXT = 112, 12  # side of an error's image, height of its text


def draw(
    matrix: np.ndarray, errors: Sequence[Misclassified], classes: Sequence[str], images: ImageSet, title: Sequence[str]
) -> memoryview:
    """The page as a PNG.

    Args:
        matrix, errors: see `Confusion.read`.
        classes: the class names.
        images: the test set.
        title: lines, the first of them large.
    """
    names = [printable(name) for name in classes]
    lists = _stacked(
        [
            _list("most confused (true > predicted)", _confused(matrix, names)),
            _list("least accurate classes (recall; precision and F1)", _weakest(matrix, names)),
        ]
    )
    matrix_and_lists = _stacked([matrix_image(matrix, names), lists], down=False)
    tiles = _tiles(errors, names, images, max(6, matrix_and_lists.width // (TILE + 8)))
    page = _stacked([_title(title), matrix_and_lists, tiles])
    framed = Image.new("RGB", (page.width + 2 * GAP, page.height + 2 * GAP), "white")
    framed.paste(page, (GAP, GAP))
    buffer = io.BytesIO()
    framed.save(buffer, "PNG")
    return buffer.getbuffer()


def _title(lines: Sequence[str]) -> Image.Image:
    sizes = [18] + [14] * (len(lines) - 1)
    return _stacked([_text(printable(line), size) for line, size in zip(lines, sizes, strict=True)], gap=4)


# The matrix


def matrix_image(matrix: np.ndarray, names: list[str]) -> Image.Image:
    """The confusion matrix: a row per true, a column per predicted class. With many classes only some are named."""
    cell = min(max(1000 // len(names), 3), 40)
    side = cell * len(names)
    rows, columns = _names(names, cell, "r"), _names(names, cell, "l").rotate(90, expand=True)
    picture = Image.new("RGB", (rows.width + side + 1, columns.height + side + 1), "white")
    picture.paste(rows, (0, columns.height))
    picture.paste(columns, (rows.width, 0))
    cells = _colors(matrix).repeat(cell, axis=0).repeat(cell, axis=1)
    picture.paste(Image.fromarray(cells), (rows.width, columns.height))
    draw = ImageDraw.Draw(picture)
    if cell >= 8:
        for i in range(len(names) + 1):
            x, y = rows.width + i * cell, columns.height + i * cell
            draw.line([(x, columns.height), (x, columns.height + side)], fill=EMPTY)
            draw.line([(rows.width, y), (rows.width + side, y)], fill=EMPTY)
    draw.rectangle([(rows.width, columns.height), (rows.width + side, columns.height + side)], outline="gray")
    if cell == 40:
        font = ImageFont.load_default(13)
        for (i, j), count in np.ndenumerate(matrix):
            if count:
                fill = "white" if count > 0.2 * matrix[i].sum() else "black"
                center = (rows.width + (j + 0.5) * cell, columns.height + (i + 0.5) * cell)
                draw.text(center, str(count), font=font, fill=fill, anchor="mm")
    legend = ["rows: true class; columns: predicted. Blue: right, red: wrong;"]
    legend += ["full color: all images of the row, half: an eighth"]
    return _stacked([picture, _text("\n".join(legend), TEXT)], gap=6)


def _colors(matrix: np.ndarray) -> np.ndarray:
    """uint8 [C, C, 3]: white to blue on the diagonal, to red elsewhere. The cube root makes single errors visible."""
    totals = matrix.sum(axis=1, keepdims=True)
    strength = np.cbrt(matrix / np.maximum(totals, 1))[:, :, None]
    full = np.where(np.eye(len(matrix), dtype=bool)[:, :, None], RIGHT, WRONG)
    colors = 255 - strength * (255 - full)
    return np.where(totals[:, :, None] > 0, colors, EMPTY).round().astype(np.uint8)


def _names(names: list[str], cell: int, side: str) -> Image.Image:
    """A strip with as many names as there is room for, aligned to the right or the left (`r`, `l`)."""
    size = min(max(cell - 1, 9), 13)
    font, step = ImageFont.load_default(size), math.ceil(size / cell)
    shown = {i: short(names[i], 20) for i in range(0, len(names), step)}
    width = 8 + math.ceil(max(font.getlength(name) for name in shown.values()))
    strip = Image.new("RGB", (width, cell * len(names) + 1), "white")
    draw = ImageDraw.Draw(strip)
    for i, name in shown.items():
        draw.text((width - 4 if side == "r" else 4, (i + 0.5) * cell), name, font=font, fill="black", anchor=side + "m")
    return strip


# The lists


def _confused(matrix: np.ndarray, names: list[str]) -> list[str]:
    totals = matrix.sum(axis=1)
    return [
        f"{count:,} of {totals[i]:,}   {short(names[i], 20)} > {short(names[j], 20)}"
        for count, i, j in confusion.pairs(matrix, LISTED)
    ]


def _weakest(matrix: np.ndarray, names: list[str]) -> list[str]:
    rows: list[dict[str, Any]] = [row for row in confusion.per_class(matrix, names) if row["images"]]
    rows.sort(key=lambda row: row["accuracy"])
    return [
        f"{row['accuracy']:.1f} % of {row['images']:,}   {short(row['class'], 30)}   (precision "
        f"{'-' if row['precision'] is None else format(row['precision'], '.1f')}, F1 {row['f1']:.1f})"
        for row in rows[:LISTED]
    ]


def _list(title: str, lines: list[str]) -> Image.Image:
    return _stacked([_text(title, 14), _text("\n".join(lines or ["none"]), TEXT)], gap=6)


# The errors


def _tiles(errors: Sequence[Misclassified], names: list[str], images: ImageSet, columns: int) -> Image.Image:
    tiles = [_tile(error, names, images) for error in errors]
    rows = [_stacked(tiles[i : i + columns], down=False, gap=8) for i in range(0, len(tiles), columns)]
    title = _text("most confident errors (true > predicted, confidence; the image)", 14)
    return _stacked([title, *(rows or [_text("none", TEXT)])], gap=8)


def _tile(error: Misclassified, names: list[str], images: ImageSet) -> Image.Image:
    image = images.load(error.index)
    scale = TILE / max(image.size)
    if scale > 1:
        scale = math.floor(scale)
    size = [max(1, round(scale * length)) for length in image.size]
    image = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    lines = [
        names[error.true],
        f"> {names[error.predicted]}",
        f"{100 * error.confidence:.1f} %",
        printable(images.name(error.index)),
    ]
    tile = Image.new("RGB", (TILE, TILE + (TEXT + 2) * len(lines)), "white")
    tile.paste(image, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(TEXT - 1)
    for i, line in enumerate(lines):
        draw.text((0, TILE + (TEXT + 2) * i), short(line, 18), font=font, fill="black")
    return tile


# Layout


def printable(text: str) -> str:
    """The text with `?` for characters that would move the others, such as a tab or a mark of direction."""
    return "".join(c if c.isprintable() else "?" for c in text)


def short(text: str, length: int) -> str:
    """The text, cut to at most `length` characters."""
    return text if len(text) <= length else f"{text[: length - 2]}.."


def _text(text: str, size: int) -> Image.Image:
    font = ImageFont.load_default(size)
    *_, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, font=font)
    picture = Image.new("RGB", (math.ceil(right) + 1, math.ceil(bottom) + 1), "white")
    ImageDraw.Draw(picture).multiline_text((0, 0), text, font=font, fill="black")
    return picture


def _stacked(parts: Sequence[Image.Image], down: bool = True, gap: int = GAP) -> Image.Image:
    """Paste the parts below each other (`down`), or side by side."""
    widths, heights = zip(*(part.size for part in parts), strict=True)
    gaps = gap * (len(parts) - 1)
    size = (max(widths), sum(heights) + gaps) if down else (sum(widths) + gaps, max(heights))
    whole, offset = Image.new("RGB", size, "white"), 0
    for part in parts:
        whole.paste(part, (0, offset) if down else (offset, 0))
        offset += (part.height if down else part.width) + gap
    return whole
