"""The types for a dataset: `Spec`, what is known before it is read, `Contents`, what its reader finds, and `Data`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common.datasets.download import File
from common.datasets.images import ImageSet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Counts(NamedTuple):
    """How many classes and images there are.

    Attributes:
        train: training images that labels are drawn from.
        extra: further training images, which are always unlabeled.
    """

    classes: int
    train: int
    test: int
    extra: int = 0

    def __str__(self) -> str:
        extra = f" + {self.extra:,}" if self.extra else ""
        tested = f"and {self.test:,} test images" if self.test else "images, and none to test with"
        return f"{self.classes} classes, {self.train:,}{extra} training {tested}"


@dataclass(frozen=True)
class Contents:
    """What a reader finds below a root.

    Attributes:
        classes: the class names; a label is an index into them.
        train, test: the images. `train` holds all that a method may see, labeled or not.
        candidates: labels are drawn from the first `candidates` images of `train`; None: from all of them.
        official_split: whether the split is the one of the dataset's authors, or the customary one.
        predicted: the images (paths below the root) whose labels in a list are predictions that nobody has checked.
    """

    classes: list[str]
    train: ImageSet
    test: ImageSet
    candidates: int | None = None
    official_split: bool = True
    predicted: frozenset[str] = frozenset()


Reader = Callable[[Path], Contents]  # from the root


@dataclass(frozen=True)
class Spec:
    """What is known of a dataset without reading a file.

    Attributes:
        read: its reader.
        counts: the known numbers, which are checked; None accepts any, for your own images.
        source: URL of the page that describes the dataset.
        license: what that page says about use. No legal advice.
        size: of the download.
        paths: paths below the root that must exist.
        files: where to download them; empty if they cannot be, or need not be.
        by_hand: if they cannot be downloaded: what to put where. `{root}` stands for the root.
        read_generated: as `read`, but without the official split (`--generated-split`).
        read_listed: as `read`, for a list of labeled images (`--labeled-list`): root, list, least confidence.
        resizing: `default` (crops of photographs) or `cifar` (small images, enlarged).
        mean, std: per channel, of pixels in [0, 1].
        native_size: side in pixels, if all images are squares of one size. For your own images it is known only once
            they are read, and only if `--train-resizing` needs it.
        flip: whether a mirrored image is still an image of its class.
    """

    read: Reader
    counts: Counts | None = None
    source: str = ""
    license: str = ""
    size: str = ""
    paths: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    by_hand: str = ""
    read_generated: Reader | None = None
    read_listed: Callable[[Path, Path, float | None], Contents] | None = None
    resizing: str = "default"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    native_size: int | None = None
    flip: bool = True

    @property
    def is_own(self) -> bool:
        """Whether these are a person's own images, of which nothing is known before they are read."""
        return self.counts is None


@dataclass(frozen=True)
class Data(Contents):
    """A dataset that has been read and checked.

    Attributes:
        spec: what was known before.
        any_counts: whether counts other than the known ones were accepted.
        fingerprint: SHA-256 of class names, labels, and the images' paths below the root (their pixels, if they are in
            memory). The images' size is part of it if it was looked up.
        test_fingerprint: SHA-256 of the test images and their labels.
    """

    spec: Spec = field(kw_only=True)
    any_counts: bool = False
    fingerprint: str = ""
    test_fingerprint: str = ""

    @property
    def counts(self) -> Counts:
        """The numbers of this copy."""
        candidates = len(self.train) if self.candidates is None else self.candidates
        return Counts(len(self.classes), candidates, len(self.test), len(self.train) - candidates)
