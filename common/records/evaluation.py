"""What a run tests, after every epoch and at its end: the scores, and the report of what is confused."""

import statistics
from typing import Any

import numpy as np
from torch import nn

from common.datasets import Data
from common.loading.loaders import TestLoader
from common.records import confusion_page
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
            The scores on the test set, and as `val_top1` and `val_loss` those on the images that are held out.
        """
        classes = len(self.data.classes)
        if count:
            self._confusion = confusion.Confusion(classes, loader.order, loader.device, loader.number)
        scores = evaluate.evaluate(tested, loader, classes, self._confusion)
        if raw is not None:
            scores |= {f"raw_{name}": value for name, value in evaluate.evaluate(raw, loader, classes).items()}
        if len(self.held_out):
            if self._val_loader is None:
                self._val_loader = loader.of(self.data.train.subset(self.held_out))
            if count:
                number, order = len(self.held_out), self._val_loader.order
                self._predictions = confusion.Predictions(number, order, loader.device)
            held_out = evaluate.evaluate(tested, self._val_loader, classes, self._predictions)
            scores |= {"val_top1": held_out["top1"], "val_loss": held_out["test_loss"]}
        return scores

    def report(self, folder: Folder, scores: dict[str, float], title: str) -> None:
        """Draw what the test that counted confused; nothing where none did: the script has a test of its own.

        Args:
            scores: of that test.
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
        f1 = statistics.fmean([row["f1"] for row in rows if row["f1"] is not None] or [0.0])
        figures = (
            f"top-1 {scores['top1']:.2f} %, mean per class {scores['mean_per_class']:.2f} %, mean F1 {f1:.2f} %"
            f"{'' if auc is None else f', AUC {auc:.2f} %'}; {matrix.sum():,} images"
        )
        page = confusion_page.report(matrix, errors, self.data.classes, self.data.test, [title, figures])
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
