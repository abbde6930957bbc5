"""Files that are written whole or not at all. (Full disks and kills are in tests/run.)"""

import os

from common.system.files import write_whole, writing


def test_a_link_stays_and_the_file_that_it_names_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    named, link, hanging = tmp_path / "elsewhere" / "table.csv", tmp_path / "table.csv", tmp_path / "new.csv"
    named.write_text("old")
    link.symlink_to(named)
    hanging.symlink_to("elsewhere/new.csv")
    write_whole(link, b"new")
    with writing(hanging) as stream:
        stream.write("first")
    assert link.is_symlink()
    assert hanging.is_symlink()
    assert (named.read_text(), (named.parent / "new.csv").read_text()) == ("new", "first")
    assert sorted(os.listdir(named.parent)) == ["new.csv", "table.csv"]
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "new.csv", "table.csv"]
