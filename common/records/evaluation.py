"""The evaluations of a run: scores after every epoch, and at its end the report of what the network confuses."""

import statistics
from collections.abc import Mapping
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
        data: the dataset.
        held_out: int64, indices into `data.train`: images that are scored and not trained on. May be empty.
    """

    def __init__(self, data: Data, held_out: np.ndarray):
        self.data, self.held_out = data, held_out
        # The images of the report: the test set, or if there is none the held-out images.
        self.reported = data.test if len(data.test) else data.train.subset(self.held_out)
        self._confusion: confusion.Confusion | None = None
        self._val_loader: TestLoader | None = None
        self._predictions: confusion.Predictions | None = None

    def scores(
        self, loader: TestLoader, tested: nn.Module, others: Mapping[str, nn.Module], count: bool = False
    ) -> dict[str, float]:
        """The scores of a network; see `evaluate.evaluate`.

        Args:
            loader: of the test set.
            tested: the network.
            others: further networks by name. Their scores on the test set are added as `NAME_*`.
            count: also count confusions for `report`, and keep predictions for `record_held_out`.

        Returns:
            The scores on the test set, and on the held-out images as `val_top1` and `val_loss`. A set without images
            has no scores.
        """
        classes = len(self.data.classes)
        self._confusion = None
        scores = evaluate.evaluate(tested, loader, classes, *self._counting(loader, count and len(self.data.test) > 0))
        for name, network in others.items():
            found = evaluate.evaluate(network, loader, classes)
            scores |= {f"{name}_{metric}": value for metric, value in found.items()}
        if len(self.held_out):
            if self._val_loader is None:
                self._val_loader = loader.of(self.data.train.subset(self.held_out))
            if count:
                number, order = len(self.held_out), self._val_loader.order
                self._predictions = confusion.Predictions(number, order, loader.device)
            counters = self._counting(self._val_loader, count and not len(self.data.test))
            predictions = [] if self._predictions is None else [self._predictions]
            held_out = evaluate.evaluate(tested, self._val_loader, classes, *counters, *predictions)
            scores |= {"val_top1": held_out["top1"], "val_loss": held_out["test_loss"]}
        return scores

    def _counting(self, loader: TestLoader, count: bool) -> list[confusion.Confusion]:
        """A new counter for `report`, if the evaluation is to be counted."""
        if not count:
            return []
        self._confusion = confusion.Confusion(len(self.data.classes), loader.order, loader.device, loader.number)
        return [self._confusion]

    def report(self, folder: Folder, title: str) -> None:
        """Draw what the network confused in the last counted evaluation; see `scores`.

        Nothing is drawn if none was counted, because there are no images, or the script evaluates by itself.

        Args:
            folder: where report.png and per_class.csv go.
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
        """Write held_out.csv, the predictions of the last counted evaluation, so that runs can be compared by image.

        Raises:
            UserError: the folder cannot be written to.
        """
        if self._predictions is None:
            return
        predicted = self._predictions.read()
        labels = self.data.train.labels[self.held_out]
        rows = sorted(zip(self.held_out.tolist(), labels.tolist(), predicted.tolist(), strict=True))
        folder.save_held_out(rows)
