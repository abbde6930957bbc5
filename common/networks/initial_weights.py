"""The file that holds a run's initial weights, if they are not timm's: a backbone file, or a finished run's network."""

import os
from pathlib import Path

from common.errors import UserError
from common.networks import backbones, warm_start
from common.system import processes
from common.system.files import sha256


class InitialWeights:
    """The file of `--pretrained-backbone` or `--init-from`; or timm's weights, or none.

    It is compared with the one that a run began with. With adapters it also holds the frozen weights, which a
    checkpoint lacks.

    Args:
        backbone: `--pretrained-backbone`.
        run: `--init-from`, which goes before it.
        arch: `--arch`, of which timm's weights are taken where there is no file; None with `--scratch`.
        log: the run's folder, for messages.
    """

    def __init__(self, backbone: str | None, run: str | None, arch: str | None, log: Path):
        self.file = backbone if run is None else str(warm_start.file(run))
        self.arch, self.log = arch, log

    def timm_name(self) -> str | None:
        """The name of timm's weights with its tag, which a bare `--arch` leaves to timm; None without these."""
        return None if self.arch is None or self.file is not None else backbones.weights_name(self.arch)

    def refuse_missing(self) -> None:
        """Raise a `UserError` if the run had a file that is not there any more."""
        if self.is_missing():
            raise UserError(
                f"'{self.file}' is missing, with which '{self.log}' was begun: restore it, or choose another --log"
            )

    @processes.by_first
    def is_missing(self) -> bool:
        """Whether there was a file that is not there any more."""
        return self.file is not None and not os.path.isfile(self.file)

    @processes.by_first
    def sha256(self) -> str | None:
        """SHA-256 of the first process's file, whose weights all processes get; None without one.

        Raises:
            UserError: it cannot be read.
        """
        return None if self.file is None else sha256(self.file)

    def refuse_other(self, before: str | None, now: str | None) -> None:
        """Compare the SHA-256 of the run's beginning with the present one. Older runs did not record it.

        Raises:
            UserError: they differ.
        """
        if before not in (None, now):
            raise UserError(
                f"'{self.log}' was begun with another file than '{self.file}' is now: restore it, or choose another "
                "--log"
            )
