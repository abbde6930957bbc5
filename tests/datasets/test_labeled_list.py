"""Lists of labeled images: tables of predict.py go back into the training, and each mistake is named for what it is."""

import csv
import logging
import os
from collections import Counter

import pytest

from common import datasets
from common.datasets import __main__ as program
from common.datasets import image_folder, labeled_list, near_paths
from common.errors import UserError
from tests.datasets.test_image_folder import relative, save

HEADER = "path,class,confidence,class_2,confidence_2"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder `photos`, seen from the folder above it."""
    for name in ("a.png", "b.png", "c.png", "deep/d.png", "e, f.png", "test/cat/1.png", "test/dog/1.png"):
        save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def read(root, *lines: str, **options) -> dict[str, str]:
    """Path -> class of the labeled images."""
    file = root.parent / "list.csv"
    file.write_text("\n".join(lines), encoding="utf-8")
    data = datasets.load("ImageFolder", "photos", labeled_list=file, **options)
    paths = relative(data.train, "photos")[: data.candidates]
    return dict(zip(paths, (data.classes[label] for label in data.train.labels), strict=False))


@pytest.mark.parametrize("prefix", ["photos/", "{root}/", "", "./photos/", "../{above}/photos/"])
def test_a_table_of_predictions_is_a_list_wherever_its_paths_begin(root, prefix):
    prefix = prefix.format(root=root, above=root.parent.name)
    found = read(root, HEADER, f"{prefix}a.png,cat,0.9,dog,0.1", f"{prefix}deep/d.png,dog,0.6,cat,0.4",
                 f'"{prefix}e, f.png",cat,0.51,dog,0.49')  # fmt: skip
    assert found == {"a.png": "cat", "deep/d.png": "dog", "e, f.png": "cat"}


def test_a_quote_after_a_space_is_no_part_of_a_name(root):
    found = read(root, "path, class", 'a.png, "cat"', "b.png, cat", ' "e, f.png", "dog"')
    assert found == {"a.png": "cat", "b.png": "cat", "e, f.png": "dog"}


def test_a_list_of_16_bit_characters_without_a_mark_is_named_for_what_it_is(root):
    file = root.parent / "list.csv"
    file.write_bytes("path,class\na.png,cat\nb.png,dog\n".encode("utf-16-le"))
    with pytest.raises(UserError, match=r"list\.csv' is not UTF-8: save it as 'CSV UTF-8'"):
        datasets.load("ImageFolder", "photos", labeled_list=file)


def test_in_a_table_of_predictions_a_label_from_before_counts(root):
    """A person's label is no prediction. It counts until the person corrects the row, and empties its confidence."""
    header = "path,class,confidence,given"
    rows = ["a.png,dog,0.6,cat", "b.png,dog,0.6,", "deep/d.png,dog,0.99,", "photos/test/cat/1.png,dog,0.9,"]
    assert read(root, header, *rows, min_confidence=0.9) == {"a.png": "cat", "deep/d.png": "dog"}
    data = datasets.load("ImageFolder", "photos", labeled_list=root.parent / "list.csv", min_confidence=0.9)
    assert data.predicted == {"deep/d.png"}
    assert read(root, header, "a.png,dog,,cat", "b.png,cat,0.6,") == {"a.png": "dog", "b.png": "cat"}


def test_a_path_below_the_root_goes_before_one_of_the_current_folder(root):
    save(root / "photos/a.png")
    assert read(root, "photos/a.png,cat", "b.png,dog") == {"photos/a.png": "cat", "b.png": "dog"}


def test_a_root_behind_a_link(root):
    (root.parent / "disk").mkdir()
    root.rename(root.parent / "disk/photos")
    root.symlink_to(root.parent / "disk/photos")
    assert read(root, f"{root.parent}/disk/photos/a.png,cat", "b.png,dog") == {"a.png": "cat", "b.png": "dog"}


def test_a_folder_behind_a_link(root):
    """Its images are below the root for whoever looks from there, and nowhere near it on the disk."""
    (root / "deep").rename(root.parent / "disk")
    (root / "deep").symlink_to(root.parent / "disk")
    assert read(root, "photos/deep/d.png,cat", "b.png,dog") == {"deep/d.png": "cat", "b.png": "dog"}


TABLE = [HEADER, "photos/a.png,cat,0.9,dog,0.1", "photos/b.png,dog,0.89999,cat,0.1", "photos/c.png,dog,,cat,",
         "photos/deep/d.png,cat,1,dog,0", "photos/e.png,,error: there is no such file,,",
         "photos/test/cat/1.png,cat,1,dog,0"]  # fmt: skip


def test_rows_below_a_confidence_are_left_unlabeled(root, log):
    """A row without a confidence is a person's; a row of a test image is none to train on."""
    log.set_level("INFO", "common")
    expected = {"a.png": "cat", "c.png": "dog", "deep/d.png": "cat"}
    assert read(root, *TABLE, min_confidence=0.9) == expected
    assert log.messages == [
        f"'{root.parent}/list.csv': 3 labels; 1 below --min-confidence 0.9 are left unlabeled, 1 could not be read by "
        "predict.py, 1 are test images and not used",
        f"'{root.parent}/list.csv': 2 of 3 labels have a confidence, so they are predictions. Empty it where you have "
        "checked the class",
    ]
    assert read(root, *TABLE) == expected | {"b.png": "dog"}
    assert read(root, *TABLE, min_confidence=0.0) == expected | {"b.png": "dog"}


def test_a_class_without_a_confident_row_is_named(root, log):
    """The network would not know it, and nothing else would say so."""
    lines = [HEADER, "photos/a.png,cat,0.9,dog,0.1", "photos/b.png,dog,0.8,cat,0.1", "photos/c.png,ox,0.7,cat,"]
    read(root, *lines, "photos/deep/d.png,dog,0.95,cat,", min_confidence=0.9)
    warned = [message for message in log.messages if "no row" in message]
    assert warned == [
        f"'{root.parent}/list.csv': these classes have no row that reaches --min-confidence 0.9, so the "
        "network will not know them: 'ox'"
    ]


def test_an_image_that_is_left_unlabeled_is_an_unlabeled_one(root):
    (root.parent / "list.csv").write_text("\n".join(TABLE))
    data = datasets.load("ImageFolder", "photos", labeled_list=root.parent / "list.csv", min_confidence=0.9)
    assert relative(data.train, "photos")[3:] == ["b.png", "e, f.png"]
    assert data.train.labels[3:].tolist() == [-1, -1]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_spreadsheet_may_change_separators_and_columns(root, separator):
    rows = list(csv.reader(TABLE[:5]))
    lines = [separator.join([row[2], row[1], row[0], *row[3:]]) for row in rows]
    assert read(root, *lines) == {"a.png": "cat", "b.png": "dog", "c.png": "dog", "deep/d.png": "cat"}


def test_all_broken_lines_are_found(root):
    file = root.parent / "list.csv"
    file.write_text("a.png,cat\ngone.png,cat\nb.png\nc.png,dog\na.png,dog\n")
    problems = image_folder.list_problems(root, file)
    assert [text.split(":")[0] for text in problems] == [f"'{file}', line {line}" for line in (2, 3, 5)]
    with pytest.raises(UserError, match=r"line 2: 'gone.png' .* \(one of 3 broken lines: python -m common.datasets"):
        datasets.load("ImageFolder", root, labeled_list=file)
    file.write_text('a.png,cat\ngone.png,cat\n"b.png,dog\n')
    assert len(image_folder.list_problems(root, file)) == 2


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("d.png", "did you mean 'deep/d.png'?"),
        ("A.PNG", "did you mean 'a.png'?"),
        ("a.jpg", "did you mean 'a.png'?"),
        ("/other/disk/photos/deep/d.png", "did you mean 'deep/d.png'?"),
        ("deep\\d.png", "did you mean 'deep/d.png', with / in the place of \\?"),
        ("C:\\photos\\deep\\d.png", "did you mean 'deep/d.png'?"),
        ("test/cat/1.png", "outside of test and val: it is for testing, remove it from the list"),
        ("photos/deep", "it is a folder, name the images in it"),
    ],
)
def test_what_was_meant_is_said(root, name, reported):
    with pytest.raises(UserError) as error:
        read(root, "b.png,cat", f"{name},cat")
    assert str(error.value).startswith(
        f"'{root.parent}/list.csv', line 2: '{name}' is none of the images below 'photos'"
    )
    assert str(error.value).endswith(reported)


def test_another_number_is_another_image(root):
    save(root / "IMG_0001.png")
    with pytest.raises(
        UserError, match=r"'IMG_0002\.png' is none .*: there is no such file, restore it or remove its line$"
    ):
        read(root, "b.png,cat", "IMG_0002.png,cat")
    with pytest.raises(UserError, match=r"did you mean 'IMG_0001\.png'\?$"):
        read(root, "b.png,cat", "IMG0001.png,cat")


def test_an_umlaut_that_is_written_otherwise_is_shown_in_characters(root):
    save(root / "A\u0308.png")
    with pytest.raises(UserError, match=r"did you mean 'A\\u0308.png'\?"):
        read(root, "b.png,cat", "\u00c4.png,cat")


# python -m common.datasets ROOT --check ImageFolder --labeled-list FILE


def check(root, text: str) -> None:
    (root.parent / "list.csv").write_text(text)
    program.main(program.parse_args(["photos", "--check", "ImageFolder", "--labeled-list", "list.csv"]))


def test_a_list_is_checked_without_class_folders(root, capsys):
    check(root, "a.png,cat\nb.png,dog\n")
    assert capsys.readouterr().out.splitlines() == [
        "ImageFolder: 2 classes, 2 + 3 training and 2 test images",
        "all 7 images can be read",
    ]


def test_the_program_shows_what_reading_the_list_logs(root, monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])  # as in a process of its own
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    monkeypatch.setattr(logging.getLogger("common"), "propagate", True)
    check(root, f"{HEADER}\na.png,cat,1,dog,0\nb.png,dog,1,cat,0\ntest/cat/1.png,cat,1,dog,0\n")
    assert "'list.csv': 2 labels; 1 are test images and not used\n" in capsys.readouterr().err


def test_all_broken_lines_are_shown_at_once(root, capsys):
    with pytest.raises(UserError, match=r"'list\.csv' has 2 broken lines: correct them, or remove them"):
        check(root, "a.png,cat\nd.png,cat\nb.png\nc.png,dog\n")
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "'list.csv', line 2: 'd.png' is none of the images below 'photos': did you mean 'deep/d.png'?"
    assert shown[1:] == ["'list.csv', line 3: 'b.png' has no class: add it after a comma"]


def test_all_unreadable_images_are_shown_at_once(root, capsys):
    for name in ("a.png", "deep/d.png", "test/dog/1.png"):
        (root / name).write_bytes(b"")
    with pytest.raises(UserError, match="3 images of ImageFolder cannot be read: replace or remove them"):
        check(root, "a.png,cat\nb.png,dog\n")
    shown = capsys.readouterr().out
    assert [line.split("'")[1] for line in shown.splitlines()[1:]] == [
        f"photos/{name}" for name in ("a.png", "deep/d.png", "test/dog/1.png")
    ]


def test_checking_names_broken_lines_and_unreadable_images_at_once(root, capsys):
    (root / "a.png").write_bytes(b"GIF")
    (root / "deep" / "d.png").write_bytes(b"")
    (root.parent / "list.csv").write_text("path,class\nb.png,cat\nx.png,cat\n")
    with pytest.raises(UserError, match=r"has 1 broken lines: .* \(listed above\); 2 images cannot be read"):
        program.main(program.parse_args(["photos", "--check", "ImageFolder", "--labeled-list", "list.csv"]))
    shown = capsys.readouterr().out.splitlines()
    assert "line 3: 'x.png' is none of the images" in shown[0]
    assert [line.partition(" cannot be read")[0] for line in shown[1:]] == [
        "image 'photos/a.png'",
        "image 'photos/deep/d.png'",
    ]


def test_a_photo_whose_name_is_not_utf8_comes_back_from_the_table(root):
    """predict.py writes the bytes of the name. A person's own list is refused: its letters are another encoding's."""
    name = os.fsdecode(b"M\xfcller.png")
    save(root / name)
    file = root.parent / "table.csv"
    file.write_bytes(b"path,class,confidence\nM\xfcller.png,cat,0.9\na.png,dog,0.9\n")
    data = datasets.load("ImageFolder", "photos", labeled_list=file)
    assert data.predicted == {name, "a.png"}
    file.write_bytes(b"path,class\nM\xfcller.png,cat\na.png,dog\n")
    with pytest.raises(UserError, match="is not UTF-8: save it as 'CSV UTF-8'"):
        datasets.load("ImageFolder", "photos", labeled_list=file)


def test_a_long_list_of_a_moved_folder_is_explained_in_linear_time(root, monkeypatch):
    """Every path is looked at a few times, not once for each line; a few lines alone are compared letter by letter."""
    number, calls, compared = 300, Counter(), Counter()
    plain, close = near_paths._plain, near_paths.difflib.get_close_matches
    monkeypatch.setattr(near_paths, "_plain", lambda text: calls.update(["plain"]) or plain(text))
    monkeypatch.setattr(
        near_paths.difflib,
        "get_close_matches",
        lambda *args, **how: compared.update(["close"]) or close(*args, **how),
    )
    found = {f"{i}.png": "" for i in range(number)}
    table = root.parent / "table.csv"
    table.write_text("path,class\n" + "".join(f"gone/x{i}.png,cat\n" for i in range(number)))
    listed = labeled_list.read(table, root, found, (), None)
    assert len(listed.problems) == number
    assert calls["plain"] <= 6 * number + 6
    assert compared["close"] == near_paths.MOST_COMPARED
