"""TensorBoard events of a run (`--tensorboard`). Needs the package tensorboard."""

from pathlib import Path
from typing import Any

from common.errors import UserError

EVENTS = "events.out.tfevents.*"


class Events:
    """Writes the rows of `metrics.jsonl` as scalars into a folder. Old events there are deleted.

    Raises:
        UserError: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (optional)
        except ImportError:
            raise UserError("--tensorboard needs a package: pip install tensorboard, or drop the flag") from None
        self.folder, self.open_writer, self.written = folder, SummaryWriter, 0
        self.writer: SummaryWriter | None = None

    def write(self, history: list[dict[str, Any]]) -> None:
        """Add the rows that are new. Values of None are left out."""
        if self.writer is None:
            try:
                for file in self.folder.glob(EVENTS):
                    file.unlink()
                self.writer = self.open_writer(self.folder)
            except OSError as error:
                raise UserError(f"cannot write to '{self.folder}' ({error.strerror}): remove it") from None
        try:
            for row in history[self.written :]:
                for name, value in row.items():
                    if name not in {"epoch", "step"} and value is not None:
                        self.writer.add_scalar(name, value, row["step"])
            self.written = len(history)
            self.writer.flush()
        except OSError as error:
            raise UserError(
                f"cannot write to '{self.folder}' ({error.strerror}): free some space, and run the same command again"
            ) from None
