"""The command line that all scripts share, and the one place where an error becomes a line and an exit code."""

import argparse
import math
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch

from common import datasets
from common.errors import Interrupted, UserError
from common.loading import augment
from common.networks import backbones
from common.system import processes

# These flags may differ when a run is resumed: none of them can change a number, as far as devices agree. Whether
# another root holds the same images is told by their fingerprint.
FREE = {"root", "log", "workers", "cache", "print_freq", "phase", "checkpoint", "device", "overwrite", "tensorboard"}
START = {"scratch", "pretrained_backbone"}  # where the weights come from before they are trained
BOTTLENECK_DIM = 1024


class Arguments(argparse.Namespace):
    """The parsed flags; `vars()` gives them all. Their parser stays in a slot, out of `vars()`."""

    __slots__ = ("parser",)


class Parser(argparse.ArgumentParser):
    """argparse, but a bad command line is a `UserError`."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists all flags)")


def parser(
    method: str,
    doc: str,
    *,
    unlabeled: bool = True,
    schedule: bool = True,
    strong_labeled: bool = True,
    joint_passes: bool = False,
) -> Parser:
    """A parser with the flags that all methods share.

    Args:
        method: the script's name; the default of `--log` is `logs/<method>`.
        doc: the script's docstring.
        unlabeled: whether the method draws batches of unlabeled images.
        schedule: whether it follows one of the schedules `exp` and `cos`.
        joint_passes: whether its views may share a pass; see `classifier.passes`.
    """
    p = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    _add_data(p)
    _add_views(p)
    _add_model(p, joint_passes)
    _add_optimization(p, unlabeled, schedule, strong_labeled)
    _add_run(p, method)
    return p


def _add_data(p: Parser) -> None:
    g = p.add_argument_group("data")
    g.add_argument("root", type=path, help="folder that holds the dataset")
    g.add_argument("-d", "--data", required=True, metavar="NAME", help=f"dataset: {', '.join(datasets.SPECS)}")
    g.add_argument(
        "--num-samples-per-class",
        type=number_or_all,
        default=None,
        metavar="N",
        help="labeled images per class, or all that there are (default: 4, or all with --labeled-list)",
    )
    g.add_argument(
        "--labeled-list",
        type=path,
        default=None,
        metavar="FILE",
        help="ImageFolder: labels are those of this CSV file's images: path below the root, class; all others below "
        "the root, but for its folders test and val, are unlabeled",
    )
    g.add_argument(
        "--split-seed", type=seed, default=None, metavar="SEED", help="seed of the labeled split (default: --seed)"
    )
    g.add_argument(
        "--val-per-class",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="labeled images per class that are not trained on, but choose the epoch of best.pth (default: 0, the test "
        "set chooses it)",
    )
    g.add_argument(
        "--any-counts", action="store_true", help="accept other numbers of classes and images than the known ones"
    )
    g.add_argument(
        "--generated-split", action="store_true", help="SUN397: split it without the official lists (not official)"
    )
    g.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="mirror training images where the dataset allows it; --no-flip: never, for digits, text and the like of "
        "your own (default: yes)",
    )


def _add_views(p: Parser) -> None:
    g = p.add_argument_group("views")
    resizings = {
        "--train-resizing": "default: random crops; cifar: small images, shifted and enlarged; native: not enlarged",
        "--val-resizing": "default: the middle of the whole image; cifar: small images, enlarged; native: as they are",
    }
    for flag, what in resizings.items():
        g.add_argument(
            flag,
            choices=augment.RESIZINGS,
            default=None,
            help=f"{what} (without the flag: what suits the dataset)",
        )
    g.add_argument(
        "--image-size",
        type=positive_int,
        default=None,
        metavar="PIXELS",
        help="side of the network's input (default: the pretrained backbone's own, else 224; under native resizing the "
        "dataset's own, which has to be named for ImageFolder)",
    )
    for flag, what in (("--norm-mean", "mean"), ("--norm-std", "standard deviation")):
        g.add_argument(
            flag,
            type=finite if what == "mean" else positive,
            nargs="+",
            default=None,
            metavar="X",
            help=f"{what} of each channel, of pixels in [0, 1] (default: the pretrained backbone's own; with the bare "
            "names of torchvision's ResNets, with files and from scratch, the dataset's or ImageNet's)",
        )
    g.add_argument(
        "--auto-augment",
        default="rand-m10-n2-mstd2",
        metavar="CONFIG",
        help="of the strong views: timm's RandAugment, or classic, 3 of 14 operations as in training from scratch "
        "(default: rand-m10-n2-mstd2)",
    )
    g.add_argument(
        "--cutout",
        type=fraction,
        default=None,
        metavar="SHARE",
        help="largest side of a square that strong views lose, as a share of theirs; 0 for none (default: 0, or 0.5 "
        "with --auto-augment classic)",
    )


def _add_model(p: Parser, joint_passes: bool) -> None:
    g = p.add_argument_group("model")
    g.add_argument(
        "-a",
        "--arch",
        default="resnet50",
        help="any timm model, or wrn_28_2, wrn_28_2_leaky and others (README) (default: resnet50, torchvision's V1)",
    )
    g.add_argument(
        "--bottleneck-dim",
        type=positive_int,
        default=BOTTLENECK_DIM,
        metavar="D",
        help="width of the bottleneck (default: %(default)s)",
    )
    g.add_argument(
        "--no-bottleneck", action="store_true", help="none: the head is linear in the backbone's pooled features"
    )
    g.add_argument(
        "--no-pool", action="store_true", help="changes nothing; for the ancestor's commands (refused for ResNets)"
    )
    start = g.add_mutually_exclusive_group()
    start.add_argument(
        "--pretrained-backbone",
        type=path,
        default=None,
        metavar="FILE",
        help="start from this .pth or .safetensors backbone",
    )
    start.add_argument("--scratch", action="store_true", help="start from random weights")
    g.add_argument(
        "--drop-path",
        type=_number(float, lambda x: 0 <= x < 1, "a number of 0 or more and below 1"),
        default=None,
        metavar="RATE",
        help="how often the last residual branch is left out in training, the first one never (default: the model's)",
    )
    adapters = g.add_mutually_exclusive_group()
    adapters.add_argument(
        "--lora",
        type=positive_int,
        default=None,
        metavar="RANK",
        help="freeze the backbone, and train low-rank adapters in its attention (ViT; needs the package peft)",
    )
    adapters.add_argument(
        "--adapter",
        type=positive_int,
        default=None,
        metavar="WIDTH",
        help="freeze the backbone, and train AdaptFormers of that width beside its MLPs (ViT)",
    )
    g.add_argument("--finetune", action="store_true", help="the backbone learns at a tenth of the rate")
    g.add_argument(
        "--precision",
        choices=("float32", "bf16"),
        default="float32",
        help="of backbone and bottleneck; bf16 is faster but changes the numbers (default: float32)",
    )

    if joint_passes:
        g.add_argument(
            "--joint-passes",
            action="store_true",
            help="all views of a step in one pass, which BatchNorm normalises as one batch (default: a pass for each)",
        )


def _add_optimization(p: Parser, unlabeled: bool, schedule: bool, strong_labeled: bool) -> None:
    g = p.add_argument_group("optimization")
    g.add_argument(
        "-b", "--batch-size", type=positive_int, default=32, metavar="B", help="images per labeled batch (default: 32)"
    )
    if unlabeled:
        g.add_argument("--labeled-in-unlabeled", action="store_true", help="the labeled images are unlabeled ones, too")
        g.add_argument(
            "--unlabeled-batch-size",
            type=positive_int,
            default=None,
            metavar="B",
            help="images per unlabeled batch (default: --batch-size)",
        )
    if strong_labeled:
        g.add_argument(
            "--trade-off-cls-strong",
            type=non_negative,
            default=0.1,
            metavar="X",
            help="weight of the labeled loss of strong views (default: 0.1)",
        )
    g.add_argument(
        "--optimizer",
        choices=("sgd", "adamw"),
        default="sgd",
        help="sgd: Nesterov momentum 0.9; adamw: betas 0.9 0.999, and wants a smaller --lr (default: sgd)",
    )
    g.add_argument(
        "--lr", "--learning-rate", type=positive, default=0.003, help="initial learning rate (default: %(default)s)"
    )
    if schedule:
        g.add_argument(
            "--lr-scheduler",
            choices=("exp", "cos"),
            default="exp",
            help="exp: lr (1 + gamma t)^-decay; cos: lr cos(7 pi t / 16 T) (default: exp)",
        )
        g.add_argument("--lr-gamma", type=non_negative, default=0.0004, help="gamma of exp (default: %(default)s)")
        g.add_argument("--lr-decay", type=non_negative, default=0.75, help="decay of exp (default: 0.75)")
        g.add_argument(
            "--lr-warm-up-steps",
            type=non_negative_int,
            default=0,
            metavar="N",
            help="steps over which the rate rises from 0; the schedule is for the rest (default: 0)",
        )
    g.add_argument(
        "--layer-decay",
        type=_number(float, lambda x: 0 < x <= 1, "a number above 0 and at most 1"),
        default=1.0,
        metavar="X",
        help="each layer of the backbone learns at this part of the next one's rate (default: 1, all alike)",
    )
    g.add_argument(
        "--wd", "--weight-decay", type=non_negative, default=0.0005, help="weight decay of everything (default: 0.0005)"
    )
    g.add_argument(
        "--no-decay-on-norms",
        action="store_true",
        help="no weight decay of biases, norms, and what the network exempts (ViT: position embeddings, tokens)",
    )
    g.add_argument(
        "--ema",
        type=_number(float, lambda x: 0 <= x < 1, "a number of 0 or more and below 1"),
        default=None,
        metavar="DECAY",
        help="test and keep an average of the weights with this decay per step, 0.999 say (default: the weights)",
    )
    g.add_argument("--epochs", type=positive_int, default=20, help="epochs (default: %(default)s)")
    g.add_argument(
        "-i", "--iters-per-epoch", type=positive_int, default=500, metavar="N", help="steps of an epoch (default: 500)"
    )


def _add_run(p: Parser, method: str) -> None:
    g = p.add_argument_group("run")
    g.add_argument("--seed", type=seed, default=0, help="of every random choice (default: 0)")
    g.add_argument(
        "--log", type=path, default=f"logs/{method}", metavar="DIR", help=f"output folder (default: logs/{method})"
    )
    g.add_argument(
        "-j",
        "--workers",
        type=non_negative_int,
        default=4,
        metavar="N",
        help="loader processes of each set (default: 4)",
    )
    g.add_argument(
        "--cache",
        type=non_negative_int,
        default=1024,
        metavar="MIB",
        help="memory for the decoded images of each set (labeled, unlabeled, test); a set that takes more is decoded "
        "again and again (default: 1024)",
    )
    g.add_argument(
        "-p", "--print-freq", type=positive_int, default=100, metavar="N", help="steps between lines (default: 100)"
    )
    g.add_argument("--device", default=None, help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    g.add_argument("--phase", choices=("train", "test"), default="train", help="test: evaluate a checkpoint of --log")
    g.add_argument(
        "--checkpoint", choices=("best", "latest"), default="best", help="which one --phase test takes (default: best)"
    )
    g.add_argument(
        "--overwrite", action="store_true", help="discard the run that is in --log, but for log.txt, and start anew"
    )
    g.add_argument(
        "--tensorboard", action="store_true", help="write TensorBoard events, too (needs the package tensorboard)"
    )


def parse(p: Parser, argv: Sequence[str] | None) -> Arguments:
    """Parse, and fill in what depends on the dataset's name. Reads no file.

    Raises:
        UserError: a flag is unknown, out of range, or at odds with the dataset.
    """
    args = p.parse_args(argv, namespace=Arguments())
    args.parser = p
    resolve(args)
    frozen = args.lora or args.adapter
    if args.phase == "test" and (args.checkpoint == "best" or not frozen):
        # The checkpoint holds all the weights: nothing is downloaded or looked for.
        args.scratch, args.pretrained_backbone = True, None
    return args


def resolve(args: argparse.Namespace) -> None:
    """Replace the flags that are None by the values they stand for; --drop-path's None is the model's own rate.

    Raises:
        UserError: see `parse`.
    """
    if args.data not in datasets.SPECS:
        raise UserError(f"unknown dataset '{args.data}': choose from {', '.join(datasets.SPECS)}")
    spec = datasets.SPECS[args.data]
    if args.generated_split and spec.read_generated is None:
        raise UserError(f"--generated-split is not for {args.data}: leave it out")
    if args.labeled_list is not None and spec.read_listed is None:
        raise UserError(f"--labeled-list is not for {args.data}, which has labels of its own: leave it out")
    if args.num_samples_per_class is None:
        args.num_samples_per_class = 4 if args.labeled_list is None else "all"
    _resolve_views(args, spec)
    if args.no_bottleneck:
        if args.bottleneck_dim not in (0, BOTTLENECK_DIM):
            raise UserError(f"--bottleneck-dim {args.bottleneck_dim} contradicts --no-bottleneck: choose one of them")
        args.bottleneck_dim = 0
    if args.split_seed is None:
        args.split_seed = args.seed
    if getattr(args, "unlabeled_batch_size", 0) is None:
        args.unlabeled_batch_size = args.batch_size
    steps = args.epochs * args.iters_per_epoch
    if getattr(args, "lr_warm_up_steps", 0) >= steps:
        raise UserError(f"--lr-warm-up-steps {args.lr_warm_up_steps} takes all of the {steps} steps: take fewer")


def _resolve_views(args: argparse.Namespace, spec: datasets.Spec) -> None:
    own = spec.counts is None  # then the size of the images is looked up when they are
    for flag in ("train_resizing", "val_resizing"):
        if getattr(args, flag) is None:
            setattr(args, flag, spec.resizing)
        if getattr(args, flag) != "default" and spec.native_size is None and not own:
            name = flag.replace("_", "-")
            raise UserError(
                f"--{name} {getattr(args, flag)} needs images of one size, which {args.data} has not: use default"
            )
    native = args.train_resizing == "native"
    if native != (args.val_resizing == "native"):
        raise UserError("--train-resizing and --val-resizing must both be native, or neither")
    if own and args.val_resizing == "cifar" and args.train_resizing != "cifar":
        raise UserError("--val-resizing cifar is for small images of one size: give --train-resizing cifar, too")
    if native and args.image_size is None and own:
        raise UserError("native resizing needs the size of your images: give it with --image-size PIXELS")
    if native and args.image_size not in (None, spec.native_size) and not own:
        raise UserError(
            f"--image-size {args.image_size} contradicts native resizing, which leaves {args.data} at "
            f"{spec.native_size} pixels: leave it out, or choose --train-resizing cifar --val-resizing cifar"
        )
    weights = backbones.own_config(args.arch, args.scratch, args.pretrained_backbone)
    if args.image_size is None:
        args.image_size = spec.native_size if native else weights.input_size[-1] if weights else 224
    for flag in ("norm_mean", "norm_std"):
        values = getattr(args, flag) or getattr(weights or spec, flag.removeprefix("norm_"))
        if len(values) != 3:
            raise UserError(f"--{flag.replace('_', '-')} takes 3 values, one per channel, got {len(values)}")
        setattr(args, flag, list(values))
    if args.cutout is None:
        args.cutout = 0.5 if args.auto_augment == "classic" else 0.0
    augment.policy(args.auto_augment, args.norm_mean, args.cutout)


def completed(args: Arguments, saved: dict[str, Any]) -> argparse.Namespace:
    """A saved run's arguments, and the defaults of those flags of `args`' parser that are younger than it.

    Raises:
        UserError, TypeError, ValueError: the arguments are none that a run wrote.
    """
    before = argparse.Namespace(**{key: args.parser.get_default(key) for key in vars(args)} | saved)
    resolve(before)
    return before


def differences(args: Arguments, saved: dict[str, Any]) -> list[str]:
    """The flags that can change a number and differ from those of a saved run, as `--lr 0.01 (was 0.03)`.

    A flag that the saved run does not know, because it is younger, takes its default there.
    """
    try:
        before = completed(args, saved)
    except (UserError, TypeError, ValueError) as error:
        file = Path(args.log) / "args.json"
        raise UserError(f"'{file}' is not what a run wrote ({error}): remove it, or choose another --log") from None
    free = FREE | START if args.phase == "test" else FREE
    keys = sorted((set(vars(args)) | set(saved)) - free)
    return [
        f"--{key.replace('_', '-')} {getattr(args, key, None)} (was {getattr(before, key)})"
        for key in keys
        if getattr(args, key, None) != getattr(before, key)
    ]


def launch(parse_args: Callable[[], Arguments], main: Callable[[Arguments], Any]) -> None:
    """Run a script. Bad input is one line on stderr and exit code 2; a signal's exit code is 128 + its number."""
    code, line = 0, None
    try:
        main(parse_args())
    except UserError as error:
        code, line = 2, "error: " + str(error).replace("\n", "\\n")  # the name of a file may have one
    except Interrupted as interruption:
        code, line = 128 + interruption.signum, str(interruption)
    except torch.OutOfMemoryError as error:
        reason = ". ".join(str(error).split(". ")[:2])  # what was asked for; the rest is about the allocator
        code, line = 2, f"error: {reason}: take a smaller --batch-size, or a device with more memory"
    except KeyboardInterrupt:  # before the first step or after the last: the run heeds signals itself in between
        code, line = 128 + signal.SIGINT, "stopped by SIGINT, with nothing new to save: the same command continues"
    processes.leave(code, line)
    if code:
        sys.exit(code)


def path(text: str) -> str:
    """An empty path, from a variable that the shell does not know, would silently mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("must be the name of a file or folder, got ''")
    return text


def number_or_all(text: str) -> int | Literal["all"]:
    """A number of labels per class, or all."""
    return "all" if text == "all" else _number_or_all(text)


LARGEST = {int: 2**32, float: 3e38}  # what PyTorch's own integers and float32 can hold, with something to spare


def _number(convert: type, accepts: Callable[[Any], bool], what: str) -> Callable[[str], Any]:
    def parse_number(text: str) -> Any:
        try:
            value = convert(text)
            good = abs(value) < math.inf and accepts(value)
        except ValueError:
            good = False
        if not good:
            raise argparse.ArgumentTypeError(f"must be {what}, got '{text}'")
        if abs(value) > LARGEST[convert]:
            raise argparse.ArgumentTypeError(f"must be at most {LARGEST[convert]:g}, got '{text}'")
        return value

    return parse_number


positive_int = _number(int, lambda x: x > 0, "a whole number of 1 or more")
_number_or_all = _number(int, lambda x: x > 0, "a whole number of 1 or more, or all")
non_negative_int = _number(int, lambda x: x >= 0, "a whole number of 0 or more")
seed = _number(int, lambda x: 0 <= x < 2**32, "a whole number from 0 to 4294967295")
finite = _number(float, lambda x: True, "a finite number")
positive = _number(float, lambda x: x > 0, "a finite number above 0")
non_negative = _number(float, lambda x: x >= 0, "a finite number of 0 or more")
fraction = _number(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")
