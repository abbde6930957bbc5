"""The folder of a run (`--log`): its files, and who may use it. Only the first of the run's processes reads and writes.

args.json           all arguments; and `saved`, once there has been a checkpoint
log.txt             what was printed
labeled.json        which images are labeled
images.csv          inventory of your own images
sources.json        the runs that this run learns from, if it does, and how far they agree
views.png           a sheet of augmented samples
metrics.jsonl       one object per epoch
tensorboard/        the same, with --tensorboard
checkpoints/        latest.pth (everything, to resume from), previous.pth (the one before), best.pth (the network, to
                    use), next_best.pth (the next best.pth, until latest.pth records it)
held_out.csv        index, label and predicted class of every held-out image, after the last epoch
report.png, per_class.csv   what the network confuses, after the last epoch, or in --phase test
result.json         written last: its presence means that the run is finished
.lock               keeps a second process out
"""

import contextlib
import csv
import io
import json
import logging
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.datasets import class_names, inventory
from common.datasets.inventory import Inventory
from common.errors import UserError
from common.records import sheet
from common.records.run_images import RunImages
from common.records.tensorboard import EVENTS, Events
from common.system import checkpoint, processes
from common.system.files import make_and_lock, read_json, write_json, write_whole

logger = logging.getLogger("common")

# All files that a run writes except log.txt and .lock, in the order of their removal: a folder without result.json is
# not finished, and one with args.json is still known as a run's.
FILES = (
    *("result.json", "metrics.jsonl", "labeled.json", "images.csv", "sources.json", "views.png"),
    *("held_out.csv", "report.png", "per_class.csv"),
    "args.json",
)
CHECKPOINTS = ("latest.pth", "previous.pth", "best.pth", "next_best.pth", "damaged.pth")


class Folder:
    """The folder `--log` of one run.

    Args:
        path: of the folder, which is made if it does not exist.
        method: the script's name.
        arguments: all arguments, to be recorded.
        differences: takes the recorded arguments of an existing run, and names those that differ now, such as
            `--lr 0.01 (was 0.03)`.
        testing: only test a checkpoint. The folder must hold a run, and only its report is written anew.
        overwrite: an existing run will be removed by `discard`.
        tensorboard: write TensorBoard events, too.

    Raises:
        UserError: the folder is not writable, is in use, or holds other files or a run with other arguments.
    """

    def __init__(
        self,
        path: str | Path,
        method: str,
        arguments: dict[str, Any],
        differences: Callable[[dict[str, Any]], list[str]],
        *,
        testing: bool = False,
        overwrite: bool = False,
        tensorboard: bool = False,
    ):
        self.path, self.method, self.arguments = Path(path), method, arguments
        self.testing, self.overwrite = testing, overwrite and not testing
        self.checkpoints = self.path / "checkpoints"
        self._open(differences)
        wants_events = tensorboard and not testing and processes.is_first()
        self.events = Events(self.path / "tensorboard") if wants_events else None

    @processes.by_first
    def _open(self, differences: Callable[[dict[str, Any]], list[str]]) -> None:
        args_file = self.path / "args.json"
        if self.testing:
            if not os.path.isfile(args_file):  # unlike Path.is_file, no error for names that are too long
                raise UserError(f"'{self.path}' holds no run to test: train first, or name its folder with --log")
        else:
            self._make_and_lock()
        if args_file.is_file():
            saved = read_json(args_file)
            if not isinstance(saved.get("args"), dict) or "method" not in saved:
                raise UserError(f"'{args_file}' is not a run's: remove it, or choose another --log")
            if self.overwrite:
                self._look_before_discarding()
                return
            found = differences(saved["args"])
            if saved["method"] != self.method:
                found.insert(0, f"method {self.method} (was {saved['method']})")
            self._refuse_other_arguments(found)
            return
        for name in (*FILES, "checkpoints", "tensorboard"):
            if os.path.lexists(self.path / name):
                raise UserError(
                    f"'{self.path}' holds files, but no args.json of a run ('{name}' is one): choose another --log"
                )

    def _look_before_discarding(self) -> None:
        """Refuse to discard if anything that would be removed cannot be the run's."""
        for file in self._own_files():
            if file.is_dir() and not file.is_symlink():
                raise UserError(f"'{file}' is a folder, which no run makes: remove it, or choose another --log")
        for folder in (self.checkpoints, self.path / "tensorboard"):
            if os.path.lexists(folder) and not folder.is_dir():
                raise UserError(f"'{folder}' is no folder, as a run's is: remove it, or choose another --log")

    def _own_files(self) -> list[Path]:
        """The paths of all files of a run, whether they exist or not, in the order of their removal."""
        files = [self.path / name for name in FILES[:-1]] + [self.checkpoints / name for name in CHECKPOINTS]
        files.append(self.path / FILES[-1])
        return [other for file in files for other in (file.with_name(f"{file.name}.tmp"), file)]

    def _refuse_other_arguments(self, differences: list[str]) -> None:
        if differences:
            remedy = "choose another --log, or discard it with --overwrite"
            if self.testing:
                remedy = "give the run's own, and --phase test"
            raise UserError(f"'{self.path}' holds a run with other arguments: {', '.join(differences)}; {remedy}")

    def _make_and_lock(self) -> None:
        lock = make_and_lock(self.path, "--log")
        weakref.finalize(self, lock.close)

    @property
    def log_file(self) -> Path | None:
        """The log file; None if a checkpoint is only tested."""
        return None if self.testing else self.path / "log.txt"

    @property
    @processes.by_first
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self._is_finished()

    def _is_finished(self) -> bool:
        return not self.testing and not self.overwrite and (self.path / "result.json").is_file()

    # A run begins

    @processes.by_first
    def begin(self, images: RunImages, pretraining_sha256: str | None = None) -> None:
        """Write args.json first, then labeled.json and images.csv, and make the folder of the checkpoints.

        Args:
            images: those of the run.
            pretraining_sha256: of the file that holds the initial weights.
        """
        file = {} if pretraining_sha256 is None else {"pretraining_sha256": pretraining_sha256}
        write_json(self.path / "args.json", {"method": self.method, "args": self.arguments} | file)
        indices = {"indices": np.sort(images.labeled).tolist()}
        if len(images.held_out):
            indices["held_out"] = np.sort(images.held_out).tolist()
        write_json(self.path / "labeled.json", images.fingerprints | indices | images.names())
        if images.are_own:
            write_whole(self.path / "images.csv", inventory.to_csv(images.files))
        try:
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make '{self.checkpoints}' ({error.strerror}): choose another --log") from None

    @processes.by_first
    def read_files(self) -> Inventory:
        """The inventory of your own images when the run began; empty for other datasets."""
        return self._read_files()

    def _read_files(self) -> Inventory:
        file = self.path / "images.csv"
        return inventory.from_csv(file) if file.is_file() else {}

    @processes.by_first
    def compare_images(self, fingerprints: dict[str, str], files: Inventory, root: str) -> None:
        """Refuse to continue with other images than the run began with.

        Args:
            fingerprints: present values of some or all of `RunImages.fingerprints`. Older runs recorded fewer.
            files: the present inventory of your own images.
            root: where the images are, for messages.

        Raises:
            UserError: the images differ.
        """
        before = read_json(self.path / "labeled.json")
        for name in fingerprints.keys() - {"labeled_sha256"}:  # older runs lack some
            before.setdefault(name, fingerprints[name])
        if any(before.get(name) != value for name, value in fingerprints.items()):
            known = self._read_files()
            changed = inventory.differences(known, files) if known else []
            details = f" ({', '.join(changed)})" if changed else ""
            raise UserError(
                f"'{self.path}' was begun with other images than '{root}' holds now{details}: restore them, or choose "
                "another --log"
            )

    @processes.by_first
    def compare_tested(self, content: dict[str, Any], path: Path, images: RunImages) -> None:
        """Refuse to test a checkpoint on other classes than its own, and warn of other images.

        Args:
            content, path: of the checkpoint.
            images: those that it is to be tested on.

        Raises:
            UserError: the classes have other names, or another order.
        """
        classes, root = images.data.classes, images.root
        trained = content.get("classes", classes)  # an older latest.pth lacks them
        if trained != classes:
            raise UserError(
                f"checkpoint '{path}' was trained for other classes than '{root}' has "
                f"({class_names.first_difference(trained, classes)}): give the classes their old names, or the run's "
                "own root"
            )
        file = self.path / "labeled.json"
        before = read_json(file).get("test_sha256") if file.is_file() else None
        tested, now = ({k: v for k, v in of.items() if v.part == "test"} for of in (self._read_files(), images.files))
        changed = inventory.differences(tested, now) if tested else []
        details = f" ({', '.join(changed)})" if changed else ""
        if changed or before not in (None, images.fingerprints["test_sha256"]):
            logger.warning(
                f"the test images in '{root}' are others than those that '{self.path}' was tested on in "
                f"training{details}: its scores there and these do not compare"
            )

    @processes.by_first
    def discard(self) -> None:
        """Remove the files of a run, and nothing else: result.json first, args.json last.

        Folders that are links, or that hold other files, are kept.

        Raises:
            UserError: a file cannot be removed.
        """
        self._look_before_discarding()
        events = self.path / "tensorboard"
        *first, last = self._own_files()
        try:
            for file in (*first, *events.glob(EVENTS)):
                file.unlink(missing_ok=True)
            for folder in (self.checkpoints, events):
                with contextlib.suppress(OSError):  # a link, not empty, or not there
                    folder.rmdir()
            last.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot remove '{error.filename}' ({error.strerror}): remove it, or choose another --log"
            ) from None

    # It goes on

    @processes.by_first
    def load_newest(self) -> tuple[dict[str, Any], Path] | None:
        """The newest checkpoint and its path, or None before the first one; see `checkpoint.load_newest`.

        Raises:
            UserError: see there; or the folder holds an interrupted run whose checkpoints are gone.
        """
        newest = checkpoint.load_newest(*self._to_resume_from)
        if newest is None and self._had_checkpoints():
            raise UserError(
                f"'{self.path}' holds an interrupted run without its checkpoints: restore "
                f"'{self.checkpoints / 'latest.pth'}', or start anew with --overwrite"
            )
        return newest

    def _had_checkpoints(self) -> bool:
        """Whether the folder is of a run that was not killed before its first checkpoint."""
        file, rows = self.path / "args.json", self.path / "metrics.jsonl"
        if file.is_file() and read_json(file).get("saved"):
            return True
        # An older run does not say it. Its rows are empty until the first epoch ends, but `begin` made `checkpoints`.
        return rows.is_file() and (rows.stat().st_size > 0 or not self.checkpoints.is_dir())

    @property
    def _to_resume_from(self) -> tuple[Path, Path]:
        return self.checkpoints / "latest.pth", self.checkpoints / "previous.pth"

    @property
    @processes.by_first
    def resumable(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return not self.overwrite and any(path.is_file() for path in self._to_resume_from)

    @processes.by_first
    def load(self, name: str) -> tuple[dict[str, Any], Path]:
        """The checkpoint of that name, `best` or `latest`, and its path; see `checkpoint.load`."""
        path = self.checkpoints / f"{name}.pth"
        return checkpoint.load(path), path

    @processes.by_first
    def save_latest(self, content: dict[str, Any]) -> None:
        """Write `latest.pth`. The old one becomes `previous.pth`."""
        latest, previous = self._to_resume_from
        checkpoint.save(latest, content, previous)
        file = self.path / "args.json"
        if not previous.is_file() and file.is_file():  # the first one: note it here, so that its loss is noticed
            write_json(file, read_json(file) | {"saved": True})

    @processes.by_first
    def save_best(self, content: dict[str, Any]) -> None:
        """Write `next_best.pth`, so that `best.pth` is never newer than `latest.pth`; see `adopt_best`."""
        checkpoint.save(self.checkpoints / "next_best.pth", content)

    @processes.by_first
    def adopt_best(self) -> None:
        """Rename `next_best.pth` to `best.pth`, now that `latest.pth` records its epoch."""
        best = self.checkpoints / "best.pth"
        try:
            os.replace(self.checkpoints / "next_best.pth", best)
        except OSError as error:
            raise UserError(f"cannot save '{best}' ({error.strerror}): remove it, and run again") from None

    @processes.by_first
    def settle_best(self, epoch: int | None) -> None:
        """After a kill, adopt `next_best.pth` if the newest checkpoint records its epoch as the best; else delete it.

        Args:
            epoch: the checkpoint's best epoch, counted from 1; None if it has none yet.
        """
        following = self.checkpoints / "next_best.pth"
        if following.is_file():
            if checkpoint.load(following).get("epoch") == epoch:
                self.adopt_best()
            else:  # its epoch will be repeated
                following.unlink()

    def save_sheet(self, parts: Sequence[sheet.Part]) -> None:
        """Write `views.png`; see `sheet.save`."""
        sheet.save(self.path / "views.png", parts)

    def save_report(self, page: memoryview, per_class: list[dict[str, Any]]) -> None:
        """Write `report.png` and `per_class.csv`; see `report.draw` and `confusion.per_class`."""
        table = io.StringIO()
        writer = csv.DictWriter(table, per_class[0])
        writer.writeheader()
        writer.writerows(per_class)
        write_whole(self.path / "report.png", page)
        write_whole(self.path / "per_class.csv", table.getvalue().encode(errors="surrogateescape"))

    @processes.by_first
    def save_held_out(self, rows: list[tuple[int, int, int]]) -> None:
        """Write `held_out.csv`.

        Args:
            rows: for each held-out image: index in the training set, class, predicted class.
        """
        lines = [f"{index},{label},{predicted}\n" for index, label, predicted in rows]
        write_whole(self.path / "held_out.csv", "".join(["index,label,predicted\n", *lines]).encode())

    @processes.by_first
    def write_sources(self, summary: dict[str, Any]) -> None:
        """Write `sources.json`: the runs that this one learns from."""
        write_json(self.path / "sources.json", summary)

    @processes.by_first
    def write_history(self, history: list[dict[str, Any]]) -> None:
        """Write `metrics.jsonl`, and TensorBoard events if asked for."""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in history)
        write_whole(self.path / "metrics.jsonl", lines.encode())
        if self.events is not None:
            self.events.write(history)

    @processes.by_first
    def best_epoch(self) -> int | None:
        """The epoch of `best.pth`, counted from 1; None if there is none."""
        best = self.checkpoints / "best.pth"
        return checkpoint.load(best).get("epoch") if best.is_file() else None

    # It ends

    @processes.by_first
    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json`, and delete previous.pth, which only resuming needs."""
        write_json(self.path / "result.json", result)
        (self.checkpoints / "previous.pth").unlink(missing_ok=True)

    @processes.by_first
    def read_result(self) -> dict[str, Any]:
        """A finished run's `result.json`."""
        return read_json(self.path / "result.json")
