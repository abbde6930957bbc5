"""Writes every dataset in its exact layout on disk, with a few tiny images per class: crops of real digits."""

import hashlib
import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits
from torchvision import datasets as tv

DIGITS = (load_digits().images * (255 / 16)).astype(np.uint8)
TRAIN, TEST = 6, 2  # images per class


@dataclass
class Written:
    """What a dataset holds, in no particular order for files and in the order of the source for arrays.

    Attributes:
        classes: names in label order.
        train, test, extra: path below the root -> class name; or (uint8 [N, H, W, (3)], labels).
    """

    classes: list[str]
    train: dict[str, str] | tuple = field(default_factory=dict)
    test: dict[str, str] | tuple = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)


def write_image(path: Path, number: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(DIGITS[number % len(DIGITS)]).resize((24, 20)).convert(mode).save(path, "JPEG")


def write_lines(path: Path, lines) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _fill(root: Path, written: Written, path_of: Callable[[str, str, int], str], splits=("train", "test")) -> None:
    """Images for every class and split, the last class first. `path_of(class, split, number)` is below the root."""
    number = 0
    for split in splits:
        for name in reversed(written.classes):
            for _ in range(TEST if split == "test" else TRAIN):
                path = path_of(name, split, number)
                write_image(root / path, number, mode="L" if number % 5 == 0 else "RGB")
                getattr(written, split)[path] = name
                number += 1


def food101(root: Path) -> Written:
    written = Written(["apple_pie", "baby_back_ribs", "baklava"])
    _fill(root, written, lambda name, _, i: f"food-101/images/{name}/{1005649 - 100 * i}.jpg")
    for split in ("train", "test"):
        lists = {name: [] for name in reversed(written.classes)}
        for path, name in getattr(written, split).items():
            lists[name].append(f"{name}/{Path(path).stem}")
        write_lines(root / f"food-101/meta/{split}.json", [json.dumps(lists)])
    return written


def cub200(root: Path) -> Written:
    written = Written(["009.Brewer_Blackbird", "010.Red_winged_Blackbird", "011.Rusty_Blackbird"])  # 9 before 10
    _fill(root, written, lambda name, _, i: f"CUB_200_2011/images/{name}/{name[4:]}_{i:04d}_{90 - i}.jpg")
    folder = root / "CUB_200_2011"
    ids = {path: i for i, path in enumerate([*written.test, *written.train], 1)}
    labels = {path: int(name[:3]) for path, name in (written.train | written.test).items()}
    write_lines(folder / "images.txt", (f"{i} {path.removeprefix('CUB_200_2011/images/')}" for path, i in ids.items()))
    # The lists are to be joined by id: here their lines are in three different orders.
    write_lines(folder / "image_class_labels.txt", reversed([f"{i} {labels[path]}" for path, i in ids.items()]))
    write_lines(folder / "train_test_split.txt", sorted(f"{i} {int(path in written.train)}" for path, i in ids.items()))
    write_lines(folder / "classes.txt", (f"{int(name[:3])} {name}" for name in written.classes))
    return written


def aircraft(root: Path) -> Written:
    written = Written(["707-320", "Boeing 717", "F/A-18"])
    _fill(root, written, lambda _, __, i: f"fgvc-aircraft-2013b/data/images/{2000000 - i:07d}.jpg")
    folder = root / "fgvc-aircraft-2013b/data"
    write_lines(folder / "variants.txt", written.classes)
    for split in ("train", "test"):
        lines = [f"{Path(path).stem} {name}" for path, name in getattr(written, split).items()]
        write_lines(folder / f"images_variant_{'trainval' if split == 'train' else split}.txt", lines)
    return written


def stanford_cars(root: Path) -> Written:
    written = Written(["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"])
    _fill(root, written, lambda _, split, i: f"stanford_cars/cars_{split}/{90 - i:05d}.jpg")
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir()
    names = {"class_names": np.array(written.classes, dtype=object)}
    savemat(folder / "devkit/cars_meta.mat", names, do_compression=True)
    kind = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for split, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = [(1, 1, 9, 9, written.classes.index(c) + 1, Path(p).name) for p, c in getattr(written, split).items()]
        savemat(folder / file, {"annotations": np.array([rows], dtype=kind)}, do_compression=True)
    return written


def sun397(root: Path) -> Written:
    written = Written(["abbey", "bakery/shop", "zen_garden"])
    _fill(
        root, written, lambda name, _, i: f"SUN397/{name[0]}/{name}/sun_{hashlib.md5(bytes([i])).hexdigest()[:9]}.jpg"
    )
    write_lines(root / "SUN397/ClassName.txt", (f"/{name[0]}/{name}" for name in written.classes))
    for split, file in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        paths = (path.removeprefix("SUN397") for path in getattr(written, split))
        write_lines(root / "SUN397/Partitions" / file, paths)
    return written


def dtd(root: Path) -> Written:
    written = Written(["banded", "blotchy", "zigzagged"])
    _fill(root, written, lambda name, _, i: f"dtd/dtd/images/{name}/{name}_{100 - i:04d}.jpg")
    for split in ("train", "test"):
        paths = (path.removeprefix("dtd/dtd/images/") for path in getattr(written, split))
        write_lines(root / f"dtd/dtd/labels/{split}1.txt", paths)
    return written


def pets(root: Path) -> Written:
    written = Written(["Abyssinian", "American Bulldog", "Bengal"])
    _fill(root, written, lambda name, _, i: f"oxford-iiit-pet/images/{name.replace(' ', '_')}_{100 - i}.jpg")
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        samples = getattr(written, split).items()
        lines = [f"{Path(path).stem} {written.classes.index(name) + 1} 1 1" for path, name in samples]
        write_lines(root / "oxford-iiit-pet/annotations" / file, lines)
    return written


def flowers(root: Path) -> Written:
    written = Written(list(tv.Flowers102.classes))
    splits = ("train", "extra", "test")
    total = len(written.classes) * (2 * TRAIN + TEST)
    _fill(root, written, lambda _, __, i: f"flowers-102/jpg/image_{total - i:05d}.jpg", splits)
    ids = [[int(Path(path).stem.removeprefix("image_")) for path in getattr(written, split)] for split in splits]
    labels = np.zeros((1, total), dtype=np.int64)
    for path, name in (written.train | written.extra | written.test).items():
        labels[0, int(Path(path).stem.removeprefix("image_")) - 1] = written.classes.index(name) + 1
    savemat(root / "flowers-102/imagelabels.mat", {"labels": labels})
    savemat(root / "flowers-102/setid.mat", dict(zip(("trnid", "valid", "tstid"), ids, strict=True)))
    return written


def caltech101(root: Path) -> Written:
    """31 to 33 images per class; which are for training is for the test to say, so all are in `extra`."""
    written = Written(["accordion", "BACKGROUND_Google", "Faces"])
    for number, name in enumerate(written.classes):
        for i in range(31 + number):
            path = f"caltech101/101_ObjectCategories/{name}/image_{i + 1:04d}.jpg"
            write_image(root / path, 50 * number + i, mode="L" if i % 5 == 0 else "RGB")
            written.extra[path] = name
    (root / "caltech101/101_ObjectCategories/BACKGROUND_Google/tmp").write_text("not an image")
    return written


def _arrays(classes: int, size: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.stack([np.asarray(Image.fromarray(d).resize((size, size))) for d in DIGITS[: classes * number]])
    images = np.stack([images, images // 2, 255 - images], axis=-1)
    return images, np.random.default_rng(size).permutation(np.repeat(np.arange(classes), number))


def cifar10(root: Path) -> Written:
    return _cifar(root / "cifar-10-batches-py", 10, ["labels", "label_names", "batches.meta", "test_batch"])


def cifar100(root: Path) -> Written:
    return _cifar(root / "cifar-100-python", 100, ["fine_labels", "fine_label_names", "meta", "test"])


def _cifar(folder: Path, num_classes: int, keys: list[str]) -> Written:
    labels_key, names_key, meta, test_file = keys
    names = [f"class {i}" for i in range(num_classes)]
    written = Written(names, _arrays(num_classes, 32, TRAIN), _arrays(num_classes, 32, TEST))
    files = [f"data_batch_{i}" for i in range(1, 6)] if num_classes == 10 else ["train"]
    folder.mkdir(parents=True)
    train = zip(files, *(np.array_split(part, len(files)) for part in written.train), strict=True)
    for file, images, labels in [*train, (test_file, *written.test)]:
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        (folder / file).write_bytes(pickle.dumps({"data": rows, labels_key: labels.tolist()}))
    (folder / meta).write_bytes(pickle.dumps({names_key: names}))
    return written


def fashion_mnist(root: Path) -> Written:
    written = Written(list(tv.FashionMNIST.classes), _arrays(10, 28, TRAIN), _arrays(10, 28, TEST))
    folder = root / "FashionMNIST/raw"
    folder.mkdir(parents=True)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = getattr(written, split)
        images = images[..., 0]
        setattr(written, split, (images, labels))
        content = struct.pack(">4i", 2051, *images.shape) + images.tobytes()
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(content)
        content = struct.pack(">2i", 2049, len(labels)) + labels.astype(np.uint8).tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(content)
    return written


def svhn(root: Path) -> Written:
    written = Written([str(i) for i in range(10)], _arrays(10, 32, TRAIN), _arrays(10, 32, TEST))
    for split in ("train", "test"):
        _write_svhn(root, split, *getattr(written, split))
    return written


def svhn_extra(root: Path) -> Written:
    written, (images, labels) = svhn(root), _arrays(10, 32, 1)
    images = 255 - images
    _write_svhn(root, "extra", images, labels)
    written.train = (np.concatenate([written.train[0], images]), np.concatenate([written.train[1], labels]))
    return written


def _write_svhn(root: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    labels = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)  # the files call the digit 0 ten
    root.mkdir(parents=True, exist_ok=True)
    savemat(root / f"{split}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": labels})


def stl10(root: Path) -> Written:
    classes = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    written = Written(classes, _arrays(10, 96, TRAIN), _arrays(10, 96, TEST))
    unlabeled, _ = _arrays(10, 96, 1)
    folder = root / "stl10_binary"
    write_lines(folder / "class_names.txt", classes)
    for name, images in (("train", written.train[0]), ("test", written.test[0]), ("unlabeled", unlabeled)):
        (folder / f"{name}_X.bin").write_bytes(images.transpose(0, 3, 2, 1).tobytes())
    for name, labels in (("train", written.train[1]), ("test", written.test[1])):
        (folder / f"{name}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
    images, labels = written.train
    written.train = np.concatenate([images, unlabeled]), np.concatenate([labels, np.full(len(unlabeled), -1)])
    return written


WRITERS = {
    "Food101": food101,
    "CIFAR10": cifar10,
    "CIFAR100": cifar100,
    "CUB200": cub200,
    "Aircraft": aircraft,
    "StanfordCars": stanford_cars,
    "SUN397": sun397,
    "DTD": dtd,
    "OxfordIIITPets": pets,
    "OxfordFlowers102": flowers,
    "Caltech101": caltech101,
    "FashionMNIST": fashion_mnist,
    "SVHN": svhn,
    "SVHNExtra": svhn_extra,
    "STL10": stl10,
}


def accept_checksums(patch, name: str, root: Path) -> None:
    """Let torchvision expect the checksums of the files that were written. `patch` is pytest's monkeypatch."""

    def md5(path: str) -> str:
        return hashlib.md5((root / path).read_bytes()).hexdigest()

    if name in ("CIFAR10", "CIFAR100", "STL10"):
        dataset = getattr(tv, name)
        for files in ("train_list", "test_list"):
            listed = [[file, md5(f"{dataset.base_folder}/{file}")] for file, _ in getattr(dataset, files)]
            patch.setattr(dataset, files, listed)
        if name != "STL10":
            meta = dataset.meta | {"md5": md5(f"{dataset.base_folder}/{dataset.meta['filename']}")}
            patch.setattr(dataset, "meta", meta)
    elif name in ("SVHN", "SVHNExtra"):
        listed = dict(tv.SVHN.split_list)
        for split in ("train", "test", *(["extra"] if name == "SVHNExtra" else [])):
            url, file, _ = listed[split]
            listed[split] = [url, file, md5(file)]
        patch.setattr(tv.SVHN, "split_list", listed)
    elif name == "OxfordFlowers102":
        files = dict(tv.Flowers102._file_dict)
        for key in ("label", "setid"):
            file, _ = files[key]
            files[key] = (file, md5(f"flowers-102/{file}"))
        patch.setattr(tv.Flowers102, "_file_dict", files)
