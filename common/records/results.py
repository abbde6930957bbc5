"""The result of a finished run: `result.json` (schema 1), and its one-line summary."""

import itertools
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from common.datasets import Data
from common.records import best_epoch, estimates, session


def result(
    method: str,
    arguments: dict[str, Any],
    history: list[dict[str, Any]],
    *,
    data: Data,
    held_out: int,
    chosen_by: str,
    fingerprints: dict[str, str],
    pretraining_sha256: str | None,
    pretraining_weights: str | None,
    seconds: float,
    sessions: list[dict[str, Any]],
) -> dict[str, Any]:
    """The content of `result.json`: all that a table needs. Percentages are floats from 0 to 100.

    * `last_*`: scores of the last epoch. `best_*`: maxima over epochs, chosen on the test set, as in the published
      table. Scores of a second network have its prefix, such as `teacher_last_top1`.
    * With held-out images: `val_best_epoch`, the epoch of `best.pth`: the one that they choose, or with `--val-fold`
      the last; `val_best_*`, its scores on the test set; `val_top1`, its accuracy on the held-out images;
      `val_last_top1`, that of the last epoch; and `held_out_images`, their number.
    * `chosen_by`: what chooses the epoch of `best.pth`.
    * A score that was not measured is None, as all scores on a missing test set.
    * For a run in rounds, all these are the last round's, and `rounds` holds those of every round.

    Args:
        method: the script's name.
        arguments: all flags.
        history: rows of `metrics.jsonl`, one per epoch.
        data: the dataset.
        held_out: number of held-out images.
        chosen_by: see `best_epoch.chooser`.
        fingerprints: `labeled_sha256`, see `splits`; `data_sha256` and `test_sha256`, see `Data`.
        pretraining_sha256: of the file that holds the initial weights.
        pretraining_weights: the name of timm's weights, if the run began with these.
        seconds: of training and testing, over all sessions.
        sessions: see `session.current`. The fields of the last one that made a step are also in the result itself.
    """
    worked = session.at_work(sessions, history[-1]["step"])
    return {
        "schema": 1,
        "method": method,
        "dataset": arguments["data"],
        "arch": arguments["arch"],
        **_pretraining(arguments),
        **{"pretraining_sha256": pretraining_sha256, "pretraining_weights": pretraining_weights},
        **{key: arguments[key] for key in ("num_samples_per_class", "seed", "split_seed", "epochs", "iters_per_epoch")},
        "oracle": arguments.get("oracle", False),
        **_scores_of_rounds(history, chosen_by),
        **({"held_out_images": held_out} if held_out else {}),
        "chosen_by": chosen_by,
        **_origin(data, arguments["root"]),
        "any_counts": data.any_counts,
        **fingerprints,
        "seconds": seconds,
        "steps_per_second": len(history) * arguments["iters_per_epoch"] / seconds,
        "precision": arguments["precision"],
        **{key: value for key, value in (worked or sessions)[-1].items() if key != "from_step"},
        "sessions": sessions,
        "command": shlex.join(["python", *sys.argv]),
    }


def _origin(data: Data, root: str) -> dict[str, str | bool | None]:
    """For your own images the name of their folder; for other datasets, whether their split is the official one."""
    if data.spec.is_own:
        return {"data_folder": os.path.basename(os.path.abspath(os.path.expanduser(root))), "official_split": None}
    return {"data_folder": None, "official_split": data.official_split}


NOT_MEASURED = "not measured"


def summary(result: dict[str, Any], folder: Path) -> str:
    """One line that always gives the last epoch next to the best one, and says which images chose it.

    Args:
        result: see `result`.
        folder: of the run.
    """
    if result["last_top1"] is None:
        return _summary_without_tests(result, folder)
    held_out = ""
    if result.get("chosen_by") == best_epoch.LAST:
        held_out = f"{_held_out_accuracy(result)}; "
    elif "val_best_top1" in result:
        held_out = f"{result['val_best_top1']:.2f} in epoch {result['val_best_epoch']}, chosen on the held-out images; "
    return (
        f"finished: top-1 on the test set {result['last_top1']:.2f} after the last epoch; {held_out}"
        f"{result['best_top1']:.2f} in epoch {result['best_epoch']}, chosen on the test set itself; mean per class "
        f"{result['last_mean_per_class']:.2f} last, {result['best_mean_per_class']:.2f} best; "
        f"{result['seconds']:.0f} s; see {folder / 'result.json'}"
    )


def _summary_without_tests(result: dict[str, Any], folder: Path) -> str:
    if "val_top1" not in result:
        figures = f"accuracy {NOT_MEASURED}, for there are no test images and none are held out"
    else:
        best = f"{result['val_top1']:.2f} in epoch {result['val_best_epoch']}, which the held-out images choose"
        last = f"{_held_out_accuracy(result)} after the last epoch"
        chose = result["chosen_by"] == best_epoch.HELD_OUT
        is_older = "val_last_top1" not in result  # then nothing says what the last epoch had, unless it was chosen
        first, more = (best, "") if chose and is_older else (last, f"; {best}" if chose else "")
        figures = f"top-1 {first}; on a test set {NOT_MEASURED}{more}"
    return f"finished: {figures}; {result['seconds']:.0f} s; see {folder / 'result.json'}"


def _held_out_accuracy(result: dict[str, Any]) -> str:
    """Of the last epoch, with its interval: that of an epoch which these images choose is too high."""
    last = result.get("val_last_top1", result["val_top1"])
    number = result.get("held_out_images")
    if number is None:  # in older runs
        return f"{last:.2f} on the held-out images"
    found = estimates.estimate(round(last / 100 * number), number)
    return f"{last:.2f} on {number:,} held-out images (95 % interval: {found.low:.0f} to {found.high:.0f})"


def _pretraining(arguments: dict[str, Any]) -> dict[str, str]:
    """Where the initial weights came from."""
    run, file = arguments["init_from"], arguments["pretrained_backbone"]
    if run is not None:
        return {"pretraining": f"run {os.path.basename(os.path.abspath(run))}", "init_from": run}
    if file is not None:
        return {"pretraining": Path(file).stem}
    return {"pretraining": "scratch" if arguments["scratch"] else "supervised"}


def _scores_of_rounds(history: list[dict[str, Any]], by: str) -> dict[str, Any]:
    by_round = itertools.groupby(history, key=lambda row: row.get("round"))
    rounds = [_scores(list(rows), by) for _, rows in by_round]
    return rounds[-1] | ({"rounds": rounds} if len(rounds) > 1 else {})


def _scores(history: list[dict[str, Any]], by: str) -> dict[str, Any]:
    tested = "top1" in history[-1]
    none = [f"{which}_{name}" for which in ("last", "best") for name in ("top1", "mean_per_class")]
    scores: dict[str, Any] = {} if tested else dict.fromkeys(none)
    for name in history[-1]:
        if name == "val_top1":
            best = best_epoch.chosen(history, by)
            scores |= {f"val_best_{key}": best.get(key) for key in ("top1", "mean_per_class", "epoch")}
            scores |= {"val_top1": best["val_top1"], "val_last_top1": history[-1]["val_top1"]}
            continue
        for metric in ("top1", "mean_per_class"):
            if name.endswith(metric):
                prefix = name.removesuffix(metric)
                scores[f"{prefix}best_{metric}"] = max(row[name] for row in history)
                scores[f"{prefix}last_{metric}"] = history[-1][name]
    # `max` takes the first of equal epochs.
    return scores | {"best_epoch": max(history, key=lambda row: row["top1"])["epoch"] if tested else None}
