"""Pseudo Label: confident predictions on unlabeled images are their labels.

    loss   = loss_l + trade_off_self_training * ramp_up(epoch) * loss_u
    loss_l = CE(x_l_weak) + trade_off_cls_strong * CE(x_l_strong)
    loss_u = mean(mask * CE(x_u_weak, pseudo_labels)),    mask = confidence(x_u_weak) > threshold

Paper: Lee, Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks, ICML 2013
workshop on Challenges in Representation Learning, equations 15 and 16. Differences from the paper, all as in the
published table:
 1. Only confident predictions count; the paper takes all of them.
 2. The weight of the unlabeled loss is constant; the paper's rises from 0 to 3 over the training (--warm-up-epochs).
 3. The labeled images have a strong view and loss, too.

Shell file: scripts/pseudo_label.sh. Diff against: fixmatch.py.
"""

import torch
from torch.nn import functional as F

from common import build, cli
from common.loading.loaders import TestLoader, TrainLoader
from common.networks import ImageClassifier, frozen_statistics
from common.run import Run
from common.training.evaluate import accuracy, masked_accuracy


def parse_args(argv=None):
    parser = cli.parser(__file__, __doc__)
    group = parser.add_argument_group("method")
    group.add_argument(
        "--trade-off-self-training", type=cli.non_negative, default=1.0, help="weight of loss_u (default: 1)"
    )
    group.add_argument("--threshold", type=cli.fraction, default=0.95, help="least confidence (default: 0.95)")
    group.add_argument(
        "--warm-up-epochs",
        type=cli.non_negative_int,
        default=0,
        metavar="N",
        help="epochs until the unlabeled loss has its full weight, rising linearly (default: 0)",
    )
    group.add_argument(
        "--labeled-statistics",
        action="store_true",
        help="the unlabeled images' passes do not move BatchNorm's running statistics (default: all passes do)",
    )
    parser.set_defaults(epochs=40)
    return cli.parse(parser, argv)


def ramp_up(epoch, warm_up_epochs):
    """From 0 to 1 over the warm-up, once per epoch."""
    return min(epoch, warm_up_epochs) / warm_up_epochs if warm_up_epochs else 1.0


def self_training_loss(logits_u_weak, threshold):
    """The same logits are both target and prediction. The mean is over the whole batch, selected or not."""
    confidence, pseudo_labels = F.softmax(logits_u_weak.detach(), dim=1).max(dim=1)
    mask = (confidence > threshold).float()
    loss = (mask * F.cross_entropy(logits_u_weak, pseudo_labels, reduction="none")).mean()
    return loss, pseudo_labels, mask


def train_step(model, optimizer, batch_l, batch_u, weight_u, args):
    (x_l_weak, *x_l_strong), labels_l, _ = batch_l
    (x_u_weak,), labels_u, _ = batch_u

    logits_l_weak = model(x_l_weak)
    logits_l_strong = [model(x) for x in x_l_strong]  # empty if their weight is 0
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_l = loss_l + args.trade_off_cls_strong * sum(F.cross_entropy(logits, labels_l) for logits in logits_l_strong)
    with frozen_statistics(model, args.labeled_statistics):
        logits_u_weak = model(x_u_weak)
    loss_u, pseudo_labels, mask = self_training_loss(logits_u_weak, args.threshold)
    loss = loss_l + weight_u * loss_u

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


def train_one_epoch(run, loader_l, loader_u, model, optimizer, scheduler, args):
    model.train()
    weight_u = torch.tensor(args.trade_off_self_training * ramp_up(run.epoch, args.warm_up_epochs), device=run.device)
    for batch_l, batch_u in run.steps(loader_l, loader_u):
        metrics = train_step(model, optimizer, batch_l, batch_u, weight_u, args)
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
    loader_u = TrainLoader(images.unlabeled, [weak], args.unlabeled_batch_size, "unlabeled", **options)
    test_loader = TestLoader(images.test, test, **options)

    model = build.classifier(ImageClassifier, len(images.classes), args).to(run.device)
    optimizer = build.optimizer(model, args)
    scheduler = build.schedule(optimizer, args)

    run.start({"model": model, "optimizer": optimizer, "scheduler": scheduler}, evaluated=model)
    if args.phase == "test":
        return run.test(test_loader)
    for _ in run.epochs():
        train_one_epoch(run, loader_l, loader_u, model, optimizer, scheduler, args)
        run.end_epoch(run.evaluate(test_loader))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
