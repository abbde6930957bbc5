"""A typing error that makes a class is reported."""

import numpy as np
import pytest

from common import datasets
from common.datasets import class_names
from common.errors import UserError
from tests.datasets.test_image_folder import save

NFC, NFD = "\u00c4ffchen", "A\u0308ffchen"


def lines(log, *names: str, untested: tuple[str, ...] = ()) -> list[str]:
    train = np.repeat(range(len(names)), range(1, len(names) + 1))
    test = np.array([c for c, name in enumerate(names) if name not in untested], dtype=np.int64)
    class_names.warn(names, train, test)
    return log.messages


@pytest.mark.parametrize(
    ("a", "b"),
    [("functional", "functionl"), ("functional", "functionall"), ("tiger lily", "tigre lily"), ("Rabbit", "rabbet")],
)
def test_words_that_differ_by_one_letter_are_both_named(log, a, b):
    assert lines(log, a, "other", b) == [
        f"classes '{a}' (1 images) and '{b}' (3) differ by one letter: if one is a typing error, correct it"
    ]


@pytest.mark.parametrize(
    ("a", "b"),
    [("cat", "bat"), ("cell1", "cell2"), ("0", "1"), ("type A", "type B"), ("grade_b", "grade_c"),
     ("rose 1", "rose 11"), ("functional", "function"), ("rabbit", "habitr")],
)  # fmt: skip
def test_other_names_are_not(log, a, b):
    assert lines(log, a, b) == []


@pytest.mark.parametrize(("a", "b"), [("cat", "Cat"), ("cat", "cat "), (NFC, NFD), (NFC.lower(), NFD), ("a", "A")])
def test_names_that_look_alike_are_both_named(log, a, b):
    shown = [ascii(name) for name in (a, b)] if {a, b} == {NFC, NFD} else [f"'{a}'", f"'{b}'"]
    assert lines(log, a, b) == [
        f"classes {shown[0]} and {shown[1]} look alike: if they are one class, give it one name"
    ]


def test_classes_without_test_images_are_named(log):
    assert lines(log, "cat", "dog", "ct", "yak", untested=("ct", "yak")) == [
        "no test image has the class 'ct' (is it 'cat'?), 'yak': nothing tells how well it is learned"
    ]


def test_of_many_some_are_named(log):
    names = [f"class {c:03d}" for c in range(40)]
    assert lines(log, *names, untested=tuple(names[5:])) == [
        "no test image has the class 'class 005', 'class 006', 'class 007' and 32 more: nothing tells how well it is "
        "learned"
    ]


def test_where_nothing_is_tested_nothing_is_reported(log):
    assert lines(log, "cat", "dog", untested=("cat", "dog")) == []


@pytest.mark.parametrize("is_listed", [False, True])
def test_folders_and_lists_are_looked_at(tmp_path, log, is_listed):
    for name in ("train/functional/1.png", "train/functionl/1.png", "test/functional/1.png", "train/dog/1.png"):
        save(tmp_path / name)
    lines = "".join(f"train/{name}/1.png\n" for name in ("functional", "functionl", "dog"))
    (tmp_path / "list.csv").write_text(lines)
    datasets.load("ImageFolder", tmp_path, labeled_list=tmp_path / "list.csv" if is_listed else None)
    assert log.messages == [
        "classes 'functional' (1 images) and 'functionl' (1) differ by one letter: if one is a typing error, correct "
        "it",
        "no test image has the class 'dog', 'functionl' (is it 'functional'?): nothing tells how well it is learned",
    ]


def test_a_test_folder_with_another_umlaut_is_refused_in_characters(tmp_path):
    for name in (f"train/{NFC}/1.png", "train/dog/1.png", f"test/{NFD}/1.png"):
        save(tmp_path / name)
    with pytest.raises(UserError, match=r"the class 'A\\u0308ffchen', which .* lacks: did you mean '\\xc4ffchen'\?"):
        datasets.load("ImageFolder", tmp_path)
