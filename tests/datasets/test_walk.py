"""Whatever lies in a folder of one's own and is not used is named, or refused."""

import os

import pytest

from common import datasets
from common.datasets import walk
from common.errors import UserError
from tests.datasets.test_image_folder import save


@pytest.fixture
def root(tmp_path):
    for name in ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png"):
        save(tmp_path / name)
    return tmp_path


@pytest.fixture
def read(root, log):
    """Read the folder; returns the lines logged, and how many images there are."""

    def reading(**options) -> tuple[str, int]:
        log.clear()
        log.set_level("INFO", "common")
        data = datasets.load("ImageFolder", root, **options)
        return "\n".join(log.messages), len(data.train) + len(data.test)

    return reading


def listed(root) -> dict:
    (root / "list.csv").write_text("train/cat/1.png,cat\ntrain/dog/1.png,dog\n")
    return {"labeled_list": root / "list.csv"}


def test_a_tidy_folder_is_read_without_a_word(root, read):
    save(root / "unlabeled/a/b.png")
    assert read() == ("", 5)
    assert read(**listed(root)) == ("", 5)


@pytest.mark.parametrize(
    ("names", "reported"),
    [
        (["train/a.png", "train/b.JPG"], "2 directly in 'train'"),
        (["test/a.png"], "1 directly in 'test'"),
        (["more/a.png", "more/deep/b.png", "new/c.png"], "2 in 'more', 1 in 'new'"),
        (["val/cat/a.png"], "1 in 'val'"),
        (["unlabelled/a.png"], "1 in 'unlabelled', which is not 'unlabeled'"),
        (["Unlabeled/a.png"], "1 in 'Unlabeled', which is not 'unlabeled'"),
        (["Train/cat/a.png"], "1 in 'Train'"),
        (["train/cat/.a.png"], "1 hidden"),
    ],
)
def test_images_where_they_are_not_looked_for_are_counted(root, read, names, reported):
    for name in names:
        save(root / name)
    text, number = read()
    assert text == f"'{root}' has images that are not used ({reported}): they are skipped"
    assert number == 4


def test_images_in_the_root_itself_are_counted(root, read):
    save(root / "a.png")
    (root / "labels.csv").write_text("")
    assert read()[0] == f"'{root}' has images that are not used (1 directly in '{root.name}'): they are skipped"


def test_with_a_list_only_what_is_in_test_and_val_may_be_missed(root, read):
    for name in ("a.png", "more/b.png", "train/c.png", "test/d.png", "val/cat/e.png"):
        save(root / name)
    text, number = read(**listed(root))
    assert text == f"'{root}' has images that are not used (1 directly in 'test', 1 in 'val'): they are skipped"
    assert number == 7


def test_there_is_one_warning(root, read):
    save(root / "train/a.png")
    (root / "train/photos.ZIP").write_bytes(b"")
    (root / "train/cat/Thumbs.db").write_bytes(b"")
    save(root / "train/cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.png")
    text, number = read()
    assert text == (
        f"'{root}' has images that are not used (1 directly in 'train') and files that are not taken for images "
        "(1 .db, 1 .zip) and folders that hold no data (1 @eaDir): they are skipped"
    )
    assert number == 4


@pytest.mark.parametrize("place", ["", "train/", "train/cat/", "test/", "unlabeled/"])
@pytest.mark.parametrize("name", sorted(walk.SYSTEM_FOLDERS))
def test_system_folders_are_no_classes_and_hold_no_images(root, read, place, name):
    save(root / place / name / "a" / "thumbnail.png")
    assert read() == (f"'{root}' has folders that hold no data (1 {name}): they are skipped", 4)
    assert read(**listed(root)) == (f"'{root}' has folders that hold no data (1 {name}): they are skipped", 4)


def test_many_unused_images_are_not_all_counted(root, read, monkeypatch):
    monkeypatch.setattr(walk, "COUNTED", 3)
    for i in range(5):
        save(root / f"more/{i}.png")
    assert "(3+ in 'more')" in read()[0]


def test_a_run_among_the_classes_is_none_and_one_of_its_files_makes_no_run(root, read):
    for name in ("dog/args.json", "cat/labeled.json", "run/args.json", "run/labeled.json"):
        save(root / "train" / name.partition("/")[0] / "1.png")
        (root / "train" / name).write_text("{}")
    assert read() == (f"'{root}' has files that are not taken for images (2 .json): they are skipped", 4)


@pytest.mark.parametrize("link", ["train/ox", "train/cat/2.png", "train/cat/more", "test/ox", "test/cat/x.JPG",
                                  "unlabeled", "unlabeled/disk"])  # fmt: skip
def test_broken_links_are_refused(root, link):
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to("/mnt/disk/ox")
    reported = rf"'{root}/{link}' is a link to '/mnt/disk/ox', which is missing: mount its disk, or remove the link"
    with pytest.raises(UserError, match=reported):
        datasets.load("ImageFolder", root)
    with pytest.raises(UserError, match=reported):
        datasets.load("ImageFolder", root, **listed(root))


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_disk_that_is_not_mounted_is_distinguished_from_a_missing_folder(root, name):
    (root / name).rename(root / "elsewhere")
    (root / name).symlink_to("/mnt/disk")
    save(root / "val/cat/1.png")
    with pytest.raises(UserError, match=rf"'{root}/{name}' is a link to '/mnt/disk', which is missing"):
        datasets.load("ImageFolder", root)


def test_links_to_other_files_and_beside_the_images_are_no_harm(root, read):
    (root / "train/cat/notes.txt").symlink_to("/nowhere")
    (root / "latest").symlink_to("/nowhere")
    assert read() == (f"'{root}' has files that are not taken for images (1 broken link): they are skipped", 4)


def test_what_is_no_regular_file_is_not_opened(root, read):
    os.mkfifo(root / "train/cat/pipe.png")
    assert read() == (f"'{root}' has files that are not taken for images (1 pipe or device): they are skipped", 4)


def test_a_folder_of_another_case_is_named(root):
    (root / "train").rename(root / "Train")
    with pytest.raises(UserError, match="train' is missing \\('Train' is there: rename it\\): ImageFolder needs"):
        datasets.load("ImageFolder", root)


def test_classes_that_may_be_a_level_too_high_are_reported(root, read):
    (root / "train/cat/1.png").unlink()
    (root / "train/dog/1.png").unlink()
    for name in ("train/cat/house", "train/cat/wild", "train/dog/house"):
        save(root / name / "1.png")
    assert read()[0] == (
        f"classes are the folders of '{root}/train' (cat, dog), not those below them (house, wild), though all images "
        "are there"
    )


def test_of_many_kinds_the_most_frequent_are_named(root, read):
    for name in (*(f"scan.{i:04}" for i in range(30)), "a.txt", "b.txt"):
        (root / "train" / "cat" / name).touch()
    reported, number = read()
    assert number == 4
    assert "2 .txt, 21 of other kinds" in reported
    assert reported.count(".00") == 9
