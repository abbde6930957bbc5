"""Fill in the flags that were not given. Reads no file.

The order matters, since later values depend on earlier ones:
 1. --num-samples-per-class: 4, or all with --labeled-list.
 2. --train-resizing, --val-resizing: the dataset's.
 3. --image-size: under native resizing the dataset's; else the pretrained backbone's own, else 224.
 4. --norm-mean, --norm-std: the pretrained backbone's own, else the dataset's.
 5. --cutout: half a side with --auto-augment classic, else none.
 6. --bottleneck-dim: 0 with --no-bottleneck.
 7. --split-seed: the seed. 8. --unlabeled-batch-size: --batch-size.
Flags that stay None are decided elsewhere: --drop-path by the model, --device by the machine.
"""

import argparse
import os

from common import datasets
from common.cli.flags import BOTTLENECK_DIM
from common.errors import UserError
from common.loading import augment
from common.networks import backbones

CHECKPOINTS = ("best", "latest", "previous", "next_best", "damaged")  # in the folder of a run, which may discard them


def resolve(args: argparse.Namespace) -> None:
    """Replace flags that are None by their values, in the order given above.

    Args:
        args: changed in place.

    Raises:
        UserError: see `parsing.parse`.
    """
    listed = args.labeled_list is not None
    spec = datasets.spec_of(args.data, generated_split=args.generated_split, listed=listed)
    _refuse_contradictions(args, spec)
    if args.num_samples_per_class is None:
        args.num_samples_per_class = "all" if listed else 4
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


def _refuse_contradictions(args: argparse.Namespace, spec: datasets.Spec) -> None:
    if args.min_confidence is not None and args.labeled_list is None:
        raise UserError("--min-confidence is for --labeled-list: give a table of predict.py with it")
    if args.exif_orientation and not spec.is_own:
        raise UserError("--exif-orientation is for ImageFolder: leave it out")
    if args.init_from is not None and os.path.realpath(args.init_from) == os.path.realpath(args.log):
        raise UserError("--init-from and --log name the same folder: choose another --log")
    if args.pretrained_backbone is not None:
        own = [os.path.join(args.log, "checkpoints", f"{name}.pth") for name in CHECKPOINTS]
        if os.path.realpath(args.pretrained_backbone) in map(os.path.realpath, own):
            raise UserError("--pretrained-backbone is a checkpoint of the run in --log: choose another --log")
    if args.val_fold is not None and args.val_per_class:
        raise UserError("--val-fold and --val-per-class both hold images out: choose one of them")


def _resolve_views(args: argparse.Namespace, spec: datasets.Spec) -> None:
    for flag in ("train_resizing", "val_resizing"):
        if getattr(args, flag) is None:
            setattr(args, flag, spec.resizing)
        if getattr(args, flag) != "default" and spec.native_size is None and not spec.is_own:
            name = flag.replace("_", "-")
            raise UserError(
                f"--{name} {getattr(args, flag)} needs images of one size, which {args.data} has not: use default"
            )
    native = args.train_resizing == "native"
    if native != (args.val_resizing == "native"):
        raise UserError("--train-resizing and --val-resizing must both be native, or neither")
    if spec.is_own and args.val_resizing == "cifar" and args.train_resizing != "cifar":
        raise UserError("--val-resizing cifar is for small images of one size: give --train-resizing cifar, too")
    if native and args.image_size is None and spec.is_own:
        raise UserError("native resizing needs the size of your images: give it with --image-size PIXELS")
    if native and args.image_size not in (None, spec.native_size) and not spec.is_own:
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
