"""The program that cells.sh calls, in the project's folder.

    python -m scripts.cells table [supervised|moco] [DATASET ...] [-- EXTRA FLAGS] <TABLES
    python -m scripts.cells grid [METHOD ...] [DATASET ...] [LABELS ...] [-- EXTRA FLAGS] <GRID
    python -m scripts.cells run [--collect LOGS] <COMMANDS

`table` reads the settings of one method or of several, `grid` those of all methods together. `run` reads commands,
one a line, without the interpreter: `fixmatch.py data -d Digits ...`.
"""

import shlex
import signal
import sys

from scripts.cells import grids, jobs, tables
from scripts.cells.environment import count, fail, launcher, logs_folder, seeds, variable


def main(arguments: list[str]) -> int:
    # Check JOBS, NPROC and SEEDS before anything is printed.
    count("JOBS")
    count("NPROC")
    seeds()
    if arguments[:1] != ["grid"] and variable("STEPS", ""):
        fail("STEPS is for scratch.sh, fashion.sh, finetune.sh and which_method.sh: give --epochs and -i here")
    if arguments[:1] == ["grid"] and variable("METHODS", ""):
        fail("METHODS is for all.sh, digits.sh, ingredients.sh and finetune_parts.sh: name the methods as words here")
    collected = None  # the folder whose runs are shown at the end
    match arguments:
        case ["table", *words]:
            commands = tables.commands(tables.read_tables(sys.stdin.read()), words)
        case ["grid", *words]:
            collected = logs_folder()
            commands = grids.commands(grids.read_grid(sys.stdin.read()), words)
        case ["run"] | ["run", "--collect", _]:
            collected = arguments[2] if len(arguments) > 1 else None
            lines = [line for line in sys.stdin.read().splitlines() if line.strip()]
            if not lines:
                fail("no run is selected: see SEEDS, METHODS and ROWS")
            commands = [f"{shlex.join(launcher())} {line}" for line in lines]
        case _:
            fail("the shell files call this program, with their tables: see cells.sh")
    if variable("DRY_RUN", "0") == "0":
        return jobs.run(commands, collected)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end in silence when piped into `head`
    print("\n".join(commands))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
