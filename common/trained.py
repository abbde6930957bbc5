"""Load the network of a run from the run's folder, for programs that use it without training."""

import argparse
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

from torch import Tensor

from common import build
from common.errors import UserError
from common.loading import augment
from common.networks import adapters
from common.networks.classifier import PRECISIONS, ImageClassifier
from common.records import best_epoch
from common.system import checkpoint
from common.system.files import read_json

NEUTRAL = {"no_pool": False, "drop_path": None}  # flags that have no effect in eval mode
PARTS = ("backbone.", "bottleneck.", "head.")  # of the tested network; a method may train others besides


class Trained(NamedTuple):
    """The network of a run, and how to use it.

    Attributes:
        model: the tested network, in eval mode, on the CPU; without further heads of its method.
        classes: the names of its outputs, in order.
        args: the run's flags: `data`, `arch`, `bottleneck_dim`, `precision`, and the preprocessing (`train_resizing`,
            `val_resizing`, `image_size`, `norm_mean`, `norm_std`, `exif_orientation`, `flip`), among others.
        method: the script's name.
        file: the checkpoint.
        epoch, chosen_by: of the checkpoint, see `best_epoch.of_checkpoint`.
    """

    model: ImageClassifier
    classes: list[str]
    args: SimpleNamespace
    method: str
    file: Path
    epoch: int | None = None
    chosen_by: str | None = None

    @property
    def preprocessing(self) -> dict[str, Any]:
        """`transform` and `normalizer` of a loader that prepares images as the run's tests do."""
        return {
            "transform": augment.test_transform(self.args.val_resizing, self.args.image_size),
            "normalizer": augment.Normalizer(self.args.norm_mean, self.args.norm_std),
        }

    @property
    def origin(self) -> str:
        """The file, its epoch and what chose it, in words."""
        if self.epoch is None:
            return f"'{self.file}'"
        chosen = {None: "", best_epoch.LAST: ", the last"}.get(self.chosen_by, f", chosen by the {self.chosen_by}")
        return f"'{self.file}', of epoch {self.epoch}{chosen}"


def load(folder: Path, name: Literal["best", "latest"]) -> Trained:
    """Read a run's network, without running code from its files.

    Nothing is downloaded, except for `latest` of a run with adapters: it lacks the frozen weights.

    Args:
        folder: `--log` of the run.
        name: which checkpoint.

    Raises:
        UserError: the folder holds no run, or no such checkpoint yet; a file is damaged, or does not fit the others.
    """
    method, args = _read_args(folder)
    file = folder / "checkpoints" / f"{name}.pth"
    if not os.path.isfile(file):
        raise UserError(f"'{folder}' has no checkpoint '{name}' yet: train to the end of an epoch, or name another run")
    content = checkpoint.load(file)
    weights = {key: value for key, value in _weights(content, file).items() if key.startswith(PARTS)}
    classes = _classes(content, file)
    has_all_weights = name == "best" or not (args.lora or args.adapter)
    start = {"scratch": True, "pretrained_backbone": None, "init_from": None} if has_all_weights else {}
    merged = {"lora": None} if name == "best" else {}
    made = argparse.Namespace(**vars(args) | NEUTRAL | start | merged)
    model = build.classifier(ImageClassifier, len(classes), made)
    network = adapters.Merged(model) if name == "best" else model
    checkpoint.restore({"model": network}, {"model": weights}, file)
    return Trained(model.eval(), classes, args, method, file, *best_epoch.of_checkpoint(content))


def _read_args(folder: Path) -> tuple[str, SimpleNamespace]:
    file = folder / "args.json"
    if not os.path.isfile(file):
        raise UserError(f"'{folder}' holds no run: name the folder that was --log of a training")
    content = read_json(file, "name the folder of another run")
    args = YOUNGER | (content["args"] if isinstance(content.get("args"), dict) else {})
    wrong = [name for name, good in EXPECTED.items() if name not in args or not good(args[name])]
    if wrong or not isinstance(content.get("method"), str):
        raise UserError(f"'{file}' is not what a run wrote ({wrong[0] if wrong else 'method'}): name another run")
    return content["method"], SimpleNamespace(**{name: args[name] for name in EXPECTED})


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**20


def _are_statistics(values: Any) -> bool:
    return isinstance(values, list) and len(values) == 3 and all(isinstance(value, int | float) for value in values)


YOUNGER = {"precision": "float32", "lora": None, "adapter": None, "scratch": False, "pretrained_backbone": None}
YOUNGER |= {"exif_orientation": False, "init_from": None, "flip": True}
EXPECTED = {
    "data": lambda value: isinstance(value, str),
    "arch": lambda value: isinstance(value, str),
    "bottleneck_dim": lambda value: _is_size(value) or (type(value) is int and value == 0),  # 0: there is none
    "lora": lambda value: value is None or _is_size(value),
    "adapter": lambda value: value is None or _is_size(value),
    "scratch": lambda value: isinstance(value, bool),
    "pretrained_backbone": lambda value: value is None or isinstance(value, str),
    "init_from": lambda value: value is None or isinstance(value, str),
    "precision": lambda value: value in PRECISIONS,
    "train_resizing": lambda value: value in augment.RESIZINGS,
    "val_resizing": lambda value: value in augment.RESIZINGS,
    "image_size": _is_size,
    "exif_orientation": lambda value: isinstance(value, bool),
    "flip": lambda value: isinstance(value, bool),
    "norm_mean": _are_statistics,
    "norm_std": lambda values: _are_statistics(values) and all(value > 0 for value in values),
}


def _weights(content: dict[str, Any], file: Path) -> dict[str, Tensor]:
    """The tested network's weights: `model` in best.pth, or the entry of latest.pth that `evaluated` names."""
    name = content.get("evaluated", "model")
    if name is None:
        raise UserError(f"checkpoint '{file}' does not hold the tested network in one piece: use --checkpoint best")
    state = checkpoint.part(content, str(name))
    if state is None:
        raise UserError(f"checkpoint '{file}' holds no '{name}': name another run")
    return state


def _classes(content: dict[str, Any], file: Path) -> list[str]:
    if "classes" not in content:
        raise UserError(f"checkpoint '{file}' holds no names of classes, as older ones do not: use --checkpoint best")
    classes = content["classes"]
    if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise UserError(f"checkpoint '{file}' holds no names of classes: name another run")
    return classes
