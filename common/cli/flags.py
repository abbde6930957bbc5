"""The flags that all methods share. A new flag is off by default.

Outside of `cli/`, only three modules of `common/` read `args`. `common/build.py` reads the flags of images, views,
loaders, network, optimizer and schedule. `Run` reads those of the run itself (`--ema`, `--epochs`, `--device`, ...).
`common/trained.py` reads those of a finished run.
"""

from argparse import ArgumentParser, BooleanOptionalAction, _ArgumentGroup

from common.cli.values import (
    finite,
    fold,
    fraction,
    non_negative,
    non_negative_int,
    number,
    number_or_all,
    path,
    positive,
    positive_int,
    seed,
)
from common.loading import augment
from common.networks.classifier import PRECISIONS

BOTTLENECK_DIM = 1024
METHOD = "method"  # the title of a script's own group
# The shared flags that `--help` shows; `--help-all` shows all.
SHOWN = """root data num_samples_per_class labeled_list val_per_class arch finetune pretrained_backbone batch_size lr
    epochs iters_per_epoch seed log help_all""".split()


def add_data(p: ArgumentParser) -> None:
    g = p.add_argument_group("data")
    g.add_argument("root", type=path, help="folder that holds the dataset")
    g.add_argument(
        "-d",
        "--data",
        required=True,
        metavar="NAME",
        help="dataset: CIFAR100, Digits, ImageFolder (your own images), ...; `python -m common.datasets` lists them",
    )
    g.add_argument(
        "--num-samples-per-class",
        type=number_or_all,
        default=None,
        metavar="N",
        help="labeled images per class, or all (default: 4; with --labeled-list all)",
    )
    g.add_argument(
        "--labeled-list",
        type=path,
        default=None,
        metavar="FILE",
        help="ImageFolder: a CSV file with lines path,class; all other images below the root are unlabeled, except "
        "those in test and val",
    )
    g.add_argument(
        "--min-confidence",
        type=fraction,
        default=None,
        metavar="X",
        help="for a --labeled-list that predict.py wrote: a row with a lower confidence is no label, and its image "
        "stays unlabeled (default: all rows are labels)",
    )
    g.add_argument(
        "--split-seed", type=seed, default=None, metavar="SEED", help="seed of the labeled split (default: --seed)"
    )
    _add_held_out(g)
    _add_images(g)


def _add_held_out(g: _ArgumentGroup) -> None:
    """Flags for labeled images that are not trained on."""
    g.add_argument(
        "--val-per-class",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="labeled images per class, held out of the training to choose the epoch of best.pth (default: 0, the test "
        "set chooses, if any)",
    )
    g.add_argument(
        "--val-fold",
        type=fold,
        default=None,
        metavar="I/N",
        help="hold part I of N equal parts of the labeled images out of the training, and measure on it; best.pth is "
        "the last epoch's (default: none)",
    )


def _add_images(g: _ArgumentGroup) -> None:
    """Flags for which images are read, and how."""
    g.add_argument(
        "--any-counts", action="store_true", help="accept other numbers of classes and images than the known ones"
    )
    g.add_argument(
        "--generated-split", action="store_true", help="SUN397: split it without the official lists (not official)"
    )
    g.add_argument(
        "--flip",
        action=BooleanOptionalAction,
        default=True,
        help="mirror training images, if the dataset allows it; give --no-flip if your own images show digits, text or "
        "the like (default: yes)",
    )
    g.add_argument(
        "--exif-orientation",
        action="store_true",
        help="ImageFolder: turn photographs upright, as their EXIF says (default: they stay as they are stored)",
    )


def add_views(p: ArgumentParser) -> None:
    g = p.add_argument_group("views")
    resizings = {
        "--train-resizing": "default: random crops; cifar: small images, shifted and enlarged; native: not enlarged",
        "--val-resizing": "default: the middle of the whole image; cifar: small images, enlarged; native: as they are",
    }
    for flag, meaning in resizings.items():
        g.add_argument(
            flag,
            choices=augment.RESIZINGS,
            default=None,
            help=f"{meaning} (without the flag: what suits the dataset)",
        )
    g.add_argument(
        "--image-size",
        type=positive_int,
        default=None,
        metavar="PIXELS",
        help="side of the network's input (default: the pretrained backbone's own, else 224; with native resizing the "
        "dataset's own, but ImageFolder then requires this flag)",
    )
    for flag, name in (("--norm-mean", "mean"), ("--norm-std", "standard deviation")):
        g.add_argument(
            flag,
            type=finite if name == "mean" else positive,
            nargs="+",
            default=None,
            metavar="X",
            help=f"{name} of each channel, for pixels in [0, 1] (default: the pretrained backbone's own; from scratch, "
            "with a file and a name without a tag, or with a bare name of torchvision's ResNets such as resnet50: the "
            "dataset's or ImageNet's)",
        )
    _add_strong_views(g)


def _add_strong_views(g: _ArgumentGroup) -> None:
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
        help="largest side of the square that Cutout fills in strong views, as a share of the image's side; 0: no "
        "Cutout (default: 0, or 0.5 with --auto-augment classic)",
    )


def add_model(p: ArgumentParser, joint_passes: bool) -> None:
    g = p.add_argument_group("model")
    g.add_argument(
        "-a",
        "--arch",
        default="resnet50",
        help="backbone: any of timm, or wrn_28_2, ... of docs/training.md (default: resnet50)",
    )
    g.add_argument(
        "--bottleneck-dim",
        type=positive_int,
        default=BOTTLENECK_DIM,
        metavar="D",
        help="width of the bottleneck (default: %(default)s)",
    )
    g.add_argument("--no-bottleneck", action="store_true", help="the head is linear in the backbone's pooled features")
    g.add_argument(
        "--no-pool", action="store_true", help="no effect; accepted for the ancestor's commands (refused for ResNets)"
    )
    _add_start(g)
    _add_adaptation(g)

    if joint_passes:
        g.add_argument(
            "--joint-passes",
            action="store_true",
            help="all views of a step in one pass, which BatchNorm normalises as one batch (default: a pass for each)",
        )


def _add_start(g: _ArgumentGroup) -> None:
    """Flags for the first weights; without one, they are timm's."""
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
        "--init-from",
        type=path,
        default=None,
        metavar="RUN_FOLDER",
        help="start from the network of a finished run for the same classes, in place of any other weights",
    )


def _add_adaptation(g: _ArgumentGroup) -> None:
    """Flags for how a pretrained backbone is trained further."""
    g.add_argument(
        "--drop-path",
        type=number(float, lambda x: 0 <= x < 1, "a number of 0 or more and below 1"),
        default=None,
        metavar="RATE",
        help="stochastic depth: how often training leaves out the last residual branch; falls linearly to 0 at the "
        "first (default: the model's)",
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
        help="freeze the backbone, and train AdaptFormers of that width next to its MLPs (ViT)",
    )
    g.add_argument("--finetune", action="store_true", help="the backbone learns at a tenth of the rate")
    g.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of backbone and bottleneck; two are faster but change the numbers: bf16, and tf32 for the matrix "
        "products of a ViT on a GPU (default: float32)",
    )


def add_optimization(p: ArgumentParser, unlabeled: bool, schedule: bool, strong_labeled: bool) -> None:
    g = p.add_argument_group("optimization")
    g.add_argument(
        "-b", "--batch-size", type=positive_int, default=32, metavar="B", help="labeled images per step (default: 32)"
    )
    g.add_argument(
        "--balanced-batches",
        action="store_true",
        help="labeled batches hold all classes equally often, so that images of small classes are drawn more often "
        "(default: each image is drawn equally often)",
    )
    if unlabeled:
        g.add_argument("--labeled-in-unlabeled", action="store_true", help="use labeled images as unlabeled ones, too")
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
    _add_rate(g, schedule)
    _add_weights(g)
    g.add_argument("--epochs", type=positive_int, default=20, help="epochs (default: %(default)s)")
    g.add_argument(
        "-i", "--iters-per-epoch", type=positive_int, default=500, metavar="N", help="steps of an epoch (default: 500)"
    )


def _add_rate(g: _ArgumentGroup, schedule: bool) -> None:
    """Flags of the optimizer and its learning rate."""
    g.add_argument(
        "--optimizer",
        choices=("sgd", "adamw"),
        default="sgd",
        help="sgd: Nesterov momentum 0.9; adamw: betas 0.9 0.999, and wants a smaller --lr (default: sgd)",
    )
    g.add_argument(
        "--lr", "--learning-rate", type=positive, default=0.003, help="first learning rate (default: %(default)s)"
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
        type=number(float, lambda x: 0 < x <= 1, "a number above 0 and at most 1"),
        default=1.0,
        metavar="X",
        help="each layer of the backbone learns at this part of the next one's rate (default: 1, all alike)",
    )


def _add_weights(g: _ArgumentGroup) -> None:
    """Flags of weight decay and of the average of weights."""
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
        type=number(float, lambda x: 0 <= x < 1, "a number of 0 or more and below 1"),
        default=None,
        metavar="DECAY",
        help="test and keep an average of the weights with this decay per step, such as 0.999; 0: no average "
        "(default: %(default)s)",
    )


def add_run(p: ArgumentParser, method: str) -> None:
    g = p.add_argument_group("run")
    g.add_argument("--seed", type=seed, default=0, help="of every random choice (default: 0)")
    g.add_argument(
        "--log", type=path, default=f"logs/{method}", metavar="DIR", help=f"output folder (default: logs/{method})"
    )
    g.add_argument(
        "-j",
        "--workers",
        type=non_negative_int,
        default=None,
        metavar="N",
        help="loader processes of each set (labeled, unlabeled, test); 0: none (default: by the cores, 4 at most)",
    )
    g.add_argument(
        "--cache",
        type=non_negative_int,
        default=None,
        metavar="MIB",
        help="memory for the decoded images of each set (labeled, unlabeled, test); a set that takes more is decoded "
        "again and again (default: an eighth of the free memory, 4096 at most)",
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
        "--overwrite", action="store_true", help="delete the run in --log, except its log.txt, and start anew"
    )
    g.add_argument(
        "--tensorboard", action="store_true", help="write TensorBoard events, too (needs the package tensorboard)"
    )
