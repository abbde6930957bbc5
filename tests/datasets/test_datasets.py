"""Every dataset through its real reader, from files in its exact layout."""

import hashlib
import importlib
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from common import datasets
from common.datasets import SPECS, splits, sun397
from common.datasets import __main__ as program
from common.errors import UserError
from tests.conftest import ROOT
from tests.helpers.datasets_on_disk import TEST, TRAIN, WRITERS, Written, accept_checksums

PHOTOGRAPHS = [name for name in WRITERS if SPECS[name].native_size is None]
SMALL = [name for name in WRITERS if SPECS[name].native_size is not None]
LISTED = [name for name in PHOTOGRAPHS if name != "Caltech101"]  # the split is in the files
TWO_STEPS = (
    "-a wrn_10_1_half --scratch --image-size 32 --bottleneck-dim 16 -b 4 --workers 0 -i 2 --epochs 1 --device cpu "
    "--any-counts"
).split()


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """`written(name)` -> (root, Written); each dataset is written once and must not be changed."""
    cache: dict[str, tuple[Path, Written]] = {}

    def write(name: str) -> tuple[Path, Written]:
        if name not in cache:
            root = tmp_path_factory.mktemp(name)
            cache[name] = root, WRITERS[name](root)
        return cache[name]

    return write


@pytest.fixture
def on_disk(written, monkeypatch):
    """As `written`, and torchvision accepts the checksums."""

    def prepare(name: str) -> tuple[Path, Written]:
        root, content = written(name)
        accept_checksums(monkeypatch, name, root)
        return root, content

    return prepare


@pytest.fixture
def copied(on_disk, tmp_path):
    """As `on_disk`, but a copy that may be changed."""

    def copy(name: str) -> Path:
        root, _ = on_disk(name)
        return Path(shutil.copytree(root, tmp_path / name))

    return copy


def load(name: str, root: Path, **options):
    return datasets.load(name, root, any_counts=True, **options)


def named(images, classes: list[str], root: Path) -> dict[str, str]:
    """path below the root -> class name"""
    paths = [Path(path).relative_to(root).as_posix() for path in images.images]
    assert len(set(paths)) == len(paths)
    return {path: classes[label] for path, label in zip(paths, images.labels, strict=True)}


def fingerprint(data) -> str:
    labeled, _ = splits.split(data.train.labels, data.classes, 4, 0, data.candidates)
    return splits.fingerprint(labeled)


# Reading


@pytest.mark.parametrize("name", LISTED)
def test_photographs_have_the_labels_and_the_split_of_their_lists(name, on_disk):
    root, content = on_disk(name)
    data = load(name, root)
    assert data.classes == content.classes
    assert named(data.train, data.classes, root) == content.train | content.extra
    assert named(data.test, data.classes, root) == content.test
    assert data.official_split
    assert data.any_counts


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_are_ordered_by_label_and_path(name, on_disk):
    root, _ = on_disk(name)
    data = load(name, root)
    first = len(data.train) if data.candidates is None else data.candidates
    samples = list(zip(data.train.labels, data.train.images, strict=True))
    for part in (samples[:first], samples[first:], list(zip(data.test.labels, data.test.images, strict=True))):
        assert part == sorted(part)
    assert data.train.labels.dtype == np.int64
    assert {data.train.load(i).mode for i in range(len(data.classes))} == {"RGB"}


@pytest.mark.parametrize("name", SMALL)
def test_arrays_keep_the_order_of_their_source(name, on_disk):
    root, content = on_disk(name)
    data = load(name, root)
    assert data.classes == content.classes
    for images, expected in ((data.train, content.train), (data.test, content.test)):
        assert np.array_equal(images.images, expected[0])
        assert images.labels.tolist() == expected[1].tolist()
        size = SPECS[name].native_size
        assert images.load(1).size == (size, size)


def test_flowers_draws_labels_from_train_only(on_disk):
    root, content = on_disk("OxfordFlowers102")
    data = load("OxfordFlowers102", root)
    labeled, unlabeled = splits.split(data.train.labels, data.classes, 4, 0, data.candidates)
    names = list(named(data.train, data.classes, root))
    assert {names[i] for i in labeled} <= content.train.keys()
    assert content.extra.keys() <= {names[i] for i in unlabeled}
    assert data.counts == (102, 102 * TRAIN, 102 * TEST, 102 * TRAIN)


def test_stl10_uses_its_own_unlabeled_images(on_disk):
    root, _ = on_disk("STL10")
    data = load("STL10", root)
    assert data.counts == (10, 10 * TRAIN, 10 * TEST, 10)
    assert (data.train.labels[data.candidates :] == -1).all()


def test_caltech_splits_by_sha1(on_disk):
    root, content = on_disk("Caltech101")
    data = load("Caltech101", root)
    assert data.classes == ["accordion", "BACKGROUND_Google", "Faces"]
    train = named(data.train, data.classes, root)
    folder = "caltech101/101_ObjectCategories/"
    for name in data.classes:
        paths = [path.removeprefix(folder) for path, of_class in content.extra.items() if of_class == name]
        paths.sort(key=lambda path: hashlib.sha1(path.encode()).hexdigest())
        assert {folder + path for path in paths[:30]} == {path for path, of_class in train.items() if of_class == name}
    assert train | named(data.test, data.classes, root) == content.extra
    assert not data.official_split


def test_sun397_generates_a_split_only_on_request(copied, monkeypatch):
    root = copied("SUN397")
    shutil.rmtree(root / "SUN397" / "Partitions")
    with pytest.raises(UserError, match="--generated-split"):
        load("SUN397", root)
    monkeypatch.setattr(sun397, "NUM_PER_CLASS", 3)
    data = load("SUN397", root, generated_split=True)
    assert not data.official_split
    assert data.counts == (3, 9, 9, 0)
    for label, name in enumerate(data.classes):
        paths = [p.relative_to(root / "SUN397").as_posix() for p in (root / "SUN397").rglob(f"{name}/*.jpg")]
        paths.sort(key=lambda path: hashlib.sha1(path.encode()).hexdigest())
        for images, expected in ((data.train, paths[:3]), (data.test, paths[3:6])):
            found = [Path(p) for p, c in zip(images.images, images.labels, strict=True) if c == label]
            assert found == [root / "SUN397" / path for path in sorted(expected)]


def test_sun397_finds_its_lists_beside_the_images(copied):
    root = copied("SUN397")
    shutil.move(root / "SUN397" / "Partitions", root / "Partitions")
    assert load("SUN397", root).counts == (3, 3 * TRAIN, 3 * TEST, 0)


def test_only_sun397_has_a_generated_split(tmp_path):
    with pytest.raises(UserError, match="--generated-split is not for DTD"):
        datasets.load("DTD", tmp_path, generated_split=True)
    erm = importlib.import_module("erm")
    with pytest.raises(UserError, match="--generated-split is not for DTD"):
        erm.parse_args(["data", "-d", "DTD", "--generated-split"])


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
@pytest.mark.parametrize("seed", [0, 1])
def test_cifar_labels_are_those_of_the_ancestors_rule(name, seed, on_disk):
    root, content = on_disk(name)
    data = load(name, root)
    targets = np.array(content.train[1])
    generator = np.random.RandomState(seed)
    expected = []
    for i in range(len(content.classes)):
        idx = np.where(targets == i)[0]
        expected.extend(generator.choice(idx, 4, False))
    expected_unlabeled = np.array([i for i in range(len(targets)) if i not in expected])

    labeled, unlabeled = splits.split(data.train.labels, data.classes, 4, seed, data.candidates)
    assert labeled.tolist() == expected
    assert unlabeled.tolist() == expected_unlabeled.tolist()


# The order of files


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_split_does_not_depend_on_the_file_system(name, on_disk, tmp_path, monkeypatch):
    root, _ = on_disk(name)
    files = [path for path in root.rglob("*") if path.is_file()]
    random.Random(1).shuffle(files)
    for file in files:
        target = tmp_path / "copy" / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    data = load(name, root)
    _reverse_listings(monkeypatch)
    copy = load(name, tmp_path / "copy")
    assert fingerprint(copy) == fingerprint(data)
    for part in ("train", "test"):
        before, after = named(getattr(data, part), data.classes, root), getattr(copy, part)
        assert list(named(after, copy.classes, tmp_path / "copy").items()) == list(before.items())


def _reverse_listings(monkeypatch) -> None:
    scandir, listdir = os.scandir, os.listdir

    class Reversed(list):
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def __next__(self):
            if not self:
                raise StopIteration
            return self.pop(0)

        def close(self):
            pass

    monkeypatch.setattr(os, "scandir", lambda *path: Reversed(sorted(scandir(*path), key=lambda e: e.name)[::-1]))
    monkeypatch.setattr(os, "listdir", lambda *path: sorted(listdir(*path))[::-1])


def test_split_does_not_depend_on_the_locale(on_disk):
    names = ("CUB200", "DTD", "SUN397", "Caltech101")
    expected = [fingerprint(load(name, on_disk(name)[0])) for name in names]
    program = (
        "import sys; from tests.datasets.test_datasets import fingerprint, load; from pathlib import Path\n"
        "assert not sys.flags.utf8_mode\n"
        "for name, root in zip(sys.argv[1::2], sys.argv[2::2]): print(fingerprint(load(name, Path(root))))"
    )
    arguments = [str(part) for name in names for part in (name, on_disk(name)[0])]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == expected


# Training


@pytest.mark.parametrize("method", ["erm", "fixmatch"])
@pytest.mark.parametrize("name", WRITERS)
def test_every_dataset_trains_two_steps(method, name, on_disk, tmp_path, monkeypatch):
    root, _ = on_disk(name)
    script = importlib.import_module(method)
    argv = [str(root), "-d", name, "--log", str(tmp_path / "run"), *TWO_STEPS]
    monkeypatch.setattr(sys, "argv", [f"{method}.py", *argv])
    result = script.main(script.parse_args(argv))
    assert result["dataset"] == name
    assert result["any_counts"] is True
    assert result["official_split"] is (name not in ("Caltech101", "Digits"))
    assert "should have" in (tmp_path / "run" / "log.txt").read_text()


def test_generated_split_is_in_the_log_and_the_result(on_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(sun397, "NUM_PER_CLASS", 4)
    root, _ = on_disk("SUN397")
    erm = importlib.import_module("erm")
    argv = [str(root), "-d", "SUN397", "--log", str(tmp_path / "run"), *TWO_STEPS, "--generated-split"]
    result = erm.main(erm.parse_args(argv))
    assert result["official_split"] is False
    assert "NOT official" in (tmp_path / "run" / "log.txt").read_text()


def test_svhn_is_never_flipped():
    assert {name for name in SPECS if not SPECS[name].flip} == {"SVHN", "SVHNExtra", "Digits"}


# What is wrong with the files


@pytest.mark.parametrize("name", LISTED)
def test_other_counts_are_refused(name, on_disk):
    root, _ = on_disk(name)
    with pytest.raises(UserError) as error:
        datasets.load(name, root)
    message = str(error.value)
    assert f"{SPECS[name].counts.train:,}" in message
    assert f"{load(name, root).counts.train:,}" in message
    assert "--any-counts" in message
    assert "\n" not in message


def test_known_counts_need_no_flag(on_disk, monkeypatch):
    root, _ = on_disk("DTD")
    counts = datasets.Counts(3, 3 * TRAIN, 3 * TEST)
    monkeypatch.setitem(SPECS, "DTD", replace(SPECS["DTD"], counts=counts))
    assert not load("DTD", root).any_counts
    assert not datasets.load("DTD", root).any_counts


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_missing_image_is_named(name, copied):
    root = copied(name)
    victim = Path(load(name, root).train.images[-1])
    victim.unlink()
    if name == "Caltech101":  # has no lists: the count finds it
        with pytest.raises(UserError, match="3 classes"):
            datasets.load(name, root)
        return
    with pytest.raises(UserError) as error:
        load(name, root)
    assert str(victim) in str(error.value)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_corrupt_image_is_named(name, copied):
    root = copied(name)
    data = load(name, root)
    victim = Path(data.test.images[-1])
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read") as error:
        data.test.load(len(data.test) - 1)
    assert str(victim) in str(error.value)


def test_a_corrupt_image_ends_training_with_its_name(copied, tmp_path):
    root = copied("DTD")
    for victim in (root / "dtd/dtd/images/blotchy").iterdir():
        victim.write_bytes(b"no image")
    erm = importlib.import_module("erm")
    with pytest.raises(UserError, match="blotchy"):
        erm.main(erm.parse_args([str(root), "-d", "DTD", "--log", str(tmp_path / "run"), *TWO_STEPS]))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "FashionMNIST"])  # its files have no checksum
def test_a_corrupt_array_is_refused(name, copied):
    root = copied(name)
    victim = max((path for path in root.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[-1000] ^= 1
    victim.write_bytes(content)
    with pytest.raises(UserError, match=f"{name.removesuffix('Extra')} under '{root}' is incomplete or damaged"):
        load(name, root)


@pytest.mark.parametrize("place", range(180, 380, 20))
def test_damaged_lists_of_stanford_cars_are_refused(place, copied):
    """They come by hand, without a checksum, and are compressed."""
    root = copied("StanfordCars")
    file = root / "stanford_cars/devkit/cars_train_annos.mat"
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"StanfordCars under '{root}' is incomplete or damaged"):
        load("StanfordCars", root)


def test_a_folder_that_may_not_be_read_is_named(copied, monkeypatch):
    root = copied("Food101")
    folder = next(path for path in (root / "food-101/images").iterdir() if path.is_dir())
    monkeypatch.setattr(os, "listdir", mock.Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(UserError, match=f"folder '{folder.parent}/.*' cannot be read .*: change its permissions"):
        load("Food101", root)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Food101", "food-101/meta/test.json"),
        ("CUB200", "CUB_200_2011/train_test_split.txt"),
        ("Aircraft", "fgvc-aircraft-2013b/data/variants.txt"),
        ("StanfordCars", "stanford_cars/cars_test_annos_withlabels.mat"),
        ("SUN397", "SUN397/Partitions/Testing_01.txt"),
        ("DTD", "dtd/dtd/labels/train1.txt"),
        ("OxfordIIITPets", "oxford-iiit-pet/annotations/test.txt"),
        ("FashionMNIST", "FashionMNIST/raw/t10k-labels-idx1-ubyte"),
    ],
)
def test_a_missing_list_is_refused(name, file, copied):
    root = copied(name)
    (root / file).unlink()
    with pytest.raises(UserError) as error:
        load(name, root)
    assert "\n" not in str(error.value)
    assert name == "FashionMNIST" or file in str(error.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Food101", "food-101/meta/test.json"),
        ("CUB200", "CUB_200_2011/images.txt"),
        ("Aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt"),
        ("StanfordCars", "stanford_cars/devkit/cars_train_annos.mat"),
        ("SUN397", "SUN397/Partitions/Testing_01.txt"),
        ("DTD", "dtd/dtd/labels/test1.txt"),
        ("OxfordIIITPets", "oxford-iiit-pet/annotations/trainval.txt"),
        ("FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00junk \n a b c d e\n"])
def test_a_damaged_list_is_refused(name, file, content, copied):
    root = copied(name)
    (root / file).write_bytes(content)
    with pytest.raises(UserError) as error:
        load(name, root)
    assert "\n" not in str(error.value)


def test_cub_lists_must_agree(copied):
    root = copied("CUB200")
    file = root / "CUB_200_2011" / "image_class_labels.txt"
    file.write_text("\n".join(file.read_text().splitlines()[1:]))
    with pytest.raises(UserError, match=r"image_class_labels\.txt' and images\.txt differ"):
        load("CUB200", root)


def test_dtd_lists_must_name_the_same_classes(copied):
    root = copied("DTD")
    file = root / "dtd/dtd/labels/train1.txt"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if "blotchy" not in line))
    with pytest.raises(UserError, match="'blotchy' in the list of one split only"):
        load("DTD", root)


@pytest.mark.parametrize("name", ["StanfordCars", "SUN397"])
def test_what_to_put_where_is_said_in_one_line(name, tmp_path):
    with pytest.raises(UserError) as error:
        datasets.load(name, tmp_path)
    message = str(error.value)
    assert "\n" not in message
    for part in (str(tmp_path), "md5", "https://github.com/pytorch/vision/issues"):
        assert part in message


# SUN397's size


def test_sun397_lists_each_of_its_folders_a_few_times(tmp_path, monkeypatch):
    """Its 108,754 files may lie on a network's disk: what is asked of it grows with the folders. Here are fewer."""
    classes, total = 397, 54 * 397  # 50 of each are for training
    root = tmp_path / "SUN397"
    names = [f"{chr(97 + i % 26)}/class_{i:03d}" for i in range(classes)]
    for name in names:
        (root / name).mkdir(parents=True)
    (root / "ClassName.txt").write_text("".join(f"/{name}\n" for name in names))
    for i in range(total):
        (root / names[i % classes] / f"sun_{i:08x}.jpg").touch()
    listed, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda *path: listed.append(path) or listdir(*path))
    data = datasets.load("SUN397", tmp_path, any_counts=True, generated_split=True)
    labeled, unlabeled = splits.split(data.train.labels, data.classes, 4, 0, data.candidates)
    assert len(listed) <= 4 * classes
    assert len(labeled) == 4 * classes
    assert len(labeled) + len(unlabeled) == len(data.train)


# The program


def test_listing_names_every_dataset(on_disk, capsys):
    root, _ = on_disk("DTD")
    program.main(program.parse_args([str(root)]))
    rows = capsys.readouterr().out.splitlines()
    for name in SPECS:
        assert any(row.startswith(name) for row in rows)
    present = {row.split("  ")[0].strip() for row in rows if " yes " in row}
    assert present == {"DTD", "Digits"}


def test_documentation_has_the_known_figures():
    rows = [line for line in (ROOT / "docs" / "datasets.md").read_text().splitlines() if line.startswith("| ")]
    cells = {row[0]: row for row in ([cell.strip() for cell in line.strip("|").split("|")] for line in rows)}
    for name, spec in SPECS.items():
        if spec.counts is not None:
            classes, train, test, extra = spec.counts
            training = f"{train:,} + {extra:,}" if extra else f"{train:,}"
            assert cells[name][1:4] == [str(classes), training, f"{test:,}"]
            assert cells[name][5] == spec.license
            assert spec.by_hand or spec.source in cells[name][6]


def test_check_lists_what_cannot_be_read(copied, capsys):
    root = copied("DTD")
    program.main(program.parse_args([str(root), "--check", "DTD", "--any-counts"]))
    assert "all 24 images can be read" in capsys.readouterr().out
    victim = next((root / "dtd/dtd/images").rglob("*.jpg"))
    victim.write_bytes(b"")
    with pytest.raises(UserError, match="1 images of DTD"):
        program.main(program.parse_args([str(root), "--check", "DTD", "--any-counts"]))
    assert str(victim) in capsys.readouterr().out
    with pytest.raises(UserError, match="DTD has 3 classes"):
        program.main(program.parse_args([str(root), "--check", "DTD"]))
    with pytest.raises(UserError, match="Food101 is not under"):
        program.main(program.parse_args([str(root), "--check", "Food101"]))
