"""The folder of one call of label.py: its runs, which are ordinary ones, and how far it is."""

import contextlib
import importlib
import io
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.system.files import LOCK, make_and_lock, read_json, write_json
from scripts.labeling import planning

STATE = "label.json"
ROOT = Path(__file__).parent.parent.parent


def script_path(program: str) -> str:
    """Where a program of this project is, seen from the current folder."""
    return os.path.relpath(ROOT / f"{program}.py")


class Work:
    """What has been done, and the time that it took, over all resumptions.

    Args:
        folder: where all of it goes.
        arguments: what the result depends on. A folder that was begun with others is refused.

    Attributes:
        facts: what is kept in label.json, as JSON: `arguments`; `seconds` worked so far; `size`, the flags of the
            image size; `data_sha256` and `content_sha256` of the images; `speeds`, what a step of each method took;
            `decoding`, the seconds to look at all photos; `plan`, see there; `done`, the rounds of trials that are
            finished; `chosen`, the method, and `final_steps` of its training; `reported`, the lines at the end.

    Raises:
        UserError: the folder cannot be made, is another call's, holds other files, or was begun with other arguments.
    """

    def __init__(self, folder: Path, arguments: dict[str, Any]):
        self.folder, self.file = folder, folder / STATE
        self._started = time.monotonic()
        self._lock = make_and_lock(folder, "--out")
        self.facts: dict[str, Any] = {"arguments": arguments, "seconds": 0.0}
        if self.file.is_file():
            self.facts = read_json(self.file, "remove it, or choose another --out")
            self._refuse_others(arguments)
            if "told" in self.facts:  # the name in older folders
                self.facts["reported"] = self.facts.pop("told")
            self._before = float(self.facts["seconds"]) + self._of_a_killed_run()
            self.save()  # the next call looks for what was lost from now on
            return
        if any(file.name != LOCK for file in folder.iterdir()):
            raise UserError(f"'{folder}' holds files, but no {STATE} of a call of this program: choose another --out")
        self._before = 0.0
        self.save()

    def _refuse_others(self, arguments: dict[str, Any]) -> None:
        before = self.facts.get("arguments")
        if not isinstance(before, dict) or not isinstance(self.facts.get("seconds"), int | float):
            raise UserError(f"'{self.file}' is none that this program wrote: remove it, or choose another --out")
        known = {"exif_orientation": False, "balanced_batches": False} | before  # older folders do not say it
        others = [
            f"{key} {value} (was {known.get(key)})" for key, value in arguments.items() if known.get(key) != value
        ]
        if others:
            raise UserError(
                f"'{self.folder}' was begun with other arguments: {', '.join(others)}; choose another --out"
            )

    def _of_a_killed_run(self) -> float:
        """The seconds that a run worked after the last note of the time, by the last line of its log."""
        noted = self.file.stat().st_mtime
        logs = [file.stat().st_mtime for file in self.folder.glob("runs/**/log.txt")]
        return max([0.0, *(each - noted for each in logs)])

    @property
    def plan(self) -> planning.Plan | None:
        """None before anything was measured."""
        kept = self.facts.get("plan")
        return None if kept is None else planning.Plan(**{key: _frozen(value) for key, value in kept.items()})

    @property
    def seconds(self) -> float:
        """Worked so far, all resumptions together."""
        return self._before + time.monotonic() - self._started

    def save(self, **facts: Any) -> None:
        """Note some facts, and the time."""
        self.facts |= facts | {"seconds": self.seconds}
        write_json(self.file, self.facts)

    def discard(self) -> None:
        """Remove what was measured: a call that failed before its first trial binds nobody."""
        shutil.rmtree(self.folder / "runs", ignore_errors=True)
        self.file.unlink(missing_ok=True)
        (self.folder / LOCK).unlink(missing_ok=True)

    def run(self, program: str, *words: str | Path, quiet: bool = False) -> Any:
        """Run `python PROGRAM.py WORDS` in this process, print it as a command, and note the time.

        Args:
            quiet: print nothing but the command.

        Returns:
            What its main function returns: of a training the result.
        """
        argv = [str(word) for word in words]
        print(f"\n$ {shlex.join(['python', script_path(program), *argv])}", flush=True)
        script = importlib.import_module(program)
        try:
            silence = contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext()
            with silence, _command_line([f"{program}.py", *argv]):
                return script.main(script.parse_args(argv))
        finally:
            if os.path.isdir(self.folder):
                self.save()


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@contextlib.contextmanager
def _command_line(words: list[str]) -> Iterator[None]:
    """Have a program that runs in this process record these words as its command."""
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before
