"""Names from the disk that a terminal cannot show are printed all the same, and stay what they are in tables."""

import csv
import io
import json
import os
import sys

import pytest
from PIL import Image

import erm
import predict
from common import cli

LATIN1 = os.fsdecode(b"\xe4ffchen")  # of a disk from another time


@pytest.fixture
def show_in_ascii(monkeypatch):
    """`show_in_ascii()` makes standard output and errors as with PYTHONIOENCODING=ascii; what they show by name."""

    def begin():
        streams = {name: io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True) for name in ("stdout", "stderr")}
        for name, stream in streams.items():
            monkeypatch.setattr(sys, name, stream)  # here and not in the fixture, which pytest's capture would replace
        return lambda name: streams[name].buffer.getvalue()

    return begin


@pytest.mark.parametrize("name", [LATIN1, "äffchen", "猿"], ids=["latin1", "umlaut", "kanji"])
def test_names_beyond_the_terminals_encoding(name, tmp_path, show_in_ascii):
    terminal = show_in_ascii()
    for folder in (f"train/{name}", "train/bee", "test/bee"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (16, 16), (60 * i, 0, 9)).save(tmp_path / "photos" / folder / f"{i}.png")
    argv = (
        f"{tmp_path}/photos -d ImageFolder --num-samples-per-class 2 -a wrn_10_1_half --scratch --image-size 16 -j 0 "
        f"--bottleneck-dim 8 --epochs 1 -i 1 -b 4 --device cpu --log {tmp_path}/run"
    ).split()
    cli.launch(lambda: erm.parse_args(argv), erm.main)
    shown = name.encode("ascii", errors="backslashreplace")
    assert b"no test image has the class '" + shown + b"'" in terminal("stdout")
    text = (tmp_path / "run/log.txt").read_text(encoding="utf-8")
    assert f"no test image has the class '{name.encode(errors='backslashreplace').decode()}'" in text
    assert (tmp_path / "run/result.json").is_file()
    names = json.loads((tmp_path / "run/labeled.json").read_text())["names"]
    assert names == [f"train/{c}/{i}.png" for c in sorted(["bee", name]) for i in range(2)]

    argv = [f"{tmp_path}/run", f"{tmp_path}/photos/train", "--device", "cpu", "-j", "0"]
    cli.launch(lambda: predict.parse_args([*argv, "--out", f"{tmp_path}/table.csv"]), predict.main)
    cli.launch(lambda: predict.parse_args(argv), predict.main)
    table = (tmp_path / "table.csv").read_bytes()
    assert terminal("stdout").endswith(table)
    rows = list(csv.reader(io.StringIO(os.fsdecode(table))))
    assert [row[0] for row in rows[1:]] == [f"{tmp_path}/photos/{each}" for each in names]


def test_an_error_names_them(tmp_path, show_in_ascii):
    terminal = show_in_ascii()
    with pytest.raises(SystemExit):
        cli.launch(lambda: erm.parse_args([f"{tmp_path}/{LATIN1}", "-d", "ImageFolder"]), erm.main)
    assert terminal("stderr").startswith(b"error: folder '" + os.fsencode(tmp_path) + b"/\\udce4ffchen' is missing")
