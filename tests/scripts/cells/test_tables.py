"""The shell files print the commands of the published table, all of them and nothing else."""

import csv
import importlib
import re

import pytest

from tests.conftest import ROOT
from tests.helpers.shell import EPOCHS, dry_run, parse, shell

with open(ROOT / "tests" / "figures" / "cells.csv") as _file:
    CELLS = list(csv.DictReader(_file))  # the published settings; blank: the method's or the dataset's default

DATASETS = list(dict.fromkeys(cell["dataset"] for cell in CELLS))
ROWS = ["4_labels", "10_labels", "oracle"]


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def published(cell: dict[str, str]) -> dict:
    """All the arguments of a cell: the script's defaults, and over them what the table says or implies."""
    method = cell["method"]
    defaults = vars(importlib.import_module(method).parse_args([cell["root"], "-d", cell["dataset"]]))
    said = {
        "method": method,
        "data": cell["dataset"],
        "num_samples_per_class": 10 if cell["labels"] == "10_labels" else 4,
        "pretrained_backbone": cell["pretrained_backbone"] or None,
        "finetune": cell["finetune"] == "True",
        "epochs": int(cell["epochs"] or EPOCHS[method]),
        "lr": float(cell["lr"]),
        "train_resizing": cell["train_resizing"] or "default",
        "val_resizing": cell["val_resizing"] or "default",
        "norm_mean": numbers(cell["norm_mean"]) or [0.485, 0.456, 0.406],
        "norm_std": numbers(cell["norm_std"]) or [0.229, 0.224, 0.225],
        "seed": int(cell["seed"]),
        **{key: cell[key] for key in ("root", "log", "arch")},
    }
    if method == "erm":
        said["oracle"] = cell["labels"] == "oracle"
    if method != "self_tuning":
        said["lr_scheduler"] = cell["lr_scheduler"] or "exp"
    for key in ("threshold", "T", "tau", "eta_prime", "trade_off_self_training"):
        if cell[key]:
            said[key] = float(cell[key])
    assert said.keys() - {"method"} <= defaults.keys()
    return defaults | said


@pytest.mark.parametrize("method", EPOCHS)
def test_the_commands_are_those_of_the_published_table_in_its_order(method):
    cells = [cell for cell in CELLS if cell["method"] == method]
    cells.sort(
        key=lambda cell: (cell["pretraining"] == "moco", ROWS.index(cell["labels"]))
    )  # the datasets stay in order
    assert len(cells) == (66 if method == "erm" else 22)
    assert [parse(command) for command in dry_run(method)] == [published(cell) for cell in cells]


def test_all_prints_every_command_once_and_one_dataset_after_the_other():
    commands = [parse(command) for command in dry_run("all")]
    assert len(commands) == len(CELLS) == 264
    by_log = {command["log"]: command for command in commands}
    assert by_log == {cell["log"]: published(cell) for cell in CELLS}
    assert [(c["method"], c["data"]) for c in commands[:20]] == [(m, d) for d in DATASETS[:2] for m in EPOCHS]


@pytest.mark.parametrize(
    ("name", "arguments", "rows", "logs"),
    [
        ("fixmatch", "moco DTD CIFAR10", "", ["fixmatch_moco_pretrain/cifar10_4", "fixmatch_moco_pretrain/dtd_4"]),
        ("fixmatch", "StanfordCars moco supervised", "", ["fixmatch/car_4", "fixmatch_moco_pretrain/car_4"]),
        ("fixmatch", "supervised SUN397", "oracle", ["fixmatch/sun_4"]),
        ("erm", "supervised DTD", "", ["erm/dtd_4", "erm/dtd_10", "erm/dtd_oracle"]),
        ("erm", "supervised DTD CUB200", "oracle", ["erm/cub200_oracle", "erm/dtd_oracle"]),
        ("erm", "moco Caltech101", "4 10", ["erm_moco_pretrain/caltech_4", "erm_moco_pretrain/caltech_10"]),
    ],
)
def test_words_select_pretraining_and_datasets_in_the_tables_order(name, arguments, rows, logs):
    commands = dry_run(name, arguments, ROWS=rows)
    assert [parse(command)["log"].removesuffix("_labels_per_class") for command in commands] == [
        f"logs/{log}" for log in logs
    ]


def test_rows_select_among_erms_in_all():
    commands = [parse(command) for command in dry_run("all", "supervised DTD", ROWS="10")]
    assert [c["method"] for c in commands] == [*list(EPOCHS)[1:], "erm"]
    assert commands[-1]["num_samples_per_class"] == 10


def test_all_takes_the_methods_that_are_named():
    commands = [parse(command) for command in dry_run("all", METHODS="freematch softmatch")]
    assert len(commands) == 44
    assert [c["method"] for c in commands[:3]] == ["freematch", "softmatch", "freematch"]
    fixmatch = {c["log"].replace("fixmatch", ""): c for c in map(parse, dry_run("fixmatch"))}
    for command in commands:  # on FixMatch's cells, with its learning rates
        like = fixmatch[command["log"].replace(command["method"], "")]
        assert {key: command[key] for key in command.keys() & like.keys() - {"method", "log"}} == {
            key: like[key] for key in command.keys() & like.keys() - {"method", "log"}
        }


def test_noisy_student_has_erms_rates_and_schedules():
    commands = [parse(command) for command in dry_run("all", METHODS="noisy_student")]
    assert len(commands) == 22
    erm = {c["log"].replace("erm", "noisy_student"): c for c in map(parse, dry_run("erm", ROWS="4"))}
    for command in commands:
        like = erm[command["log"]]
        assert {key: command[key] for key in like.keys() - {"method", "log", "epochs", "oracle"}} == {
            key: like[key] for key in like.keys() - {"method", "log", "epochs", "oracle"}
        }
        assert (command["epochs"], command["rounds"]) == (40, 3)
        assert command["T"] == (1 if command["pretrained_backbone"] else 0.5)


@pytest.mark.parametrize("name", ["dst", "all"])
def test_seeds_folders_and_extra_flags(name):
    environment = {"SEEDS": "0 3", "DATA": "/data sets", "LOGS": "other logs"}
    commands = dry_run(name, "supervised Aircraft -- --epochs 2 --auto-augment 'rand-m9-n2'", **environment)
    mine = [args for args in map(parse, commands) if args["method"] == "dst"]
    assert [args["log"] for args in mine] == [
        "other logs/dst/aircraft_4_labels_per_class",
        "other logs/dst/aircraft_4_labels_per_class_seed3",
    ]
    assert [(args["seed"], args["split_seed"]) for args in mine] == [(0, 0), (3, 3)]
    for args in mine:
        assert (args["root"], args["epochs"], args["auto_augment"]) == ("/data sets/aircraft", 2, "rand-m9-n2")


@pytest.mark.parametrize("name", ["fixmatch", "erm", "all"])
@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ("CIFAR1O", {}, "'CIFAR1O' is none of supervised, moco, Food101 CIFAR10 "),
        ("mocov2 CIFAR10", {}, "'mocov2' is none of"),
        ("--epochs 1", {}, "'--epochs' is none of.*flags come after --"),
        ("DTD", {"SEEDS": "0 -1"}, "SEEDS takes whole numbers, not '-1'"),
        ("DTD", {"SEEDS": "01"}, "SEEDS takes whole numbers, not '01'"),
        ("DTD", {"JOBS": "many"}, "JOBS takes a whole number of 1 or more, not 'many'"),
        ("DTD", {"NPROC": "0"}, "NPROC takes a whole number of 1 or more, not '0'"),
        ("moco DTD -- --scratch", {}, "--scratch starts from random weights, and the cells of moco from a file"),
        ("DTD -- --scratch", {}, "--scratch starts from random weights.*: name supervised alone"),
        ("supervised Digits", {}, "Digits has no cell in the published table: scripts/digits.sh trains"),
        ("DTD", {"PYTHON": "no-such-python"}, "'no-such-python' is no program here: .* PYTHON"),
    ],
)
def test_a_bad_selection_is_one_line_and_runs_nothing(name, arguments, environment, message):
    done = shell(name, arguments, **{"PYTHON": "false"} | environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(f"error: .*{message}.*\n", done.stderr)


@pytest.mark.parametrize("name", ["erm", "all"])
def test_a_bad_row_is_one_line(name):
    done = shell(name, "DTD", ROWS="4 5", DRY_RUN="1")
    assert (done.returncode, done.stderr) == (2, "error: ROWS takes 4 10 oracle, not '5'\n")


def test_several_processes_are_torchruns_and_our_flags_come_after_its_end_of_flags():
    (plain,) = dry_run("fixmatch", "moco DTD -- --epochs 2")
    (several,) = dry_run("fixmatch", "moco DTD -- --epochs 2", NPROC="4")
    assert plain[0] == "python"
    assert several == ["torchrun", "--nproc-per-node", "4", "--", *plain[1:]]
    module = ["/a/python", "-m", "torch.distributed.run"]  # torchrun of that Python, each with a port of its own
    (several,) = dry_run("fixmatch", "moco DTD -- --epochs 2", NPROC="2", JOBS="2", PYTHON="/a/python")
    assert several == [*module, "--standalone", "--nproc-per-node", "2", "--", *plain[1:]]


def test_torchrun_reads_these_commands():
    """Its own parser takes our flags for the script's, of which `--log` begins three of its own."""
    from torch.distributed.run import parse_args

    (command,) = dry_run("fixmatch", "moco DTD", NPROC="4", JOBS="2")
    args = parse_args(command[1:])
    assert (args.nproc_per_node, args.standalone, args.training_script) == ("4", True, "fixmatch.py")
    assert parse(["python", args.training_script, *args.training_script_args])["log"].endswith(
        "/dtd_4_labels_per_class"
    )
