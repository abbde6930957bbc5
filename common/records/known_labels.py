"""The labels that a run had for a person's own images, so that nobody is asked about them again."""

import os
from pathlib import Path
from typing import NamedTuple

from common.datasets import image_folder, inventory
from common.records.folder import read_json


class KnownLabels(NamedTuple):
    """The labels that a run had for your own images.

    Attributes:
        root: their folder, absolute; None if the run was trained on another dataset.
        labels: path below the root -> class, of the labeled and the held-out images. Labels that were predictions
            which nobody had checked are not among them.
    """

    root: Path | None
    labels: dict[str, str]

    def below(self, path: str) -> str | None:
        """A file's path below the root, as named or after following links; None if it is not below the root."""
        if self.root is None:
            return None
        inner = os.path.relpath(path, self.root)
        if inner.partition(os.sep)[0] == os.pardir:
            inner = os.path.relpath(os.path.realpath(path), os.path.realpath(self.root))
        return None if inner.partition(os.sep)[0] == os.pardir else inner

    @property
    def are_gone(self) -> bool:
        """Whether none of them is below the root, as where a relative root is looked for from another folder."""
        root = self.root
        return root is not None and bool(self.labels) and not any(os.path.lexists(root / name) for name in self.labels)

    def is_for_testing(self, inner: str) -> bool:
        """Whether a path below the root is in a folder of test images."""
        return inner.partition(os.sep)[0] in image_folder.TEST_FOLDERS


def load(folder: Path) -> KnownLabels:
    """The labels that a run had. Older runs do not record them.

    Raises:
        UserError: one of the run's files is damaged.
    """
    flags = read_json(folder / "args.json", "name the folder of another run").get("args")
    root, data = (flags.get(key) for key in ("root", "data")) if isinstance(flags, dict) else (None, None)
    if data != "ImageFolder" or not isinstance(root, str) or not (folder / "images.csv").is_file():
        return KnownLabels(None, {})
    files = inventory.from_csv(folder / "images.csv")
    labeled = read_json(folder / "labeled.json", "name the folder of another run")
    unchecked = set(labeled.get("predicted_names", []))
    names = [name for key in ("names", "held_out_names") for name in labeled.get(key, []) if name not in unchecked]
    return KnownLabels(
        Path(os.path.abspath(os.path.expanduser(root))), {name: files[name].label for name in names if name in files}
    )
