"""Noisy Student: in each round, a new student learns with noise what the last network predicts without noise.

    round 0:     loss = loss_l = CE(x_l_weak) + trade_off_cls_strong * CE(x_l_strong)
    round 1 ...: loss = loss_l + trade_off_self_training * loss_u
    loss_u = mean(weights * CE(x_u_strong / T, softmax(logits / T))),    logits = the last round's network on x_u_weak

The weights are 1. --threshold and --balance change them, to 1 on average.
The logits are computed once, when a round begins, on one view of each image, in eval mode and so without dropout. The
teacher is the network of the last epoch of the round before. Each round begins with the initial weights of round 0, and
takes --epochs. The stream of random views goes on from round to round.

Paper: Xie et al., Self-training with Noisy Student Improves ImageNet Classification, CVPR 2020, arXiv:1911.04252. The
form is that of the ancestor, which publishes no figures for it. Differences from the paper:
 1. The teacher sees a weak view of each image (--clean-teacher: the view of test images).
 2. All images are used. --threshold 0.3 leaves out less confident ones. --balance gives all classes the same weight in
    the loss; the paper draws the same number of images of each.
 3. A temperature on both sides. The paper has none (--T 1).
 4. The student is no larger than its teacher, and its noise is RandAugment and the bottleneck's dropout.
 5. Labeled and unlabeled images pass separately, and labeled ones have a weak view, too.

Shell file: scripts/noisy_student.sh. Diff against: erm.py.
"""

import logging

import torch
from torch import nn
from torch.nn import functional as F

from common import build, cli
from common.loading.loaders import TestLoader, TrainLoader
from common.networks import ImageClassifier
from common.run import Run
from common.system import processes
from common.training.evaluate import accuracy, masked_accuracy

logger = logging.getLogger("common")


def parse_args(argv=None):
    parser = cli.parser(__file__, __doc__)
    group = parser.add_argument_group("method")
    group.add_argument(
        "--trade-off-self-training", type=cli.non_negative, default=1.0, help="weight of loss_u (default: 1)"
    )
    group.add_argument("--rounds", type=cli.positive_int, default=3, help="students, one after another (default: 3)")
    group.add_argument("--T", type=cli.positive, default=2.0, help="temperature (default: 2)")
    group.add_argument("--clean-teacher", action="store_true", help="make pseudo-labels from the view of test images")
    group.add_argument("--threshold", type=cli.fraction, default=0.0, help="least confidence (default: 0, all count)")
    group.add_argument("--balance", action="store_true", help="give the pseudo-labels of all classes the same weight")
    parser.set_defaults(epochs=40)
    return cli.parse(parser, argv)


class PseudoLabels(nn.Module):
    """The teacher's `logits` [N, C] for all unlabeled images, and their `weights` [N] in the loss, 1 on average."""

    def __init__(self, num_images, num_classes):
        super().__init__()
        self.register_buffer("logits", torch.zeros(num_images, num_classes))
        self.register_buffer("weights", torch.ones(num_images))

    @torch.no_grad()
    def make(self, teacher, loader, threshold, balance):
        """Computes the logits of all images. With several processes, each works on the part `loader.order` of them."""
        teacher.eval()
        logits = torch.zeros_like(self.logits)
        logits[loader.order.to(logits.device)] = torch.cat([logits[:0], *(teacher(images) for images, _ in loader)])
        self.logits.copy_(processes.sum(logits))
        confidence, classes = F.softmax(self.logits, dim=1).max(dim=1)
        weights = (confidence > threshold).float()
        if balance:
            numbers = weights.new_zeros(self.logits.shape[1]).index_add(0, classes, weights)
            weights = weights / numbers[classes].clamp(min=1)
        if not weights.any():
            logger.warning("no pseudo-label is above --threshold: this round learns from the labels alone")
        self.weights.copy_(weights / weights.mean().clamp(min=1e-12))


def self_training_loss(logits_u_strong, teacher_logits, weights, T):
    """The temperature divides both logits. The loss is not multiplied by T^2, as is common in distillation."""
    targets = F.softmax(teacher_logits / T, dim=1)
    return (weights * F.cross_entropy(logits_u_strong / T, targets, reduction="none")).mean()


def train_step(model, pseudo_labels, optimizer, batch_l, batch_u, args):
    """`batch_u` is None in round 0."""
    (x_l_weak, *x_l_strong), labels_l, _ = batch_l

    logits_l_weak = model(x_l_weak)
    logits_l_strong = [model(x) for x in x_l_strong]  # empty if their weight is 0
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_l = loss_l + args.trade_off_cls_strong * sum(F.cross_entropy(logits, labels_l) for logits in logits_l_strong)
    loss, metrics = loss_l, {"loss_l": loss_l, "accuracy_l": accuracy(logits_l_weak, labels_l)}

    if batch_u is not None:
        (x_u_strong,), labels_u, indices_u = batch_u
        teacher_logits, weights = pseudo_labels.logits[indices_u], pseudo_labels.weights[indices_u]
        logits_u_strong = model(x_u_strong)
        loss_u = self_training_loss(logits_u_strong, teacher_logits, weights, args.T)
        loss = loss_l + args.trade_off_self_training * loss_u
        mask = (weights > 0).float()
        metrics |= {
            "loss_u": loss_u,
            "pseudo_label_accuracy": masked_accuracy(teacher_logits.argmax(dim=1), labels_u, mask),
            "pseudo_label_ratio": 100 * mask.mean(),
        }

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"loss": loss, **metrics}


def train_one_epoch(run, loader_l, loader_u, model, pseudo_labels, optimizer, scheduler, args):
    model.train()
    loaders = [loader_l, loader_u] if run.round > 0 else [loader_l]
    for batches in run.steps(*loaders):
        batch_l, batch_u = batches if run.round > 0 else (*batches, None)
        metrics = train_step(model, pseudo_labels, optimizer, batch_l, batch_u, args)
        scheduler.step()
        run.update(metrics)


def main(args):
    run = Run(__file__, args, rounds=1 + args.rounds)
    if run.finished:
        return run.show()

    images = build.images(run, args)
    weak, strong, test = build.views(images.spec, args)
    options = build.loading(run, args)
    views_l = [weak, strong] if args.trade_off_cls_strong > 0 else [weak]
    loader_l = TrainLoader(images.labeled, views_l, args.batch_size, "labeled", **options)
    loader_u = TrainLoader(images.unlabeled, [strong], args.unlabeled_batch_size, "unlabeled", **options)
    test_loader = TestLoader(images.test, test, **options)

    model = build.classifier(ImageClassifier, len(images.classes), args).to(run.device)
    pseudo_labels = PseudoLabels(len(images.unlabeled), len(images.classes)).to(run.device)
    optimizer = build.optimizer(model, args)
    scheduler = build.schedule(optimizer, args)

    run.start(
        {"model": model, "pseudo_labels": pseudo_labels, "optimizer": optimizer, "scheduler": scheduler},
        evaluated=model,
    )
    if args.phase == "test":
        return run.test(test_loader)
    for _ in run.epochs():
        if run.round > 0 and run.at_round_start:
            view, stream = test if args.clean_teacher else weak, f"pseudo-labels of round {run.round}"
            loader = TestLoader(images.unlabeled, view, stream=stream, **options | {"cache": 0})
            pseudo_labels.make(run.evaluated, loader, args.threshold, args.balance)
            del loader  # and with it its processes
            run.start_anew("model", "optimizer", "scheduler")
        train_one_epoch(run, loader_l, loader_u, model, pseudo_labels, optimizer, scheduler, args)
        run.end_epoch(run.evaluate(test_loader))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
