"""All methods together: a grid of methods, datasets and numbers of labels, and the commands that it makes."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from scripts.cells.environment import data_folder, fail, launcher, logs_folder, seeds, split_arguments, variable

SHORTEST = 100  # steps of an epoch, where STEPS asks for fewer than the grid has


@dataclass(frozen=True)
class Images:
    """A dataset of a grid: its folder in DATA, its number of classes, and its numbers of labels."""

    folder: str
    classes: int
    labels: list[str]


@dataclass(frozen=True)
class Setting:
    """Flags, and which cells have them.

    Attributes:
        methods: their names, or `all`.
        datasets: `CIFAR10`, or `CIFAR10:40` with 40 labels alone, or `all`.
    """

    methods: list[str]
    datasets: list[str]
    flags: list[str]

    def holds_for(self, method: str, dataset: str, labels: str) -> bool:
        has_method = "all" in self.methods or method in self.methods
        return has_method and not {"all", dataset, f"{dataset}:{labels}"}.isdisjoint(self.datasets)


@dataclass
class Grid:
    """All methods on all datasets with all numbers of labels.

    Attributes:
        steps, epochs: of every run.
        datasets: by name.
        settings: in the order of their flags on the command line, where the last value of a flag counts.
    """

    steps: int = 0
    epochs: int = 0
    methods: list[str] = field(default_factory=list)
    datasets: dict[str, Images] = field(default_factory=dict)
    settings: list[Setting] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """The numbers of labels of all datasets, ascending."""
        return sorted({number for images in self.datasets.values() for number in images.labels}, key=int)


# Reading


def read_grid(text: str) -> Grid:
    """Read a grid, whose lines cells.sh describes; STEPS, where it is set, replaces the schedule."""
    grid = Grid()
    for line in text.splitlines():
        match line.split():
            case []:
                pass
            case ["schedule", steps, epochs]:
                grid.steps, grid.epochs = int(steps), int(epochs)
            case ["methods", *names]:
                grid.methods = names
            case ["dataset", name, folder, classes, *labels]:
                _check_labels(name, int(classes), labels)
                grid.datasets[name] = Images(folder, int(classes), labels)
            case [methods, datasets, *flags]:
                grid.settings.append(Setting(methods.split(","), datasets.split(","), flags))
    _check_names(grid)
    return grid


def _check_labels(dataset: str, classes: int, labels: list[str]) -> None:
    """Refuse a number of labels that cannot be shared equally by the classes."""
    for number in labels:
        if int(number) % classes:
            fail(f"{dataset} has {classes} classes, which cannot share {number} labels: take a multiple")


def _check_names(grid: Grid) -> None:
    """Refuse a setting whose method or dataset the grid does not have: it would be lost."""
    cells = [f"{name}:{number}" for name, images in grid.datasets.items() for number in images.labels]
    known = {"all", *grid.methods, *grid.datasets, *cells}
    for setting in grid.settings:
        for name in [*setting.methods, *setting.datasets]:
            if name not in known:
                fail(f"the grid has no '{name}', so these flags would be lost: {shlex.join(setting.flags)}")


def _schedule(grid: Grid) -> tuple[int, int]:
    """The steps and epochs of a run.

    STEPS sets another number of steps. Then there are as many epochs as possible, but at most the grid's, such that all
    have the same length, a multiple of 100 steps.
    """
    text = variable("STEPS", "")
    if not text:
        return grid.steps, grid.epochs
    if not text.isascii() or not text.isdigit() or int(text) == 0 or int(text) % SHORTEST:
        fail(f"STEPS takes a multiple of {SHORTEST}, the fewest steps of an epoch, not '{text}'")
    hundreds = int(text) // SHORTEST
    fitting = [epochs for epochs in range(1, min(hundreds, grid.epochs) + 1) if hundreds % epochs == 0]
    return int(text), max(fitting)


# Commands


def commands(grid: Grid, arguments: list[str]) -> list[str]:
    """The commands of the cells that the arguments select. It ends the program where there are none."""
    words, extra = split_arguments(arguments)
    known = [*grid.methods, *grid.datasets, *grid.labels]
    for word in words:
        if word not in known:
            fail(f"'{word}' is none of {' '.join(known)} (flags come after --)")
    grid.steps, grid.epochs = _schedule(grid)
    found = [shlex.join(words_of_command + extra) for words_of_command in _all_commands(grid, words)]
    if not found:
        fail(f"no cell has all of {' '.join(words)}")
    return found


def _all_commands(grid: Grid, words: list[str]) -> Iterator[list[str]]:
    """Ordered by seed, then dataset, number of labels, and method."""
    methods = _selected(grid.methods, words)
    labels = _selected(grid.labels, words)
    for seed in seeds():
        for dataset in _selected(list(grid.datasets), words):
            own_labels = [number for number in grid.datasets[dataset].labels if number in labels]
            for number in own_labels:
                for method in methods:
                    # The oracle has all labels: one run for each dataset.
                    if method != "oracle" or number == own_labels[0]:
                        yield _command(grid, method, dataset, number, seed)


def _selected(names: list[str], words: list[str]) -> list[str]:
    """The names that are among the words; all of them where none is."""
    return [name for name in names if name in words] or names


def _command(grid: Grid, method: str, dataset: str, labels: str, seed: str) -> list[str]:
    images, is_oracle = grid.datasets[dataset], method == "oracle"
    cell = f"_{dataset}" if len(grid.datasets) > 1 else ""
    cell += f"_{'all' if is_oracle else labels}_labels_seed{seed}"
    flags = [
        f"{logs_folder()}/{flag[1:]}{cell}" if flag.startswith("@") else _share(flag, grid.epochs)
        for setting in grid.settings
        if setting.holds_for(method, dataset, labels)
        for flag in setting.flags
    ]
    flags += ["--epochs", str(grid.epochs), "--iters-per-epoch", str(grid.steps // grid.epochs)]
    if not is_oracle:
        flags += ["--num-samples-per-class", str(int(labels) // images.classes)]
    log = f"{logs_folder()}/{method}{cell}"
    script = "erm.py" if is_oracle else f"{method}.py"
    return [*launcher(), script, f"{data_folder()}/{images.folder}", *flags, "--seed", seed, "--log", log]


def _share(word: str, epochs: int) -> str:
    """`40%` becomes that share of the epochs, rounded down; `40%+` at least 1. Any other word stays as it is."""
    share = re.fullmatch(r"(\d+(?:\.\d+)?)%(\+?)", word)
    if share is None:
        return word
    number = int(epochs * float(share[1]) / 100)
    return str(max(1, number) if share[2] else number)
