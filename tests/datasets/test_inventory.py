"""The inventory of image files: what it reads, and what it notices."""

import os

import pytest

from common.datasets import inventory
from common.datasets.images import ImageSet
from common.errors import UserError


def test_an_inventory_reads_what_it_does_not_know(tmp_path, monkeypatch):
    names = ["small.png", "large.png", "with\nnewline,and comma.png", os.fsdecode(b"latin-\xe4.png")]
    for name in names:
        (tmp_path / name).write_bytes(os.urandom(50_000 if name == "large.png" else 12 * 1024))
    images = ImageSet([str(tmp_path / name) for name in names] + [str(tmp_path / "gone.png")], [0, 1, -1, 0, 0])
    found = inventory.read({"train": images}, ["a", "b"], tmp_path, {})
    entry = found[names[0]]
    (tmp_path / "odd.csv").write_bytes(inventory.to_csv({'a\r"b\n,.png': entry}))
    assert inventory.from_csv(tmp_path / "odd.csv") == {'a\r"b\n,.png': entry}
    assert [entry.label for entry in found.values()] == ["a", "b", "", "a", "a"]
    assert found["gone.png"].content == ""
    (tmp_path / "x.csv").write_bytes(inventory.to_csv(found))
    assert inventory.from_csv(tmp_path / "x.csv") == found
    large = tmp_path / "large.png"
    for position in (0, 25_000, 49_999):
        content = bytearray(large.read_bytes())
        content[position] ^= 1
        large.write_bytes(content)
        os.utime(large, ns=(position, position))  # some disks' clocks are coarse
        changed = inventory.read({"train": images}, ["a", "b"], tmp_path, found)
        assert inventory.differences(found, changed) == ["1 is of another content ('large.png')"]
        assert inventory.fingerprint(changed) != inventory.fingerprint(found)
        found = changed
    for name in names:
        os.utime(tmp_path / name, ns=(0, 0))
    touched = inventory.read({"train": images}, ["a", "b"], tmp_path, found)
    assert inventory.fingerprint(touched) == inventory.fingerprint(found)
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: pytest.fail("read again"))
    assert inventory.read({"train": images}, ["a", "b"], tmp_path, touched) == touched


@pytest.mark.parametrize("text", ["", "path\n", "path,set,class,bytes,modified,content\nx,train,a,b,c,d\n"])
def test_a_damaged_inventory_is_refused_in_a_line(tmp_path, text):
    (tmp_path / "images.csv").write_text(text)
    with pytest.raises(UserError, match=r"images.csv' cannot be read \(.*\): remove it, or choose another --log"):
        inventory.from_csv(tmp_path / "images.csv")


def test_a_file_in_anothers_place_is_found_by_its_size_or_its_content(tmp_path):
    """A copy with another time is the same file, and one that is gone is in nobody's place."""
    for name in ("same", "longer", "other", "gone"):
        (tmp_path / name).write_bytes(b"12345")
    images = ImageSet([str(tmp_path / name) for name in ("same", "longer", "other", "gone")], [0] * 4)
    before = inventory.read({"train": images}, ["a"], tmp_path, {})
    os.utime(tmp_path / "same", (1, 1))
    (tmp_path / "longer").write_bytes(b"123456")
    (tmp_path / "other").write_bytes(b"54321")
    os.utime(tmp_path / "other", (2, 2))
    (tmp_path / "gone").unlink()
    assert inventory.replaced(before, tmp_path) == ["longer", "other"]
