"""The published table: each method's settings, one line for each cell, and the commands that they make."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from scripts.cells.environment import data_folder, fail, launcher, logs_folder, seeds, split_arguments, variable


@dataclass(frozen=True)
class Dataset:
    """A column of the table.

    Attributes:
        folder: its folder in DATA.
        name: its name in LOGS.
        flags: how its images are resized and normalised, where that is not the default.
    """

    folder: str
    name: str
    flags: str = ""


DATASETS = {  # in the order of the table
    "Food101": Dataset("food101", "food101"),
    "CIFAR10": Dataset(
        "cifar10",
        "cifar10",
        "--train-resizing cifar --val-resizing cifar --norm-mean 0.4912 0.4824 0.4467 --norm-std 0.2471 0.2435 0.2616",
    ),
    "CIFAR100": Dataset(
        "cifar100",
        "cifar100",
        "--train-resizing cifar --val-resizing cifar --norm-mean 0.5071 0.4867 0.4408 --norm-std 0.2675 0.2565 0.2761",
    ),
    "CUB200": Dataset("cub200", "cub200"),
    "Aircraft": Dataset("aircraft", "aircraft"),
    "StanfordCars": Dataset("cars", "car"),
    "SUN397": Dataset("sun397", "sun"),
    "DTD": Dataset("dtd", "dtd"),
    "OxfordIIITPets": Dataset("pets", "pets"),
    "OxfordFlowers102": Dataset("flowers", "flowers"),
    "Caltech101": Dataset("caltech101", "caltech"),
}
PRETRAININGS = {"supervised": [], "moco": ["--pretrained-backbone", "checkpoints/moco_v2_800ep_backbone.pth"]}
NETWORK = ["-a", "resnet50", "--finetune"]
DEFAULT_ROW = {"4": ["--num-samples-per-class", "4"]}  # of a method whose table names no rows


@dataclass
class Table:
    """The settings of one method.

    Attributes:
        own_rows: row of the published table -> its flags; empty where the method has the default row alone.
        cells: pretraining -> dataset -> flags.
    """

    method: str
    own_rows: dict[str, list[str]] = field(default_factory=dict)
    cells: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, list[str]]:
        return self.own_rows or DEFAULT_ROW


@dataclass(frozen=True)
class Selection:
    """What the command line asks for, in the table's order."""

    pretrainings: list[str]
    datasets: list[str]
    extra: list[str]


@dataclass(frozen=True)
class Cell:
    """A cell of the table, with a seed."""

    method: str
    pretraining: str
    dataset: str
    row: str
    seed: str


# Reading


def read_tables(text: str) -> list[Table]:
    """Read tables, one after the other. The line `method NAME` begins each; cells.sh describes the other lines."""
    tables: list[Table] = []
    for line in text.splitlines():
        match line.split():
            case []:
                pass
            case ["method", name]:
                tables.append(Table(name))
            case ["row", name, *flags]:
                tables[-1].own_rows[name] = flags
            case [pretraining, *columns] if pretraining in PRETRAININGS:
                header, cells = columns, tables[-1].cells.setdefault(pretraining, {})
            case [dataset, *values]:
                cells[dataset] = _flags_of_line(dataset, header, values)
    return tables


def _flags_of_line(dataset: str, header: list[str], values: list[str]) -> list[str]:
    """Pair the columns with the values of a line. A column `--flag=value` has the same value in all lines."""
    flags, remaining = [], list(values)
    if len(values) != sum("=" not in column for column in header):
        fail(f"the line of {dataset} has not a value for each flag")
    for column in header:
        flag, has_value, value = column.partition("=")
        if not has_value:
            value = remaining.pop(0)
        flags += [flag, *value.split(",")]
    return flags


def _read_selection(arguments: list[str]) -> Selection:
    words, extra = split_arguments(arguments)
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


def _select_rows(tables: list[Table]) -> list[str]:
    """The rows that ROWS names, or all, in the table's order. ROWS has no effect where no table names rows."""
    own_rows = list(dict.fromkeys(row for table in tables for row in table.own_rows))
    asked = variable("ROWS", "").split() if own_rows else []
    for row in asked:
        if row not in own_rows:
            fail(f"ROWS takes {' '.join(own_rows)}, not '{row}'")
    return [row for row in own_rows if row in asked] or own_rows


# Commands


def commands(tables: list[Table], arguments: list[str]) -> list[str]:
    """The commands of the cells that the arguments and ROWS select. It ends the program where there are none."""
    selection = _read_selection(arguments)
    found = [shlex.join(words + selection.extra) for words in _all_commands(tables, selection, _select_rows(tables))]
    if not found:
        pretrainings, datasets = " ".join(selection.pretrainings), " ".join(selection.datasets)
        methods = ", ".join(table.method for table in tables)
        fail(f"no settings of {methods} for {datasets} with {pretrainings}")
    return found


def _all_commands(tables: list[Table], selection: Selection, rows: list[str]) -> Iterator[list[str]]:
    """Ordered by seed, then pretraining, row, dataset, and method.

    Args:
        rows: those of tables with rows of their own. The others always have the default row.
    """
    for seed in seeds():
        for pretraining in selection.pretrainings:
            for row in dict.fromkeys([*DEFAULT_ROW, *rows]):
                having_row = [table for table in tables if row in (rows if table.own_rows else DEFAULT_ROW)]
                for dataset in selection.datasets:
                    for table in having_row:
                        flags = table.cells.get(pretraining, {}).get(dataset)
                        if flags is not None:
                            cell = Cell(table.method, pretraining, dataset, row, seed)
                            yield _command(cell, table.rows[row] + NETWORK + flags)


def _command(cell: Cell, flags: list[str]) -> list[str]:
    dataset, run = DATASETS[cell.dataset], _run_folder(cell)
    flags = [f"{logs_folder()}/{flag[1:]}{run}" if flag.startswith("@") else flag for flag in flags]
    return [
        *(*launcher(), f"{cell.method}.py", f"{data_folder()}/{dataset.folder}", "-d", cell.dataset),
        *(*dataset.flags.split(), *flags, *PRETRAININGS[cell.pretraining]),
        *("--seed", cell.seed, "--log", f"{logs_folder()}/{cell.method}{run}"),
    ]


def _run_folder(cell: Cell) -> str:
    """What follows the method's name in the path of a run: `_moco_pretrain/car_4_labels_per_class_seed1`."""
    pretraining = "" if cell.pretraining == "supervised" else "_moco_pretrain"
    labels = "oracle" if cell.row == "oracle" else f"{cell.row}_labels_per_class"
    seed = "" if cell.seed == "0" else f"_seed{cell.seed}"
    return f"{pretraining}/{DATASETS[cell.dataset].name}_{labels}{seed}"
