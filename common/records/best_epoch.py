"""Which epoch's network `best.pth` holds, and which images choose it."""

import logging
from typing import Any

logger = logging.getLogger("common")

HELD_OUT, TEST, LAST = "held-out images", "test images", "last epoch"  # what chooses
MIN_PER_CLASS = 10  # held-out images of a class; with fewer there is a warning, see docs/choosing.md


def chooser(held_out: int, fold: bool, tested: int) -> str:
    """What chooses the epoch: `HELD_OUT`, `TEST` or `LAST`.

    Args:
        held_out: number of held-out images.
        fold: whether the held-out images are one part of `--val-fold`. They are few, so they measure and do not choose.
        tested: number of test images.
    """
    if fold or not (held_out or tested):
        return LAST
    return HELD_OUT if held_out else TEST


def chosen(history: list[dict[str, Any]], by: str) -> dict[str, Any]:
    """The row of the chosen epoch.

    Of equally good epochs, held-out images choose the latest. The test set chooses the first, as in the published
    table.

    Args:
        history: rows of `metrics.jsonl`, one per epoch.
        by: see `chooser`.
    """
    if by == HELD_OUT:
        return max(reversed(history), key=lambda row: row["val_top1"])
    return max(history, key=lambda row: row["top1"]) if by == TEST else history[-1]


def of_checkpoint(content: dict[str, Any]) -> tuple[int | None, str | None]:
    """The epoch whose network a checkpoint holds, counted from 1, and what chose it, see `chooser`.

    Both are None for a `latest.pth` that was saved within an epoch, and where an older file does not say.
    """
    history = content.get("history")
    if isinstance(history, list):  # of latest.pth alone
        last = history[-1] if history and isinstance(history[-1], dict) else {}
        return (len(history), LAST) if last and last.get("step") == content.get("step") else (None, None)
    epoch, by = content.get("epoch"), content.get("chosen_by")
    return (epoch if isinstance(epoch, int) else None), (by if isinstance(by, str) else None)


def announce(by: str, held_out: int, per_class: int, tested: int) -> None:
    """Log what will choose the epoch, with a warning where the held-out images are too few for that.

    Args:
        by: see `chooser`.
        held_out, tested: numbers of images.
        per_class: `--val-per-class`.
    """
    if by == HELD_OUT:
        logger.info(f"best.pth is of the epoch that is best on the {held_out:,} held-out images")
        if per_class < MIN_PER_CLASS:
            logger.warning(
                f"--val-per-class {per_class} holds out few images to choose an epoch by: take {MIN_PER_CLASS} or "
                "more, or use --checkpoint latest"
            )
    elif by == TEST:
        logger.info("best.pth is of the epoch that is best on the test images")
    else:
        measured = "" if held_out or tested else ", and nothing is measured: there are neither test nor held-out images"
        logger.info(f"best.pth is of the last epoch{measured}")
