"""The shell files print the commands of the published table, all of them and nothing else, and run them to the end."""

import ast
import csv
import functools
import importlib
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.helpers import datasets_on_disk

with open(ROOT / "tests" / "figures" / "cells.csv") as _file:
    CELLS = list(csv.DictReader(_file))  # the published settings; blank: the method's or the dataset's default

EPOCHS = {"erm": 20} | dict.fromkeys(["pseudo_label", "pi_model", "mean_teacher"], 40)
EPOCHS |= dict.fromkeys(["uda", "fixmatch", "self_tuning"], 60) | dict.fromkeys(["flexmatch", "debiasmatch", "dst"], 90)
DATASETS = list(dict.fromkeys(cell["dataset"] for cell in CELLS))
ROWS = ["4_labels", "10_labels", "oracle"]
SHELL_FILES = sorted((ROOT / "scripts").glob("*.sh"))


def shell(name: str, arguments: str = "", **environment: str) -> subprocess.CompletedProcess:
    taken = {"CUDA_VISIBLE_DEVICES", "METHODS", "ROWS", "SEEDS", "STEPS", "JOBS", "NPROC", "PYTHON", "DATA", "LOGS"}
    taken |= {"DRY_RUN", "WEIGHTS", "JPEG"}
    clean = {key: value for key, value in os.environ.items() if key not in taken}
    command = ["bash", f"scripts/{name}.sh", *shlex.split(arguments)]
    return subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=False)


def dry_run(name: str, arguments: str = "", **environment: str) -> list[list[str]]:
    """The words of each printed command."""
    done = shell(name, arguments, DRY_RUN="1", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines()]


def parse(command: list[str]) -> dict:
    """The script's name and its arguments, all that are in effect."""
    python, script, *argv = command
    assert python == "python"
    method = script.removesuffix(".py")
    return {"method": method} | vars(importlib.import_module(method).parse_args(argv))


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
def test_a_selection(name, arguments, rows, logs):
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


def test_digits_prints_a_run_for_each_method_and_seed():
    commands = dry_run("digits", "--epochs 2 'a b'", SEEDS="1 2", LOGS="other logs")
    methods = [*EPOCHS, "freematch", "softmatch", "noisy_student", "oracle"]
    logs = [f"other logs/{method}_seed{seed}" for seed in (1, 2) for method in methods]
    assert [command[command.index("--log") + 1] for command in commands] == logs
    assert all(command[-3:] == ["--epochs", "2", "a b"] for command in commands)
    assert [parse(command[:-1])["epochs"] for command in commands] == [2] * 28
    (several,) = dry_run("digits", SEEDS="1", METHODS="uda", NPROC="2")
    assert several[:5] == ["torchrun", "--nproc-per-node", "2", "--", "uda.py"]


FASHION = ["erm", "fixmatch", "flexmatch", "freematch", "softmatch", "uda", "debiasmatch", "dst", "self_tuning"]
FASHION += ["pseudo_label", "pi_model", "mean_teacher", "oracle"]


def test_fashion_prints_a_run_for_each_method_number_of_labels_and_seed():
    commands = dry_run("fashion", DATA="my data", LOGS="other logs")
    cells = [(method, labels) for labels in (40, 400) for method in FASHION if (method, labels) != ("oracle", 400)]
    names = {cell: "oracle_all" if cell[0] == "oracle" else f"{cell[0]}_{cell[1]}" for cell in cells}
    logs = [f"other logs/{names[cell]}_labels_seed{seed}" for seed in (0, 1, 2) for cell in cells]
    assert [command[command.index("--log") + 1] for command in commands] == logs
    for command, (method, labels) in zip(commands, 3 * cells, strict=True):
        args = parse(command)
        assert args["method"] == ("erm" if method == "oracle" else method)
        assert args["root"] == "my data/fashion_mnist"
        assert args["epochs"] * args["iters_per_epoch"] == 2000
        assert (args["ema"], args["auto_augment"], args["cutout"], args["bottleneck_dim"]) == (0.99, "classic", 0.5, 0)
        assert method == "oracle" or 10 * args["num_samples_per_class"] == labels
        assert args.get("joint_passes", True)  # where the method can
        assert args.get("labeled_statistics", True)
        assert args.get("one_sided", True)


INGREDIENTS = {
    "ema": ("ema", 0.99, None),
    "unlabeled": ("unlabeled_batch_size", 56, 8),
    "joint": ("joint_passes", True, False),
    "labeled": ("labeled_in_unlabeled", True, False),
    "cutout": ("cutout", 0.5, 0.0),
    "norms": ("no_decay_on_norms", True, False),
    "strong": ("trade_off_cls_strong", 0.0, 0.1),
}


def test_ingredients_are_left_out_and_added_one_at_a_time():
    commands = [parse(command) for command in dry_run("ingredients", SEEDS="3 4", LOGS="other logs", DATA="my data")]
    by_log = {args["log"]: args for args in commands}
    assert len(by_log) == len(commands) == 2 * 2 * 16
    for method, seed in itertools.product(("fixmatch", "flexmatch"), (3, 4)):
        settings = {
            name: by_log[f"other logs/{method}/{name}/seed{seed}"]
            for name in ["all", "none", *(f"{kind}_{name}" for kind in ("no", "only") for name in INGREDIENTS)]
        }
        for name, (key, present, absent) in INGREDIENTS.items():
            for base, other, value in (("all", f"no_{name}", absent), ("none", f"only_{name}", present)):
                changed = {key for key in settings[base] if settings[base][key] != settings[other][key]}
                assert changed == {key, "log"}
                assert (settings[base][key], settings[other][key]) == (({present, absent} - {value}).pop(), value)
        assert settings["all"]["method"] == method
        assert settings["all"]["seed"] == seed


FINETUNE = [*FASHION[:-1], "noisy_student", "v_pet", "oracle"]
SHORTER = {"epochs", "iters_per_epoch", "image_size", "arch", "norm_mean", "norm_std", "workers", "root", "log"}
OWN = {"pi_model": {"warm_up_epochs"}, "mean_teacher": {"warm_up_epochs"}, "self_tuning": {"milestones"}}
OWN |= {"v_pet": {"sources", "passes"}, "oracle": {"oracle", "num_samples_per_class"}}


def test_finetune_has_the_settings_of_the_published_table():
    """Those of its column CIFAR10; what is shorter and smaller is the same for all, but for what OWN lists."""
    for command, method in zip(dry_run("finetune", "CIFAR10", SEEDS="0"), FINETUNE, strict=True):
        ours = parse(command)
        (like,) = dry_run("erm" if method == "oracle" else method, "supervised CIFAR10", ROWS="4")
        theirs = parse(like)
        differing = {key for key in ours if ours[key] != theirs[key]}
        assert differing <= SHORTER | OWN.get(method, set())
        assert (ours["epochs"], ours["iters_per_epoch"], ours["image_size"]) == (3, 100, 96)
        assert ours["finetune"]
        assert ours.get("warm_up_epochs", 0) == (1 if "warm_up_epochs" in OWN.get(method, ()) else 0)


def test_finetune_goes_seed_by_seed_and_dataset_by_dataset():
    commands = [parse(command) for command in dry_run("finetune", LOGS="other logs", DATA="my data")]
    runs = [(seed, name, method) for seed in (0, 1, 2) for name in ("FashionMNIST", "CIFAR10") for method in FINETUNE]
    assert [args["log"] for args in commands] == [
        f"other logs/{method}_{name}_{'all' if method == 'oracle' else 40}_labels_seed{seed}"
        for seed, name, method in runs
    ]
    assert [args["seed"] for args in commands] == [seed for seed, *_ in runs]
    for args in commands:
        assert (args["root"], args["data"]) in {
            ("my data/fashion_mnist", "FashionMNIST"),
            ("my data/cifar10", "CIFAR10"),
        }


def test_v_pets_sources_are_the_runs_of_its_own_cell():
    commands = [parse(command) for command in dry_run("finetune", "erm fixmatch v_pet", SEEDS="3 4")]
    for erm, fixmatch, v_pet in zip(*[iter(commands)] * 3, strict=True):
        assert v_pet["sources"] == [erm["log"], fixmatch["log"]]


def test_finetune_begins_with_a_file_where_one_is_given():
    (command,) = dry_run("finetune", "erm CIFAR10", SEEDS="0", WEIGHTS="checkpoints/lite0.pth", JPEG="1")
    args = parse(command)
    assert args["pretrained_backbone"] == "checkpoints/lite0.pth"
    assert (args["root"], args["data"]) == ("data/cifar10_jpeg", "ImageFolder")
    (command,) = dry_run("finetune", "erm CIFAR10", SEEDS="0", JPEG="0")
    assert (parse(command)["pretrained_backbone"], parse(command)["data"]) == (None, "CIFAR10")
    done = shell("finetune", "erm", WEIGHTS="my weights.pth", DRY_RUN="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: WEIGHTS takes a path without spaces, not 'my weights.pth'\n"


@pytest.mark.parametrize(
    ("steps", "epochs", "milestones"), [("100", 1, [1, 1]), ("400", 2, [1, 1]), ("300", 3, [1, 2])]
)
def test_finetunes_milestones_and_ramps_are_in_proportion(steps, epochs, milestones):
    for command in dry_run("finetune", "self_tuning pi_model FashionMNIST", SEEDS="0", STEPS=steps):
        args = parse(command)  # which refuses a milestone of 0
        assert (args["epochs"], args["epochs"] * args["iters_per_epoch"]) == (epochs, int(steps))
        assert args.get("milestones", milestones) == milestones
        assert args.get("warm_up_epochs", 1) == 1


with open(ROOT / "tests" / "figures" / "scratch_settings.csv") as _file:
    SCRATCH = list(csv.DictReader(_file))  # of TorchSSL and USB, in their words
NETWORKS = {("28", "2", "WideResNet"): "wrn_28_2_leaky", ("28", "8", "WideResNet"): "wrn_28_8_leaky"}
NETWORKS |= {("28", "2", "WideResNetVar"): "wrn_37_2_leaky"}
# USB's files name the small network for CIFAR-100, too; its figures are better than that one's.
NETWORKS |= {("", "", "wrn_28_2"): "wrn_28_2_leaky", ("", "", "wrn_var_37_2"): "wrn_37_2_leaky"}


def from_scratch(cell: dict[str, str]) -> dict:
    """What the settings of TorchSSL or USB say of our arguments."""
    method, classes = cell["method"], 100 if cell["dataset"] == "CIFAR100" else 10
    batch = int(cell["batch_size"])
    network = NETWORKS[cell["depth"], cell["widen_factor"], cell["net"]]
    said = {
        "arch": "wrn_28_8_leaky" if classes == 100 else network,
        "data": "SVHNExtra" if cell["dataset"] == "SVHN" else cell["dataset"],
        "batch_size": batch,
        **{ours: float(cell[name]) for ours, name in (("lr", "lr"), ("wd", "weight_decay"), ("ema", "ema_m"))},
        **{"optimizer": cell["optim"].lower(), "lr_scheduler": "cos", "scratch": True, "oracle": method == "oracle"},
        **{"no_decay_on_norms": True, "no_bottleneck": True, "labeled_in_unlabeled": True, "lr_warm_up_steps": 0},
        **{"auto_augment": "classic", "cutout": 0.5, "train_resizing": "native", "trade_off_cls_strong": 0},
    }
    if method != "oracle":
        said["num_samples_per_class"] = int(cell["labels"]) // classes
    if method in ("erm", "oracle"):
        del said["labeled_in_unlabeled"]
    else:
        del said["oracle"]
        said["unlabeled_batch_size"] = batch * int(cell["uratio"])
        said["joint_passes"] = cell["uratio"] == "7"
        said["labeled_statistics"] = not said["joint_passes"]
        said["one_sided"] = method == "pi_model"
    ratio = float(cell["ulb_loss_ratio"] or 1)
    if method in ("pi_model", "mean_teacher"):  # a mean there, a sum over classes (and, in one, over images) here
        said["trade_off_con"] = ratio / classes / (batch if method == "mean_teacher" else 1)
        said |= {"warm_up_epochs": 102, "ramp_up": "linear"}  # of 256, 0.4
    elif method == "uda":
        said |= {"trade_off_con": ratio, "threshold": 0.8, "T": 0.4, "uda_variant": "paper"}
        assert (cell["p_cutoff"], cell["T"]) == ("0.8", "0.4")
    elif method not in ("erm", "oracle"):
        said["trade_off_self_training"] = ratio
    if method in ("pseudo_label", "fixmatch", "flexmatch"):
        said["threshold"] = float(cell["p_cutoff"] or 0.95)
    if method == "pseudo_label":
        said["warm_up_epochs"] = 102
    if method == "flexmatch":
        said["warmup"] = True
    if method == "softmatch":
        said |= {"momentum": float(cell["ema_p"]), "n_sigma": float(cell["n_sigma"])}
    if method == "freematch":
        said |= {"momentum": float(cell["ema_p"]), "trade_off_fairness": float(cell["ent_loss_ratio"])}
        said["max_tau"] = 0.95 if cell["clip_thresh"] else 1.0
    return said


@pytest.mark.parametrize("method", dict.fromkeys(cell["method"] for cell in SCRATCH))
def test_the_settings_from_scratch_are_the_published_ones(method):
    cells = [cell for cell in SCRATCH if cell["method"] == method]
    commands = dry_run("scratch", method)
    assert len(cells) == 12
    assert len(commands) == (4 if method == "oracle" else 12)
    args = {tuple(command[command.index("--log") + 1].split("_")[-4:-2]): parse(command) for command in commands}
    for cell in cells:
        ours = args[cell["dataset"], "all" if method == "oracle" else cell["labels"]]
        assert ours["method"] == ("erm" if method == "oracle" else method)
        assert ours["epochs"] * ours["iters_per_epoch"] == int(cell["num_train_iter"])
        assert {key: ours.get(key, False) for key in from_scratch(cell)} == pytest.approx(from_scratch(cell))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A few images of each dataset of the classic table, in files of its own kind: name -> folder."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("CIFAR10", "CIFAR100", "SVHNExtra", "STL10")}
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in folders.items():
            datasets_on_disk.WRITERS[name](folder)
            datasets_on_disk.accept_checksums(patch, name, folder)
        yield folders


@functools.cache
def with_the_fewest_labels() -> dict[tuple[str, str], list[str]]:
    """(method, dataset) -> the words of its first command."""
    found = {}
    for command in dry_run("scratch"):
        method, dataset = Path(command[-1]).name.rsplit("_", 4)[:2]
        found.setdefault((method, dataset), command)
    return found


@pytest.mark.parametrize(("method", "dataset"), dict.fromkeys((cell["method"], cell["dataset"]) for cell in SCRATCH))
def test_a_command_from_scratch_trains(method, dataset, roots, tmp_path):
    """With another number of images, small batches and the small network; other labels than the fewest say no more."""
    _, script, _, *flags = with_the_fewest_labels()[method, dataset]
    script, root = importlib.import_module(script.removesuffix(".py")), roots[flags[flags.index("-d") + 1]]
    flags += "-a wrn_10_1_half_leaky --any-counts --num-samples-per-class 1 -b 4 --epochs 1 -i 2 -j 0".split()
    flags += [] if method in ("erm", "oracle") else ["--unlabeled-batch-size", "8"]
    result = script.main(script.parse_args([str(root), *flags, "--device", "cpu", "--log", str(tmp_path / "run")]))
    assert result["raw_last_top1"] >= 0


def test_scratch_goes_dataset_by_dataset_through_all_methods():
    logs = [command[-1] for command in dry_run("scratch", SEEDS="0 1", LOGS="logs")]
    assert len(logs) == len(set(logs)) == 2 * 112
    assert [log.split("_CIFAR10_")[1] for log in logs[:10]] == ["40_labels_seed0"] * 9 + ["all_labels_seed0"]
    assert logs[10] == "logs/erm_CIFAR10_250_labels_seed0"
    assert logs[112] == "logs/erm_CIFAR10_40_labels_seed1"


@pytest.mark.parametrize(
    ("steps", "epochs", "per_epoch"),
    [("10000", 100, 100), ("100", 1, 100), ("1048500", 233, 4500), ("51200", 256, 200)],
)
def test_a_shorter_schedule_is_in_proportion(steps, epochs, per_epoch):
    args = parse(dry_run("scratch", "mean_teacher CIFAR10 40", STEPS=steps)[0])
    assert (args["epochs"], args["iters_per_epoch"]) == (epochs, per_epoch)
    assert args["warm_up_epochs"] == epochs * 40 // 100


@pytest.mark.parametrize(
    ("name", "arguments", "number", "last"),
    [
        ("fashion", "oracle 400 erm -- --epochs 1 --log 'a b'", 2, ["--epochs", "1", "--log", "a b"]),
        ("scratch", "400 fixmatch", 1, ["--log", "logs/scratch/fixmatch_CIFAR100_400_labels_seed0"]),
        ("scratch", "oracle SVHN STL10 250", 2, ["--log", "logs/scratch/oracle_STL10_all_labels_seed0"]),
    ],
)
def test_a_selection_of_a_grid(name, arguments, number, last):
    commands = dry_run(name, arguments, SEEDS="0")
    assert len(commands) == number
    assert commands[-1][-len(last) :] == last


@pytest.mark.parametrize(
    ("name", "arguments", "environment", "message"),
    [
        ("fashion", "erm 4000", {}, "'4000' is none of erm .* 40 400 \\(flags come after --\\)"),
        ("scratch", "CIFAR10 45", {}, "'45' is none of erm .* CIFAR10 .* 10000 \\(flags come after --\\)"),
        ("scratch", "dst", {}, "'dst' is none of .*"),
        ("scratch", "STL10 4000", {}, "no cell has all of STL10 4000"),
        ("scratch", "", {"STEPS": "10"}, "STEPS takes a multiple of 100, an epoch's steps at the least, not '10'"),
        ("scratch", "", {"STEPS": "12345"}, "STEPS takes a multiple of 100, .* not '12345'"),
        ("fashion", "", {"STEPS": "-100"}, "STEPS takes a multiple of 100, .* not '-100'"),
        ("fashion", "", {"SEEDS": "x"}, "SEEDS takes whole numbers, not 'x'"),
    ],
)
def test_a_bad_selection_of_a_grid_is_one_line(name, arguments, environment, message):
    done = shell(name, arguments, DRY_RUN="1", **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(f"error: {message}\n", done.stderr)


def print_grid(settings: str, labels: str) -> subprocess.CompletedProcess:
    grid = f"schedule 100 1\nmethods erm fixmatch\ndataset Digits digits 10 {labels}\n{settings}\n"
    command = ["bash", "-c", ". scripts/cells.sh; grid"]
    environment = os.environ | {"DRY_RUN": "1", "SEEDS": "0"}
    return subprocess.run(command, cwd=ROOT, env=environment, input=grid, capture_output=True, text=True, check=False)


def test_a_setting_of_a_grid_may_be_that_of_one_number_of_labels():
    done = print_grid("all all --lr 0.1\nerm Digits:400 --wd 0", "40 400")
    has = [("--lr 0.1" in line, "--wd 0" in line) for line in done.stdout.splitlines()]
    assert has == [(True, False), (True, False), (True, True), (True, False)]


@pytest.mark.parametrize(
    ("names", "unknown"),
    [("fixmatsch all", "fixmatsch"), ("all CIFAR10", "CIFAR10"), ("erm Digits:40,Digits:4", "Digits:4")],
)
def test_a_setting_that_nothing_has_is_refused_in_one_line(names, unknown):
    done = print_grid(f"{names} --wd 0", "40 400")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: the grid has no '{unknown}', which shall have --wd 0\n"


def test_labels_that_the_classes_cannot_share_are_refused_in_one_line():
    done = print_grid("", "40 45")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: Digits has 10 classes, which cannot share 45 labels: take a multiple\n"


# Running, with a stand-in for Python


@pytest.fixture
def stand_in(tmp_path):
    """A `python` that notes its script, dataset and GPU in `calls`, takes a while, and fails with DTD."""
    path, calls = tmp_path / "python", tmp_path / "calls"
    path.write_text(
        f"""#!/usr/bin/env bash
        echo "$1 $4 ${{CUDA_VISIBLE_DEVICES-unset}}" >>{calls}
        trap 'echo "$1 $4 saved" >>{calls}; exit 143' TERM
        for _ in {{1..5}}; do sleep 0.05; done
        if [ "$4" = DTD ]; then echo "error: no such folder" >&2; exit 2; fi
        """
    )
    path.chmod(0o755)
    calls.touch()
    return path, calls


def test_a_failing_cell_does_not_stop_the_others(stand_in):
    python, calls = stand_in
    done = shell("uda", "moco Aircraft DTD Caltech101", PYTHON=str(python))
    assert done.returncode == 1
    assert calls.read_text().splitlines() == [f"uda.py {name} unset" for name in ("Aircraft", "DTD", "Caltech101")]
    assert done.stdout.endswith("\n2 of 3 cells are finished\n")
    assert re.fullmatch(r"error: no such folder\nexit code 2: \S+ uda.py data/dtd -d DTD .*\n", done.stderr)


def test_success_is_exit_code_0(stand_in):
    done = shell("uda", "moco Aircraft", PYTHON=str(stand_in[0]))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n1 of 1 cells are finished\n")


@pytest.mark.parametrize(("jobs", "gpus", "used"), [("3", "2,5", {"2", "5"}), ("2", "", {""}), ("1", "4,6", {"4,6"})])
def test_jobs_run_at_once_on_the_visible_gpus(stand_in, jobs, gpus, used):
    python, calls = stand_in
    done = shell("dst", "moco", PYTHON=str(python), JOBS=jobs, CUDA_VISIBLE_DEVICES=gpus)
    assert done.returncode == 1
    assert "10 of 11 cells are finished" in done.stdout
    assert "error: no such folder\n" in done.stderr
    seen = [line.split(" ") for line in calls.read_text().splitlines()]
    assert sorted(dataset for _, dataset, _ in seen) == sorted(DATASETS)
    assert {gpu for *_, gpu in seen} == used


def test_a_cell_of_several_processes_has_as_many_gpus(stand_in):
    """Three cells at a time, of two processes each, on five GPUs: the last of them shares the first one's."""
    python, calls = stand_in
    python.write_text(python.read_text().replace("$1 $4", "$7 ${10}"))  # -m torch.distributed.run and its flags
    shell("dst", "moco", PYTHON=str(python), JOBS="3", NPROC="2", CUDA_VISIBLE_DEVICES="4,5,6,7,8")
    seen = [line.split(" ") for line in calls.read_text().splitlines()]
    assert sorted(dataset for _, dataset, _ in seen) == sorted(DATASETS)
    assert {gpu for *_, gpu in seen} == {"4,5", "6,7", "8,4"}


def test_digits_runs_as_many_at_a_time_as_jobs_says(stand_in, tmp_path):
    """Each begins before the first has ended; those that fail are named, and what there is is collected."""
    python, calls = stand_in
    python.write_text(python.read_text() + f'echo "$1 ended" >>{calls}\n')
    done = shell("digits", PYTHON=str(python), JOBS="2", METHODS="erm uda", SEEDS="0", LOGS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = calls.read_text().splitlines()
    assert sorted(lines[:2]) == ["erm.py Digits unset", "uda.py Digits unset"]
    assert lines[-2:] == ["scripts/collect_results.py  unset", "scripts/collect_results.py ended"]
    assert "2 of 2 cells are finished" in done.stdout


def test_a_signal_reaches_the_scripts_and_begins_no_other_cell(stand_in):
    python, calls = stand_in
    environment = os.environ | {"PYTHON": str(python), "JOBS": "2", "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", "scripts/uda.sh", "moco", "Aircraft", "CIFAR10", "CIFAR100", "SUN397"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while len(calls.read_text().splitlines()) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        others = process.stderr.read().splitlines()
    assert process.returncode == 130
    assert sorted(calls.read_text().splitlines())[1::2] == ["uda.py CIFAR10 saved", "uda.py CIFAR100 saved"]
    assert [line.split(":")[0] for line in others] == ["exit code 143", "exit code 143", "not run", "not run"]


def test_a_killed_shell_file_leaves_nobody_who_begins_other_cells(stand_in):
    python, calls = stand_in
    command = ["bash", "scripts/uda.sh", "moco", "Aircraft", "CIFAR10"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHON": str(python)}) as process:
        while not calls.read_text():
            time.sleep(0.01)
        process.kill()
    time.sleep(1)
    assert calls.read_text().splitlines() == ["uda.py CIFAR10 unset"]


def test_the_printed_commands_run_through_xargs(stand_in):
    """As the README does it: one shell for each printed line."""
    python, calls = stand_in
    printed = shell("all", "supervised CIFAR10", DRY_RUN="1", PYTHON=str(python), DATA="data sets").stdout
    command = "tr '\\n' '\\0' | xargs -0 -n 1 -P 4 bash -c"
    subprocess.run(["bash", "-c", command], input=printed, cwd=ROOT, text=True, check=True)
    seen = [line.split(" ")[0] for line in calls.read_text().splitlines()]
    assert sorted(seen) == sorted([f"{method}.py" for method in EPOCHS] + ["erm.py"] * 2)


# The files themselves


def test_what_the_shell_files_call_stands_alone():
    """It starts at once: it imports the standard library and itself, and no torch."""
    imported = set()
    for path in (ROOT / "scripts" / "cells").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
    others = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert others == {"scripts.cells", "scripts.cells.environment"}


@pytest.mark.parametrize("name", ["cells", "setup"])
def test_cdpath_leads_into_no_other_checkout(name, tmp_path):
    (tmp_path / "scripts").mkdir()
    python = tmp_path / "python"  # setup.sh asks for its version first
    python.write_text("#!/usr/bin/env bash\nexit 1\n")
    python.chmod(0o755)
    environment = os.environ | {"CDPATH": str(tmp_path), "PYTHON": str(python)}
    command = ["bash", "-c", f"trap pwd EXIT; . scripts/{name}.sh"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"{ROOT}\n"
    assert not re.findall(r"^\s*cd ", (ROOT / "scripts" / f"{name}.sh").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_the_syntax_is_that_of_bash_3_2(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    newer = r"declare -[Ag]|local -[An]|mapfile|readarray|wait -n|\$\{\w+(,,|\^\^|@)|\|&|&>>|coproc|;;&|\$\{\w+: -"
    assert not re.findall(newer, path.read_text())
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "-x", str(path)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
