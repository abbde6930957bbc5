"""Run folders: what their files say."""

import csv
import functools
import importlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common import cli
from common.datasets.walk import is_run
from common.errors import UserError, reason

ROOT = Path(__file__).parent.parent.parent

# Flags that do not tell settings apart. Some change no number. Over seeds a cell averages. The file that a run began
# with is known by its hash.
NOT_SETTINGS = cli.FREE | {"seed", "split_seed", "pretrained_backbone", "init_from"}

RECORDED = ("pretraining_sha256", "pretraining_weights", "official_split", "data_sha256", "content_sha256")

REQUIRED = {"v_pet": ["--sources", "a run"]}  # flags without which a script refuses its command line

# What the tables need to know of a result.
FIELDS = {
    **dict.fromkeys(("method", "dataset", "arch", "pretraining"), str),
    "num_samples_per_class": int | str,  # a number, or all
    **dict.fromkeys(("seed", "split_seed", "epochs", "iters_per_epoch"), int),
    "seconds": int | float,
    "oracle": bool,
}
SCORES = dict.fromkeys(("last_top1", "best_top1"), int | float | None)  # None: there is no image to test with
OPTIONAL = {"val_best_top1": int | float | None, "val_top1": int | float}  # of runs that held images out


class CellKey(NamedTuple):
    """Where in the tables a run belongs."""

    dataset: str
    arch: str
    pretraining: str
    row: str

    def __str__(self) -> str:
        return f"{self.row} on {self.dataset} ({self.arch}, {self.pretraining})"


@dataclass(frozen=True)
class Run:
    """A run folder. The result is None where the run is not finished."""

    folder: Path
    args: dict[str, Any]
    result: dict[str, Any] | None
    history: list[dict[str, Any]]

    @property
    def key(self) -> CellKey:
        result = self.result
        row = result["method"]
        if result["oracle"]:
            row = "oracle"
        elif row == "erm" or result["num_samples_per_class"] != 4:
            row = f"{row}, {result['num_samples_per_class']} labels"
        return CellKey(self.dataset, result["arch"], self._pretraining, row)

    @property
    def _pretraining(self) -> str:
        """Where the weights came from; where each seed began from its own run (--init-from), their shared name."""
        recorded, own = self.result["pretraining"], f"seed{self.result['seed']}"
        if not self.result.get("init_from"):
            return recorded
        parent = Path(self.result["init_from"]).parent.name
        return f"run {parent}" if recorded == f"run {own}" and parent else recorded.removesuffix(f"_{own}")

    @property
    def draw(self) -> tuple[int, str]:
        """What tells it from other runs of its settings: the seed, and the part of the labels that it held out."""
        return self.result["seed"], self.args.get("val_fold") or ""

    @property
    def dataset(self) -> str:
        """The dataset's name. Own images have their folder's name and a slash, which no dataset's name has."""
        if self.result["dataset"] != "ImageFolder":
            return self.result["dataset"]
        name = self.result.get("data_folder") or Path(str(self.args.get("root", ""))).name
        return "".join(c if c.isprintable() else "?" for c in name) + "/" if name else "ImageFolder"

    @property
    def settings(self) -> dict[str, Any]:
        """All flags that can change a number, without the seeds. Source runs are named as those of seed 0.

        A cell also averages over the parts of the labels that are held out in turn, so only their number counts.
        Images of one's own have no official split, though older runs say so.
        """
        settings = {key: value for key, value in self.args.items() if key not in NOT_SETTINGS}
        if settings.get("val_fold"):
            settings["val_fold"] = f"K/{settings['val_fold'].partition('/')[2]}"
        if settings.get("sources"):
            own = f"_seed{self.result['seed']}"  # as the shell files name the folders of another seed
            settings["sources"] = [str(source).removesuffix(own) for source in settings["sources"]]
        recorded = {key: self.result.get(key) for key in RECORDED}
        if self.result["dataset"] == "ImageFolder":
            recorded["official_split"] = None
        if self._pretraining != self.result["pretraining"]:
            recorded["pretraining_sha256"] = None  # each seed begins from its own run
        return settings | recorded


def read_runs(roots: Iterable[Path]) -> list[Run]:
    """All runs below the folders, finished or not.

    Raises:
        UserError: a folder does not exist, or a file in it is damaged.
    """
    folders = set()
    for root in roots:
        if not os.path.isdir(root):
            raise UserError(f"folder '{root}' does not exist: name one that holds runs")
        folders.update(file.parent for file in root.rglob("args.json"))
    return [_read_run(folder) for folder in sorted(folders)]


def _read_run(folder: Path) -> Run:
    args = _read(folder / "args.json", lambda text: _arguments(json.loads(text)))
    result, rows = folder / "result.json", folder / "metrics.jsonl"
    result = (
        _read(result, lambda text: _scored(_typed(json.loads(text), FIELDS, OPTIONAL))) if result.exists() else None
    )
    history = (
        _read(rows, lambda text: [_typed(json.loads(line)) for line in text.splitlines()]) if rows.exists() else []
    )
    return Run(folder, args, result, history)


def held_out(run: Run) -> list[int]:
    """The training images that a run held out; none where it did not.

    Raises:
        UserError: its labeled.json does not say.
    """
    if not (run.args.get("val_per_class") or run.args.get("val_fold")):
        return []
    return _read(run.folder / "labeled.json", lambda text: [int(index) for index in json.loads(text)["held_out"]])


def outcomes(run: Run) -> dict[int, bool] | None:
    """Whether the last epoch's network is right for each held-out image; None if the run did not record it.

    Raises:
        UserError: the record is damaged.
    """
    file = run.folder / "held_out.csv"
    if not file.exists():
        return None
    return _read(
        file, lambda text: {int(r["index"]): r["label"] == r["predicted"] for r in csv.DictReader(text.splitlines())}
    )


def known_images(run: Run) -> list[int]:
    """The training images whose labels a run used, to train or to choose by.

    Raises:
        UserError: its labeled.json does not say.
    """

    def parse(text: str) -> list[int]:
        content = json.loads(text)
        return [int(index) for index in content["indices"] + content.get("held_out", [])]

    return _read(run.folder / "labeled.json", parse)


def image_root_above(run: Run, folder: Path) -> Path | None:
    """The folder of a run's own images, if a search there would find images in `folder`.

    It is recognised by the run's first labeled image, since the recorded path may be relative to another folder. Older
    runs do not name their images; then the path is taken as it is.

    Raises:
        UserError: its labeled.json is damaged.
    """
    if run.args.get("data") != "ImageFolder" or is_run(folder):
        return None
    file, root = run.folder / "labeled.json", Path(os.path.expanduser(str(run.args.get("root")))).resolve()
    names = _read(file, lambda text: json.loads(text).get("names", [])) if file.exists() else []
    above = [folder.resolve(), *folder.resolve().parents]
    return next((each for each in above if ((each / names[0]).is_file() if names else each == root)), None)


def _arguments(content: dict[str, Any]) -> dict[str, Any]:
    """What `args.json` records. Flags newer than the run have their defaults: the run did the same."""
    saved = _typed(content["args"], {"epochs": int}, {"sources": list})
    known = _default_arguments(content.get("method"))
    try:
        return saved if known is None else vars(cli.completed(known, saved))
    except UserError as error:
        raise ValueError(str(error)) from None


@functools.cache
def _default_arguments(method: str | None) -> cli.Arguments | None:
    """A method's default arguments; None if there is none. The name is from a file: only our scripts are imported."""
    if method not in {file.stem for file in ROOT.glob("*.py") if "def train_step(" in file.read_text()}:
        return None
    return importlib.import_module(method).parse_args(["data", "-d", "ImageFolder", *REQUIRED.get(method, [])])


def _typed(
    content: Any, fields: dict[str, type] | None = None, optional: dict[str, type] | None = None
) -> dict[str, Any]:
    """The content of a JSON file. Raises a `ValueError` if it is not an object with these fields."""
    if not isinstance(content, dict):
        raise ValueError("not an object")
    present = {name: kind for name, kind in (optional or {}).items() if name in content}
    for name, kind in ((fields or {}) | present).items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"'{name}' is missing, or of another type")
    return content


def _scored(content: dict[str, Any]) -> dict[str, Any]:
    """The content. Raises a `ValueError` if it lacks the scores on the test set, which may be None: not measured."""
    for name, kind in SCORES.items():
        if name not in content or not isinstance(content[name], kind):
            raise ValueError(f"'{name}' is missing, or of another type")
    return content


def _read(file: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"'{file}' is damaged ({reason(error)}): run its command again, or remove it") from None
