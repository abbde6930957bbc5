"""The command line: the ancestor's commands, the published defaults, and one line for whatever is wrong."""

import importlib
import json
import re
import runpy
import shlex
import subprocess
import sys
from unittest import mock

import pytest
import torch

import predict
from common import cli
from common.errors import UserError
from common.system import checkpoint
from tests.conftest import ROOT
from tests.methods.test_methods import METHODS

# The published table's defaults, less --data (required), --seed (was None) and --log (was the method's name). The
# resizings and statistics are those of a dataset without its own.
COMMON = {
    "num_samples_per_class": 4,
    "train_resizing": "default",
    "val_resizing": "default",
    "norm_mean": [0.485, 0.456, 0.406],
    "norm_std": [0.229, 0.224, 0.225],
    "auto_augment": "rand-m10-n2-mstd2",
    "arch": "resnet50",
    "bottleneck_dim": 1024,
    "no_pool": False,
    "pretrained_backbone": None,
    "finetune": False,
    "trade_off_cls_strong": 0.1,
    "batch_size": 32,
    "lr": 0.003,
    "lr_scheduler": "exp",
    "lr_gamma": 0.0004,
    "lr_decay": 0.75,
    "lr_warm_up_steps": 0,
    "layer_decay": 1.0,
    "optimizer": "sgd",
    "wd": 0.0005,
    "no_decay_on_norms": False,
    "workers": None,
    "iters_per_epoch": 500,
    "print_freq": 100,
    "phase": "train",
}
DEFAULTS = {
    "erm": COMMON | {"oracle": False, "epochs": 20},
    "fixmatch": COMMON | {"trade_off_self_training": 1, "threshold": 0.95, "epochs": 60},
}
OURS = {
    "val_fold": None,
    "balanced_batches": False,
    "precision": "float32",
    "seed": 0,
    "split_seed": 0,
    "device": None,
    "image_size": 224,
    "drop_path": None,
    "lora": None,
    "adapter": None,
    "scratch": False,
    "overwrite": False,
    "cache": None,
    "tensorboard": False,
    "checkpoint": "best",
    "ema": None,
    "no_bottleneck": False,
    "cutout": 0.0,
    "any_counts": False,
    "generated_split": False,
    "labeled_list": None,
    "min_confidence": None,
    "exif_orientation": False,
    "flip": True,
    "val_per_class": 0,
    "init_from": None,
}


def parse(method: str, command: str) -> dict:
    return vars(importlib.import_module(method).parse_args(shlex.split(command)))


@pytest.mark.parametrize("method", DEFAULTS)
def test_defaults_are_the_published_ones(method):
    expected = DEFAULTS[method] | OURS | {"root": "data", "data": "ImageFolder", "log": f"logs/{method}"}
    if method != "erm":
        expected |= {"unlabeled_batch_size": 32, "labeled_in_unlabeled": False, "joint_passes": False}
    assert parse(method, "data -d ImageFolder") == expected


CIFAR100 = (
    "data/cifar100 -d CIFAR100 --train-resizing 'cifar' --val-resizing 'cifar' --norm-mean 0.5071 0.4867 0.4408 "
    "--norm-std 0.2675 0.2565 0.2761 --num-samples-per-class 4 -a resnet50 "
)
MOCO = "--pretrained-backbone checkpoints/moco_v2_800ep_backbone.pth "


@pytest.mark.parametrize(
    ("method", "command", "values"),
    [
        (
            "erm",
            CIFAR100 + MOCO + "--lr 0.001 --finetune --lr-scheduler cos --seed 0 "
            "--log logs/erm_moco_pretrain/cifar100_4_labels_per_class",
            {
                "lr": 0.001,
                "lr_scheduler": "cos",
                "finetune": True,
                "pretrained_backbone": "checkpoints/moco_v2_800ep_backbone.pth",
                "log": "logs/erm_moco_pretrain/cifar100_4_labels_per_class",
            },
        ),
        ("erm", CIFAR100 + "--oracle --lr 0.01 --epochs 80 --finetune --seed 0", {"oracle": True, "epochs": 80}),
        ("fixmatch", CIFAR100 + "--lr 0.01 --finetune --threshold 0.8 --seed 0", {"lr": 0.01, "threshold": 0.8}),
        ("fixmatch", CIFAR100 + "--learning-rate 0.02 --weight-decay 0.1 -b 16 -j 2 -i 7 -p 3", {
            "lr": 0.02, "wd": 0.1, "batch_size": 16, "workers": 2, "iters_per_epoch": 7, "print_freq": 3,
            "unlabeled_batch_size": 16,
        }),
    ],
)  # fmt: skip
def test_the_ancestors_commands(method, command, values):
    args = parse(method, command)
    assert args["norm_mean"] == [0.5071, 0.4867, 0.4408]
    assert args["norm_std"] == [0.2675, 0.2565, 0.2761]
    assert args["train_resizing"] == args["val_resizing"] == "cifar"
    assert args["image_size"] == 224
    assert {key: args[key] for key in values} == values


SVHN = [0.4377, 0.4438, 0.4728], [0.198, 0.201, 0.197]
STL10 = [0.4467, 0.4398, 0.4066], [0.2603, 0.2566, 0.2713]


@pytest.mark.parametrize(
    ("flags", "values"),
    [
        ("-d CIFAR10", {"train_resizing": "cifar", "norm_mean": [0.4912, 0.4824, 0.4467], "image_size": 224}),
        ("-d CIFAR100", {"val_resizing": "cifar", "norm_std": [0.2675, 0.2565, 0.2761], "image_size": 224}),
        ("-d CIFAR100", {"norm_mean": [0.5071, 0.4867, 0.4408]}),
        ("-d FashionMNIST", {"train_resizing": "cifar", "norm_mean": [0.286] * 3, "norm_std": [0.353] * 3}),
        ("-d SVHN", {"train_resizing": "cifar", "norm_mean": SVHN[0], "norm_std": SVHN[1]}),
        ("-d SVHNExtra", {"train_resizing": "cifar", "norm_mean": SVHN[0], "norm_std": SVHN[1]}),
        ("-d STL10", {"train_resizing": "cifar", "norm_mean": STL10[0], "norm_std": STL10[1]}),
        ("-d CIFAR10 --train-resizing default", {"train_resizing": "default", "val_resizing": "cifar"}),
        ("-d CIFAR10 --norm-mean 0.5 0.5 0.5", {"norm_mean": [0.5] * 3, "norm_std": [0.2471, 0.2435, 0.2616]}),
        ("-d CIFAR10 --train-resizing native --val-resizing native", {"image_size": 32}),
        ("-d ImageFolder --image-size 96", {"image_size": 96, "norm_mean": [0.485, 0.456, 0.406]}),
        ("-d Digits --seed 3", {"split_seed": 3}),
        ("-d Digits --seed 3 --split-seed 0", {"seed": 3, "split_seed": 0}),
        ("-d Digits --seed 4294967295", {"seed": 2**32 - 1, "split_seed": 2**32 - 1}),
        ("-d Digits -b 8 --unlabeled-batch-size 56", {"batch_size": 8, "unlabeled_batch_size": 56}),
    ],
)
def test_what_depends_on_the_dataset_is_resolved_without_reading(flags, values):
    args = parse("fixmatch", f"/nowhere {flags}")
    assert {key: args[key] for key in values} == values


CLIP, DINOV2 = "vit_base_patch16_clip_224.openai", "vit_base_patch14_reg4_dinov2.lvd142m"
CLIP_MEAN, HALF, IMAGENET = [0.48145466, 0.4578275, 0.40821073], [0.5] * 3, [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("flags", "image_size", "norm_mean"),
    [
        (f"-d DTD -a {CLIP}", 224, CLIP_MEAN),
        (f"-d DTD -a {DINOV2}", 518, IMAGENET),
        (f"-d DTD -a {DINOV2} --image-size 224", 224, IMAGENET),
        ("-d CIFAR10 -a vit_small_patch16_384", 384, HALF),
        ("-d CIFAR10 -a vit_small_patch16_384 --norm-mean 0 0 0", 384, [0.0] * 3),
        ("-d CIFAR10 -a vit_small_patch16_384 --train-resizing native --val-resizing native", 32, HALF),
        (f"-d DTD -a {CLIP} --pretrained-backbone weights.pth", 224, CLIP_MEAN),
        ("-d DTD -a vit_small_patch16_384 --pretrained-backbone weights.pth", 224, IMAGENET),
        (f"-d DTD -a {CLIP} --scratch", 224, IMAGENET),
        ("-d DTD -a wrn_28_2", 224, IMAGENET),
        ("-d CIFAR10 -a resnet50", 224, [0.4912, 0.4824, 0.4467]),
        ("-d CIFAR10 -a resnet50.tv_in1k", 224, IMAGENET),
    ],
)
def test_a_pretrained_backbone_has_its_own_size_and_statistics(flags, image_size, norm_mean):
    args = parse("fixmatch", f"/nowhere {flags}")
    assert (args["image_size"], args["norm_mean"]) == (image_size, norm_mean)


@pytest.mark.parametrize("method", DEFAULTS)
def test_arguments_are_plain_values(method):
    args = parse(method, "data -d Digits")
    assert json.loads(json.dumps(args)) == args


def shown(method: str, flag: str, capsys) -> str:
    """What the flag prints on a terminal of 80 columns."""
    with mock.patch.dict("os.environ", COLUMNS="80"), pytest.raises(SystemExit) as end:
        parse(method, flag)
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert not err
    return out


@pytest.mark.parametrize("method", METHODS)
def test_help_is_one_screen_and_begins_with_a_command(method, capsys):
    script, text = importlib.import_module(method), shown(method, "--help", capsys)
    first, example, *_ = text.split("\n\n")
    assert first == " ".join(script.__doc__.split("\n\n")[0].split())
    python, file, *argv = example.removeprefix("example: ").split()
    assert (python, file) == ("python", f"{method}.py")
    script.parse_args(argv)
    assert len(text.splitlines()) <= 44
    for flag in ("--help-all", "--data", "--arch", "--labeled-list", "--epochs", "--iters-per-epoch", "--log"):
        assert f"{flag} " in text
    assert "--norm-mean" not in text
    own = re.findall(r"^  (--[\w-]+)", shown(method, "--help-all", capsys).partition("\nmethod:\n")[2], re.M)
    assert own
    assert all(f"  {flag}" in text for flag in own)


def test_help_all_names_every_flag_and_ends_with_the_formula(capsys):
    for method in METHODS:
        text = shown(method, "--help-all", capsys)
        assert text.endswith(importlib.import_module(method).__doc__.strip() + "\n")
        for key in importlib.import_module(method).parse_args(example(method)).__dict__:
            assert key == "root" or f"--{key.replace('_', '-')}" in text


def example(method: str) -> list[str]:
    return ["data", "-d", "Digits", *(["--sources", "a", "b"] if method == "v_pet" else [])]


def test_programs_with_few_flags_show_all_of_them(capsys):
    with pytest.raises(SystemExit):
        predict.parse_args(["--help"])
    assert "--batch-size" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--help-all: did you mean --help\? \(--help lists all flags\)"):
        predict.parse_args(["run", "image.png", "--help-all"])


def test_native_resizing_of_own_images_needs_their_size():
    native = "data -d ImageFolder --train-resizing native --val-resizing native"
    with pytest.raises(UserError, match="native resizing needs the size of your images: give it with --image-size"):
        parse("erm", native)
    assert parse("erm", f"{native} --image-size 28")["image_size"] == 28


def test_launch_passes_a_result_and_turns_errors_into_exit_codes(capsys):
    def bad(args):
        raise UserError("this is wrong")

    cli.launch(lambda: None, lambda args: None)
    with pytest.raises(SystemExit) as end:
        cli.launch(lambda: None, bad)
    assert end.value.code == 2
    assert capsys.readouterr() == ("", "error: this is wrong\n")


def test_launch_says_what_to_do_where_a_gpus_memory_is_full(capsys):
    def too_large(args):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB"
        )

    with pytest.raises(SystemExit) as end:
        cli.launch(lambda: None, too_large)
    assert end.value.code == 2
    line = "CUDA out of memory. Tried to allocate 2.00 GiB: take a smaller --batch-size, or a device with more memory"
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_memory_that_is_full_is_not_blamed_on_the_checkpoint(tmp_path):
    class Full:
        def load_state_dict(self, state):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        checkpoint.restore({"model": Full()}, {"model": {}}, tmp_path)


def test_launch_ends_with_130_where_ctrl_c_comes_before_the_first_step(capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        cli.launch(lambda: None, interrupted)
    assert end.value.code == 130
    assert capsys.readouterr().err == "stopped by SIGINT, with nothing new to save: the same command continues\n"


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("fixmatch.py", "data -d Digits --threshold 7", "argument --threshold: must be a number from 0 to 1, got '7'"),
        ("erm.py", "/nowhere -d ImageFolder -a resnet18 --scratch --device cpu --log LOG", "folder '/nowhere'"),
        ("erm.py", "data -d Digits -a resnet5 --scratch --device cpu --log LOG", "unknown model 'resnet5'"),
    ],
)
def test_a_script_ends_with_one_line_and_code_2(tmp_path, monkeypatch, capsys, script, flags, message):
    argv = flags.replace("LOG", str(tmp_path / "run")).split()
    monkeypatch.setattr(sys, "argv", [script, *argv])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_so_does_its_process(tmp_path):
    argv = f"data -d Digits -a resnet5 --scratch --device cpu --log {tmp_path / 'run'}".split()
    done = subprocess.run([sys.executable, "erm.py", *argv], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: unknown model 'resnet5'")


PATHS = {
    "erm": "~/data -d ImageFolder --log=~/log --labeled-list=~/list.csv --pretrained-backbone=~/file.pth",
    "fixmatch": "data -d Digits --init-from=~/run",
    "v_pet": "data -d Digits --sources=~/run",
    "predict": "~/run ~/photos '~/*.png' --out=~/out.csv",
    "export": "~/run ~/out.safetensors",
    "convert_moco_to_pretrained": "~/in.pth ~/out.pth ~/fc.pth",
    "common.datasets.__main__": "~/data",
    "scripts.collect_results": "~/logs --csv=~/csv --markdown=~/md --plots=~/plots",
    "scripts.compare_runs": "~/a ~/b --markdown=~/md",
    "scripts.select_run": "~/logs --root=~/data",
    "scripts.example_images": "~/photos",
    "scripts.label": "~/photos ~/labels.csv --weights=~/file.pth --out=~/labels",
    "scripts.lite0_backbone": "~/lite0.whl ~/out.pth",
    "scripts.benchmark": "--json=~/x.json",
}


@pytest.mark.parametrize("program", PATHS)
def test_a_tilde_is_the_home_folder_in_every_path(program, monkeypatch):
    """The shell leaves it as it is after `=` and in quotes."""
    monkeypatch.setenv("HOME", "/home/me")
    args = vars(importlib.import_module(program).parse_args(shlex.split(PATHS[program])))
    words = [str(word) for value in args.values() for word in (value if isinstance(value, list) else [value])]
    assert not [word for word in words if "~" in word]
    assert sum(word.startswith("/home/me/") for word in words) == PATHS[program].count("~")


@pytest.mark.parametrize("program", PATHS)
def test_no_program_takes_an_abbreviated_flag(program):
    words = shlex.split(PATHS[program])
    flag = {"fixmatch": "--epoch", "erm": "--epoch", "v_pet": "--epoch"}.get(program, "--hel")
    with pytest.raises(UserError, match=f"unrecognized arguments: {flag}"):
        importlib.import_module(program).parse_args([*words, flag, "1"])


def test_a_file_of_ones_own_beside_the_checkpoints_may_be_the_beginning(tmp_path):
    command = f"data -d Digits --log {tmp_path} --pretrained-backbone {tmp_path}/checkpoints"
    assert parse("erm", f"{command}/moco.pth")["pretrained_backbone"].endswith("moco.pth")
    with pytest.raises(UserError, match="is a checkpoint of the run in --log"):
        parse("erm", f"{command}/best.pth")


def test_a_run_that_kept_a_tilde_is_the_same(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    args = importlib.import_module("erm").parse_args("~/data -d ImageFolder --labeled-list=~/list.csv".split())
    saved = vars(args) | {"root": "~/data", "labeled_list": "~/list.csv"}
    assert cli.differences(args, saved) == []


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_tested_by_its_folder_alone(method, tmp_path):
    """Without `-d`, a root, or what the method requires; and flags that are given still count."""
    own = METHODS[method].replace("@", "logs/")
    command = f"photos -d ImageFolder --labeled-list l.csv -a resnet18 --norm-mean 0 0 0 -j 3 --seed 5 {own}"
    args = parse(method, f"{command} --log {tmp_path}")
    (tmp_path / "args.json").write_text(json.dumps({"method": method, "args": args}))
    found = parse(method, f"--phase test --log {tmp_path}")
    expected = args | {"phase": "test", "scratch": True, "workers": None}  # workers are the machine's matter
    assert found == expected
    assert parse(method, f"other --phase=test --log={tmp_path} --seed 6") == expected | {"root": "other", "seed": 6}


def test_a_folder_without_a_run_is_not_tested(tmp_path):
    with pytest.raises(UserError, match="holds no run to test: train first, or name its folder with --log"):
        parse("erm", f"--phase test --log {tmp_path}")
    (tmp_path / "args.json").write_text(json.dumps({"args": {"norm_mean": 5}}))
    with pytest.raises(UserError, match=r"args.json' is not what a run wrote .*: remove it, or choose another --log"):
        parse("erm", f"--phase test --log {tmp_path}")


@pytest.mark.parametrize(
    ("flags", "reported"),
    [
        ("--treshold 0.5", "unrecognized arguments: --treshold 0.5: did you mean --threshold? (--help"),
        ("--num_samples_per_class=4", "did you mean --num-samples-per-class? (--help"),
        ("--batch 4 --iters 5", "did you mean --batch-size and --iters-per-epoch? (--help"),
        ("--frobnicate 1", "unrecognized arguments: --frobnicate 1 (--help"),
        ("4 -z", "unrecognized arguments: 4 -z (--help"),
    ],
)
def test_which_flag_may_have_been_meant(flags, reported):
    with pytest.raises(UserError) as error:
        parse("fixmatch", f"data -d Digits {flags}")
    assert reported in str(error.value)
