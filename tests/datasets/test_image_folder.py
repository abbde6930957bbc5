"""A user's own images."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import erm
from common import datasets
from common.datasets import splits
from common.errors import UserError
from common.records.run_images import RunImages


def save(path, color="red", mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (12, 8), color).save(path)


@pytest.fixture
def root(tmp_path):
    """Made in an order that is not the alphabet's."""
    for name in (
        "train/dog/b.png",
        "train/dog/a.jpg",
        "train/cat/z.png",
        "train/cat/deep/er/y.PNG",
        "train/ant/1.webp",
    ):
        save(tmp_path / name)
    for name in ("test/dog/1.png", "test/cat/1.png"):
        save(tmp_path / name)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".git").mkdir()
    return tmp_path


def relative(images, root):
    return [str(path).removeprefix(f"{root}/") for path in images.images]


def test_images_are_in_order_of_class_and_path(root):
    data = datasets.load("ImageFolder", root)
    assert data.classes == ["ant", "cat", "dog"]
    assert relative(data.train, root) == [
        "train/ant/1.webp",
        "train/cat/deep/er/y.PNG",
        "train/cat/z.png",
        "train/dog/a.jpg",
        "train/dog/b.png",
    ]
    assert data.train.labels.tolist() == [0, 1, 1, 2, 2]
    assert relative(data.test, root) == ["test/cat/1.png", "test/dog/1.png"]
    assert data.test.labels.tolist() == [1, 2]


def test_val_stands_in_for_test(root):
    (root / "test").rename(root / "val")
    assert relative(datasets.load("ImageFolder", root).test, root) == ["val/cat/1.png", "val/dog/1.png"]


def test_test_is_preferred_to_val(root):
    save(root / "val" / "cat" / "other.png")
    assert relative(datasets.load("ImageFolder", root).test, root)[0] == "test/cat/1.png"


def test_unlabeled_images_come_last_and_are_never_drawn(root):
    for name in ("b/2.png", "1.png", "a/b/c/3.png", "cat/4.png"):
        save(root / "unlabeled" / name)
    data = datasets.load("ImageFolder", root)
    assert relative(data.train, root)[5:] == [
        f"unlabeled/{name}" for name in ("1.png", "a/b/c/3.png", "b/2.png", "cat/4.png")
    ]
    assert data.train.labels.tolist() == [0, 1, 1, 2, 2, -1, -1, -1, -1]
    labeled, unlabeled = splits.split(data.train.labels, data.classes, 1, 0, data.candidates)
    assert data.candidates == 5
    assert max(labeled) < 5
    assert set(unlabeled) >= {5, 6, 7, 8}


@pytest.mark.parametrize("folder", ["", "train"])
def test_a_missing_folder_is_named(root, folder):
    shutil.rmtree(root / folder)
    with pytest.raises(UserError, match=f"folder '{root / folder}' is missing"):
        datasets.load("ImageFolder", root)


def test_test_images_are_optional(root):
    whole = datasets.load("ImageFolder", root)
    shutil.rmtree(root / "test")
    data = datasets.load("ImageFolder", root)
    assert len(data.test) == 0
    assert (data.train.images, data.classes) == (whole.train.images, whole.classes)
    assert str(data.counts).endswith(" training images, and none to test with")
    (root / "test").mkdir()
    with pytest.raises(UserError, match=r"'.*test' has no images"):  # it was meant to have some
        datasets.load("ImageFolder", root)


def test_a_test_class_that_train_lacks_is_refused(root):
    save(root / "test" / "yak" / "1.png")
    with pytest.raises(UserError, match="class 'yak', which the train folder lacks"):
        datasets.load("ImageFolder", root)


@pytest.mark.parametrize("folder", ["train", "test"])
def test_a_folder_without_images_is_named(root, folder):
    for path in (root / folder).rglob("*.*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(UserError, match=f"'{root / folder}' has no images"):
        datasets.load("ImageFolder", root)


def test_a_class_without_images_is_named_by_the_split(root):
    (root / "train" / "bee").mkdir()
    data = datasets.load("ImageFolder", root)
    with pytest.raises(UserError, match="class 'bee' has 0 training images"):
        splits.split(data.train.labels, data.classes, 1, 0, data.candidates)


def test_gifs_are_images(root):
    Image.new("P", (12, 8)).save(root / "train" / "ant" / "2.GIF")
    assert "train/ant/2.GIF" in relative(datasets.load("ImageFolder", root).train, root)


def test_subset(root):
    subset = datasets.load("ImageFolder", root).train.subset(np.array([4, 1]))
    assert relative(subset, root) == ["train/dog/b.png", "train/cat/deep/er/y.PNG"]
    assert subset.labels.tolist() == [2, 1]


def test_an_animation_and_the_newer_kinds_are_images(root):
    for name in ("a.gif", "b.jfif", "c.AVIF"):
        shutil.copy(root / "train/dog/a.jpg", root / "train/ant" / name)
    assert relative(datasets.load("ImageFolder", root).train, root)[1:4] == [
        f"train/ant/{name}" for name in ("a.gif", "b.jfif", "c.AVIF")
    ]


def test_what_is_skipped_is_reported(root, log):
    for name in ("train/cat/x.heic", "train/dog/y.heic", "test/dog/README", "unlabeled/z.txt", "train/dog/.DS_Store"):
        save(root / name if name.endswith("png") else root / f"{name}.png")
        (root / f"{name}.png").rename(root / name)
    datasets.load("ImageFolder", root)
    assert "files that are not taken for images (2 .heic, 2 .txt, 1 README): they are skipped" in log.text


def test_hidden_files_and_folders_are_left_out(root, log):
    number = len(datasets.load("ImageFolder", root).train)
    before = list(log.messages)  # of a .txt
    save(root / "train/dog/.ipynb_checkpoints/a-checkpoint.jpg")
    save(root / "train/dog/._a.jpg")
    assert len(datasets.load("ImageFolder", root).train) == number
    assert log.messages == before * 2


def test_a_link_back_up_adds_nothing(root):
    number = len(datasets.load("ImageFolder", root).train)
    (root / "train/cat/again").symlink_to(root / "train/cat")
    (root / "train/cat/deep/er/up").symlink_to("..")
    assert len(datasets.load("ImageFolder", root).train) == number


def test_a_link_puts_no_images_into_two_sets(root, tmp_path):
    """Unlabeled ones that are labeled, or for testing, would be learned twice, or learned and tested."""
    shutil.rmtree(root / "unlabeled", ignore_errors=True)
    (root / "unlabeled").symlink_to(root / "train")
    with pytest.raises(UserError, match=r"unlabeled/ant' and '.*train/ant' are one folder, by a link, so its images"):
        datasets.load("ImageFolder", root)
    (root / "unlabeled").unlink()
    (root / "unlabeled").symlink_to(root / "test")
    with pytest.raises(UserError, match=r"unlabeled/\w+' and '.*test/\w+' are one folder"):
        datasets.load("ImageFolder", root)
    (root / "unlabeled").unlink()
    shutil.rmtree(root / "test")
    (root / "test").symlink_to(root / "train")
    with pytest.raises(UserError, match=r"train/\w+' and '.*test/\w+' are one folder"):
        datasets.load("ImageFolder", root)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_link_makes_no_second_class_of_a_folder(root, part):
    """Its images would have both classes."""
    shutil.rmtree(root / "train" / "ant")
    (root / part / "cat").rename(root / part / "lynx")
    (root / part / "cat").symlink_to(root / part / "lynx")
    if part == "test":
        (root / "train" / "cat").rename(root / "train" / "lynx")
        save(root / "train" / "cat" / "1.png")
    with pytest.raises(UserError, match=rf"{part}/cat[^']*' and '.*{part}/lynx[^']*' are one folder, by a link"):
        datasets.load("ImageFolder", root)


def test_a_link_within_a_class_makes_no_second_class_of_a_folder(root):
    (root / "train" / "cat" / "more").symlink_to(root / "train" / "dog")
    with pytest.raises(UserError, match=r"train/cat/more' and '.*train/dog' are one folder, by a link"):
        datasets.load("ImageFolder", root)


def test_a_link_in_the_root_of_a_list_puts_no_test_images_among_the_others(flat):
    (flat / "test").rename(flat / "holdout")
    (flat / "test").symlink_to(flat / "holdout")
    with pytest.raises(UserError, match=r"holdout/\w+' and '.*test/\w+' are one folder, by a link"):
        listed(flat, "photos/a.png,cat\nphotos/b.png,dog\n")


def test_on_a_disk_that_takes_capitals_for_small_letters_test_is_spelled_so(root, monkeypatch):
    (root / "test").rename(root / "Test")
    exists = os.path.lexists
    as_there = lambda path: path.with_name("Test") if path.name == "test" else path  # noqa: E731
    monkeypatch.setattr(os.path, "lexists", lambda path: exists(as_there(Path(path))))
    with pytest.raises(UserError, match=r"test images belong into '.*/test' \('Test' is there: rename it\)"):
        datasets.load("ImageFolder", root)


def test_on_a_disk_that_takes_capitals_for_small_letters_unlabeled_is_spelled_so(root, monkeypatch):
    """Its images would be used, and be reported as not used."""
    save(root / "Unlabeled" / "1.png")
    isdir = os.path.isdir
    as_there = lambda path: path.with_name("Unlabeled") if path.name == "unlabeled" else path  # noqa: E731
    monkeypatch.setattr(os.path, "isdir", lambda path: isdir(as_there(Path(path))))
    with pytest.raises(UserError, match=r"/unlabeled' is spelled otherwise \('Unlabeled' is there: rename it\)"):
        datasets.load("ImageFolder", root)


def test_a_folder_that_may_not_be_read_is_named(root, lock_folder):
    lock_folder("deep")
    with pytest.raises(UserError, match=r"train/cat/deep' cannot be read \(Permission denied\): change"):
        datasets.load("ImageFolder", root)


def test_the_fingerprint_is_of_names_and_labels_wherever_the_root_is(root, tmp_path_factory, monkeypatch):
    original = datasets.load("ImageFolder", root).fingerprint
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(root, copy)
    monkeypatch.chdir(copy)
    assert datasets.load("ImageFolder", copy).fingerprint == datasets.load("ImageFolder", ".").fingerprint == original
    for old, new in (("train/dog/a.jpg", "train/dog/c.jpg"), ("train/dog/c.jpg", "train/cat/c.jpg"), ("test", "val")):
        (copy / old).rename(copy / new)
        changed = datasets.load("ImageFolder", copy).fingerprint
        assert changed != original
        original = changed
    for part in ("train", "val"):
        (copy / part / "dog").rename(copy / part / "fox")
    assert datasets.load("ImageFolder", copy).fingerprint != original


# A list of the labeled images


@pytest.fixture
def flat(tmp_path):
    """Photos in one folder and in none, a class folder, and test images."""
    for name in ("photos/b.png", "photos/a.png", "c.png", "train/cat/z.png", "train/ant/y.png", "unlabeled/x.png"):
        save(tmp_path / name)
    for name in ("test/dog/1.png", "test/cat/1.png"):
        save(tmp_path / name)
    return tmp_path


def listed(root, text):
    (root / "list.csv").write_text(text, encoding="utf-8")
    return datasets.load("ImageFolder", root, labeled_list=root / "list.csv")


@pytest.mark.parametrize(
    "text",
    [
        "path,class\nphotos/b.png,dog\nc.png,cat\nphotos/a.png,dog\n",
        "photos/b.png,dog\nc.png,cat\nphotos/a.png,dog",
        "\ufeffpath;class\r\nphotos/b.png; dog \r\n\r\n./c.png;cat;\r\n photos/a.png;dog\r\n;\r\n",
        "Path\tClass\nphotos/b.png\tdog\n'c.png'\tcat\nphotos//a.png\tdog\n".replace("'", '"'),
    ],
    ids=["header", "none", "a spreadsheet's", "tabs"],
)
def test_listed_images_come_first_and_all_others_are_unlabeled(flat, text, log):
    data = listed(flat, text)
    assert data.classes == ["cat", "dog"]
    assert relative(data.train, flat) == [
        *("c.png", "photos/a.png", "photos/b.png"),
        *("train/ant/y.png", "train/cat/z.png", "unlabeled/x.png"),
    ]
    assert data.train.labels.tolist() == [0, 1, 1, -1, 0, -1]  # the folder tells one of the others, for the meters
    assert (data.candidates, str(data.counts)) == (3, "2 classes, 3 + 3 training and 2 test images")
    assert relative(data.test, flat) == ["test/cat/1.png", "test/dog/1.png"]
    assert not log.messages


def test_a_folder_tells_the_class_where_the_list_does_not(flat):
    data = listed(flat, "train/cat/z.png\nphotos/a.png,dog\n")
    assert relative(data.train, flat)[:2] == ["train/cat/z.png", "photos/a.png"]
    assert data.train.labels.tolist()[:2] == [0, 1]


def test_the_list_decides_the_fingerprint(flat):
    texts = ("c.png,cat\nphotos/a.png,dog\n", "c.png,cat\nphotos/b.png,dog\n", "c.png,dog\nphotos/a.png,cat\n")
    prints = [listed(flat, text).fingerprint for text in (*texts, texts[0])]
    assert len(set(prints)) == 3
    assert prints[0] == prints[3]


def test_a_label_alone_changes_the_fingerprint(flat):
    """The images stay in the same order."""
    save(flat / "d.png")
    first, second = (listed(flat, f"c.png,cat\nd.png,{name}\nphotos/a.png,dog\n") for name in ("cat", "dog"))
    assert list(first.train.images) == list(second.train.images)
    assert first.fingerprint != second.fingerprint
    assert first.test_fingerprint == second.test_fingerprint


def test_a_path_with_a_comma_needs_quotes(flat):
    save(flat / "a, b.png")
    assert relative(listed(flat, '"a, b.png",cat\nc.png,dog\n').train, flat)[0] == "a, b.png"


def test_a_run_names_its_labeled_and_held_out_images(flat):
    """In labeled.json, beside their positions."""
    for i in range(4):
        save(flat / f"train/cat/{i}.png")
        save(flat / f"train/dog/{i}.png")
    argv = (
        f"{flat} -d ImageFolder --labeled-list {flat}/list.csv --val-per-class 1 -a wrn_10_1_half --scratch "
        f"--image-size 16 -j 0 --bottleneck-dim 8 --epochs 1 -i 1 -b 4 --device cpu --log {flat}/run"
    ).split()
    (flat / "list.csv").write_text("".join(f"train/{name}/{i}.png\n" for name in ("cat", "dog") for i in range(3)))
    erm.main(erm.parse_args(argv))
    kept = json.loads((flat / "run/labeled.json").read_text())
    paths = relative(datasets.load("ImageFolder", flat, labeled_list=flat / "list.csv").train, flat)
    assert kept["names"] == [paths[i] for i in kept["indices"]]
    assert kept["held_out_names"] == [paths[i] for i in kept["held_out"]]
    assert (len(kept["names"]), len(kept["held_out_names"])) == (4, 2)


# Small images of one size


def test_the_size_of_square_images_is_looked_up_where_it_is_asked_for(root):
    assert datasets.load("ImageFolder", root).spec.native_size is None
    plain = datasets.load("ImageFolder", root).fingerprint
    for path in [p for p in root.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".webp")]:
        Image.new("RGB", (24, 24)).save(path)
    data = datasets.load("ImageFolder", root, resizing="cifar")
    assert data.spec.native_size == 24
    assert datasets.load("ImageFolder", root).fingerprint == plain != data.fingerprint  # a part of the fingerprint


def test_the_datasets_own_size_is_not_looked_up():
    assert datasets.load("Digits", "data", resizing="cifar").spec.native_size == 32


@pytest.mark.parametrize(("name", "flip", "flipped"), [("ImageFolder", True, True), ("ImageFolder", False, False),
                                                       ("Digits", True, False)])  # fmt: skip
def test_no_flip(root, name, flip, flipped):
    assert datasets.load(name, root, flip=flip).spec.flip is flipped


def test_held_out_predictions_are_named_as_such(flat):
    data = listed(flat, "path,class,confidence\nc.png,cat,\nphotos/a.png,dog,0.9\n")
    run = SimpleNamespace(data=data, root=str(flat), labeled=np.array([0]), held_out=np.array([1]))
    assert RunImages.names(run)["predicted_names"] == ["photos/a.png"]


def test_only_the_roots_own_test_folder_is_left_out(flat):
    for name in ("photos/test/d.png", "photos/val/e.png"):
        save(flat / name)
    data = listed(flat, "photos/test/d.png,cat\nphotos/a.png,dog\n")
    assert {"photos/test/d.png", "photos/val/e.png"} <= set(relative(data.train, flat))


def test_a_folder_whose_name_begins_with_a_tilde_is_one(root, monkeypatch):
    """`~photos` is somebody's home folder only if there is somebody of that name."""
    root.rename(root.with_name("~photos"))
    monkeypatch.chdir(root.parent)
    assert len(datasets.load("ImageFolder", "~photos").train) == 5
    with pytest.raises(UserError, match="'~nobody_of_that_name' is missing"):
        datasets.load("ImageFolder", "~nobody_of_that_name")
