"""The shell files of all methods together print the commands of their settings."""

import csv
import functools
import importlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.helpers import datasets_on_disk
from tests.helpers.shell import dry_run, parse, shell

WITH_THRESHOLD = ("adamatch", "comatch", "simmatch")
YOUNG = (*WITH_THRESHOLD, "vat", "mixmatch", "remixmatch")  # no shell files: the published table has no such rows
FASHION = ["erm", "fixmatch", "flexmatch", "freematch", "softmatch", "uda", "debiasmatch", "dst", "self_tuning"]
FASHION += ["pseudo_label", "pi_model", "mean_teacher", *YOUNG, "oracle"]


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


FINETUNE = [*FASHION[:-7], "noisy_student", "v_pet", *YOUNG, "oracle"]
SHORTER = {"epochs", "iters_per_epoch", "image_size", "arch", "norm_mean", "norm_std", "workers", "root", "log"}
OWN = {"pi_model": {"warm_up_epochs"}, "mean_teacher": {"warm_up_epochs"}, "self_tuning": {"milestones"}}
OWN |= {"v_pet": {"sources", "passes"}, "oracle": {"oracle", "num_samples_per_class"}}


def test_finetune_has_the_settings_of_the_published_table():
    """Those of its column CIFAR10; what is shorter and smaller is the same for all, but for what OWN lists."""
    for command, method in zip(dry_run("finetune", "CIFAR10", SEEDS="0"), FINETUNE, strict=True):
        ours = parse(command)
        if method in YOUNG:
            assert_fixmatchs_with_own_defaults(ours, method)
            continue
        (like,) = dry_run("erm" if method == "oracle" else method, "supervised CIFAR10", ROWS="4")
        theirs = parse(like)
        differing = {key for key in ours if ours[key] != theirs[key]}
        assert differing <= SHORTER | OWN.get(method, set())
        assert (ours["epochs"], ours["iters_per_epoch"], ours["image_size"]) == (3, 100, 64)
        assert ours["finetune"]
        assert ours.get("warm_up_epochs", 0) == (1 if "warm_up_epochs" in OWN.get(method, ()) else 0)


def assert_fixmatchs_with_own_defaults(ours: dict, method: str) -> None:
    (like,) = dry_run("fixmatch", "supervised CIFAR10")
    own, defaults = {"threshold", "ema", "method", "trade_off_self_training"}, default_arguments(method)
    theirs = parse(like) | {key: value for key, value in defaults.items() if key in own}
    differing = {key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]}
    assert differing <= SHORTER | {"ema"}
    assert (ours["lr"], ours["ema"], theirs["ema"]) == (
        (0.003, None, None) if method == "vat" else (0.003, 0.99, 0.999)
    )
    shorter = {"warm_up_epochs": 1} if method == "vat" else {}
    assert all(ours[key] == value for key, value in (defaults | shorter).items() if key not in theirs)


def default_arguments(method: str) -> dict:
    return parse(["python", f"{method}.py", "data", "-d", "CIFAR10"])


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


@pytest.mark.parametrize(("steps", "milestones"), [("100", [1, 1]), ("1300", [1, 1]), ("2000", [6, 8])])
def test_fashions_milestones_are_in_proportion(steps, milestones):
    (command,) = dry_run("fashion", "self_tuning 40", SEEDS="0", STEPS=steps)
    assert parse(command)["milestones"] == milestones  # it refuses one of 0


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
        said["unlabeled_batch_size"] = batch * int(cell["uratio"] or 1)
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
    if method in YOUNG:
        said = of_usb_alone(said, cell) if method in WITH_THRESHOLD else of_torchssl_alone(said, cell, ratio)
    if method in ("pseudo_label", "fixmatch", "flexmatch", *WITH_THRESHOLD):
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


def of_usb_alone(said: dict, cell: dict[str, str]) -> dict:
    """With what USB says of AdaMatch, CoMatch and SimMatch alone."""
    if cell["method"] == "adamatch":  # a running mean in place of a window
        return said | {"momentum": float(cell["ema_p"]), "window": 0, "interpolate": False}
    said = {key: value for key, value in said.items() if key != "trade_off_cls_strong"}
    said |= {"T": float(cell["T"]), "smoothing": float(cell["smoothing_alpha"]), "window": int(cell["da_len"])}
    said["projection_dim"] = int(cell["proj_size"])
    if cell["method"] == "simmatch":
        return said | {"trade_off_instance": float(cell["in_loss_ratio"]), "bank_momentum": 0.7}
    graph = {"graph_threshold": "contrast_p_cutoff", "trade_off_contrast": "contrast_loss_ratio"}
    return said | {ours: float(cell[name]) for ours, name in graph.items()} | {"bank_batches": int(cell["queue_batch"])}


def of_torchssl_alone(said: dict, cell: dict[str, str], ratio: float) -> dict:
    """With what TorchSSL says of VAT, MixMatch and ReMixMatch alone."""
    said = {key: value for key, value in said.items() if key != "trade_off_self_training"}
    if cell["method"] == "vat":  # its file does not say; these are the defaults of its code
        said |= {"trade_off_con": 0.3, "warm_up_epochs": 102, "trade_off_entropy": 0.06}
        return said | {"eps": 6, "power_iterations": 1}
    said = {key: value for key, value in said.items() if key not in ("trade_off_cls_strong", "labeled_statistics")}
    said |= {"T": float(cell["T"]), "beta": float(cell["alpha"]), "one_lambda": True}
    if cell["method"] == "mixmatch":
        return said | {"trade_off_con": ratio, "warm_up_epochs": int(256 * float(cell["ramp_up"]))}
    said |= {"strong_views": 2, "weak_labeled": True, "warm_up_epochs": 256 * float(cell["warm_up"])}
    weights = {"self_training": "w_match", "unmixed": "w_kl", "rotation": "w_rot"}
    return said | {f"trade_off_{ours}": float(cell[name]) for ours, name in weights.items()}


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
    assert len(logs) == len(set(logs)) == 2 * 184
    assert [log.split("_CIFAR10_")[1] for log in logs[:16]] == ["40_labels_seed0"] * 15 + ["all_labels_seed0"]
    assert logs[16] == "logs/erm_CIFAR10_250_labels_seed0"
    assert logs[184] == "logs/erm_CIFAR10_40_labels_seed1"


@pytest.mark.parametrize(
    ("steps", "epochs", "per_epoch"),
    [("10000", 100, 100), ("100", 1, 100), ("1048500", 233, 4500), ("51200", 256, 200)],
)
def test_a_shorter_schedule_is_in_proportion(steps, epochs, per_epoch):
    args = parse(dry_run("scratch", "mean_teacher CIFAR10 40", STEPS=steps)[0])
    assert (args["epochs"], args["iters_per_epoch"]) == (epochs, per_epoch)
    assert args["warm_up_epochs"] == epochs * 40 // 100
    args = parse(dry_run("scratch", "remixmatch CIFAR10 40", STEPS=steps)[0])
    assert args["warm_up_epochs"] == epochs // 64


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
        ("scratch", "", {"STEPS": "10"}, "STEPS takes a multiple of 100, the fewest steps of an epoch, not '10'"),
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
    assert done.stderr == f"error: the grid has no '{unknown}', so these flags would be lost: --wd 0\n"


def test_labels_that_the_classes_cannot_share_are_refused_in_one_line():
    done = print_grid("", "40 45")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: Digits has 10 classes, which cannot share 45 labels: take a multiple\n"
