"""The datasets by name. `SPECS` holds what is known without reading a file; `load` reads.

`python -m common.datasets` lists them.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.datasets import caltech101, cub200, digits, download, image_folder, sun397
from common.datasets import from_torchvision as tv
from common.datasets.download import File
from common.datasets.images import ImageSet, one_size, turned
from common.datasets.spec import Counts, Data, Spec
from common.errors import UserError
from common.system import processes

__all__ = ["SPECS", "Counts", "Data", "Spec", "load"]

LOOKED_AT = 1000  # images whose EXIF orientation is looked up: on a network's disk each takes a while

logger = logging.getLogger(__name__)

OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
SVHN = "http://ufldl.stanford.edu/housenumbers"

SPECS = {
    "Food101": Spec(
        tv.load_food101,
        Counts(101, 75_750, 25_250),
        source="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        license="pictures belong to Foodspotting; scientific fair use",
        size="5.0 GB",
        paths=("food-101",),
        files=(File("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "md5:85eeb15f3717b99a5da872d97d918f87"),),
    ),
    "CIFAR10": Spec(
        tv.load_cifar10,
        Counts(10, 50_000, 10_000),
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        license="none stated",
        size="170 MB",
        paths=("cifar-10-batches-py",),
        files=(
            File("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a"),
        ),
        resizing="cifar",
        mean=(0.4912, 0.4824, 0.4467),
        std=(0.2471, 0.2435, 0.2616),
        native_size=32,
    ),
    "CIFAR100": Spec(
        tv.load_cifar100,
        Counts(100, 50_000, 10_000),
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        license="none stated",
        size="169 MB",
        paths=("cifar-100-python",),
        files=(
            File("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85"),
        ),
        resizing="cifar",
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        native_size=32,
    ),
    "CUB200": Spec(
        cub200.load,
        Counts(200, 5_994, 5_794),
        source="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        license="pictures belong to their authors; non-commercial research and education",
        size="1.2 GB",
        paths=("CUB_200_2011",),
        files=(
            File(
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                "md5:97eceeb196236b17998738112f37df78",
            ),
        ),
    ),
    "Aircraft": Spec(
        tv.load_aircraft,
        Counts(100, 6_667, 3_333),
        source=f"{OXFORD}/fgvc-aircraft/",
        license="non-commercial research",
        size="2.8 GB",
        paths=("fgvc-aircraft-2013b",),
        files=(
            # The one published checksum is of the tar within: its publisher's client had unzipped it on the way.
            File(
                f"{OXFORD}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                "gunzip+sha256:d5f68b1b81d6d7831eb9d5c5517074176b5dfbce6bcb43dc14ed1c66a87b8d75",
            ),
        ),
    ),
    "StanfordCars": Spec(
        tv.load_stanford_cars,
        Counts(196, 8_144, 8_041),
        source="https://github.com/pytorch/vision/issues/7545",
        license="none stated; non-commercial research is customary",
        size="2.0 GB",
        paths=(
            "stanford_cars/devkit/cars_meta.mat",
            "stanford_cars/devkit/cars_train_annos.mat",
            "stanford_cars/cars_test_annos_withlabels.mat",
            "stanford_cars/cars_train",
            "stanford_cars/cars_test",
        ),
        by_hand="its host is gone: unpack car_devkit.tgz (md5 c3b158d763b6e2245038c8ad08e45376) to devkit/, "
        "cars_train.tgz (065e5b463ae28d29e77c1b4b166cfe61) to cars_train/ and "
        "cars_test.tgz (4ce7ebf6a94d07f1952d94dd34c4d501) to cars_test/, and put cars_test_annos_withlabels.mat "
        "(b0a2b23655a3edd16d84508592a98d10) beside them, all in '{root}/stanford_cars'; where people get them: "
        "https://github.com/pytorch/vision/issues/7545",
    ),
    "SUN397": Spec(
        sun397.load,
        Counts(397, 19_850, 19_850),
        source="https://vision.princeton.edu/projects/2010/SUN/",
        license="pictures belong to their authors; research",
        size="39 GB",
        paths=("SUN397/ClassName.txt",),
        by_hand="its host is gone: unpack SUN397.tar.gz (md5 8ca2778205c41d23104230ba66911c7a) in '{root}', and "
        "Partitions.zip (sha256 e3311ea5f812d4cc6faef194688343d1111f6cd6f70f2c62f393c2b8d6ba1ec9) in "
        "'{root}/SUN397/Partitions'; where people get them: https://github.com/pytorch/vision/issues/9348",
        read_generated=sun397.load_generated,
    ),
    "DTD": Spec(
        tv.load_dtd,
        Counts(47, 1_880, 1_880),
        source=f"{OXFORD}/dtd/",
        license="pictures belong to their authors; research",
        size="625 MB",
        paths=("dtd/dtd",),
        files=(File(f"{OXFORD}/dtd/download/dtd-r1.0.1.tar.gz", "md5:fff73e5086ae6bdbea199a49dfb8a4c1", folder="dtd"),),
    ),
    "OxfordIIITPets": Spec(
        tv.load_pets,
        Counts(37, 3_680, 3_669),
        source=f"{OXFORD}/pets/",
        license="CC BY-SA 4.0",
        size="811 MB",
        paths=("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"),
        files=(
            File(f"{OXFORD}/pets/data/images.tar.gz", "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c", folder="oxford-iiit-pet"),
            File(
                f"{OXFORD}/pets/data/annotations.tar.gz",
                "md5:95a8c909bbe2e81eed6a22bccdf3f68f",
                folder="oxford-iiit-pet",
            ),
        ),
    ),
    "OxfordFlowers102": Spec(
        tv.load_flowers,
        Counts(102, 1_020, 6_149, extra=1_020),
        source=f"{OXFORD}/flowers/102/",
        license="none stated; pictures belong to their authors",
        size="345 MB",
        paths=("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        files=(
            File(f"{OXFORD}/flowers/102/102flowers.tgz", "md5:52808999861908f626f3c1f4e79d11fa", folder="flowers-102"),
            File(f"{OXFORD}/flowers/102/imagelabels.mat", "md5:e0620be6f572b9609742df49c70aed4d", folder="flowers-102"),
            File(f"{OXFORD}/flowers/102/setid.mat", "md5:a5357ecc9cb78c4bef273ce3793fc85c", folder="flowers-102"),
        ),
    ),
    "Caltech101": Spec(
        caltech101.load,
        Counts(102, 3_060, 6_084),
        source="https://data.caltech.edu/records/mzrjq-6wc02",
        license="CC BY 4.0",
        size="137 MB",
        paths=("caltech101/101_ObjectCategories",),
        files=(
            File(
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                "md5:3138e1922a9193bfa496528edbbc45d0",
                folder="caltech101",
                inner="caltech-101/101_ObjectCategories.tar.gz",
            ),
        ),
    ),
    "FashionMNIST": Spec(
        tv.load_fashion_mnist,
        Counts(10, 60_000, 10_000),
        source="https://github.com/zalandoresearch/fashion-mnist",
        license="MIT",
        size="31 MB",
        paths=("FashionMNIST/raw",),
        files=tuple(
            File(f"{FASHION}/{name}-ubyte.gz", f"md5:{md5}", folder="FashionMNIST/raw")
            for name, md5 in (
                ("train-images-idx3", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                ("train-labels-idx1", "25c81989df183df01b3e8a0aad5dffbe"),
                ("t10k-images-idx3", "bef4ecab320f06d8554ea6380940ec79"),
                ("t10k-labels-idx1", "bb300cfdad3c16e7a12a480ee83cd310"),
            )
        ),
        resizing="cifar",
        mean=(0.2860,) * 3,
        std=(0.3530,) * 3,
        native_size=28,
    ),
    "SVHN": Spec(
        tv.load_svhn,
        Counts(10, 73_257, 26_032),
        source="http://ufldl.stanford.edu/housenumbers/",
        license="non-commercial use",
        size="246 MB",
        paths=("train_32x32.mat", "test_32x32.mat"),
        files=(
            File(f"{SVHN}/train_32x32.mat", "md5:e26dedcc434d2e4c54c9b2d4a06d8373"),
            File(f"{SVHN}/test_32x32.mat", "md5:eb5a983be6a315427106f1b164d9cef3"),
        ),
        resizing="cifar",
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        native_size=32,
        flip=False,
    ),
    "SVHNExtra": Spec(
        tv.load_svhn_extra,
        Counts(10, 604_388, 26_032),
        source="http://ufldl.stanford.edu/housenumbers/",
        license="non-commercial use",
        size="1.6 GB",
        paths=("train_32x32.mat", "test_32x32.mat", "extra_32x32.mat"),
        files=(
            File(f"{SVHN}/train_32x32.mat", "md5:e26dedcc434d2e4c54c9b2d4a06d8373"),
            File(f"{SVHN}/extra_32x32.mat", "md5:a93ce644f1a588dc4d68dda5feec44a7"),
            File(f"{SVHN}/test_32x32.mat", "md5:eb5a983be6a315427106f1b164d9cef3"),
        ),
        resizing="cifar",
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        native_size=32,
        flip=False,
    ),
    "STL10": Spec(
        tv.load_stl10,
        Counts(10, 5_000, 8_000, extra=100_000),
        source="https://cs.stanford.edu/~acoates/stl10/",
        license="none stated; pictures from ImageNet",
        size="2.6 GB",
        paths=("stl10_binary",),
        files=(
            File("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "md5:91f7769df0f17e558f3565bffb0c7dfb"),
        ),
        resizing="cifar",
        mean=(0.4467, 0.4398, 0.4066),
        std=(0.2603, 0.2566, 0.2713),
        native_size=96,
    ),
    "Digits": Spec(
        digits.load,
        Counts(10, 1_198, 599),
        source="https://archive.ics.uci.edu/dataset/80",
        license="CC BY 4.0",
        size="within scikit-learn",
        resizing="cifar",
        mean=(0.3092,) * 3,
        std=(0.3490,) * 3,
        native_size=digits.SIZE,
        flip=False,
    ),
    "ImageFolder": Spec(image_folder.load, read_listed=image_folder.load_listed),
}


def load(
    name: str,
    root: str | Path,
    any_counts: bool = False,
    generated_split: bool = False,
    labeled_list: str | Path | None = None,
    resizing: str = "default",
    flip: bool = True,
    min_confidence: float | None = None,
    exif_orientation: bool = False,
) -> Data:
    """Read the dataset `name` (a key of `SPECS`) under the folder `root`, downloading it there where it is missing.

    Args:
        any_counts: accept other numbers of classes and images than the known ones.
        generated_split: split SUN397 ourselves instead of by the official lists.
        labeled_list: draw labels from the images that this file lists (ImageFolder).
        resizing: of the training images; all but `default` need images of one size, which is looked up where it is
            not known.
        flip: whether a mirrored image is still an image of its class, where the dataset does not say no itself.
        min_confidence: rows of the list whose confidence is lower leave their images unlabeled.
        exif_orientation: turn images of one's own as their EXIF orientation says.

    Raises:
        UserError: the name is unknown; files are missing, broken or not to be had; the counts differ; there is no
            generated split, or no list; or the images are not of one size.
    """
    if name not in SPECS:
        raise UserError(f"unknown dataset '{name}': choose from {', '.join(SPECS)}")
    spec, root = SPECS[name], Path(root).expanduser()
    read = spec.read_generated if generated_split else spec.read
    if read is None:
        raise UserError(f"--generated-split is not for {name}: leave it out")
    with processes.first_of_machine_first():
        _provide(name, spec, root)
    if labeled_list is not None:
        if spec.read_listed is None:
            raise UserError(f"--labeled-list is not for {name}, which has labels of its own: leave it out")
        data = Data(spec, **spec.read_listed(root, Path(labeled_list), min_confidence))
    else:
        data = Data(spec, **read(root))
    if generated_split:
        logger.warning(f"{name}: the split is generated, NOT official; numbers compare with its own kind only")
    for images in (data.train, data.test):
        _check_files(images)
    if spec.counts is None:  # published datasets are what their tables were made with
        _tell_of_turned([*data.train.images, *data.test.images], exif_orientation)
        data = replace(data, train=data.train.oriented(exif_orientation), test=data.test.oriented(exif_orientation))
    data = _with_fingerprints(_check_counts(name, data, any_counts), root)
    if resizing != "default" and spec.native_size is None:
        data = _with_size(data, resizing)
    return replace(data, spec=replace(data.spec, flip=data.spec.flip and flip))


def _tell_of_turned(paths: Sequence[str], exif_orientation: bool) -> None:
    """Cameras and telephones store a photograph as their chip lay, and note how it is to be turned."""
    looked_at = paths[:: -(-len(paths) // LOOKED_AT)] if paths else []
    number = processes.once_per_machine(lambda: len(turned(looked_at)))
    if number:
        done = "they are turned" if exif_orientation else "they stay as they are stored, --exif-orientation turns them"
        logger.info(
            f"{number:,} of {len(looked_at):,} images that were looked at are to be turned by their EXIF: {done}"
        )


def _with_size(data: Data, resizing: str) -> Data:
    paths = [*data.train.images, *data.test.images]
    size = processes.once_per_machine(lambda: one_size(paths, f"--train-resizing {resizing}"))
    sha256 = hashlib.sha256(f"{data.sha256} {size}".encode()).hexdigest()
    return replace(data, spec=replace(data.spec, native_size=size), sha256=sha256)


def _with_fingerprints(data: Data, root: Path) -> Data:
    train_sha256, test_sha256 = processes.once_per_machine(lambda: (data.train.sha256(root), data.test.sha256(root)))
    parts = [*data.classes, train_sha256, test_sha256]
    sha256 = hashlib.sha256(b"\0".join(map(os.fsencode, parts))).hexdigest()
    return replace(data, sha256=sha256, test_sha256=test_sha256)


def _provide(name: str, spec: Spec, root: Path) -> None:
    if spec.files:
        download.fetch(name, root, spec.files, spec.paths)
    elif not download.is_present(root, spec.paths):
        missing = next(root / path for path in spec.paths if not os.path.exists(root / path))
        raise UserError(
            f"'{missing}' is missing, and {name} cannot be downloaded, for {spec.by_hand.format(root=root)}"
        )


def _check_files(images: ImageSet) -> None:
    """Raise an error if an image is missing: the dataset was not unpacked to the end. Each folder is listed once."""
    if isinstance(images.images, np.ndarray):
        return
    by_folder: dict[str, list[str]] = {}
    for path in images.images:
        folder, name = os.path.split(path)
        by_folder.setdefault(folder, []).append(name)
    missing = []
    for folder, names in by_folder.items():
        present = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        missing += [os.path.join(folder, name) for name in names if name not in present]
    if missing:
        raise UserError(
            f"image '{missing[0]}' is missing, one of {len(missing):,}: restore them, or remove the dataset's folder "
            "and run again"
        )


def _check_counts(name: str, data: Data, any_counts: bool) -> Data:
    if not len(data.train) or (data.spec.counts is not None and not len(data.test)):
        raise UserError(f"{name} has {data.counts} here: restore its lists and images")
    if data.spec.counts is None or data.counts == data.spec.counts:
        return data
    difference = f"{name} has {data.counts} here, but should have {data.spec.counts}"
    if not any_counts:
        raise UserError(f"{difference}: restore the missing files, or accept the difference with --any-counts")
    logger.warning(f"{difference}: accepted, for --any-counts was given")
    return replace(data, any_counts=True)
