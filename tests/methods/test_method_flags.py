"""Every flag that a script wires up changes what comes out of training, and the defaults are the published ones."""

import contextlib
import functools
import importlib
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import torch

import remixmatch
from common.errors import UserError
from common.loading import augment
from common.networks import backbones
from common.records.folder import Folder
from common.training import evaluate
from tests.conftest import assert_equal_states, assert_same_run, final_state, train_small
from tests.helpers import few_images, steps
from tests.helpers.stops import stop_in_step

# Two epochs of two steps, at settings where predictions are confident enough and state moves fast enough to matter.
BASE = "--iters-per-epoch 2 --lr 0.1"
SELECT = f"{BASE} --threshold 0.15"
FLAGS = {
    "erm": (BASE, ["--trade-off-cls-strong 1", "--oracle"]),
    "pseudo_label": (
        SELECT,
        [
            *("--trade-off-cls-strong 1", "--trade-off-self-training 2", "--threshold 0.95", "--warm-up-epochs 2"),
            "--labeled-statistics",
        ],
    ),
    "pi_model": (
        BASE,
        [
            *("--trade-off-cls-strong 1", "--trade-off-con 2", "--warm-up-epochs 1", "--ramp-up linear"),
            *("--labeled-statistics", "--one-sided"),
        ],
    ),
    "mean_teacher": (
        BASE,
        [
            *("--trade-off-cls-strong 1", "--trade-off-con 2", "--warm-up-epochs 1", "--ramp-up linear"),
            *("--labeled-statistics", "--alpha 0.1", "--eval-teacher"),
        ],
    ),
    "uda": (
        SELECT,
        ["--trade-off-cls-strong 1", "--trade-off-con 2", "--threshold 0.95", "--T 0.4", "--uda-variant paper"],
    ),
    "fixmatch": (SELECT, ["--trade-off-cls-strong 1", "--trade-off-self-training 2", "--threshold 0.95"]),
    "self_tuning": (
        f"{BASE} --projection-dim 8 --K 4",
        ["--projection-dim 6", "--T 1", "--K 5", "--m 0.5", "--milestones 1", "--milestones 1 --lr-gamma 0.5"],
    ),
    "flexmatch": (
        SELECT,
        ["--trade-off-cls-strong 1", "--trade-off-self-training 2", "--threshold 0.95", "--warmup"],
    ),
    "debiasmatch": (
        f"{SELECT} --momentum 0.5",
        [
            *("--trade-off-cls-strong 1", "--trade-off-self-training 2", "--threshold 0.95", "--tau 2"),
            *("--momentum 0.9", "--persistent-q-hat"),
        ],
    ),
    "dst": (
        f"{SELECT} --width 8",
        [
            *("--trade-off-cls-strong 1", "--trade-off-self-training 2", "--threshold 0.95", "--eta 2"),
            *("--eta-prime 1", "--width 9"),
        ],
    ),
    "freematch": (
        f"{BASE} --momentum 0.5",
        [
            *("--trade-off-cls-strong 1", "--trade-off-self-training 2", "--trade-off-fairness 1"),
            *("--momentum 0.9", "--max-tau 0.1"),
        ],
    ),
    "softmatch": (
        f"{BASE} --momentum 0.5",
        ["--trade-off-cls-strong 1", "--trade-off-self-training 2", "--n-sigma 1", "--momentum 0.9"],
    ),
    "adamatch": (
        f"{BASE} --momentum 0.5",
        [
            *("--trade-off-cls-strong 1", "--trade-off-self-training 2", "--threshold 0.99", "--momentum 0.9"),
            *("--window 0", "--window 1", "--interpolate", "--warm-up-epochs 1"),
        ],
    ),
    "mixmatch": (
        f"{BASE} --ema 0.9",
        ["--trade-off-con 2", "--warm-up-epochs 0", "--T 1", "--beta 0.2", "--one-lambda"],
    ),
    "remixmatch": (
        f"{BASE} --ema 0.9 --window 2",
        [
            *("--trade-off-self-training 2", "--trade-off-unmixed 2", "--trade-off-rotation 2", "--warm-up-epochs 0"),
            *("--T 1", "--beta 0.2", "--one-lambda", "--strong-views 1", "--weak-labeled", "--window 3"),
            "--momentum 0.5",
        ],
    ),
    "vat": (
        BASE,
        [
            *("--trade-off-cls-strong 1", "--trade-off-con 2", "--warm-up-epochs 1", "--trade-off-entropy 1"),
            *("--eps 2", "--xi 1", "--power-iterations 2", "--labeled-statistics"),
        ],
    ),
    "comatch": (
        f"{SELECT} --graph-threshold 0.1 --projection-dim 8 --bank-batches 1",
        [
            *("--trade-off-self-training 2", "--trade-off-contrast 2", "--threshold 0.95", "--graph-threshold 0.9"),
            *("--T 1", "--smoothing 0.5", "--window 1", "--bank-batches 2", "--projection-dim 6"),
        ],
    ),
    "simmatch": (  # with all labeled images in a batch, so that its bank is full after a step
        f"{SELECT} --projection-dim 8 --batch-size 40 --unlabeled-batch-size 8",
        [
            *("--trade-off-self-training 2", "--trade-off-instance 2", "--threshold 0.95", "--T 1", "--smoothing 0.5"),
            *("--window 1", "--bank-momentum 0.5", "--projection-dim 6"),
        ],
    ),
    "noisy_student": (
        f"{BASE} --epochs 1 --rounds 1",
        [
            *("--trade-off-cls-strong 1", "--trade-off-self-training 2", "--rounds 2", "--T 1", "--clean-teacher"),
            *("--threshold 0.5", "--balance"),
        ],
    ),
}
# Of the flags that one function of `build` or `run` reads for all scripts, one or two: that the script calls it.
SHARED = [
    *("--num-samples-per-class 3", "--auto-augment classic", "--norm-std .5 .5 .5", "--bottleneck-dim 12"),
    *("--finetune", "--batch-size 6", "--wd 0.1", "--epochs 3", "--seed 1", "--precision bf16", "--ema 0.5"),
]
# The others, and with which methods they are tried.
MORE = [
    *("--split-seed 1", "--auto-augment rand-m1-n2", "--norm-mean .1 .1 .1", "--lr 0.05", "--iters-per-epoch 3"),
    *("--cutout 0.5", "--no-decay-on-norms"),
]
WITH_MORE = ("erm", "fixmatch", "noisy_student")
JOINT = ("debiasmatch", "uda", "fixmatch", "flexmatch", "freematch", "softmatch", "adamatch", "comatch", "simmatch")
UNLABELED = ["--unlabeled-batch-size 6", "--labeled-in-unlabeled"]
SCHEDULE = ["--lr-scheduler cos"]
MORE_OF_SCHEDULE = ["--lr-gamma 0.5", "--lr-gamma 0.5 --lr-decay 0.5"]


def shared(method: str) -> list[str]:
    unlabeled = [] if method == "erm" else UNLABELED
    joint = ["--joint-passes"] if method in JOINT else []
    schedule = [] if method == "self_tuning" else SCHEDULE
    more = [*MORE, *MORE_OF_SCHEDULE] if method in WITH_MORE else []
    of_strong = ("--auto-augment", "--cutout") if method == "mixmatch" else ()  # has no strong view
    return [flag for flag in SHARED if not flag.startswith(of_strong)] + unlabeled + joint + schedule + more


OWN_CASES = [(method, flags) for method in FLAGS for flags in FLAGS[method][1]]
SHARED_CASES = [(method, flags) for method in FLAGS for flags in shared(method)]


@contextlib.contextmanager
def quickly():
    """Runs have a small backbone, are not tested, and draw no views."""
    with (
        few_images.all_images(),  # so that a class, a threshold or a weight can matter
        mock.patch.object(backbones, "backbone", side_effect=lambda *args: steps.Backbone()),
        mock.patch.object(evaluate, "evaluate", side_effect=lambda *args: {"top1": 0.0, "mean_per_class": 0.0}),
        mock.patch.object(Folder, "save_sheet"),
    ):
        yield


@functools.cache
def outcome(method: str, flags: str) -> dict:
    """What a run with a small backbone ends with: the metrics of its epochs, the network and the method's state.

    The learning rates and the generators are left out, in which a flag can show without any effect.
    """
    with tempfile.TemporaryDirectory() as folder, quickly():
        train_small(method, *FLAGS[method][0].split(), *flags.split(), log=Path(folder) / "run")
        state = final_state(Path(folder) / "run")
    return {
        name: part for name, part in state.items() if name not in ("optimizer", "scheduler", "rng", "seconds", "args")
    }


@pytest.mark.parametrize("method", FLAGS)
def test_same_flags_same_outcome(method):
    assert_equal_states(outcome(method, ""), outcome.__wrapped__(method, ""))


@pytest.mark.parametrize(("method", "flags"), OWN_CASES + SHARED_CASES)
def test_flag_changes_the_outcome(method, flags):
    if flags == "--milestones 1 --lr-gamma 0.5":
        before = outcome(method, "--milestones 1")
    elif flags == "--lr-gamma 0.5 --lr-decay 0.5":
        before = outcome(method, "--lr-gamma 0.5")
    else:
        before = outcome(method, "")
    with pytest.raises(AssertionError):
        assert_equal_states(before, outcome(method, flags))


def has_strong_labeled(method: str) -> bool:
    """Whether labeled images have a strong view, with a loss of its own."""
    return method in (*steps.LABELED_ALONE, *steps.SUPERVISED_STRONG)


def from_scratch(method: str) -> list[str]:
    """The flags that papers on training from scratch ask for."""
    strong = ["--trade-off-cls-strong 0"] if has_strong_labeled(method) else []
    unlabeled = [] if method == "erm" else ["--labeled-in-unlabeled"]
    joint = ["--joint-passes"] if method in JOINT else []
    own = {
        "pseudo_label": ["--labeled-statistics", "--warm-up-epochs 2"],
        "pi_model": ["--labeled-statistics", "--warm-up-epochs 2 --ramp-up linear", "--one-sided"],
        "mean_teacher": ["--labeled-statistics", "--warm-up-epochs 2 --ramp-up linear"],
        "vat": ["--labeled-statistics"],
    }
    shared = ["--ema 0.5", "--cutout 0.3", "--auto-augment classic", "--no-decay-on-norms"]
    return [*shared, *strong, *unlabeled, *joint, *own.get(method, [])]


RESUMED = [(method, " ".join(from_scratch(method))) for method in FLAGS]
RESUMED += [(method, flags) for method in ("fixmatch", "pi_model") for flags in from_scratch(method)]


@pytest.mark.parametrize(("method", "flags"), dict.fromkeys(RESUMED))
def test_stopped_in_its_second_epoch_and_continued_it_ends_with_the_same_bits(method, flags, tmp_path):
    """With each flag of training from scratch, and with all of them."""
    argv = [*FLAGS[method][0].split(), *flags.split()]
    with quickly():
        train_small(method, *argv, log=tmp_path / "whole")
        stop_in_step(3, method, *argv, log=tmp_path / "parts")
        assert final_state(tmp_path / "parts")["step"] == 3
        train_small(method, *argv, log=tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("method", FLAGS)
def test_every_flag_of_the_method_is_in_the_table(method):
    group = next(g for g in steps.arguments(method).parser._action_groups if g.title == "method")
    defined = {action.option_strings[0] for action in group._group_actions}
    tried = {word for flags in FLAGS[method][1] for word in flags.split() if word.startswith("--")}
    assert tried - {"--trade-off-cls-strong"} == defined  # one of the shared flags, that all but Self-Tuning have


@pytest.mark.parametrize("method", FLAGS)
def test_backbone_is_asked_for_as_the_flags_say(method, tmp_path):
    flags = "--arch vit_x --image-size 32 --no-pool --norm-mean .1 .2 .3 --norm-std .4 .5 .6".split()
    with mock.patch.object(backbones, "backbone", side_effect=UserError("asked")) as ask, pytest.raises(UserError):
        train_small(method, *flags, log=tmp_path / "run")
    arch, image_size, normalizer, *others = ask.call_args.args
    assert (arch, image_size, *others) == ("vit_x", 32, True, None, True, None)
    assert torch.equal(normalizer.table, augment.Normalizer([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]).table)


# The names of the views, in the order of the loader. Labeled ones: by default, and without the loss of strong ones.
LABELED_VIEWS = {"self_tuning": ("strong strong",) * 2, "remixmatch": ("strong",) * 2}
LABELED_VIEWS |= dict.fromkeys((*steps.WITH_PROJECTOR, "mixmatch"), ("weak",) * 2)
UNLABELED_VIEWS = {
    **dict.fromkeys(("pseudo_label", "vat"), "weak"),
    **dict.fromkeys(("pi_model", "mean_teacher", "mixmatch"), "weak weak"),
    **{"noisy_student": "strong", "self_tuning": "strong strong", "comatch": "weak strong strong"},
    "remixmatch": "weak strong strong",
}


@pytest.mark.parametrize("method", FLAGS)
def test_loaders_have_the_images_and_views_that_the_flags_say(method, tmp_path):
    script, found = importlib.import_module(method), []

    def loader(images, transforms, batch_size, stream, *args, seed, **options):
        assert seed == 3
        names = " ".join(transform.name for transform in transforms)
        loaders[stream] = sorted(image.tobytes() for image in images.images), names, batch_size
        if len(loaders) == 2 or method == "erm":
            raise UserError("asked")

    sizes = ["-b", "6", *(["--unlabeled-batch-size", "10"] if method != "erm" else [])]
    for flags in ((), ("--labeled-in-unlabeled", "--trade-off-cls-strong", "0")):
        accepted = [flag for flag in flags[:1] if method != "erm"] + [*flags[1:]] * has_strong_labeled(method)
        loaders = {}
        with mock.patch.object(script, "TrainLoader", loader), pytest.raises(UserError, match="asked"):
            train_small(method, *accepted, *sizes, "--seed", "3", log=tmp_path / "run")
        found.append(loaders)
    before, after = found
    (labeled, *of_labeled), (still_labeled, *of_fewer) = before["labeled"], after["labeled"]
    assert (len(labeled), still_labeled) == (40, labeled)
    views, fewer = LABELED_VIEWS.get(method, ("weak strong", "weak"))
    assert (of_labeled, of_fewer) == ([views, 6], [fewer, 6])
    if method != "erm":
        (unlabeled, *of_unlabeled), (all_images, *same) = before["unlabeled"], after["unlabeled"]
        assert len(unlabeled) == few_images.TRAIN - 40
        assert all_images == sorted(labeled + unlabeled)
        assert of_unlabeled == same == [UNLABELED_VIEWS.get(method, "weak strong"), 10]


@pytest.mark.parametrize(("flags", "labeled"), [((), "strong"), (("--weak-labeled",), "weak")])
def test_remixmatchs_labeled_view(flags, labeled, tmp_path):
    loader = mock.Mock(side_effect=UserError("asked"))
    with mock.patch.object(remixmatch, "TrainLoader", loader), pytest.raises(UserError, match="asked"):
        train_small("remixmatch", *flags, log=tmp_path / "run")
    assert [transform.name for transform in loader.call_args.args[1]] == [labeled]


PUBLISHED = {
    "num_samples_per_class": 4,
    "auto_augment": "rand-m10-n2-mstd2",
    "arch": "resnet50",
    "bottleneck_dim": 1024,
    "no_pool": False,
    "pretrained_backbone": None,
    "finetune": False,
    "batch_size": 32,
    "lr": 0.003,
    "wd": 0.0005,
    "workers": None,
    "iters_per_epoch": 500,
    "print_freq": 100,
    "phase": "train",
}
RATE = {"lr_scheduler": "exp", "lr_gamma": 0.0004, "lr_decay": 0.75}
EXP = {**RATE, "trade_off_cls_strong": 0.1}
TRAIN = {**EXP, "trade_off_self_training": 1}
WEAK = {key: value for key, value in TRAIN.items() if key != "trade_off_cls_strong"}  # labeled views alone
DEFAULTS = {
    "erm": {**EXP, "epochs": 20, "oracle": False},
    "pseudo_label": {**TRAIN, "epochs": 40, "threshold": 0.95, "warm_up_epochs": 0},
    "pi_model": {**EXP, "epochs": 40, "trade_off_con": 0.1, "warm_up_epochs": 10, "ramp_up": "exp"},
    "mean_teacher": {
        **EXP,
        **{"epochs": 40, "lr": 0.01, "lr_gamma": 0.0001, "alpha": 0.999, "trade_off_con": 0.1, "warm_up_epochs": 10},
        "ramp_up": "exp",
    },
    "uda": {**EXP, "epochs": 60, "trade_off_con": 1, "threshold": 0.7, "T": 0.85},
    "fixmatch": {**TRAIN, "epochs": 60, "threshold": 0.95},
    "self_tuning": {
        **{"epochs": 60, "projection_dim": 1024, "T": 0.07, "K": 32, "m": 0.999},
        **{"lr_gamma": 0.1, "milestones": [12, 24, 36, 48]},
    },
    "flexmatch": {**TRAIN, "epochs": 90, "threshold": 0.95, "warmup": False},
    "debiasmatch": {**TRAIN, "epochs": 90, "threshold": 0.95, "momentum": 0.999, "tau": 1},
    "dst": {
        **TRAIN,
        **{"epochs": 90, "lr": 0.01, "lr_gamma": 0.0002, "threshold": 0.7, "eta": 1, "eta_prime": 2, "width": 2048},
    },
    "freematch": {**TRAIN, "epochs": 60, "trade_off_fairness": 0.001, "momentum": 0.999, "max_tau": 1},
    "softmatch": {**TRAIN, "epochs": 60, "n_sigma": 2, "momentum": 0.999},
    "noisy_student": {**TRAIN, "epochs": 40, "rounds": 3, "T": 2},
    "comatch": {
        **{**WEAK, "epochs": 60, "threshold": 0.95, "trade_off_contrast": 1, "graph_threshold": 0.8, "T": 0.2},
        **{"smoothing": 0.9, "window": 128, "bank_batches": 5, "projection_dim": 64, "ema": 0.999},
    },
    "simmatch": {
        **{**WEAK, "epochs": 60, "threshold": 0.95, "trade_off_instance": 1, "T": 0.1, "smoothing": 0.9},
        **{"window": 128, "bank_momentum": 0.7, "projection_dim": 128, "ema": 0.999},
    },
    "adamatch": {**TRAIN, "epochs": 60, "threshold": 0.9, "momentum": 0.999, "window": 128, "ema": 0.999},
    "mixmatch": {
        **RATE,
        **{"epochs": 60, "ema": 0.999, "trade_off_con": 75, "warm_up_epochs": 1, "T": 0.5, "beta": 0.75},
    },
    "remixmatch": {
        **RATE,
        **{"epochs": 60, "ema": 0.999, "trade_off_self_training": 1.5, "trade_off_unmixed": 0.5},
        **{"trade_off_rotation": 0.5, "warm_up_epochs": 1, "T": 0.5, "beta": 0.75, "window": 128, "momentum": 0.999},
    },
    "vat": {
        **EXP,
        **{"epochs": 40, "trade_off_con": 0.3, "warm_up_epochs": 16, "trade_off_entropy": 0.06, "eps": 6, "xi": 0.1},
        "power_iterations": 1,
    },
}
# Flags that the published runs did not have, at what leaves those runs as they were.
ADDED = {
    **{"image_size": 224, "scratch": False, "device": None, "checkpoint": "best", "overwrite": False},
    **{"seed": 0, "split_seed": 0, "precision": "float32"},
}
ADDED_BY = {
    "pseudo_label": {"labeled_statistics": False},
    "pi_model": {"labeled_statistics": False, "one_sided": False},
    "mean_teacher": {"labeled_statistics": False, "eval_teacher": False},
    "uda": {"uda_variant": "tllib"},
    "debiasmatch": {"persistent_q_hat": False},
    "noisy_student": {"clean_teacher": False, "threshold": 0, "balance": False},
    "adamatch": {"interpolate": False, "warm_up_epochs": 0},
    "vat": {"labeled_statistics": False},
    "mixmatch": {"one_lambda": False},
    "remixmatch": {"one_lambda": False, "strong_views": 2, "weak_labeled": False},
}
OF_DATASET = {
    **{"root": "data", "data": "CUB200", "train_resizing": "default", "val_resizing": "default"},
    **{"norm_mean": [0.485, 0.456, 0.406], "norm_std": [0.229, 0.224, 0.225]},
}


@pytest.mark.parametrize("method", FLAGS)
def test_defaults_are_the_published_ones(method):
    args = importlib.import_module(method).parse_args(["data", "-d", "CUB200"])
    expected = {**PUBLISHED, **DEFAULTS[method], **ADDED, **ADDED_BY.get(method, {}), **OF_DATASET}
    expected["log"] = f"logs/{method}"
    if method != "erm":
        expected["unlabeled_batch_size"] = 32
    assert {name: vars(args)[name] for name in expected} == expected
    group = next(g for g in args.parser._action_groups if g.title == "method")
    assert {action.dest for action in group._group_actions} <= expected.keys()


FRACTIONS = [(m, "--threshold") for m in ("pseudo_label", "uda", "fixmatch", "flexmatch", "debiasmatch", "dst")]
FRACTIONS += [("mean_teacher", "--alpha"), ("debiasmatch", "--momentum"), ("self_tuning", "--m")]
FRACTIONS += [("freematch", "--momentum"), ("freematch", "--max-tau"), ("softmatch", "--momentum")]
FRACTIONS += [(m, flag) for m in steps.WITH_PROJECTOR for flag in ("--threshold", "--smoothing")]
FRACTIONS += [("comatch", "--graph-threshold"), ("simmatch", "--bank-momentum")]
FRACTIONS += [("noisy_student", "--threshold"), ("adamatch", "--threshold"), ("adamatch", "--momentum")]
FRACTIONS += [("remixmatch", "--momentum")]


@pytest.mark.parametrize(("method", "flag"), FRACTIONS)
@pytest.mark.parametrize("value", ["7", "1.01", "-0.1", "nan"])
def test_fractions_outside_0_and_1_are_refused(method, flag, value):
    with pytest.raises(UserError, match=flag):
        steps.arguments(method, f"{flag}={value}")


@pytest.mark.parametrize(("method", "flag"), FRACTIONS)
@pytest.mark.parametrize("value", ["0", "1"])
def test_fractions_from_0_to_1_are_taken(method, flag, value):
    assert getattr(steps.arguments(method, flag, value), flag[2:].replace("-", "_")) == float(value)


@pytest.mark.parametrize(
    ("method", "flag"),
    [
        *(("uda", "--T=0"), ("self_tuning", "--T=0"), ("self_tuning", "--K=0"), ("self_tuning", "--projection-dim=0")),
        *(("self_tuning", "--milestones=0"), ("dst", "--width=0"), ("dst", "--eta=-1"), ("dst", "--eta-prime=-1")),
        *(("debiasmatch", "--tau=-1"), ("pi_model", "--warm-up-epochs=-1"), ("mean_teacher", "--trade-off-con=inf")),
        *(("uda", "--uda-variant=other"), ("freematch", "--trade-off-fairness=-1"), ("softmatch", "--n-sigma=0")),
        *(("noisy_student", "--T=0"), ("noisy_student", "--rounds=0")),
        *(("adamatch", "--window=-1"), ("adamatch", "--warm-up-epochs=-1"), ("comatch", "--window=0")),
        *(("comatch", "--T=0"), ("comatch", "--bank-batches=0"), ("comatch", "--projection-dim=0")),
        *(("comatch", "--trade-off-contrast=-1"), ("simmatch", "--T=0"), ("simmatch", "--trade-off-instance=nan")),
        *(("vat", "--eps=0"), ("vat", "--xi=0"), ("vat", "--warm-up-epochs=-1"), ("vat", "--power-iterations=-1")),
        *(("mixmatch", "--T=0"), ("mixmatch", "--beta=0"), ("mixmatch", "--trade-off-con=-1")),
        *(("mixmatch", "--trade-off-cls-strong=1"), ("mixmatch", "--warm-up-epochs=-1"), ("remixmatch", "--T=0")),
        *(("remixmatch", "--beta=0"), ("remixmatch", "--strong-views=0"), ("remixmatch", "--window=0")),
        *(("remixmatch", "--warm-up-epochs=-1"), ("remixmatch", "--trade-off-unmixed=-1")),
        *(("remixmatch", "--trade-off-rotation=-1"), ("remixmatch", "--trade-off-self-training=-1")),
        *(("vat", "--trade-off-con=-1"), ("vat", "--trade-off-entropy=-1")),
    ],
)
def test_what_makes_no_sense_is_refused(method, flag):
    with pytest.raises(UserError, match=flag.split("=")[0]):
        steps.arguments(method, flag)


def test_networks_of_any_bottleneck_train():
    """1024 stands nowhere but in the default."""
    for method in FLAGS:
        width = [
            p.shape for name, p in outcome(method, "--bottleneck-dim 12")["model"].items() if name == "head.weight"
        ]
        assert width == [torch.Size([10, 12])]
