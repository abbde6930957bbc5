"""The datasets that are arrays: CIFAR-10, CIFAR-100, Digits."""

import hashlib
import pickle

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from common import datasets
from common.errors import UserError
from tests.helpers.few_images import all_images

TRAIN, TEST = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]
NAMES = {
    "CIFAR10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "CIFAR100": [f"class{i:02}" for i in range(100)],
}


def write(path, content) -> str:
    """A pickle as the official archives have them; its MD5."""
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture(params=["CIFAR10", "CIFAR100"])
def cifar(request, tmp_path, monkeypatch):
    """(name, root, pixels of the training images) of a small set in the official format."""
    name, rng = request.param, np.random.default_rng(0)
    dataset = {"CIFAR10": CIFAR10, "CIFAR100": CIFAR100}[name]
    files = {"train_list": TRAIN, "test_list": TEST}
    if name == "CIFAR100":
        files = {"train_list": ["train"], "test_list": ["test"]}
    folder = tmp_path / dataset.base_folder
    folder.mkdir()
    pixels, classes = [], len(NAMES[name])
    for attribute, members in files.items():
        listed = []
        for member in members:
            data = rng.integers(0, 256, size=(classes, 3072), dtype=np.uint8)
            labels = list(reversed(range(classes)))
            key = {"CIFAR10": "labels", "CIFAR100": "fine_labels"}[name]
            listed.append([member, write(folder / member, {"data": data, key: labels})])
            if attribute == "train_list":
                pixels.append(data)
        monkeypatch.setattr(dataset, attribute, listed)
    md5 = write(folder / dataset.meta["filename"], {dataset.meta["key"]: NAMES[name]})
    monkeypatch.setattr(dataset, "meta", dataset.meta | {"md5": md5})
    return name, tmp_path, np.concatenate(pixels)


def test_cifar_is_read_in_the_official_order(cifar):
    name, root, pixels = cifar
    data = datasets.load(name, root, any_counts=True)  # it is a small one
    assert data.classes == NAMES[name]
    assert len(data.train) == len(pixels)
    assert len(data.test) == len(data.classes)
    assert data.train.labels[:3].tolist() == [len(data.classes) - 1 - i for i in range(3)]
    for i in (0, len(pixels) - 1):
        planes = pixels[i].reshape(3, 32, 32)  # a channel after the other
        assert np.array_equal(np.asarray(data.train.load(i)), planes.transpose(1, 2, 0))


def test_a_damaged_cifar_that_cannot_be_downloaded_is_one_line(cifar, monkeypatch):
    name, root, _ = cifar
    file = next(root.glob("*/*test*"))
    file.write_bytes(file.read_bytes()[:-1])

    def offline(self):
        raise OSError("no network\nat all")

    monkeypatch.setattr(CIFAR10, "download", offline)
    with pytest.raises(UserError, match=f"{name} .*'{root}'") as error:
        datasets.load(name, root)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def digits():
    with all_images():
        return datasets.load("Digits", "/nowhere")


def test_digits(digits):
    assert (len(digits.train), len(digits.test)) == (1198, 599)
    assert digits.classes == [str(i) for i in range(10)]
    assert digits.train.images.shape == (1198, 32, 32)
    assert digits.train.load(0).mode == "RGB"
    assert not digits.spec.flip


def test_every_third_digit_is_test(digits):
    from sklearn.datasets import load_digits

    target = load_digits().target
    assert digits.test.labels.tolist() == target[2::3].tolist()
    assert digits.train.labels.tolist() == np.delete(target, np.s_[2::3]).tolist()


def test_the_statistics_of_digits_are_those_of_its_training_images(digits):
    pixels = digits.train.images / 255
    assert digits.spec.mean == pytest.approx([pixels.mean()] * 3, abs=5e-5)
    assert digits.spec.std == pytest.approx([pixels.std()] * 3, abs=5e-5)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match=r"unknown dataset 'MNIST': choose from .*CIFAR10"):
        datasets.load("MNIST", "data")
