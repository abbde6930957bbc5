"""A run: where it resumes, how far it is, what it evaluates, and when it stops. It knows nothing of losses."""

import argparse
import contextlib
import copy
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from torch import nn
from torch.optim import Optimizer

from common import cli, datasets
from common.datasets import Data, inventory
from common.errors import Interrupted, UserError
from common.loading.loaders import Batch, TestLoader, TrainLoader
from common.networks.adapters import Merged
from common.networks.ema import ModelEma
from common.networks.initial_weights import InitialWeights
from common.records import best_epoch, progress, results, session, sheet
from common.records.evaluation import Evaluation
from common.records.folder import Folder
from common.records.run_images import RunImages, take_inventory
from common.system import checkpoint, log, processes, seeding
from common.system.devices import find_device
from common.system.signals import Signals, Stopped
from common.training.guard import Guard
from common.training.meters import Meters, Metric

logger = logging.getLogger("common")
FAILED = 1000  # in place of a signal number: a loader failed


class Run:
    """The bookkeeping of one run.

    All arguments are recorded, and compared on resume. The run itself reads the flags about the folder, the seed, the
    device and the number of steps.

    Args:
        script: the script's file, `__file__`. Its name is the method's, and its content is recorded.
        args: all flags.
        rounds: number of trainings of `--epochs` each, one after the other. Epochs and steps count on. Each round has
            a best network of its own, and the last round's scores are the result.

    Attributes:
        folder: the run's folder.
        device: where to train.
        step: optimizer steps done so far, over all epochs.
        history: the finished epochs' rows of `metrics.jsonl`.
        seconds: of training and testing until the newest checkpoint, over all sessions.
        sessions: the conditions of the beginning and of each resumption; see `session.current`.
        initial_weights: the file that holds them: a backbone, or a finished run's network.
        pretraining_sha256: of that file.
        pretraining_weights: the name of timm's weights, if the run begins with these.
        images: see `describe`.
        state: what a checkpoint holds: the `state` given to `start`, and with `--ema` the average.
        ema: with `--ema`, the average of the evaluated network's weights.

    Raises:
        UserError: the folder is not writable, is in use, holds a run with other arguments, or one that was begun with
            a file that is missing; or the device does not exist.
    """

    def __init__(self, script: str, args: cli.Arguments, rounds: int = 1):
        self.script, self.args, self.rounds = Path(script), args, rounds
        processes.join()
        self.folder = Folder(
            args.log,
            self.method,
            vars(args),
            lambda saved: cli.differences(args, saved),
            testing=args.phase == "test",
            overwrite=args.overwrite,
            tensorboard=args.tensorboard,
        )
        arch = None if args.scratch else args.arch
        self.initial_weights = InitialWeights(args.pretrained_backbone, args.init_from, arch, self.folder.path)
        if args.phase == "train" and self.resumable and not self.finished:
            self.initial_weights.refuse_missing()
        log.send_to(self.folder.log_file)
        self.device = find_device(args.device)
        processes.choose_group(self.device)
        self.generators = seeding.Generators(self.device)
        self.meters = Meters(self.device)
        self.guard = Guard(self.meters)
        self.signals = Signals()
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.sessions: list[dict[str, Any]] = []
        self.pretraining_sha256: str | None = None
        self.pretraining_weights: str | None = None
        # Set by `describe`:
        self._images: RunImages | None = None
        self._evaluation: Evaluation | None = None
        # Set by `start`:
        self.state: dict[str, Any] = {}
        self.ema: ModelEma | None = None
        self._network: nn.Module | None = None
        self._beginning: dict[str, Any] = {}  # the state before the first of several rounds
        self._started = 0.0  # the time at which an uninterrupted training would have begun
        self._streams: list[Iterator[Batch]] = []  # made in the first step
        seeding.seed_all(args.seed, "model")

    @property
    def method(self) -> str:
        """The method's name: the script's."""
        return self.script.stem

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.folder.finished

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to resume from. If so, `start` will load it."""
        return self.folder.resumable

    def describe(self, data: Data, labeled: np.ndarray, held_out: Sequence[int] | np.ndarray = ()) -> None:
        """Tell the run its data, for evaluation, reports and fingerprints.

        Args:
            data: the dataset.
            labeled, held_out: int64, indices into `data.train`; see `splits`. Held-out images choose the best epoch in
                place of the test set.

        Raises:
            UserError: `--val-per-class` is given and `held_out` is empty; `--log` is among the images; or the machines
                of the run have different images.
        """
        if self.args.val_per_class and not len(held_out):
            raise UserError("--val-per-class: this script holds no images out; give them to run.describe, or drop it")
        held = np.asarray(held_out, dtype=np.int64)
        known = self.folder.read_files()
        self._images = RunImages(data, labeled, held, self.args.root, self.folder.path, known)
        self._evaluation = Evaluation(data, held)
        self._images.announce(self.args.data)
        best_epoch.announce(self.chosen_by, len(held), self.args.val_per_class, len(data.test))
        self._images.refuse_others_elsewhere()

    @property
    def images(self) -> RunImages:
        """The images that `describe` was given."""
        if self._images is None:
            raise RuntimeError("the run knows no images: call run.describe before run.start")
        return self._images

    @property
    def chosen_by(self) -> str:
        """What chooses the epoch of `best.pth`; see `best_epoch.chooser`."""
        return self.images.chosen_by(self.args.val_fold is not None)

    @property
    def evaluation(self) -> Evaluation:
        """The evaluations on the data that `describe` was given."""
        if self._evaluation is None:
            raise RuntimeError("the run knows no images: call run.describe before run.start")
        return self._evaluation

    @property
    def data(self) -> Data:
        """The dataset that `describe` was given."""
        return self.images.data

    # Start and resume

    def start(self, state: dict[str, Any], evaluated: nn.Module) -> None:
        """Resume the run in the folder, or begin a new one. With `--phase test`, do neither.

        Args:
            state: name -> object with `state_dict` and `load_state_dict`: all that a checkpoint holds besides the
                run's own step, history, meters and random generators. With several processes, the optimizers among
                these objects average the gradients before each step.
            evaluated: the network to test after every epoch and to keep as `best.pth`. Its modules must be in `state`.
                With `--ema`, the average of its weights is tested and kept instead.

        Raises:
            UserError: the checkpoint does not fit; it and the previous one are damaged, or all are gone; or the images
                differ from the run's.
        """
        self.state, self._network = state, evaluated
        if self.args.ema:
            self.ema = ModelEma(evaluated, self.args.ema)
            self.state = state | {"ema": self.ema}
        if self.args.phase == "test":
            return
        if self.rounds > 1:
            self._beginning = copy.deepcopy(checkpoint.snapshot(self.state))
        self.pretraining_sha256 = self.initial_weights.sha256()
        self.pretraining_weights = self.initial_weights.timm_name()
        if self.args.overwrite:
            self.folder.discard()
        newest = self.folder.load_newest()
        if newest is None:
            self.folder.begin(self.images, self.pretraining_sha256)
            self._begin_alike()
        else:
            self.folder.compare_images(self.images.fingerprints, self.images.files, self.args.root)
            self._resume(*newest)
        self.sessions.append(self._conditions())
        self.folder.write_history(self.history)
        for optimizer in self.state.values():
            if isinstance(optimizer, Optimizer) and processes.count() > 1:
                optimizer.register_step_pre_hook(processes.average_gradients)
        self._started = time.perf_counter() - self.seconds

    def _begin_alike(self) -> None:
        """Begin with the same weights in all processes, and with different random numbers (for dropout) in each."""
        self._take_weights_from_first()
        key = (processes.rank(),) if processes.rank() else ()
        seeding.seed_all(self.args.seed, "training", *key)

    def _take_weights_from_first(self) -> None:
        modules = nn.ModuleList(item for item in self.state.values() if isinstance(item, nn.Module))
        processes.broadcast([*modules.parameters(), *modules.buffers()])  # frozen weights, too

    def _resume(self, content: dict[str, Any], path: Path) -> None:
        restored = self.state | {"meters": self.meters, "rng": self.generators}
        checkpoint.restore(restored, content, path, values=("step", "history", "seconds"))
        self.step, self.history, self.seconds = content["step"], content["history"], content["seconds"]
        if not isinstance(self.step, int) or not isinstance(self.history, list) or self.step < 0:
            raise UserError(f"checkpoint '{path}' is another script's: choose another --log")
        self.guard.saved_step = self.step
        self._compare_conditions(content)
        self.folder.settle_best(self._best_epoch)
        if path.name == "previous.pth" and (self.folder.best_epoch() or 0) > self.epoch:
            logger.warning(
                f"best.pth is of epoch {self.folder.best_epoch()}, which is repeated now: where it scores "
                "otherwise, best.pth may be of another epoch than the result says"
            )
        logger.info(f"resuming '{self.folder.path}' at step {self.step}, epoch {self.epoch + 1}")

    def _compare_conditions(self, content: dict[str, Any]) -> None:
        """Refuse another backbone file, and warn of other software. Older runs do not record them."""
        self.initial_weights.refuse_other(content.get("pretraining_sha256"), self.pretraining_sha256)
        # Another timm may have other default weights. Older checkpoints do not say which they were.
        self.pretraining_weights = content.get("pretraining_weights", self.pretraining_weights)
        self.sessions = content.get("sessions", [])
        if self.sessions:
            others = session.differences(self.sessions[-1], self._conditions())
            if others:
                logger.warning(
                    f"the run goes on with {', '.join(others)}: its numbers may not be those of a run without a stop"
                )

    def _conditions(self) -> dict[str, Any]:
        return session.current(self.step, self.device, self.script)

    def start_anew(self, *names: str) -> None:
        """Reset parts of the state, and the average of weights, to what they were before the first round."""
        for name in (*names, *(["ema"] if self.ema is not None else [])):
            self.state[name].load_state_dict(self._beginning[name])
        self._take_weights_from_first()

    def save(self) -> None:
        """Write `latest.pth`. The old one becomes `previous.pth`.

        Raises:
            UserError: a loss or a weight is not finite (then the last good checkpoint stays), or the disk is full.
        """
        self.guard.check_metrics(self.step)
        self.seconds = time.perf_counter() - self._started
        content = checkpoint.snapshot(self.state)
        self.guard.check_weights(content, self.step)
        content |= {"step": self.step, "history": self.history, "seconds": self.seconds, "args": vars(self.args)}
        content |= {"sessions": self.sessions, "pretraining_sha256": self.pretraining_sha256}
        content |= {"pretraining_weights": self.pretraining_weights}
        content |= {"classes": self.data.classes, "evaluated": checkpoint.name_of(self.evaluated, self.state)}
        content |= {"meters": self.meters.state_dict(), "rng": self.generators.state_dict()}
        self.folder.save_latest(content)
        self.guard.saved_step = self.step

    # Training

    def epochs(self) -> Iterator[int]:
        """The numbers, from 0, of the epochs still to do. Signals that stop the run are handled between steps."""
        with self.signals.listening():
            while self.epoch < self.total_epochs:
                yield self.epoch

    @property
    def total_epochs(self) -> int:
        """Epochs of all rounds."""
        return self.rounds * self.args.epochs

    @property
    def round(self) -> int:
        """The number, from 0, of the round in progress."""
        return self.epoch // self.args.epochs

    @property
    def at_round_start(self) -> bool:
        """Whether a round begins now. False if it is resumed half-way, when its preparations have been made."""
        return self.at_epoch_start and self.epoch % self.args.epochs == 0

    @property
    def epoch(self) -> int:
        """The number, from 0, of the epoch in progress."""
        return len(self.history)

    @property
    def at_epoch_start(self) -> bool:
        """Whether an epoch begins now. False if it is resumed half-way, when its preparations have been made."""
        return self.step == self.epoch * self.args.iters_per_epoch

    def steps(self, *loaders: TrainLoader) -> Iterator[tuple[Batch, ...]]:
        """One batch of each loader for every remaining step of the epoch.

        A batch's `indices` are positions in the images of its loader. They are the same in every epoch and process, so
        a method can keep a row for each image.

        Args:
            loaders: the same ones in all epochs of a round.

        Raises:
            UserError: a loss is not finite; a checkpoint cannot be written; or a batch cannot be made (then the steps
                so far are saved).
            Interrupted: a signal came; the current step was completed and saved.
        """
        if self.at_round_start and processes.is_first():
            self._show_views(loaders)
        if self.at_round_start or not self._streams:
            self._streams = [loader.batches(self.step) for loader in loaders]
        per_epoch = self.args.iters_per_epoch
        done = self.step - self.epoch * per_epoch
        with progress.Progress(self.epoch, self.total_epochs, per_epoch, done) as shown:
            while done < per_epoch:
                batches = self._next_batches()
                self.guard.note_rates(self.step + 1, self.state)
                yield batches
                done += 1
                self.step += 1
                if self.ema is not None:
                    self.ema.update(self.network)
                shown.advance()
                if done % self.args.print_freq == 0 or done == per_epoch:
                    self.guard.check_metrics(self.step)
                    shown.report(self.meters.averages())
        self._stop_if_asked()

    def _next_batches(self) -> tuple[Batch, ...]:
        """One batch of each stream. Before that, the processes agree whether to stop."""
        batches: tuple[Batch, ...] = ()
        failure = None
        try:
            if not self.signals.received:
                with self.signals.ending_waits():
                    batches = tuple(next(stream) for stream in self._streams)
        except Stopped:
            pass
        except UserError as error:
            failure = str(error)
        self._stop_if_asked(failure)
        return batches

    def _show_views(self, loaders: tuple[TrainLoader, ...]) -> None:
        parts = []
        for loader in loaders:
            views, labels = loader.sample(8)
            parts.append(sheet.Part(views, [self.data.classes[label] if label >= 0 else None for label in labels]))
        self.folder.save_sheet(parts)

    def update(self, metrics: dict[str, Metric]) -> None:
        """Add a step's metrics to the epoch's averages. Does not wait for the device.

        Args:
            metrics: name -> metric, with the same names in every step of an epoch; see `Meters`.
        """
        self.meters.update(metrics, self.step + 1)

    @property
    def network(self) -> nn.Module:
        """The network that `start` was given to evaluate."""
        if self._network is None:
            raise RuntimeError("the run knows no network: call run.start first")
        return self._network

    @property
    def evaluated(self) -> nn.Module:
        """The network that is scored and kept: that of `start`, or with `--ema` the average of its weights."""
        return self.network if self.ema is None else self.ema.network

    def evaluate(self, loader: TestLoader, **others: nn.Module) -> dict[str, float]:
        """The scores of the evaluated network; see `evaluate.evaluate`. The last evaluation also counts confusions.

        With `--ema`, they are the average's, and the network's own are added as `raw_*`. Scores on held-out images are
        `val_*`.

        Args:
            loader: of the test set.
            others: further networks by name. Their scores on the test set are added as `NAME_*`.

        Raises:
            UserError: an image cannot be read, or the loader's processes fail. The steps so far are saved; with several
                processes, those up to the last epoch.
            Interrupted: a signal came while waiting for a batch. The steps so far are saved, and the evaluation will be
                repeated.
        """
        last = self.args.phase == "test" or self.epoch + 1 == self.total_epochs
        # One of several processes cannot stop here alone: the others would wait for its part of the sums.
        may_stop = processes.count() == 1 and self.args.phase == "train"
        failure = None
        try:
            with self.signals.ending_waits() if may_stop else contextlib.nullcontext():
                others |= {} if self.ema is None else {"raw": self.network}
                return self.evaluation.scores(loader, self.evaluated, others, count=last)
        except Stopped:
            pass
        except UserError as error:
            if not may_stop:
                raise
            failure = str(error)
        self._stop(FAILED if failure else self.signals.received, failure)

    def end_epoch(self, scores: dict[str, float]) -> None:
        """Append the epoch's row, keep the best network, and save.

        Args:
            scores: what `evaluate` returned, and others of the script's. `top1`, or with held-out images `val_top1`,
                chooses the best network, so every epoch needs it. Without test and held-out images there may be none,
                and the last network is the best.

        Raises:
            UserError: a loss, a weight or a score is not finite, or a file cannot be written.
            Interrupted: a signal came; the epoch is saved.
        """
        self.guard.check_metrics(self.step)
        self.guard.check_scores(scores, self.step)
        averages = self.meters.averages()
        epoch = self.epoch + 1
        if epoch == self.total_epochs:
            self._report_last()
        number = {"round": self.round} if self.rounds > 1 else {}
        self.history.append({"epoch": epoch, "step": self.step, **number, **averages, **scores})
        self.meters.reset()
        is_best = self._best_epoch == epoch
        if is_best:
            content: dict[str, Any] = {"model": Merged(self.evaluated).state_dict()}
            self.guard.check_weights(content, self.step)
            content |= {"classes": self.data.classes, "args": vars(self.args), "epoch": epoch}
            content |= {"chosen_by": self.chosen_by}
            self.folder.save_best(content)
        self.save()
        if is_best:
            self.folder.adopt_best()
        self.folder.write_history(self.history)
        shown = ", ".join(f"{name} {value:.2f}" for name, value in scores.items()) or results.NOT_MEASURED
        best = f" (best so far on the {self.chosen_by})" if is_best and self.chosen_by != best_epoch.LAST else ""
        logger.info(f"epoch {epoch}/{self.total_epochs} tested: {shown}{best}")
        self._stop_if_asked()

    @property
    def _best_epoch(self) -> int | None:
        """The best epoch so far, counted from 1, within the round of the last finished epoch."""
        if not self.history:
            return None
        round_start = (self.epoch - 1) // self.args.epochs * self.args.epochs
        return best_epoch.chosen(self.history[round_start:], self.chosen_by)["epoch"]

    def _report_last(self) -> None:
        """Write what is known of the last network. This precedes its checkpoint, which marks the training as done.

        If that fails, the steps are saved, and the evaluation is repeated when the run continues.
        """
        try:
            self._report(f"epoch {self.total_epochs}, the last")
            self.evaluation.record_held_out(self.folder)
        except UserError as error:
            if processes.count() > 1:  # the others did not fail
                raise
            self._stop(FAILED, str(error))

    def _report(self, network: str) -> None:
        self.evaluation.report(self.folder, f"{self.method} on {self.args.data}, {self.args.arch}: {network}")

    def _stop_if_asked(self, failure: str | None = None) -> None:
        """Save and stop if any process got a signal, or could not make its batch."""
        code = processes.maximum(FAILED if failure else self.signals.received)
        if code:
            self._stop(code, failure)

    def _stop(self, code: int, failure: str | None) -> NoReturn:
        """Save and stop, because of signal number `code`, or because a loader `FAILED`.

        The checkpoint of this very step stays: since then a round or an epoch may have been prepared, which is done
        again when the run continues.
        """
        self._streams = []  # ends the workers, which hold memory and open files
        is_new = self.step > self.guard.saved_step
        if is_new:
            self.save()
        continues = f"the same command continues{', without --overwrite' if self.args.overwrite else ''}"
        if code != FAILED:
            saved = f"after step {self.step}, and saved: {continues}"
            before = "before the first step: the same command begins again"
            raise Interrupted(code, f"stopped by {signal.Signals(code).name} {saved if self.step else before}")
        message = next(message for message in processes.gather_objects(failure) if message)
        if is_new:
            same = " if its images stay as they are" if self.images.are_own else ""
            message += f"; step {self.step} is saved: {continues}{same}"
        raise UserError(message)

    # Results

    def finish(self) -> dict[str, Any]:
        """Write `result.json`, print its summary, and return its content."""
        result = results.result(
            self.method,
            vars(self.args),
            self.history,
            data=self.data,
            held_out=len(self.images.held_out),
            chosen_by=self.chosen_by,
            fingerprints=self.images.fingerprints,
            pretraining_sha256=self.pretraining_sha256,
            pretraining_weights=self.pretraining_weights,
            seconds=self.seconds,
            sessions=self.sessions,
        )
        self.folder.write_result(result)
        return self._show()

    def show(self) -> dict[str, Any]:
        """Print a finished run's result, and return it.

        Raises:
            UserError: your own images, or the backbone file, have changed since.
        """
        if datasets.SPECS[self.args.data].is_own:
            known = self.folder.read_files()
            # The inventory tells more than the images' size. An older run has none.
            data = load_as(self.args, resizing="default" if known else None)
            files = take_inventory(data, self.args.root, self.folder.path, known)
            now = {"content_sha256": inventory.fingerprint(files)} if known else {"data_sha256": data.fingerprint}
            self.folder.compare_images(now, files, self.args.root)
        result = self.folder.read_result()
        if not self.initial_weights.is_missing():
            self.initial_weights.refuse_other(result.get("pretraining_sha256"), self.initial_weights.sha256())
        if session.is_other_script(result, session.script_sha256(self.script)):
            logger.warning(
                f"{self.script.name} has changed since this run: the result is that of the older script; "
                "--overwrite trains anew"
            )
        return self._show()

    def _show(self) -> dict[str, Any]:
        result = self.folder.read_result()
        try:
            summary = results.summary(result, self.folder.path)
        except (KeyError, ValueError, TypeError):
            raise UserError(f"'{self.folder.path / 'result.json'}' is not a run's: remove it, and run again") from None
        logger.info(summary)
        return result

    def _evaluated_parts(self) -> dict[str, Any]:
        """The parts of the state that are a network which is tested, or hold a part of one."""
        wanted = {id(x) for network in (self.network, self.evaluated) for x in network.modules()}
        modules = {name: item for name, item in self.state.items() if isinstance(item, nn.Module)}
        return {name: item for name, item in modules.items() if any(id(x) in wanted for x in item.modules())}

    def test(self, loader: TestLoader) -> dict[str, float]:
        """Load `--checkpoint` into the evaluated network; print and return its scores.

        Raises:
            UserError: there is no such checkpoint, it is of other classes, or there is nothing to test on.
        """
        content, path = self.folder.load(self.args.checkpoint)
        self.folder.compare_tested(content, path, self.images)
        # Other parts may have a row for each training image, and this root may hold others.
        networks = self._evaluated_parts()
        if self.args.checkpoint == "best":
            # best.pth holds the tested network only, not the raw one.
            networks, self._network, self.ema = {"model": Merged(self.evaluated)}, self.evaluated, None
        checkpoint.restore(networks, content, path)
        scores = self.evaluate(loader)
        self.guard.check_scores(scores, self.step)
        if not scores:
            raise UserError(f"'{self.args.root}' has no test images, and the run held none out: nothing to test on")
        logger.info(f"'{path}': " + ", ".join(f"{name} {value:.2f}" for name, value in scores.items()))
        try:
            epoch, _ = best_epoch.of_checkpoint(content)
            self._report(f"{path.name}, epoch {epoch}" if epoch else f"{path.name}, step {content.get('step', '?')}")
        except UserError as error:  # we may not be allowed to write to the folder
            logger.warning(str(error))
        return scores


def load_as(args: argparse.Namespace, root: str | Path | None = None, resizing: str | None = None) -> Data:
    """The dataset that a training's flags name.

    Args:
        args: all flags of the training.
        root: overrides its folder.
        resizing: overrides `--train-resizing`. With `default`, the size of your own images is not looked up.

    Raises:
        UserError: see `datasets.load`.
    """
    return datasets.load(
        args.data,
        args.root if root is None else root,
        any_counts=args.any_counts,
        generated_split=args.generated_split,
        labeled_list=args.labeled_list,
        resizing=args.train_resizing if resizing is None else resizing,
        flip=args.flip,
        min_confidence=args.min_confidence,
        exif_orientation=args.exif_orientation,
    )
