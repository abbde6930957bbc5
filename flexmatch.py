"""FlexMatch: FixMatch with a threshold for each class, lower for classes with fewer learned images.

    loss   = loss_l + trade_off_self_training * loss_u
    loss_l = CE(x_l_weak) + trade_off_cls_strong * CE(x_l_strong)
    loss_u = mean(mask * CE(x_u_strong, pseudo_labels)),    mask = confidence(x_u_weak) > thresholds[pseudo_labels]
    thresholds[c] = threshold * beta[c] / (2 - beta[c]),    beta[c] = learned images of c / those of the best class

Paper: Zhang et al., FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo Labeling, NeurIPS 2021,
arXiv:2110.08263, equations 5 to 8 and 11 (the convex mapping). Differences from the paper, all as in the published
table:
 1. No warm-up (--warmup has it). With or without it all thresholds start at 0, so the first step uses all
    pseudo-labels.
 2. If one class has all images, all thresholds are 0 (in TorchSSL they stay as they were).
 3. fixmatch.py's differences from FixMatch.

Shell file: scripts/flexmatch.sh. Diff against: fixmatch.py.
"""

import argparse

import torch
from torch import nn
from torch.nn import functional as F

from common import build, cli
from common.loading.loaders import TestLoader, TrainLoader
from common.networks import ImageClassifier, passes
from common.run import Run
from common.system import processes
from common.training.evaluate import accuracy, masked_accuracy


def parse_args(argv=None):
    parser = cli.parser(__file__, __doc__, joint_passes=True)
    group = parser.add_argument_group("method")
    group.add_argument(
        "--trade-off-self-training", type=cli.non_negative, default=1.0, help="weight of loss_u (default: 1)"
    )
    group.add_argument(
        "--threshold", type=cli.fraction, default=0.95, help="the highest class threshold (default: 0.95)"
    )
    group.add_argument(
        "--warmup",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="count images that were never confident as a class, so that all thresholds rise slowly (default: no)",
    )
    parser.set_defaults(epochs=90)
    return cli.parse(parser, argv)


class Curriculum(nn.Module):
    """How many images of each class have been learned, and the thresholds that follow from it.

    `bank` [N] holds the last confident pseudo-label of every unlabeled image, or -1 before the first one. `counts`
    [1 + C] is how often each value is in the bank, beginning with -1: faster to keep up to date than to count anew.
    """

    def __init__(self, num_images, num_classes):
        super().__init__()
        self.register_buffer("bank", torch.full((num_images,), -1))
        self.register_buffer("counts", torch.zeros(num_classes + 1, dtype=torch.int64))
        self.counts[0] = num_images

    def thresholds(self, threshold, warmup):
        learned = self.counts[1:]
        most = self.counts.max() if warmup else learned.max()
        beta = learned / most.clamp(min=1)
        beta = torch.where(self.counts.max() == len(self.bank), 0.0, beta)  # nothing learned, or one class alone
        return threshold * beta / (2 - beta)

    def update(self, indices, pseudo_labels, is_confident):
        """A confident pseudo-label overwrites an image's entry; nothing clears it. `indices` must be distinct."""
        before = self.bank[indices]
        after = torch.where(is_confident, pseudo_labels, before)
        self.counts.scatter_add_(0, before + 1, torch.full_like(before, -1))
        self.counts.scatter_add_(0, after + 1, torch.ones_like(after))
        self.bank[indices] = after


def self_training_loss(logits_u_weak, logits_u_strong, indices, curriculum, threshold, warmup):
    """The thresholds are those before this batch. The mean is over the whole batch, selected or not."""
    confidence, pseudo_labels = F.softmax(logits_u_weak.detach(), dim=1).max(dim=1)
    mask = (confidence > curriculum.thresholds(threshold, warmup)[pseudo_labels]).float()
    curriculum.update(*map(processes.gather, (indices, pseudo_labels, confidence > threshold)))
    loss = (mask * F.cross_entropy(logits_u_strong, pseudo_labels, reduction="none")).mean()
    return loss, pseudo_labels, mask


def train_step(model, curriculum, optimizer, batch_l, batch_u, args):
    (x_l_weak, *x_l_strong), labels_l, _ = batch_l
    (x_u_weak, x_u_strong), labels_u, indices_u = batch_u

    views = [x_l_weak, *x_l_strong, x_u_weak, x_u_strong]  # x_l_strong is empty if its weight is 0
    logits_l_weak, *logits_l_strong, logits_u_weak, logits_u_strong = passes(
        model, views, no_grad=x_u_weak, joint=args.joint_passes
    )
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_l = loss_l + args.trade_off_cls_strong * sum(F.cross_entropy(logits, labels_l) for logits in logits_l_strong)
    loss_u, pseudo_labels, mask = self_training_loss(
        logits_u_weak, logits_u_strong, indices_u, curriculum, args.threshold, args.warmup
    )
    loss = loss_l + args.trade_off_self_training * loss_u

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {
        "loss": loss,
        "loss_l": loss_l,
        "loss_u": loss_u,
        "accuracy_l": accuracy(logits_l_weak, labels_l),
        "pseudo_label_accuracy": masked_accuracy(pseudo_labels, labels_u, mask),
        "pseudo_label_ratio": 100 * mask.mean(),
    }


def train_one_epoch(run, loader_l, loader_u, model, curriculum, optimizer, scheduler, args):
    model.train()
    for batch_l, batch_u in run.steps(loader_l, loader_u):
        metrics = train_step(model, curriculum, optimizer, batch_l, batch_u, args)
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
    loader_l = TrainLoader(images.labeled, views_l, args.batch_size, "labeled", **options)
    loader_u = TrainLoader(images.unlabeled, [weak, strong], args.unlabeled_batch_size, "unlabeled", **options)
    test_loader = TestLoader(images.test, test, **options)

    model = build.classifier(ImageClassifier, len(images.classes), args).to(run.device)
    curriculum = Curriculum(len(images.unlabeled), len(images.classes)).to(run.device)
    optimizer = build.optimizer(model, args)
    scheduler = build.schedule(optimizer, args)

    run.start(
        {"model": model, "curriculum": curriculum, "optimizer": optimizer, "scheduler": scheduler}, evaluated=model
    )
    if args.phase == "test":
        return run.test(test_loader)
    for _ in run.epochs():
        train_one_epoch(run, loader_l, loader_u, model, curriculum, optimizer, scheduler, args)
        run.end_epoch(run.evaluate(test_loader))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
