"""The labels that a run had for a person's own images, so that nobody is asked about them again."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.datasets import image_folder, inventory
from common.system.files import read_json


class KnownLabels(NamedTuple):
    """The labels that a run had for your own images.

    Attributes:
        root: their folder, absolute; None if the run was trained on another dataset.
        labels: path below the root -> class, of the labeled and the held-out images. Labels that were predictions
            which nobody had checked are not among them.
        replaced: paths below the root, of labeled images in whose place there is another file now.
    """

    root: Path | None
    labels: dict[str, str]
    replaced: Sequence[str] = ()

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


def load(folder: Path, root: str | None = None) -> KnownLabels:
    """The labels that a run had. Older runs do not record them.

    Args:
        folder: `--log` of the run.
        root: where its images are now; None: where they were.

    Raises:
        UserError: one of the run's files is damaged.
    """
    flags = read_json(folder / "args.json", "name the folder of another run").get("args")
    own_root, data = (flags.get(key) for key in ("root", "data")) if isinstance(flags, dict) else (None, None)
    root = own_root if root is None else root
    if data != "ImageFolder" or not isinstance(root, str) or not (folder / "images.csv").is_file():
        return KnownLabels(None, {})
    files = inventory.from_csv(folder / "images.csv")
    labeled = read_json(folder / "labeled.json", "name the folder of another run")
    unchecked = set(labeled.get("predicted_names", []))
    names = [name for key in ("names", "held_out_names") for name in labeled.get(key, []) if name not in unchecked]
    place = Path(os.path.abspath(os.path.expanduser(root)))
    own = {name: files[name] for name in names if name in files}
    replaced = inventory.replaced(own, place)
    others = set(replaced)
    return KnownLabels(place, {name: own[name].label for name in own if name not in others}, replaced)
