"""Pi Model: two random views of an unlabeled image should be predicted alike.

    loss   = loss_l + trade_off_con * ramp_up(epoch) * loss_u
    loss_l = CE(x_l_weak) + trade_off_cls_strong * CE(x_l_strong)
    loss_u = mean over images of |softmax(x_u_weak_1) - softmax(x_u_weak_2)|^2

Paper: Laine and Aila, Temporal Ensembling for Semi-Supervised Learning, ICLR 2017, arXiv:1610.02242, algorithm 1.
Differences from the paper, all as in the published table:
 1. The squared difference is summed over the classes; the paper averages over them.
 2. The weight rises to 0.1 within 10 epochs. In the paper it rises to 100 times the share of labeled images, within 80.
 3. Labeled images have a strong view with a loss, and no consistency loss.

Shell file: scripts/pi_model.sh. Diff against: pseudo_label.py.
"""

import math

import torch
from torch.nn import functional as F

from common import build, cli
from common.loading.loaders import TestLoader, TrainLoader
from common.networks import ImageClassifier, frozen_statistics
from common.run import Run
from common.training.evaluate import accuracy


def parse_args(argv=None):
    parser = cli.parser(__file__, __doc__)
    group = parser.add_argument_group("method")
    group.add_argument(
        "--trade-off-con", type=cli.non_negative, default=0.1, help="weight of the consistency loss (default: 0.1)"
    )
    group.add_argument(
        "--warm-up-epochs",
        type=cli.non_negative_int,
        default=10,
        metavar="N",
        help="epochs until the consistency loss has its full weight (default: 10)",
    )
    group.add_argument(
        "--ramp-up",
        choices=("exp", "linear"),
        default="exp",
        help="how its weight rises until then: exp(-5 (1 - t)^2), or t (default: exp)",
    )
    group.add_argument(
        "--labeled-statistics",
        action="store_true",
        help="the unlabeled images' passes do not move BatchNorm's running statistics (default: all passes do)",
    )
    group.add_argument(
        "--one-sided",
        action="store_true",
        help="the second view's prediction is a target without a gradient (default: both views have one)",
    )
    parser.set_defaults(epochs=40)
    return cli.parse(parser, argv)


def ramp_up(epoch, warm_up_epochs, shape):
    """t, or exp(-5 (1 - t)^2): .0067, .017, .041, ... 1. Once per epoch, t rises, from 0 to 1 over the warm-up."""
    t = min(epoch, warm_up_epochs) / warm_up_epochs if warm_up_epochs else 1.0
    return t if shape == "linear" else math.exp(-5 * (1 - t) ** 2)


def consistency_loss(logits_u_1, logits_u_2):
    """The gradient flows through both views. With --one-sided, `logits_u_2` carries none."""
    difference = F.softmax(logits_u_1, dim=1) - F.softmax(logits_u_2, dim=1)
    return difference.square().sum(dim=1).mean()


def train_step(model, optimizer, batch_l, batch_u, weight_u, args):
    (x_l_weak, *x_l_strong), labels_l, _ = batch_l
    (x_u_weak_1, x_u_weak_2), _, _ = batch_u

    logits_l_weak = model(x_l_weak)
    logits_l_strong = [model(x) for x in x_l_strong]  # empty if their weight is 0
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_l = loss_l + args.trade_off_cls_strong * sum(F.cross_entropy(logits, labels_l) for logits in logits_l_strong)
    with frozen_statistics(model, args.labeled_statistics):
        logits_u_1 = model(x_u_weak_1)
        with torch.set_grad_enabled(not args.one_sided):
            logits_u_2 = model(x_u_weak_2)
    loss_u = consistency_loss(logits_u_1, logits_u_2)
    loss = loss_l + weight_u * loss_u

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {
        "loss": loss,
        "loss_l": loss_l,
        "loss_u": loss_u,
        "accuracy_l": accuracy(logits_l_weak, labels_l),
    }


def train_one_epoch(run, loader_l, loader_u, model, optimizer, scheduler, args):
    model.train()
    weight_u = args.trade_off_con * ramp_up(run.epoch, args.warm_up_epochs, args.ramp_up)
    weight_u = torch.tensor(weight_u, device=run.device)
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
    loader_u = TrainLoader(images.unlabeled, [weak, weak], args.unlabeled_batch_size, "unlabeled", **options)
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
