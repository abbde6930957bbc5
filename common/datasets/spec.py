"""What is known of a dataset before and after it has been read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.datasets.download import File
from common.datasets.images import ImageSet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Counts(NamedTuple):
    """How many classes and images there are.

    Attributes:
        train: training images that labels are drawn from.
        extra: further training images, which never lend a label.
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
class Spec:
    """What a dataset's name says, without I/O.

    Attributes:
        read: root -> the fields of `Data` after `spec`.
        counts: the known figures, which are checked (None: any).
        source: the page that describes it.
        license: what that page says of use. No legal advice.
        size: of the download.
        paths: below the root: what must be there.
        files: where these come from (none: there is no automatic source, or no need of one).
        by_hand: where there is no automatic source, what to put where; `{root}` stands for the root.
        read_generated: as `read`, but with a split of our own making (`--generated-split`).
        read_listed: as `read`, but labels come from the images that a file lists (`--labeled-list`), those
            with a confidence below the number left out.
        resizing: `default` (crops of photographs) or `cifar` (small images, enlarged).
        mean, std: per channel, of pixels in [0, 1].
        native_size: side in pixels, where all the images are squares of one size. Of your own images it is known when
            they have been read, and only where `--train-resizing` asks for it.
        flip: whether a mirrored image is still an image of its class.
    """

    read: Callable[[Path], dict]
    counts: Counts | None = None
    source: str = ""
    license: str = ""
    size: str = ""
    paths: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    by_hand: str = ""
    read_generated: Callable[[Path], dict] | None = None
    read_listed: Callable[[Path, Path, float | None], dict] | None = None
    resizing: str = "default"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    native_size: int | None = None
    flip: bool = True


@dataclass(frozen=True)
class Data:
    """A dataset that has been read.

    Attributes:
        spec: what was known before.
        classes: the class names; a label is an index into them.
        train, test: the images. `train` holds all that a method may see, labeled or not.
        candidates: labels are drawn from the first so many images of `train` (None: from all of them).
        official_split: whether train and test are as the dataset's authors, or custom, have them.
        any_counts: whether counts other than the known ones were accepted.
        sha256: fingerprint of the class names and of all images' paths below the root (pixels, where they are in
            memory) and labels; and of their size, where that was looked up.
        test_sha256: fingerprint of the test images alone, and their labels.
    """

    spec: Spec
    classes: list[str]
    train: ImageSet
    test: ImageSet
    candidates: int | None = None
    official_split: bool = True
    any_counts: bool = False
    sha256: str = ""
    test_sha256: str = ""

    @property
    def counts(self) -> Counts:
        """The figures as they are here."""
        candidates = len(self.train) if self.candidates is None else self.candidates
        return Counts(len(self.classes), candidates, len(self.test), len(self.train) - candidates)
