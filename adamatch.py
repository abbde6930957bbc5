"""AdaMatch: FixMatch with aligned pseudo-labels, and a threshold relative to the confidence on labeled images.

    loss   = loss_l + trade_off_self_training * ramp_up(step) * loss_u
    loss_l = CE(x_l_weak) + trade_off_cls_strong * CE(x_l_strong)
    loss_u = mean(mask * CE(x_u_strong, pseudo_labels)),    mask = max(q) >= threshold * mean confidence(x_l_weak)
    q      = normalize(p_u * p_labeled / p_unlabeled),      pseudo_labels = argmax q,    p_u = softmax(x_u_weak)
    p_labeled   = running mean of softmax(x_l_weak)
    p_unlabeled = mean of p_u over the newest `window` batches; with --window 0 a running mean

Paper: Berthelot et al., AdaMatch: A Unified Approach to Semi-Supervised Learning and Domain Adaptation, ICLR 2022,
arXiv:2106.04732. Threshold, window and averages have the authors' defaults. The rest is as in fixmatch.py. No figure
has been published for this combination. An average of the weights is tested (--ema 0: the weights themselves).
Differences from the authors' code:
 1. The labeled logits come from one pass. Theirs are a random mixture of two passes, with and without the unlabeled
    images. That is meant for images of two domains. --interpolate does it.
 2. The weight of loss_u is constant. Theirs rises over the first half of the training (see --warm-up-epochs).
 3. Every view has a forward pass of its own. A batch has as many unlabeled as labeled images (there 3 times as many).
    Labeled images are not among the unlabeled. No CTAugment and no Cutout. Strong labeled views weigh 0.1 (there as
    much as weak ones).
Published errors from scratch are based on USB's form. It has neither the mixture of 1 nor the rise of 2. It has
--window 0, --threshold 0.95 and no strong labeled views.

Cells: scripts/scratch.sh. Diff against: fixmatch.py.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from common import build, cli
from common.loading.loaders import TestLoader, TrainLoader
from common.networks import ImageClassifier, frozen_statistics, passes
from common.run import Run
from common.system import processes, seeding
from common.training.evaluate import accuracy, masked_accuracy


def parse_args(argv=None):
    parser = cli.parser(__file__, __doc__, joint_passes=True)
    group = parser.add_argument_group("method")
    group.add_argument(
        "--trade-off-self-training", type=cli.non_negative, default=1.0, help="weight of loss_u (default: 1)"
    )
    group.add_argument(
        "--threshold",
        type=cli.fraction,
        default=0.9,
        help="least confidence, as a share of the mean on labeled images (default: 0.9)",
    )
    group.add_argument("--momentum", type=cli.fraction, default=0.999, help="of the running means (default: 0.999)")
    group.add_argument(
        "--window",
        type=cli.non_negative_int,
        default=128,
        metavar="N",
        help="batches whose unlabeled predictions are averaged; 0: all so far, by --momentum (default: 128)",
    )
    group.add_argument(
        "--interpolate",
        action="store_true",
        help="mix labeled logits with those of a pass without unlabeled images; implies --joint-passes (default: no)",
    )
    group.add_argument(
        "--warm-up-epochs",
        type=cli.non_negative_int,
        default=0,
        metavar="N",
        help="epochs until loss_u has its full weight; the paper: half of them (default: 0)",
    )
    parser.set_defaults(epochs=60, ema=0.999)
    return cli.parse(parser, argv)


class Alignment(nn.Module):
    """Running mean `p_labeled` [C] of predictions on labeled images; `window` [W, C], batch means on unlabeled ones.

    Both begin as uniform. With --window 0 there is one row, which is a running mean, too. `steps` counts the batches.
    """

    def __init__(self, num_classes, window, momentum):
        super().__init__()
        self.momentum, self.forget = momentum, 1.0 if window else 1 - momentum
        self.register_buffer("p_labeled", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("window", torch.full((window or 1, num_classes), 1 / num_classes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, p_l, p_u):
        """Takes a batch's predictions [B, C] before alignment."""
        self.p_labeled.lerp_(processes.mean(p_l.mean(dim=0)), 1 - self.momentum)
        slot = (self.steps % len(self.window))[None]
        self.window[slot] = self.window[slot].lerp(processes.mean(p_u.mean(dim=0)), self.forget)
        self.steps += 1

    def forward(self, p_u):
        """Aligned predictions [B, C]."""
        aligned = p_u * ((self.p_labeled + 1e-6) / (self.window.mean(dim=0) + 1e-6))
        return aligned / aligned.sum(dim=1, keepdim=True)


def interpolated(model, views, logits, mixing, enabled):
    """Logits of labeled views, randomly mixed with logits from a pass without the unlabeled images.

    That pass does not move BatchNorm's running statistics. Gradients flow through both.
    """
    if not enabled:
        return logits
    with frozen_statistics(model, True):
        alone = model(torch.cat(views)).split([len(x) for x in views])
    number = len(logits[0]) * processes.count()
    weights = mixing.uniform(len(views), number, logits[0].shape[1])[:, processes.share(number)]
    return [w * a + (1 - w) * b for w, a, b in zip(weights, alone, logits, strict=True)]


def self_training_loss(logits_l_weak, logits_u_weak, logits_u_strong, alignment, threshold):
    """The mean is over the whole batch, selected or not. Only `logits_u_strong` has a gradient."""
    p_l, p_u = (F.softmax(logits.detach(), dim=1) for logits in (logits_l_weak, logits_u_weak))
    alignment.update(p_l, p_u)
    confidence, pseudo_labels = alignment(p_u).max(dim=1)
    mask = (confidence >= threshold * processes.mean(p_l.amax(dim=1).mean())).float()
    loss = (mask * F.cross_entropy(logits_u_strong, pseudo_labels, reduction="none")).mean()
    return loss, pseudo_labels, mask


def ramp_up(steps, length):
    """Rises from 0 to 1 as half a cosine over `length` steps. `steps`, a tensor, is the number of earlier steps."""
    return 0.5 - 0.5 * torch.cos(math.pi * (steps / length).clamp(max=1)) if length else 1.0


def train_step(model, alignment, mixing, optimizer, batch_l, batch_u, args):
    (x_l_weak, *x_l_strong), labels_l, _ = batch_l
    (x_u_weak, x_u_strong), labels_u, _ = batch_u

    views_l = [x_l_weak, *x_l_strong]  # x_l_strong is empty if its weight is 0
    *logits_l, logits_u_weak, logits_u_strong = passes(
        model, [*views_l, x_u_weak, x_u_strong], no_grad=x_u_weak, joint=args.joint_passes or args.interpolate
    )
    logits_l_weak, *logits_l_strong = interpolated(model, views_l, logits_l, mixing, args.interpolate)
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_l = loss_l + args.trade_off_cls_strong * sum(F.cross_entropy(logits, labels_l) for logits in logits_l_strong)
    weight_u = args.trade_off_self_training * ramp_up(alignment.steps, args.warm_up_epochs * args.iters_per_epoch)
    loss_u, pseudo_labels, mask = self_training_loss(
        logits_l_weak, logits_u_weak, logits_u_strong, alignment, args.threshold
    )
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


def train_one_epoch(run, loader_l, loader_u, model, alignment, mixing, optimizer, scheduler, args):
    model.train()
    for batch_l, batch_u in run.steps(loader_l, loader_u):
        metrics = train_step(model, alignment, mixing, optimizer, batch_l, batch_u, args)
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
    alignment = Alignment(len(images.classes), args.window, args.momentum).to(run.device)
    mixing = seeding.SharedRandom(args.seed, "interpolation").to(run.device)
    optimizer = build.optimizer(model, args)
    scheduler = build.schedule(optimizer, args)

    state = {"model": model, "alignment": alignment, "mixing": mixing, "optimizer": optimizer, "scheduler": scheduler}
    run.start(state, evaluated=model)
    if args.phase == "test":
        return run.test(test_loader)
    for _ in run.epochs():
        train_one_epoch(run, loader_l, loader_u, model, alignment, mixing, optimizer, scheduler, args)
        run.end_epoch(run.evaluate(test_loader))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
