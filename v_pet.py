"""V-PET: one new network learns the classes that several finished runs vote for.

    loss    = KL(targets || x_u_weak) + KL(targets || x_u_strong)  (+ loss_l, with --with-labels)
    targets = mean over the sources of one_hot(argmax(mean over --passes weak views of the source's logits))
    loss_l  = CE(x_l_weak) + trade_off_cls_strong * CE(x_l_strong)

The sources are finished runs of any script, on the same images and labels; their networks are those of the last epoch.
They may differ in backbone, adapters, image size and method, and the more they differ the better. They vote once,
before the first step. The checkpoint holds the votes. `sources.json` says how far they agree, and how many are right.
With a single source this is plain self-training. The new network begins with the pretrained weights, and there is one
round.

Paper: Zhang et al., Revisiting semi-supervised learning in the era of foundation models, NeurIPS 2025,
arXiv:2503.09707, algorithm 1. As there, the labels themselves are not used: the sources have learned them. Differences:
 1. Labeled images are not among the unlabeled (the paper: --labeled-in-unlabeled, with votes as their labels).
 2. The sources' settings are the user's. The paper chooses them by criteria that need no labels.
 3. The released code takes the softmax of the counts of votes, which is flatter: --target softmax-counts.

Shell file: scripts/v_pet.sh. Diff against: erm.py.
"""

import dataclasses
import itertools
import logging
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from common import build, cli, trained
from common.errors import UserError
from common.loading import augment
from common.loading.loaders import TestLoader, TrainLoader
from common.networks import ImageClassifier, precision_of_its_own
from common.run import Run
from common.system import processes, seeding
from common.system.files import read_json
from common.training.evaluate import accuracy, masked_accuracy

logger = logging.getLogger("common")


def parse_args(argv=None):
    sources = "--sources logs/erm/cifar100 logs/fixmatch/cifar100"
    parser = cli.parser(__file__, __doc__, example=sources)
    group = parser.add_argument_group("method")
    group.add_argument(
        "--sources",
        type=cli.path,
        nargs="+",
        required=True,
        metavar="RUN_FOLDER",
        help="finished runs, usually several",
    )
    group.add_argument(
        "--passes", type=cli.positive_int, default=10, metavar="N", help="weak views of an image per vote (default: 10)"
    )
    group.add_argument(
        "--target",
        choices=("mean", "softmax-counts"),
        default="mean",
        help="mean of the votes, or the softmax of their numbers (default: mean)",
    )
    group.add_argument("--with-labels", action="store_true", help="add the labeled loss")
    parser.set_defaults(epochs=30)
    args = cli.parse(parser, argv)
    if os.path.realpath(args.log) in map(os.path.realpath, args.sources):
        raise UserError("--sources and --log name the same folder: choose another --log")
    return args


def check_sources(folders, fingerprints):
    """Refuse sources that are not finished, or have other images or labels."""
    if len({os.path.realpath(folder) for folder in folders}) < len(folders):
        raise UserError("--sources names a run twice: give each of them once")
    for folder in map(Path, folders):
        if not all(os.path.isfile(folder / name) for name in ("result.json", "checkpoints/latest.pth")):
            raise UserError(f"'{folder}' holds no finished run: run its command to the end, or name another one")
        found = read_json(folder / "labeled.json", "name another run")
        # Of your own images the files count. Their data_sha256 also holds a size that --train-resizing looked up.
        images = "content_sha256" if "content_sha256" in {*found} & {*fingerprints} else "data_sha256"
        if any(found.get(name) != fingerprints[name] for name in (images, "labeled_sha256")):
            raise UserError(
                f"'{folder}' was trained on other images or labels than this run is to be: choose runs with the same "
                "dataset, --num-samples-per-class and --split-seed"
            )


class Votes(nn.Module):
    """The class that each source gives to each unlabeled image: `votes` int64 [N, S]."""

    def __init__(self, num_images, num_sources, num_classes, target):
        super().__init__()
        self.register_buffer("votes", torch.zeros(num_images, num_sources, dtype=torch.int64))
        self.num_classes, self.target = num_classes, target

    def forward(self, indices):
        """Soft labels [B, C]."""
        counts = F.one_hot(self.votes[indices], self.num_classes).sum(dim=1).float()
        return counts / self.votes.shape[1] if self.target == "mean" else counts.softmax(dim=1)

    @torch.no_grad()
    def cast(self, source, network, loaders):
        """Each loader gives one view of all images. With several processes, each works on its share."""
        network.eval()
        classes, logits = torch.zeros_like(self.votes[:, source]), 0
        for loader in loaders:
            none = torch.zeros(0, self.num_classes, device=classes.device)
            logits = logits + torch.cat([none, *(network(images) for images, _ in loader)])
            order = loader.order.to(classes.device)
        classes[order] = logits.argmax(dim=1)
        self.votes[:, source] = processes.sum(classes)

    def summary(self, labels):
        """In percent: how often two sources agree, and how often all do; how many votes of each source are right, and
        how many majority votes.

        A tie goes to the first class. Accuracies are over the images whose `labels` [N] are known, not -1.
        """
        votes, labels = self.votes.cpu(), torch.as_tensor(labels)
        known, most = labels >= 0, F.one_hot(votes, self.num_classes).sum(dim=1).numpy().argmax(axis=1)

        def percent(hits):
            return round(100 * hits.float().mean().item(), 2) if len(hits) else None

        pairs = itertools.combinations(range(votes.shape[1]), 2)
        return {
            "pairwise_agreement": {f"{i + 1}-{j + 1}": percent(votes[:, i] == votes[:, j]) for i, j in pairs},
            "unanimous": percent((votes == votes[:, :1]).all(dim=1)),
            "source_accuracy": [percent(column[known] == labels[known]) for column in votes.T],
            "most_votes_accuracy": percent(torch.as_tensor(most)[known] == labels[known]),
        }


def make_votes(votes, images, spec, folders, args, options):
    """Let each source vote on the images, prepared as in its own run. The main process's generators are not used."""
    described = []
    for number, folder in enumerate(folders):
        with precision_of_its_own():
            with seeding.preserved():
                source = trained.load(Path(folder), "latest")
            loaders = views_for(source, folder, images, spec, args, options)
            votes.cast(number, source.model.to(options["device"]), loaders)
        described.append({"folder": str(folder), "method": source.method, "arch": source.args.arch})
    return {"sources": described, "passes": args.passes, "votes": votes.summary(images.labels)}


def views_for(source, folder, images, spec, args, options):
    """A loader of a weak view of all images for each pass, as the source's run made them."""
    own = source.args
    if own.train_resizing != "default" and spec.native_size is None:
        raise UserError(f"'{folder}' was trained with --train-resizing {own.train_resizing}: give it to this run, too")
    spec = dataclasses.replace(spec, flip=spec.flip and own.flip)
    weak, _, _ = augment.transforms(spec, own.train_resizing, own.val_resizing, own.image_size, strong=[])
    options = options | {"normalizer": augment.Normalizer(own.norm_mean, own.norm_std), "cache": 0}
    as_read = images.oriented(own.exif_orientation)
    return (TestLoader(as_read, weak, stream=f"votes {i}", **options) for i in range(args.passes))


def self_training_loss(logits, targets):
    """KL(targets || softmax(logits)), the mean over the batch."""
    return F.kl_div(F.log_softmax(logits, dim=1), targets, reduction="batchmean")


def train_step(model, votes, optimizer, batch_l, batch_u, args):
    """`batch_l` is None without --with-labels."""
    (x_u_weak, x_u_strong), labels_u, indices_u = batch_u

    targets = votes(indices_u)
    logits_u_weak = model(x_u_weak)
    logits_u_strong = model(x_u_strong)
    loss_u = self_training_loss(logits_u_weak, targets) + self_training_loss(logits_u_strong, targets)
    every_image = torch.ones_like(labels_u)
    loss = loss_u
    metrics = {
        "loss_u": loss_u,
        "pseudo_label_accuracy": masked_accuracy(targets.argmax(dim=1), labels_u, every_image),
        "accuracy_u": masked_accuracy(logits_u_weak.argmax(dim=1), labels_u, every_image),
    }

    if batch_l is not None:
        (x_l_weak, *x_l_strong), labels_l, _ = batch_l
        logits_l_weak = model(x_l_weak)
        logits_l_strong = [model(x) for x in x_l_strong]  # empty if their weight is 0
        loss_l = F.cross_entropy(logits_l_weak, labels_l)
        loss_strong = sum(F.cross_entropy(logits, labels_l) for logits in logits_l_strong)
        loss_l = loss_l + args.trade_off_cls_strong * loss_strong
        loss = loss_u + loss_l
        metrics |= {"loss_l": loss_l, "accuracy_l": accuracy(logits_l_weak, labels_l)}

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"loss": loss, **metrics}


def train_one_epoch(run, loader_l, loader_u, model, votes, optimizer, scheduler, args):
    model.train()
    loaders = [loader_l, loader_u] if args.with_labels else [loader_u]
    for batches in run.steps(*loaders):
        batch_l, batch_u = batches if args.with_labels else (None, *batches)
        metrics = train_step(model, votes, optimizer, batch_l, batch_u, args)
        scheduler.step()
        run.update(metrics)


def main(args):
    run = Run(__file__, args)
    if run.finished:
        return run.show()

    images = build.images(run, args)
    weak, strong, test = build.views(images.spec, args)
    options = build.loading(run, args)
    views_l = [weak, strong] if args.trade_off_cls_strong > 0 else [weak]
    loader_l = TrainLoader(images.labeled, views_l, args.batch_size, "labeled", **options) if args.with_labels else None
    loader_u = TrainLoader(images.unlabeled, [weak, strong], args.unlabeled_batch_size, "unlabeled", **options)
    test_loader = TestLoader(images.test, test, **options)

    model = build.classifier(ImageClassifier, len(images.classes), args).to(run.device)
    votes = Votes(len(images.unlabeled), len(args.sources), len(images.classes), args.target).to(run.device)
    optimizer = build.optimizer(model, args)
    scheduler = build.schedule(optimizer, args)

    if args.phase == "train" and not run.resumable:  # a checkpoint already holds the votes
        check_sources(args.sources, run.images.fingerprints)
    run.start({"model": model, "votes": votes, "optimizer": optimizer, "scheduler": scheduler}, evaluated=model)
    if args.phase == "test":
        return run.test(test_loader)
    if run.step == 0:
        summary = make_votes(votes, images.unlabeled, images.spec, args.sources, args, options)
        run.folder.write_sources(summary)
        logger.info("the sources' votes, in percent: " + ", ".join(f"{k} {v}" for k, v in summary["votes"].items()))
    for _ in run.epochs():
        train_one_epoch(run, loader_l, loader_u, model, votes, optimizer, scheduler, args)
        run.end_epoch(run.evaluate(test_loader))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
