"""The images of a run: which are labeled or held out, their names, and the fingerprints that tell them from others."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.datasets import Data, inventory, splits
from common.errors import UserError
from common.records import best_epoch
from common.system import processes

logger = logging.getLogger("common")


class RunImages:
    """What a run trains on and is tested on, and how it is recognised later.

    Args:
        data: the dataset.
        labeled, held_out: int64, indices into `data.train`; see `splits`. Held-out images choose the best epoch in
            place of the test set.
        root: the folder that holds the images, `~` included.
        log: the run's folder.
        known: the inventory of your own images in that folder, empty for a new run.

    Attributes:
        fingerprints: `labeled_sha256`, `data_sha256`, `test_sha256`; and for your own images `content_sha256`.
        files: the inventory of your own images; empty for other datasets, which are known by counts and checksums.

    Raises:
        UserError: your own images lie in the run's folder.
    """

    def __init__(
        self,
        data: Data,
        labeled: np.ndarray,
        held_out: np.ndarray,
        root: str,
        log: Path,
        known: inventory.Inventory,
    ):
        self.data, self.labeled, self.held_out, self.root = data, labeled, held_out, root
        self.fingerprints = {"labeled_sha256": splits.fingerprint(labeled), "data_sha256": data.fingerprint}
        self.fingerprints |= {"test_sha256": data.test_fingerprint}
        self.files: inventory.Inventory = {}
        if data.spec.is_own:
            self.files = take_inventory(data, root, log, known)
            self.fingerprints["content_sha256"] = inventory.fingerprint(self.files)

    @property
    def are_own(self) -> bool:
        """Whether they are your own files, and not a dataset that this project knows."""
        return self.data.spec.is_own

    def announce(self, name: str) -> None:
        """Log how many there are.

        Args:
            name: of the dataset.
        """
        more = f", {len(self.held_out):,} more are held out" if len(self.held_out) else ""
        logger.info(f"{name}: {self.data.counts}; {len(self.labeled):,} of the training images are labeled{more}")

    def chosen_by(self, is_fold: bool) -> str:
        """What chooses the epoch of `best.pth`; see `best_epoch.chooser`.

        Args:
            is_fold: whether the held-out images are one of several parts of the labels.
        """
        return best_epoch.chooser(len(self.held_out), is_fold, len(self.data.test))

    def refuse_others_elsewhere(self) -> None:
        """Compare them with those of the other processes.

        Raises:
            UserError: the machines of the run have different images.
        """
        if any(other != self.fingerprints for other in processes.gather_objects(self.fingerprints)):
            raise UserError(f"the machines of this run have different images in '{self.root}': copy one's to all")

    def names(self) -> dict[str, list[str]]:
        """Paths below the root, in the order of the indices, for labeled.json; only of images that are files.

        `names` are the labeled images, `held_out_names` the held-out ones. `predicted_names` are those of both whose
        labels are predictions that nobody has checked.
        """
        root = Path(os.path.expanduser(self.root))
        own, kept = (
            self.data.train.below(root, np.sort(indices).tolist()) for indices in (self.labeled, self.held_out)
        )
        unchecked = [name for name in [*own, *kept] if name in self.data.predicted]
        names = {"names": own, "held_out_names": kept, "predicted_names": unchecked}
        return {key: paths for key, paths in names.items() if paths}


def take_inventory(data: Data, root: str, log: Path, known: inventory.Inventory) -> inventory.Inventory:
    """The inventory of your own images.

    Args:
        root, log, known: see `RunImages`. Files that `known` has and that look unchanged are not read again.

    Raises:
        UserError: a file cannot be read; or the run's folder holds images, which the next search would skip.
    """
    _refuse_log_among([*data.train.images, *data.test.images], log)
    parts = {"train": data.train, "test": data.test}
    return processes.once_per_machine(
        lambda: inventory.read(parts, data.classes, Path(os.path.expanduser(root)), known)
    )


def _refuse_log_among(paths: Sequence[str | Path], log: Path) -> None:
    own = os.path.realpath(log)
    by_folder = {os.path.dirname(path): path for path in paths}
    for folder, path in by_folder.items():
        if os.path.commonpath([own, os.path.realpath(folder)]) == own:
            raise UserError(f"--log '{log}' holds images, '{path}' for one: choose another --log")
