"""What a person gets to see: the report on all held-out labels, and the lines at the end."""

import csv
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from common import trained
from common.datasets import Data
from common.errors import UserError
from common.loading.loaders import FileLoader
from common.records import estimates
from common.records import report as report_page
from common.system.devices import find_device
from common.system.files import read_json, write_whole
from common.training.confusion import MAX_KEPT, Misclassified
from common.training.predict import predict
from scripts.labeling import evidence, planning
from scripts.labeling.work import Work, script_path


def report(parts: Sequence[Path], data: Data, file: Path, device: str | None, compared: bool) -> None:
    """Draw what the networks of some runs take the images for that each of them held out.

    Args:
        parts: the runs' folders; no two held the same image out.
        data: the dataset that they were trained on.
        file: where the page goes.
        device: as `--device`; None takes the best one.
        compared: whether the method was chosen by these images.

    Raises:
        UserError: an image cannot be read, or the page cannot be written.
    """
    matrix = np.zeros((len(data.classes),) * 2, dtype=np.int64)
    errors: list[Misclassified] = []
    runs = [trained.load(folder, "best") for folder in parts]
    for folder, run in zip(parts, runs, strict=True):
        for index, found, confidence in _held_out_predictions(folder, run, data, find_device(device)):
            true = int(data.train.labels[index])
            matrix[true, found] += 1
            if true != found:
                errors.append(Misclassified(index, true, found, confidence))
    errors.sort(key=lambda error: -error.confidence)
    bias = "; they also chose the method, so this is a little too high" if compared else ""
    title = [
        f"{runs[0].method}, {runs[0].args.arch}: labels that were held out",
        f"top-1 {100 * np.trace(matrix) / matrix.sum():.2f} % of {matrix.sum():,}, each by a network that was not "
        f"trained on it{bias}",
    ]
    write_whole(file, report_page.draw(matrix, errors[:MAX_KEPT], data.classes, data.train, title))


def _held_out_predictions(
    folder: Path, run: trained.Trained, data: Data, device: torch.device
) -> Iterator[tuple[int, int, float]]:
    """For each image that a run held out: its index in `data.train`, the predicted class, and its confidence."""
    held_out = read_json(folder / "labeled.json")["held_out"]
    loader = FileLoader(data.train.subset(np.array(held_out)), **run.preprocessing, workers=0, device=device)
    for prediction in predict(run.model.to(device), loader):
        if prediction.ranking is None or prediction.probabilities is None:
            raise UserError(str(prediction.error))
        found = int(prediction.ranking[0])
        yield held_out[prediction.number], found, float(prediction.probabilities[found])


def lines(work: Work, photos: Path, data: Data, right: Mapping[str, Mapping[int, bool]], model: Path) -> list[str]:
    """What was done, what was chosen, how good it probably is, what was written, and what to do next.

    Args:
        data: the dataset that was trained on.
        right: method -> held-out image -> whether it was recognised; empty where there were no trials.
        model: folder of the exported network.
    """
    method, table, minutes = work.facts["chosen"], work.folder / "predictions.csv", work.seconds / 60
    methods = f"{len(right)} method{'' if len(right) == 1 else 's'}"
    tried = f"{methods}, {work.facts['done']} of {planning.FOLDS} parts of the labels held out in turn; then "
    command = shlex.join([script_path("predict"), str(work.folder / "runs" / "final"), str(photos)])
    page = f", '{work.folder / 'report.png'}'" if right else ""
    return [
        f"done: {tried if right else ''}{method} on all {data.candidates:,} labels, {_steps(work)}; in {minutes:.0f} "
        "minutes",
        f"chosen: {_choice(evidence.ranking(right), method, work.plan.left_out)}",
        f"how good: {_quality(right, data.train.labels, work.plan.left_out)}",
        f"written: '{table}' ({_rows(table):,} photos){page}, and the network: "
        f'timm.create_model("local-dir:{model}", pretrained=True)',
        f"next: {_next(data, command)}",
    ]


def _next(data: Data, command: str) -> str:
    if data.candidates == len(data.train):
        return f"all photos have labels; this predicts others, in place of these: python {command}"
    return (
        "correct the 20 photos that it is least sure of, on the page that this command writes, and call label.sh again "
        "with the labels.csv that the page saves and another --out. The command: "
        f"python {command} --uncertain 20 --page correct.html"
    )


def _steps(work: Work) -> str:
    final, trial = work.facts["final_steps"], work.plan.steps
    trials = f" (in the trials {trial:,})" if work.facts["done"] and trial != final else ""
    return f"{final:,} steps{trials}"


def _choice(ranked: Sequence[evidence.Ranked], method: str, left_out: Sequence[str]) -> str:
    missing = f"; there was no time for {', '.join(left_out)}" if left_out else ""
    if not ranked:
        return f"{method}, not compared with others{missing or ': there are too few labels to hold any out'}"
    first, *others = ranked
    found = f"{first.method}, {first.accuracy:.1f} % of the held-out labels right"
    if not others:
        return found + missing
    below = ", ".join(f"{x.method} {x.below.mean:.1f} (± {x.below.half_width:.1f})" for x in others)
    near = evidence.near(ranked)[1:]
    doubt = f"{', '.join(near)} may as well be the best" if near else "no other may as well be the best"
    return f"{found}; points below it: {below}; {doubt}{missing}"


def _quality(right: Mapping[str, Mapping[int, bool]], labels: np.ndarray, left_out: Sequence[str]) -> str:
    if not right:
        remedy = "give more minutes, and another --out" if left_out else "label at least two photos of each class"
        return f"not measured; look at predictions.csv, and {remedy}"
    found = evidence.mean_of_near(right)
    plain = estimates.estimate(sum(found.values()), len(found))
    balanced = evidence.balanced(list(found.values()), [int(labels[image]) for image in found])
    said = (
        f"probably {plain.accuracy:.0f} % of photos like the labeled ones are right (95 % interval: {plain.low:.0f} to "
        f"{plain.high:.0f}), by {len(found):,} held-out labels"
    )
    if f"{plain.accuracy:.0f}" == f"{balanced.accuracy:.0f}":
        return said
    interval = f"{balanced.low:.0f} to {balanced.high:.0f}"
    return f"{said}; {balanced.accuracy:.0f} % ({interval}) if all classes are equally frequent"


def _rows(file: Path) -> int:
    with open(file, encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return sum(1 for _ in csv.reader(stream)) - 1
