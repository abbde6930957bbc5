"""The shell files: those with loops of their own, and what holds for all of them."""

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys

import pytest

from scripts import label
from tests.conftest import ROOT
from tests.helpers.shell import EPOCHS, dry_run, parse, shell

SHELL_FILES = sorted((ROOT / "scripts").glob("*.sh"))


def test_digits_prints_a_run_for_each_method_and_seed():
    commands = dry_run("digits", "--epochs 2 'a b'", SEEDS="1 2", LOGS="other logs")
    young = ["vat", "mixmatch", "remixmatch", "adamatch", "comatch", "simmatch"]
    methods = [*EPOCHS, "freematch", "softmatch", "noisy_student", *young, "oracle"]
    logs = [f"other logs/{method}_seed{seed}" for seed in (1, 2) for method in methods]
    assert [command[command.index("--log") + 1] for command in commands] == logs
    assert all(command[-3:] == ["--epochs", "2", "a b"] for command in commands)
    assert [parse(command[:-1])["epochs"] for command in commands] == [2] * len(commands)
    (own,) = dry_run("digits", SEEDS="1", METHODS="my_oracle")
    assert own[1] == "my_oracle.py"
    (several,) = dry_run("digits", SEEDS="1", METHODS="uda", NPROC="2")
    assert several[:5] == ["torchrun", "--nproc-per-node", "2", "--", "uda.py"]


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


PARTS = {"no_finetune": {"finetune": False}, "no_bottleneck": {"no_bottleneck": True, "bottleneck_dim": 0}}


def test_parts_of_fine_tuning_are_left_out_one_at_a_time():
    """From the setting of finetune.sh, but that the test images are looked at once."""
    by_log = {args["log"]: args for args in map(parse, dry_run("finetune_parts", SEEDS="3", WEIGHTS="a b.pth"))}
    assert len(by_log) == 6
    for method in ("erm", "fixmatch"):
        of = {name: by_log[f"logs/finetune_parts/{method}/{name}/seed3"] for name in ("both", *PARTS)}
        for name, changed in PARTS.items():
            assert of[name] == of["both"] | changed | {"log": of[name]["log"]}
        (whole,) = dry_run("finetune", f"{method} FashionMNIST", SEEDS="3", WEIGHTS="ab.pth")
        same = {"log": None, "pretrained_backbone": None, "epochs": None, "iters_per_epoch": None}
        assert parse(whole) | same == of["both"] | same
        assert of["both"]["epochs"] * of["both"]["iters_per_epoch"] == 300
        assert of["both"]["pretrained_backbone"] == "a b.pth"


def test_which_method_trains_as_label_sh_does():
    """Its methods have label.sh's flags, the younger ones its rate, and each number of labels its run.

    But the rate does not fall, so that each test is that of a shorter run.
    """
    commands = [parse(command) for command in dry_run("which_method", JPEG="1", WEIGHTS="a.pth")]
    assert len(commands) == 5 * 2 * 3
    shared = "data -d FashionMNIST -a tf_efficientnet_lite0 --no-bottleneck --pretrained-backbone a.pth".split()
    shared += "--train-resizing cifar --val-resizing cifar --image-size 64".split()
    shared += "--norm-mean 0.5 0.5 0.5 --norm-std 0.5 0.5 0.5".split()  # timm's own, which label.sh takes
    for args in commands:
        assert args["epochs"] * args["iters_per_epoch"] == 320
        if args["method"] not in label.METHODS:
            assert args["lr"] == 0.01
            continue
        trained = parse(["python", f"{args['method']}.py", *label.training(shared, args["method"], 4, 320)])
        own = {"log", "root", "data", "num_samples_per_class", "workers", "lr_scheduler"}
        assert {key for key in args if args[key] != trained[key]} <= own
    drawn = sorted((args["method"], args["data"], args["num_samples_per_class"]) for args in commands)
    methods, data = ("debiasmatch", "dst", "erm", "fixmatch", "softmatch"), ("FashionMNIST", "ImageFolder")
    assert drawn == list(itertools.product(methods, data, (2, 10, 100)))


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


@pytest.mark.parametrize("path", [path for path in SHELL_FILES if "/cells.sh" in path.read_text()], ids=str)
def test_help_is_the_comment_at_the_head(path):
    done = subprocess.run(["bash", str(path), "--help"], capture_output=True, text=True, check=True)
    assert f" bash scripts/{path.name} " in done.stdout.replace("\n", " ")
    assert not re.search(r"^#|set -euo|usr/bin/env", done.stdout, re.MULTILINE)


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


def test_cdpath_leads_label_sh_into_no_other_checkout(tmp_path):
    (tmp_path / "scripts").mkdir()
    done = shell("label", "photos labels.csv", CDPATH=str(tmp_path), PYTHON="echo")
    assert done.stdout == f"{ROOT}/scripts/label.py photos labels.csv\n"


@pytest.mark.parametrize("name", ["quickstart", "test"])
def test_help_comes_before_the_installation(name, tmp_path):
    (tmp_path / "scripts").mkdir()
    for file in (name, "setup"):
        shutil.copy(ROOT / "scripts" / f"{file}.sh", tmp_path / "scripts")
    command = ["bash", str(tmp_path / "scripts" / f"{name}.sh"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f" bash scripts/{name}.sh " in done.stdout
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(("python", "ends"), [("python_of_another_name", 2), ("false", 2), ("true", 0)])
def test_label_sh_needs_a_python_with_torch(python, ends):
    done = shell("label", "photos labels.csv", PYTHON=python)
    assert done.returncode == ends
    advice = "run bash scripts/quickstart.sh once, or name another with PYTHON"
    assert done.stderr == (f"error: '{python}' is no Python with torch: {advice}\n" if ends else "")


@pytest.mark.parametrize("value", ["0", ""])
def test_dry_run_of_0_runs(value):
    done = shell("label", "photos labels.csv", PYTHON="echo", DRY_RUN=value)
    assert done.stdout == f"{ROOT}/scripts/label.py photos labels.csv\n"


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_the_syntax_is_that_of_bash_3_2(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    newer = r"declare -[Ag]|local -[An]|mapfile|readarray|wait -n|\$\{\w+(,,|\^\^|@)|\|&|&>>|coproc|;;&|\$\{\w+: -"
    assert not re.findall(newer, path.read_text())
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "-x", str(path)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
