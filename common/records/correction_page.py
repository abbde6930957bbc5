"""The page on which a person corrects predictions: one HTML file that needs no server and no network.

The page saves a list for `--labeled-list`. Its template and script are in `correction_page.html`. Names of files and
classes are in a block of JSON, which the script shows as plain text. A content security policy in the page's head lets
the browser run this script only, and load nothing from elsewhere.
"""

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from common.datasets.images import ImageSet
from common.system.files import write_whole

SIDE = 192  # of a thumbnail, in pixels
TEMPLATE = Path(__file__).with_suffix(".html")


class Shown(NamedTuple):
    """One image of the page.

    Attributes:
        number: the image's index in the set that the page is made from.
        path: the path to write into the saved list.
        label: index of the predicted class.
        confidence: its probability, from 0 to 1.
        margin: its probability minus that of the next class.
    """

    number: int
    path: str
    label: int
    confidence: float
    margin: float


def write(
    file: Path,
    images: ImageSet,
    shown: Sequence[Shown],
    classes: Sequence[str],
    earlier: Sequence[tuple[str, str]],
    title: str,
) -> int:
    """Write a page.

    Args:
        file: where to write it; an existing file is replaced.
        images: the image files. Each shown one is decoded once.
        shown: the images of the page, in order.
        classes: the class names.
        earlier: path and class of images that have labels already. They are not shown, but go into the saved list.
        title: a few words about the predictions.

    Returns:
        The size of the file, in bytes.

    Raises:
        UserError: an image cannot be read, or the file cannot be written.
    """
    with ThreadPoolExecutor() as pool:  # Pillow releases Python's lock while it decodes
        thumbnails = list(pool.map(lambda one: _thumbnail(images, one.number), shown))
    items = [
        {
            "path": as_listed(one.path),
            "file": images.name(one.number),
            "label": one.label,
            "confidence": round(one.confidence, 4),
            "margin": round(one.margin, 4),
            "image": thumbnail,
        }
        for one, thumbnail in zip(shown, thumbnails, strict=True)
    ]
    data: dict[str, Any] = {"title": title, "classes": list(classes), "items": items}
    data["labels"] = [(as_listed(path), label) for path, label in earlier]
    data["id"] = hashlib.sha256(json.dumps(data, allow_nan=False).encode()).hexdigest()[:16]
    content = page(data).encode()
    write_whole(file, content)
    return len(content)


def page(data: dict[str, Any]) -> str:
    """The page with its data. `<`, `>` and `&` are escaped, so no name can end the block of data or begin a tag."""
    template = TEMPLATE.read_text(encoding="utf-8")
    script = re.findall(r"<script>(.*?)</script>", template, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return template.replace("{{POLICY}}", policy, 1).replace("{{DATA}}", text, 1)


def as_listed(path: str) -> str:
    """A path as a list can hold it: `./` in front protects spaces, which lists ignore at the ends of a cell."""
    return path if path == path.strip() else os.path.join(os.curdir, path)


def can_be_listed(path: str) -> bool:
    """Whether a UTF-8 CSV file can hold the path: it is valid UTF-8, without a carriage return."""
    return path.isprintable() or not ("\r" in path or any("\ud800" <= letter <= "\udfff" for letter in path))


def _thumbnail(images: ImageSet, index: int) -> str:
    stream, image = io.BytesIO(), images.thumbnail(index, SIDE)
    is_tiny = max(image.size) < SIDE // 2  # shown enlarged, which makes JPEG artefacts visible
    image.save(stream, "JPEG", quality=95 if is_tiny else 80, optimize=True)
    return base64.b64encode(stream.getvalue()).decode()
