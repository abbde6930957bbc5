"""The engine of the shell files: turn their tables into commands, and print or run these. cells.sh says how it is used.

    cells.py table [supervised|moco] [DATASET ...] [-- EXTRA FLAGS] <TABLES
    cells.py grid [METHOD ...] [DATASET ...] [LABELS ...] [-- EXTRA FLAGS] <GRID
    cells.py run [--collect LOGS] <COMMANDS

`table` reads the settings of one method or of several; `grid` those of all methods from scratch; `run` reads commands,
one a line, without the interpreter: `fixmatch.py data -d Digits ...`. It stands alone, so that it starts at once: no
torch, nothing of `common`.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

# In the order of the table: name, folder in DATA, name in LOGS, flags.
DATASETS_TABLE = """
Food101           food101     food101
CIFAR10           cifar10     cifar10    --train-resizing cifar --val-resizing cifar \
                                         --norm-mean 0.4912 0.4824 0.4467 --norm-std 0.2471 0.2435 0.2616
CIFAR100          cifar100    cifar100   --train-resizing cifar --val-resizing cifar \
                                         --norm-mean 0.5071 0.4867 0.4408 --norm-std 0.2675 0.2565 0.2761
CUB200            cub200      cub200
Aircraft          aircraft    aircraft
StanfordCars      cars        car
SUN397            sun397      sun
DTD               dtd         dtd
OxfordIIITPets    pets        pets
OxfordFlowers102  flowers     flowers
Caltech101        caltech101  caltech
"""
DATASETS = {words[0]: words[1:] for line in DATASETS_TABLE.splitlines() if (words := line.split())}
PRETRAININGS = {"supervised": [], "moco": ["--pretrained-backbone", "checkpoints/moco_v2_800ep_backbone.pth"]}
NETWORK = ["-a", "resnet50", "--finetune"]
SHORTEST = 100  # steps of an epoch, where STEPS asks for fewer than a grid has
ROW_OF_ALL = {"4": ["--num-samples-per-class", "4"]}  # of a method whose table names no rows


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


# The environment


def variable(name: str, default: str) -> str:
    """An environment variable; set to nothing is not set."""
    return os.environ.get(name) or default


def interpreter() -> str:
    return variable("PYTHON", "python")


def count(name: str) -> int:
    text = variable(name, "1")
    if not text.isascii() or not text.isdigit() or text[0] == "0":
        fail(f"{name} takes a whole number of 1 or more, not '{text}'")
    return int(text)


def seeds() -> list[str]:
    words = variable("SEEDS", "0").split()
    for word in words:
        if not word.isascii() or not word.isdigit() or (word[0] == "0" and word != "0"):
            fail(f"SEEDS takes whole numbers, not '{word}'")
    return words


def launcher() -> list[str]:
    """What stands before the script's name: Python, or torchrun for NPROC processes a cell."""
    python, processes = interpreter(), count("NPROC")
    if processes == 1:
        return [python]
    # Its end of flags, `--`: our --log would be an ambiguous one of torchrun's. --standalone is a port of its own.
    torchrun = ["torchrun"] if python == "python" else [python, "-m", "torch.distributed.run"]
    alone = ["--standalone"] if count("JOBS") > 1 else []
    return [*torchrun, *alone, "--nproc-per-node", str(processes), "--"]


# From tables to commands


@dataclass
class Table:
    """The settings of one method.

    Attributes:
        rows: name of a row of the published table -> its flags.
        cells: pretraining -> dataset -> flags.
    """

    method: str
    rows: dict[str, list[str]] = field(default_factory=dict)
    cells: dict[str, dict[str, list[str]]] = field(default_factory=dict)


def read_tables(text: str) -> list[Table]:
    """Tables, one after the other, each begun by the line `method NAME`; cells.sh describes the other lines."""
    tables: list[Table] = []
    for words in filter(None, map(str.split, text.splitlines())):
        match words:
            case ["method", name]:
                tables.append(Table(name))
            case ["row", name, *flags]:
                tables[-1].rows[name] = flags
            case [pretraining, *flags] if pretraining in PRETRAININGS:
                columns, cells = flags, tables[-1].cells.setdefault(pretraining, {})
            case [dataset, *values]:
                cells[dataset] = settings(dataset, columns, values)
    return tables


def settings(dataset: str, columns: list[str], values: list[str]) -> list[str]:
    """The flags of a line: its values in the columns, and the values that columns have for all lines.

    A comma stands between the values of one flag.
    """
    own, flags = iter(values), []
    if len(values) != sum("=" not in column for column in columns):
        fail(f"the line of {dataset} has not a value for each flag")
    for column in columns:
        flag, is_same, value = column.partition("=")
        flags += [flag, *(value if is_same else next(own)).split(",")]
    return flags


@dataclass
class Selection:
    """What the command line asks for."""

    pretrainings: list[str]
    datasets: list[str]
    extra: list[str]


def read_selection(arguments: list[str]) -> Selection:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words, extra = arguments[:end], arguments[end + 1 :]
    for word in words:
        if word == "Digits":
            fail("Digits has no cell in the published table: scripts/digits.sh trains all methods on it")
        if word not in PRETRAININGS and word not in DATASETS:
            known = f"supervised, moco, {' '.join(DATASETS)}"
            fail(f"'{word}' is none of {known} (flags come after --)")
    pretrainings = [name for name in PRETRAININGS if name in words] or list(PRETRAININGS)
    datasets = [name for name in DATASETS if name in words] or list(DATASETS)
    if "--scratch" in extra and "moco" in pretrainings:
        fail("--scratch starts from random weights, and the cells of moco from a file: name supervised alone")
    return Selection(pretrainings, datasets, extra)


def select_rows(tables: list[Table]) -> list[str]:
    """The rows to print, in the table's order: those of ROWS, where it is set. A table without rows has only one."""
    known = list(dict.fromkeys(row for table in tables for row in table.rows))
    asked = variable("ROWS", "").split() if known else []
    for row in asked:
        if row not in known:
            fail(f"ROWS takes {' '.join(known)}, not '{row}'")
    return [row for row in known if row in asked] or known


def print_cells(tables: list[Table], selection: Selection, rows: list[str]) -> Iterator[str]:
    """The commands of the selected cells: seed by seed, row by row, and dataset by dataset through all methods."""
    for seed in seeds():
        for pretraining in selection.pretrainings:
            for row in dict.fromkeys([*ROW_OF_ALL, *rows]):
                for dataset in selection.datasets:
                    for table in tables:
                        has_row = row in rows if table.rows else row in ROW_OF_ALL
                        flags = table.cells.get(pretraining, {}).get(dataset)
                        if has_row and flags is not None:
                            row_flags = (table.rows or ROW_OF_ALL)[row]
                            command = print_cell(
                                table.method, pretraining, dataset, row, seed, row_flags + NETWORK + flags
                            )
                            yield shlex.join(command + selection.extra)


def print_cell(method: str, pretraining: str, dataset: str, row: str, seed: str, flags: list[str]) -> list[str]:
    folder, name, *dataset_flags = DATASETS[dataset]
    place = f"{'' if pretraining == 'supervised' else '_moco_pretrain'}/{name}"
    place += "_oracle" if row == "oracle" else f"_{row}_labels_per_class"
    place += "" if seed == "0" else f"_seed{seed}"
    logs = variable("LOGS", "logs")
    log = f"{logs}/{method}{place}"
    flags = [f"{logs}/{flag[1:]}{place}" if flag.startswith("@") else flag for flag in flags]
    command = [*launcher(), f"{method}.py", f"{variable('DATA', 'data')}/{folder}", "-d", dataset]
    return [*command, *dataset_flags, *flags, *PRETRAININGS[pretraining], "--seed", seed, "--log", log]


# From a grid to commands


@dataclass
class Images:
    """A dataset of a grid: its folder below DATA, its number of classes, and its numbers of labels."""

    folder: str
    classes: int
    labels: list[str]


@dataclass
class Grid:
    """All methods on all datasets with all numbers of labels.

    Attributes:
        steps, epochs: of every run.
        settings: methods and datasets (`CIFAR10`, `CIFAR10:40` with 40 labels alone, or `all`) that have them, flags.
    """

    steps: int = 0
    epochs: int = 0
    methods: list[str] = field(default_factory=list)
    datasets: dict[str, Images] = field(default_factory=dict)
    settings: list[tuple[list[str], list[str], list[str]]] = field(default_factory=list)


def read_grid(text: str) -> Grid:
    """The lines are described in cells.sh."""
    grid = Grid()
    for words in filter(None, map(str.split, text.splitlines())):
        match words:
            case ["schedule", steps, epochs]:
                grid.steps, grid.epochs = int(steps), int(epochs)
            case ["methods", *names]:
                grid.methods = names
            case ["dataset", name, folder, classes, *labels]:
                grid.datasets[name] = Images(folder, int(classes), labels)
                uneven = [number for number in labels if int(number) % int(classes)]
                if uneven:
                    fail(f"{name} has {classes} classes, which cannot share {uneven[0]} labels: take a multiple")
            case [methods, datasets, *flags]:
                grid.settings.append((methods.split(","), datasets.split(","), flags))
    _check_names(grid)
    return grid


def _check_names(grid: Grid) -> None:
    """A setting that nothing has would be lost."""
    cells = [f"{name}:{number}" for name, images in grid.datasets.items() for number in images.labels]
    known = {"all", *grid.methods, *grid.datasets, *cells}
    for methods, datasets, flags in grid.settings:
        for name in [*methods, *datasets]:
            if name not in known:
                fail(f"the grid has no '{name}', which shall have {shlex.join(flags)}")


def print_grid(grid: Grid, arguments: list[str]) -> Iterator[str]:
    """The selected commands: seed by seed, dataset by dataset, and there with each number of labels all methods."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words, extra = arguments[:end], arguments[end + 1 :]
    numbers = sorted({number for images in grid.datasets.values() for number in images.labels}, key=int)
    known = [*grid.methods, *grid.datasets, *numbers]
    for word in words:
        if word not in known:
            fail(f"'{word}' is none of {' '.join(known)} (flags come after --)")
    methods, datasets, labels = (
        [name for name in group if name in words] or group for group in (grid.methods, grid.datasets, numbers)
    )
    grid.steps, grid.epochs = schedule(grid)
    for seed in seeds():
        for dataset in datasets:
            wanted = [number for number in grid.datasets[dataset].labels if number in labels]
            for number in wanted:
                for method in methods:
                    if method != "oracle" or number == wanted[0]:  # it has all labels, and so one run
                        yield shlex.join([*print_run(grid, method, dataset, number, seed), *extra])


def print_run(grid: Grid, method: str, dataset: str, number: str, seed: str) -> list[str]:
    images, flags = grid.datasets[dataset], []
    for methods, datasets, more in grid.settings:
        if {"all", method} & set(methods) and {"all", dataset, f"{dataset}:{number}"} & set(datasets):
            flags += [f"{grid.epochs * int(x[:-1]) // 100}" if x.endswith("%") else x for x in more]
    flags += ["--epochs", str(grid.epochs), "--iters-per-epoch", str(grid.steps // grid.epochs)]
    if method != "oracle":
        flags += ["--num-samples-per-class", str(int(number) // images.classes)]
    name = f"_{dataset}" if len(grid.datasets) > 1 else ""
    log = f"{variable('LOGS', 'logs')}/{method}{name}_{'all' if method == 'oracle' else number}_labels_seed{seed}"
    script = "erm" if method == "oracle" else method
    return [
        *launcher(),
        f"{script}.py",
        f"{variable('DATA', 'data')}/{images.folder}",
        *flags,
        "--seed",
        seed,
        "--log",
        log,
    ]


def schedule(grid: Grid) -> tuple[int, int]:
    """Steps and epochs; with STEPS so many, in as many epochs of at least 100 steps as go into them evenly."""
    text = variable("STEPS", "")
    if not text:
        return grid.steps, grid.epochs
    if not text.isascii() or not text.isdigit() or int(text) == 0 or int(text) % SHORTEST:
        fail(f"STEPS takes a multiple of {SHORTEST}, an epoch's steps at the least, not '{text}'")
    longest = min(int(text) // SHORTEST, grid.epochs)
    return int(text), next(epochs for epochs in range(longest, 0, -1) if int(text) // SHORTEST % epochs == 0)


# Running


def run(commands: list[str], logs: str | None = None) -> int:
    """Run all of them, JOBS at a time; then a summary. The status is 0 where all have succeeded.

    Args:
        commands: one a line, as a shell would read them.
        logs: the folder of runs whose tables are shown at the end.
    """
    if not shutil.which(launcher()[0]):
        fail(f"'{launcher()[0]}' is no program here: activate its environment, or name one with PYTHON")
    signals: list[int] = []
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) != signal.SIG_IGN:  # as under nohup
            signal.signal(signum, lambda signum, frame: signals.append(signum))
    with tempfile.TemporaryDirectory() as folder:
        codes = work_off(commands, signals, Path(folder))
    finished = sum(code == 0 for code in codes.values())
    print(f"\n{finished} of {len(commands)} cells are finished", flush=True)
    for number, command in enumerate(commands):
        if codes.get(number) != 0:
            status = f"exit code {codes[number]}" if number in codes else "not run"
            print(f"{status}: {command}", file=sys.stderr)
    if signals:
        return 130
    if logs and finished:
        subprocess.run([interpreter(), "scripts/collect_results.py", logs], check=True)
    return int(finished < len(commands))


def work_off(commands: list[str], signals: list[int], folder: Path) -> dict[int, int]:
    """Run the commands until all are done or a signal came, which is passed on: the scripts save themselves.

    Returns:
        the command's position -> its exit code, of those that were begun.
    """
    waiting, codes = list(enumerate(commands)), {}
    running: dict[int, tuple[int, subprocess.Popen]] = {}  # place among the JOBS -> the command's position, its process
    jobs, passed_on = count("JOBS"), 0
    gpus = spread_gpus(jobs)
    while running or (waiting and not signals):
        for place in set(range(jobs)) - running.keys():
            if waiting and not signals:
                number, command = waiting.pop(0)
                print(f"== {number + 1}/{len(commands)}: {command}", flush=True)
                running[place] = number, begin(command, gpus[place], None if jobs == 1 else folder / str(number))
        time.sleep(0.02)
        for _ in signals[passed_on:]:
            passed_on += 1
            for _, process in running.values():
                process.terminate()
        for place, (number, process) in list(running.items()):
            if process.poll() is not None:
                del running[place]
                # As a shell counts: 128 and the signal that ended it.
                codes[number] = process.returncode if process.returncode >= 0 else 128 - process.returncode
                if codes[number] and jobs > 1:
                    sys.stderr.write(last_line(folder / str(number)))
    return codes


def begin(command: str, gpus: str | None, output: Path | None) -> subprocess.Popen:
    """Start a command, out of reach of the terminal's signals: what comes here is passed on, once."""
    environment = os.environ if gpus is None else os.environ | {"CUDA_VISIBLE_DEVICES": gpus}
    stdout = open(output, "wb") if output else None  # noqa: SIM115 (closed below)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": stdout and subprocess.STDOUT}
    try:
        return subprocess.Popen(shlex.split(command), env=environment, start_new_session=True, **pipes)
    finally:
        if stdout:
            stdout.close()


def last_line(path: Path) -> str:
    """The last line of a file, with its end; nothing where the file is empty."""
    return "".join(path.read_text(errors="replace").splitlines(keepends=True)[-1:])


def spread_gpus(jobs: int) -> list[str | None]:
    """The CUDA_VISIBLE_DEVICES of each of the cells that run at once; None: all there are.

    Each gets as many as it has processes; after the last GPU it begins with the first again.
    """
    gpus = []
    if jobs > 1 and "CUDA_VISIBLE_DEVICES" in os.environ:
        gpus = [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    elif jobs > 1 and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        gpus = done.stdout.split() if done.returncode == 0 else []
    if not gpus:
        return [None] * jobs
    each = count("NPROC")
    places = [range(place * each, (place + 1) * each) for place in range(jobs)]
    return [",".join(dict.fromkeys(gpus[i % len(gpus)] for i in place)) for place in places]


def main(arguments: list[str]) -> int:
    logs = None
    count("JOBS")  # and launcher() looks at NPROC: what is wrong is said before anything is printed
    match arguments:
        case ["table", *words]:
            selection, tables = read_selection(words), read_tables(sys.stdin.read())
            commands = list(print_cells(tables, selection, select_rows(tables)))
            if not commands:
                pretrainings, datasets = " ".join(selection.pretrainings), " ".join(selection.datasets)
                names = ", ".join(table.method for table in tables)
                fail(f"no settings of {names} for {datasets} with {pretrainings}")
        case ["grid", *words]:
            logs = variable("LOGS", "logs")
            commands = list(print_grid(read_grid(sys.stdin.read()), words))
            if not commands:
                fail(f"no cell has all of {' '.join(words)}")
        case ["run", *options]:
            logs = options[1] if options else None
            commands = [f"{shlex.join(launcher())} {line}" for line in sys.stdin.read().splitlines()]
        case _:
            fail("the shell files call this one, with their tables: see cells.sh")
    if variable("DRY_RUN", "0") == "0":
        return run(commands, logs)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as into `head`
    print("\n".join(commands))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
