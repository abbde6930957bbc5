"""What a run tests, after every epoch and at its end: the scores, and the report of what is confused."""

import statistics
from typing import Any

import numpy as np
from torch import nn

from common.datasets import Data
from common.loading.loaders import TestLoader
from common.records import report
from common.records.folder import Folder
from common.system import processes
from common.training import confusion, evaluate


class Evaluation:
    """The tests of one run, all on the same images.

    Args:
        data: the dataset that is tested on.
        held_out: int64, indices into `data.train`: images that are not trained on, but scored. May be none.
    """

    def __init__(self, data: Data, held_out: np.ndarray):
        self.data, self.held_out = data, held_out
        # What the report is drawn of: the test set, or where there is none the images that are held out.
        self.reported = data.test if len(data.test) else data.train.subset(self.held_out)
        self._confusion: confusion.Confusion | None = None
        self._val_loader: TestLoader | None = None
        self._predictions: confusion.Predictions | None = None

    def scores(
        self, loader: TestLoader, tested: nn.Module, raw: nn.Module | None = None, count: bool = False
    ) -> dict[str, float]:
        """The scores of a network; see `evaluate.evaluate`.

        Args:
            loader: of the test set.
            tested: the network.
            raw: where `tested` is an average of weights: the network whose weights they are. Its scores stand beside
                the others as `raw_*`.
            count: whether confusions are counted, too, for `report`, and predictions are kept for `record_held_out`.

        Returns:
            The scores on the test set, and as `val_top1` and `val_loss` those on the images that are held out; nothing
            of images that there are none of.
        """
        classes = len(self.data.classes)
        self._confusion = None
        scores = evaluate.evaluate(tested, loader, classes, *self._counting(loader, count and len(self.data.test) > 0))
        if raw is not None:
            scores |= {f"raw_{name}": value for name, value in evaluate.evaluate(raw, loader, classes).items()}
        if len(self.held_out):
            if self._val_loader is None:
                self._val_loader = loader.of(self.data.train.subset(self.held_out))
            if count:
                number, order = len(self.held_out), self._val_loader.order
                self._predictions = confusion.Predictions(number, order, loader.device)
            noting = [] if self._predictions is None else [self._predictions]
            counting = self._counting(self._val_loader, count and not len(self.data.test))
            held_out = evaluate.evaluate(tested, self._val_loader, classes, *noting, *counting)
            scores |= {"val_top1": held_out["top1"], "val_loss": held_out["test_loss"]}
        return scores

    def _counting(self, loader: TestLoader, count: bool) -> list[confusion.Confusion]:
        """The counter of an evaluation that is reported."""
        if not count:
            return []
        self._confusion = confusion.Confusion(len(self.data.classes), loader.order, loader.device, loader.number)
        return [self._confusion]

    def report(self, folder: Folder, title: str) -> None:
        """Draw what the test that counted confused; nothing where none did: there is no image to test with, or the
        script has a test of its own.

        Args:
            title: of the page.

        Raises:
            UserError: the folder cannot be written to.
        """
        if self._confusion is None:
            return
        matrix, errors = self._confusion.read()
        auc = self._confusion.read_auc()
        if not processes.is_first():
            return
        rows: list[dict[str, Any]] = confusion.per_class(matrix, self.data.classes)
        if len(rows) == 2:
            rows = [row | {"auc": auc} for row in rows]
        recalls = [row["accuracy"] for row in rows if row["images"]]
        f1 = statistics.fmean([row["f1"] for row in rows if row["f1"] is not None] or [0.0])
        figures = (
            f"top-1 {100 * np.trace(matrix) / max(matrix.sum(), 1):.2f} %, mean per class "
            f"{statistics.fmean(recalls or [0.0]):.2f} %, mean F1 {f1:.2f} %"
            f"{'' if auc is None else f', AUC {auc:.2f} %'}; {matrix.sum():,} "
            f"{'images' if len(self.data.test) else 'held-out images'}"
        )
        page = report.draw(matrix, errors, self.data.classes, self.reported, [title, figures])
        folder.save_report(page, rows)

    def record_held_out(self, folder: Folder) -> None:
        """Write down what the test that counted takes each held-out image for, so that runs can be compared by image.

        Raises:
            UserError: the folder cannot be written to.
        """
        if self._predictions is None:
            return
        predicted = self._predictions.read()
        labels = self.data.train.labels[self.held_out]
        rows = sorted(zip(self.held_out.tolist(), labels.tolist(), predicted.tolist(), strict=True))
        folder.save_held_out(rows)
