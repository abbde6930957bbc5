"""Turn flags into what a script trains with. Besides `cli/`, only this module, `Run` and `trained.py` read `args`.

A feature that all methods share is a flag in `cli/flags.py` and a line here, so that no script changes for it. The
functions that are called from here have explicit parameters.
"""

import argparse
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from common.datasets import Data, Spec, splits
from common.datasets.images import ImageSet
from common.loading import augment
from common.loading.augment import Transform
from common.networks import adapters, backbones, warm_start
from common.run import Run, load_as
from common.system import limits
from common.training import optim

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Images:
    """What a run trains on and is tested on.

    Attributes:
        data: the whole dataset.
        labeled: the images that keep their labels.
        unlabeled_indices: int64, indices into `data.train` of the images that a method sees without labels.
    """

    data: Data
    labeled: ImageSet
    unlabeled_indices: np.ndarray

    @cached_property
    def unlabeled(self) -> ImageSet:
        """The images without labels. They are made on first use, since a subset of an array is a copy."""
        everything = len(self.unlabeled_indices) == len(self.data.train)
        return self.data.train if everything else self.data.train.subset(self.unlabeled_indices)

    @property
    def test(self) -> ImageSet:
        return self.data.test

    @property
    def spec(self) -> Spec:
        return self.data.spec

    @property
    def classes(self) -> list[str]:
        """The class names. A label is an index into them."""
        return self.data.classes


def images(run: Run, args: argparse.Namespace, all_labels: bool = False) -> Images:
    """Read the dataset, draw the labeled and the held-out images, and describe them to the run.

    Args:
        run: the run.
        args: the flags.
        all_labels: label every training image that has a label, except for held-out ones.

    Raises:
        UserError: see `datasets.load`, `splits.split`, `splits.hold_out` and `splits.hold_out_fold`; or the run of
            `--init-from` has other classes.
    """
    data = load_as(args)
    number = 0 if all_labels else args.num_samples_per_class
    labeled, unlabeled = splits.split(data.train.labels, data.classes, number, args.split_seed, data.candidates)
    labeled, unlabeled, held_out = splits.hold_out(labeled, unlabeled, data, args.val_per_class, args.split_seed)
    if all_labels:
        labeled = unlabeled[data.train.labels[unlabeled] >= 0]
    if args.val_fold is not None:
        part, parts = map(int, args.val_fold.split("/"))
        labeled, unlabeled, held_out = splits.hold_out_fold(labeled, unlabeled, data, part, parts, args.split_seed)
    splits.log_spare_labels(data, labeled, held_out)
    if args.init_from is not None:
        warm_start.read(args.init_from).refuse_other_classes(data.classes, args.root)
    run.describe(data, labeled, held_out)
    if getattr(args, "labeled_in_unlabeled", False):  # supervised methods lack the flag
        unlabeled = np.setdiff1d(np.arange(len(data.train)), held_out)
    labeled_images = data.train.subset(labeled)
    return Images(data, labeled_images.evenly() if args.balanced_batches else labeled_images, unlabeled)


def views(spec: Spec, args: argparse.Namespace) -> tuple[Transform, Transform, Transform]:
    """The transforms for weak, strong and test views; see `augment.transforms`."""
    policy = augment.policy(args.auto_augment, args.norm_mean, args.cutout)
    return augment.transforms(spec, args.train_resizing, args.val_resizing, args.image_size, policy)


def loading(run: Run, args: argparse.Namespace) -> dict[str, Any]:
    """The options that all loaders of a run share. Without `-j` and `--cache`, they follow from the machine."""
    workers = limits.workers(sets=3) if args.workers is None else args.workers
    cache = limits.cache(sets=3) if args.cache is None else args.cache
    limits.report(torch.get_num_threads() if run.device.type == "cpu" else 1, workers, cache)
    return {
        "seed": args.seed,
        "workers": workers,
        "cache": cache,
        "normalizer": augment.Normalizer(args.norm_mean, args.norm_std),
        "device": run.device,
    }


def classifier(NetworkClass: type[Network], num_classes: int, args: argparse.Namespace, **own: Any) -> Network:
    """The network to train: a backbone, with adapters if wanted, a bottleneck, and a head.

    Args:
        NetworkClass: `ImageClassifier`, or a method's own subclass.
        num_classes: outputs of the head.
        args: the flags.
        own: further arguments of the method's class, by name.

    Raises:
        UserError: see `backbones.backbone`, `adapters.insert` and `warm_start`.
    """
    normalizer = augment.Normalizer(args.norm_mean, args.norm_std)
    start, scratch, file = None, args.scratch, args.pretrained_backbone
    if args.init_from is not None:
        start, scratch, file = warm_start.read(args.init_from), True, None
        start.refuse_other_network(args.arch, args.adapter)
        start.warn_of_other_statistics(normalizer)
    backbone = backbones.backbone(args.arch, args.image_size, normalizer, scratch, file, args.no_pool, args.drop_path)
    if start is not None:
        start.fill_backbone(backbone)
    adapters.insert(backbone, args.image_size, args.lora, args.adapter)
    network = NetworkClass(backbone, num_classes, args.bottleneck_dim, args.precision, **own)
    if start is not None:
        start.fill(network)
    return network


def optimizer(model: nn.Module, args: argparse.Namespace) -> Optimizer:
    """The optimizer for a model's trained parameters; see `optim.create`."""
    return optim.create(
        args.optimizer, model, args.lr, args.wd, args.finetune, args.layer_decay, args.no_decay_on_norms
    )


def schedule(optimizer: Optimizer, args: argparse.Namespace) -> LambdaLR:
    """The learning-rate schedule over all steps of a training; see `optim.schedule`."""
    steps = args.epochs * args.iters_per_epoch
    return optim.schedule(optimizer, args.lr_scheduler, args.lr_gamma, args.lr_decay, steps, args.lr_warm_up_steps)
