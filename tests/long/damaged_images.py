"""Damage image files of every format that Pillow writes, and see whether each is an image still or one clear error.

    python tests/long/damaged_images.py [--files 8000] [--seed 0] [--exif-orientation]

Small images are saved in every format and mode, and in all compressions of TIFF; then bytes are cut off, flipped,
overwritten or taken out. Each file is read as a training reads it, from the disk. Prints how often each type of error
came; exit code 1, with the first few files' seeds, if one came that is not among `images.UNREADABLE`.
"""

import argparse
import io
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from common.datasets import images
from common.errors import UserError

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")
TIFF = (
    *("tiff_ccitt", "group3", "group4", "tiff_raw_16", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate"),
    *("jpeg", "packbits", "lzma", "zstd"),
)
FOREIGN = {"PDF", "HDF5", "GRIB", "BUFR"}  # Pillow writes them, or leaves them to others, and does not read them
HEADER = 400  # bytes, in which half of the damage falls


def samples() -> dict[str, bytes]:
    """Name -> a whole file."""
    Image.init()
    y, x = np.mgrid[:48, :64]
    picture = Image.fromarray(np.stack([x * 4, y * 5, x * y % 256], axis=-1).astype(np.uint8))
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    found = {}
    for kind in sorted(Image.SAVE.keys() - FOREIGN):
        extra = {"exif": exif} if kind in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF") else {}
        for mode in MODES:
            add(found, f"{kind} {mode}", picture, mode, kind, **extra)
    for compression in TIFF:
        for mode in ("1", "RGB"):
            add(found, f"TIFF {compression} {mode}", picture, mode, "TIFF", compression=compression)
    add(found, "JPEG progressive", picture, "RGB", "JPEG", progressive=True)
    add(found, "WEBP lossless", picture, "RGB", "WEBP", lossless=True)
    for kind in ("GIF", "WEBP", "AVIF", "PNG"):
        add(found, f"{kind} animation", picture, "RGB", kind, save_all=True, append_images=[picture.rotate(90)])
    return found


def add(found: dict[str, bytes], name: str, picture: Image.Image, mode: str, kind: str, **options) -> None:
    """Save the picture, where its format has the mode."""
    stream = io.BytesIO()
    try:
        (picture.convert("L") if mode == "I;16" else picture).convert(mode).save(stream, kind, **options)
    except (OSError, ValueError, KeyError):
        return
    found[name] = stream.getvalue()


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A copy with one kind of damage."""
    content = bytearray(content)
    reach = min(len(content), HEADER) if rng.random() < 0.5 else len(content)
    start, kind = int(rng.integers(reach)), rng.integers(5)
    if kind == 0:
        return bytes(content[:start])
    if kind == 1:
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(reach)] ^= 1 << rng.integers(8)
    elif kind == 2:
        for _ in range(rng.integers(1, 5)):
            content[rng.integers(reach)] = rng.integers(256)
    elif kind == 3:
        values = b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"  # an array of NumPy would drop the zeros
        content[start : start + 4] = values[rng.integers(len(values))]
    else:
        del content[start : start + rng.integers(1, 64)]
    return bytes(content)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exif-orientation", action="store_true")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")  # Pillow's, of what it forgives
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints a line for each damaged file
    whole, outcomes, foreign = list(samples().items()), Counter(), []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        for number in range(args.files):
            name, content = whole[number % len(whole)]
            path.write_bytes(damaged(content, np.random.default_rng((args.seed, number))))
            try:
                images.ImageSet([path], [0], args.exif_orientation).load(0)
                outcomes["read"] += 1
            except UserError as error:
                outcomes[type(error.__context__).__name__] += 1
            except Exception as error:  # which types there are is the question
                outcomes[f"{type(error).__name__} (!)"] += 1
                foreign.append(f"{name}, file {number}: {type(error).__name__}: {error}")
    print(
        f"{args.files:,} files from {len(whole)}, {time.perf_counter() - started:.0f} s: {dict(outcomes.most_common())}"
    )
    print("\n".join(foreign[:20]) or "all were read or refused")
    sys.exit(1 if foreign else 0)


if __name__ == "__main__":
    main()
