"""A run and its folder: where it resumes, what it writes, how far it is. It knows nothing of losses.

args.json           all arguments
log.txt             what was printed
labeled.json        which images are labeled
views.png           a sheet of augmented samples
metrics.jsonl       one object per epoch
tensorboard/        the same, where --tensorboard asks for it
checkpoints/        latest.pth (everything, to resume from; previous.pth, the one before), best.pth (the model, to use)
result.json         written last: its presence means that the run is finished
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import shutil
import signal
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from common import augment, checkpoint, cli, evaluate, progress, report, seeding, splits
from common.datasets import SPECS, Data
from common.errors import Interrupted, UserError
from common.events import Events
from common.files import write_whole
from common.loaders import Batch, TestLoader, TrainLoader
from common.meters import Meters, Metric

logger = logging.getLogger("common")


class Run:
    """The bookkeeping of one run.

    The arguments are recorded whole and compared on resume; of them the run itself reads the flags about the folder,
    the seed, the device and the number of steps.

    Attributes:
        device: where to train.
        step: optimizer steps done so far, over all epochs.
        history: the finished epochs' rows of `metrics.jsonl`.

    Raises:
        UserError: the folder is unwritable, busy, or holds a run with other arguments; the device does not exist.
    """

    def __init__(self, method: str, args: cli.Arguments):
        self.method, self.args = method, args
        self.folder = Path(args.log)
        self._open_folder()
        progress.log_to(self.folder / "log.txt" if args.phase == "train" else None)
        self.device = find_device(args.device)
        self.generators = seeding.Generators(self.device)
        self.step, self.history, self.seconds = 0, [], 0.0
        self.meters = Meters(self.device)
        self.checkpoints = self.folder / "checkpoints"
        self._rates: dict[int, list[float]] = {}  # step -> learning rates, since the last look at the metrics
        self._saved_step = 0
        self._streams: list[Iterator[Batch]] | None = None
        self._signum: int | None = None
        self._events = Events(self.folder / "tensorboard") if args.tensorboard and args.phase == "train" else None
        seeding.seed_all(args.seed, "model")

    # The folder

    def _open_folder(self) -> None:
        args_file = self.folder / "args.json"
        if self.args.phase == "test":
            if not os.path.isfile(args_file):  # as Path's own, but false for names that are too long
                raise UserError(f"'{self.folder}' holds no run to test: train first, or name its folder with --log")
        else:
            self._make_and_lock()
        if self.args.overwrite and self.args.phase == "train":
            return
        if args_file.is_file():
            saved = _read_json(args_file)
            if not isinstance(saved.get("args"), dict) or "method" not in saved:
                raise UserError(f"'{args_file}' is not a run's: remove it, or choose another --log")
            self._compare(saved["method"], saved["args"])
        elif any((self.folder / name).exists() for name in ("result.json", "metrics.jsonl", "checkpoints")):
            raise UserError(f"'{self.folder}' holds files, but no args.json of a run: choose another --log")

    def _compare(self, method: str, saved: dict[str, Any]) -> None:
        differences = cli.differences(self.args, saved)
        if self.finished and SPECS[self.args.data].counts is None:
            # Any folder may be an ImageFolder, and nobody looks into it before a result is shown.
            root, before = str(self.args.root), str(saved.get("root"))
            if os.path.realpath(root) != os.path.realpath(before):
                differences.insert(0, f"root {root} (was {before})")
        if method != self.method:
            differences.insert(0, f"method {self.method} (was {method})")
        if differences:
            remedy = "choose another --log, or discard it with --overwrite"
            if self.args.phase == "test":
                remedy = "give the run's own, and --phase test"
            raise UserError(f"'{self.folder}' holds a run with other arguments: {', '.join(differences)}; {remedy}")

    def _make_and_lock(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / ".lock", "w")  # noqa: SIM115 (open as long as the run)
            weakref.finalize(self, lock.close)
            # A lock of the process: it goes with it however it ends, and forked workers do not hold it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is using '{self.folder}': wait for it, or choose another --log") from None
        except OSError as error:
            raise UserError(f"cannot write to '{self.folder}' ({error.strerror}): choose another --log") from None

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.args.phase == "train" and not self.args.overwrite and (self.folder / "result.json").is_file()

    def describe(self, data: Data, labeled: np.ndarray) -> None:
        """Remember the data for the reports: class names, fingerprints, whether the split is official."""
        self.data, self.labeled = data, labeled
        self.fingerprints = {"labeled_sha256": splits.sha256(labeled), "data_sha256": data.sha256}
        logger.info(f"{self.args.data}: {data.counts}; {len(labeled):,} of the training images are labeled")

    def start(self, state: dict[str, Any]) -> None:
        """Resume where the folder's run was stopped, or begin a new one.

        Args:
            state: name -> object with `state_dict` and `load_state_dict`: all that a checkpoint holds besides the
                run's own step, history, meters and random generators.

        Raises:
            UserError: the checkpoint does not fit, it and the one before are damaged, or the labeled images are others.
        """
        self.state = state
        if self.args.overwrite:
            _discard(self.folder)
        newest = checkpoint.load_newest(self.checkpoints / "latest.pth", self.checkpoints / "previous.pth")
        if newest is None:
            self._begin()
        else:
            self._resume(*newest)
        self._write_history()
        self._started = time.perf_counter() - self.seconds

    def _begin(self) -> None:
        # args.json first: it says whose folder this is.
        _write_json(self.folder / "args.json", {"method": self.method, "args": vars(self.args)})
        _write_json(self.folder / "labeled.json", self.fingerprints | {"indices": np.sort(self.labeled).tolist()})
        try:
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make '{self.checkpoints}' ({error.strerror}): choose another --log") from None
        seeding.seed_all(self.args.seed, "training")

    def _resume(self, content: dict[str, Any], path: Path) -> None:
        before = {"data_sha256": self.data.sha256} | _read_json(self.folder / "labeled.json")  # older ones lack it
        if any(before.get(name) != value for name, value in self.fingerprints.items()):
            raise UserError(
                f"'{self.folder}' was begun with other images than '{self.args.root}' holds now: restore them, or "
                "choose another --log"
            )
        restored = self.state | {"meters": self.meters, "rng": self.generators}
        checkpoint.restore(restored, content, path, beside=("step", "history", "seconds"))
        self.step, self.history, self.seconds = content["step"], content["history"], content["seconds"]
        if not isinstance(self.step, int) or not isinstance(self.history, list) or self.step < 0:
            raise UserError(f"checkpoint '{path}' is another script's: choose another --log")
        self._saved_step = self.step
        logger.info(f"resuming '{self.folder}' at step {self.step}, epoch {self.epoch + 1}")

    def save(self) -> None:
        """Write `latest.pth`; what it was before becomes `previous.pth`.

        Raises:
            UserError: a loss or a weight is not finite (the last good checkpoint stays), or the disk is full.
        """
        self._check_finite()
        self.seconds = time.perf_counter() - self._started
        content = checkpoint.snapshot(self.state)
        self._check_weights(content)
        content |= {"step": self.step, "history": self.history, "seconds": self.seconds, "args": vars(self.args)}
        content |= {"meters": self.meters.state_dict(), "rng": self.generators.state_dict()}
        checkpoint.save(self.checkpoints / "latest.pth", content, self.checkpoints / "previous.pth")
        self._saved_step = self.step

    def _write_history(self) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in self.history)
        write_whole(self.folder / "metrics.jsonl", lines.encode())
        if self._events is not None:
            self._events.write(self.history)

    # Training

    def epochs(self) -> Iterator[int]:
        """The numbers, from 0, of the epochs that are not finished. SIGTERM and SIGINT are heeded after a step."""
        with self._heeding_signals():
            while self.epoch < self.args.epochs:
                yield self.epoch

    @property
    def epoch(self) -> int:
        """The number, from 0, of the epoch in progress."""
        return len(self.history)

    @property
    def at_epoch_start(self) -> bool:
        """False where an epoch is resumed half-way: what begins an epoch has then been done."""
        return self.step == self.epoch * self.args.iters_per_epoch

    def steps(self, *loaders: TrainLoader) -> Iterator[tuple[Batch, ...]]:
        """One batch of each loader for every step that the epoch still lacks.

        Raises:
            UserError: the loss is not finite, an image cannot be read, or a checkpoint cannot be written.
            Interrupted: a signal came; the step was completed and saved.
        """
        if self._streams is None:
            if self.step == 0:
                samples = {title: views for loader in loaders for title, views in loader.sample(8).items()}
                number = min(len(views) for views in samples.values())
                augment.save_sheet(self.folder / "views.png", {title: v[:number] for title, v in samples.items()})
            self._streams = [loader.batches(self.step) for loader in loaders]
        per_epoch = self.args.iters_per_epoch
        done = self.step - self.epoch * per_epoch
        with progress.Progress(self.epoch, self.args.epochs, per_epoch, done) as shown:
            while done < per_epoch:
                batches = tuple(next(stream) for stream in self._streams)
                self._rates[self.step + 1] = [group["lr"] for group in self.state["optimizer"].param_groups]
                yield batches
                done += 1
                self.step += 1
                shown.advance()
                if done % self.args.print_freq == 0 or done == per_epoch:
                    self._check_finite()
                    shown.report(self.meters.averages())
                self._stop_if_asked()

    def update(self, metrics: dict[str, Metric]) -> None:
        """Add a step's metrics to the epoch's averages; does not wait for the device."""
        self.meters.update(metrics, self.step + 1)

    def end_epoch(self, scores: dict[str, float]) -> None:
        """Append the epoch's row, keep the best model, and save.

        Args:
            scores: of the test set; `top1` chooses the best model.
        """
        self._check_finite()
        averages = self.meters.averages()
        is_best = scores["top1"] > max((row["top1"] for row in self.history), default=-math.inf)
        epoch = self.epoch + 1
        self.history.append({"epoch": epoch, "step": self.step, **averages, **scores})
        self.meters.reset()
        if is_best:
            content = {"model": self.state["model"].state_dict()}
            self._check_weights(content)
            content |= {"classes": self.data.classes, "args": vars(self.args), "epoch": epoch}
            checkpoint.save(self.checkpoints / "best.pth", content)
        self.save()
        self._write_history()
        shown = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
        logger.info(f"epoch {epoch}/{self.args.epochs} tested: {shown}{' (best so far)' if is_best else ''}")
        self._stop_if_asked()

    def finish(self) -> dict[str, Any]:
        """Write `result.json`; its content is returned and shown."""
        result = report.result(
            self.method,
            vars(self.args),
            self.history,
            data=self.data,
            fingerprints=self.fingerprints,
            seconds=self.seconds,
            device=self.device,
        )
        _write_json(self.folder / "result.json", result)
        (self.checkpoints / "previous.pth").unlink(missing_ok=True)
        return self.show()

    def show(self) -> dict[str, Any]:
        """Print a finished run's result, and return it."""
        result = _read_json(self.folder / "result.json")
        try:
            summary = report.summary(result, self.folder)
        except (KeyError, ValueError, TypeError):
            raise UserError(f"'{self.folder / 'result.json'}' is not a run's: remove it, and run again") from None
        logger.info(summary)
        return result

    def test(self, model: nn.Module, loader: TestLoader) -> dict[str, float]:
        """Load `--checkpoint` into the model, and print and return its scores."""
        path = self.checkpoints / f"{self.args.checkpoint}.pth"
        checkpoint.restore({"model": model}, checkpoint.load(path), path)
        scores = evaluate.evaluate(model, loader, len(self.data.classes))
        logger.info(f"'{path}': " + ", ".join(f"{name} {value:.2f}" for name, value in scores.items()))
        return scores

    # Stopping

    def _check_finite(self) -> None:
        """The device keeps the first bad step, so that the host waits for it only here: at prints and saves."""
        bad = self.meters.first_not_finite()
        if bad is not None:
            step, metrics = bad
            metrics = {name: value for name, value in metrics.items() if value is not None}
            broken = ", ".join(name for name, value in metrics.items() if not math.isfinite(value))
            self._refuse(broken, step, ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
        self._rates = {step: rates for step, rates in self._rates.items() if step == self.step}

    def _check_weights(self, state: dict[str, Any]) -> None:
        """The last step's loss may be finite and its gradient not."""
        name = checkpoint.not_finite(state)
        if name is not None:
            self._refuse(name, self.step, "found while saving")

    def _refuse(self, what: str, step: int, details: str) -> NoReturn:
        rates = ", ".join(f"{rate:g}" for rate in self._rates.get(step, [])) or "see --lr"
        kept = f"the checkpoint of step {self._saved_step} is kept" if self._saved_step else "nothing was saved yet"
        raise UserError(
            f"{what} not finite at step {step}: {details} (learning rates {rates}); {kept}: "
            "start anew with a smaller --lr, in another --log or with --overwrite"
        )

    @contextlib.contextmanager
    def _heeding_signals(self) -> Iterator[None]:
        def heed(signum: int, frame: Any) -> None:
            self._signum = signum
            for s in (signal.SIGTERM, signal.SIGINT):
                signal.signal(s, signal.SIG_DFL)  # the second one stops at once

        before = {s: signal.signal(s, heed) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _stop_if_asked(self) -> None:
        if self._signum is not None:
            self.save()
            raise Interrupted(
                self._signum,
                f"stopped by {signal.Signals(self._signum).name} after step {self.step}, and saved: "
                f"the same command continues{', without --overwrite' if self.args.overwrite else ''}",
            )


def find_device(name: str | None) -> torch.device:
    """The device of that name, by default CUDA where there is one.

    Raises:
        UserError: it does not exist, or does not compute.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu":
            logger.warning("no CUDA device found: running on the CPU, which is slow for anything but small networks")
    try:
        device = torch.device(name)
        # `meta` has no values, `mps` no float64, and a GPU that is too old for this PyTorch no kernels.
        torch.ones(1, dtype=torch.float64, device=device).add(1).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"--device {name} cannot be used ({reason}): try --device cpu") from None
    return device


def _discard(folder: Path) -> None:
    """Remove what a run wrote, and nothing else: first what says that it is finished, last what says whose it is."""
    (folder / "result.json").unlink(missing_ok=True)
    for name in ("checkpoints", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("metrics.jsonl", "labeled.json", "views.png", "args.json"):
        (folder / name).unlink(missing_ok=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{path}' cannot be read ({error}): remove it, or choose another --log") from None
