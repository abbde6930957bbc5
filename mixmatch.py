"""MixMatch: labeled images and unlabeled images, with their labels or sharpened guesses, are mixed with each other.

    loss   = loss_l + trade_off_con * ramp_up(step) * loss_u
    loss_l = CE(mixed rows of x_l_weak, their mixed labels)
    loss_u = mean over images and classes of (softmax(mixed rows of x_u_weak_1, x_u_weak_2) - their mixed labels)^2
    guess  = sharpen(mean of softmax(x_u_weak_1), softmax(x_u_weak_2)),    sharpen(p) = normalize(p^(1 / T))
    mixed  = lambda * row + (1 - lambda) * a row of any view,    lambda = max(b, 1 - b), b ~ Beta(beta, beta)

Paper: Berthelot et al., MixMatch: A Holistic Approach to Semi-Supervised Learning, NeurIPS 2019, arXiv:1905.02249. No
table has been published for these defaults: T, beta and the weight are those of the authors' code from scratch on
CIFAR-10. Differences from that code:
 1. All mixed rows share one pass, the only one that moves BatchNorm's running statistics. There they are cut into
    batches of the labeled batch's size, with equally many labeled rows in each. Only the first moves the statistics.
 2. The weight rises over 1 of 60 epochs; there over 1/64 of the steps.
 3. This suite's views, optimizer and schedule; there flips, shifts, and Adam with a constant rate.
As in that code, labeled images have a loss only as mixed rows. The student itself makes the guesses, in train mode. An
average of the weights is tested (--ema 0: the weights themselves).

Cells: scripts/scratch.sh. Diff against: pi_model.py.
"""

import torch
from torch import nn
from torch.nn import functional as F

from common import build, cli
from common.loading.loaders import TestLoader, TrainLoader
from common.networks import ImageClassifier, frozen_statistics
from common.run import Run
from common.system import processes, seeding
from common.training.evaluate import accuracy, masked_accuracy


def parse_args(argv=None):
    parser = cli.parser(__file__, __doc__, strong_labeled=False)
    group = parser.add_argument_group("method")
    group.add_argument(
        "--trade-off-con", type=cli.non_negative, default=75.0, help="weight of the consistency loss (default: 75)"
    )
    group.add_argument(
        "--warm-up-epochs",
        type=cli.non_negative_int,
        default=1,
        metavar="N",
        help="epochs over which that weight rises from 0, step by step (default: 1)",
    )
    group.add_argument("--T", type=cli.positive, default=0.5, help="temperature of the guesses (default: 0.5)")
    group.add_argument("--beta", type=cli.positive, default=0.75, help="of the distribution of lambda (default: 0.75)")
    group.add_argument(
        "--one-lambda", action="store_true", help="one lambda for a step, as in TorchSSL (default: one for each row)"
    )
    parser.set_defaults(epochs=60, ema=0.999)
    return cli.parse(parser, argv)


def ramp_up(step, warm_up_steps):
    """From 0 to 1 over the warm-up, step by step."""
    return min(step / warm_up_steps, 1.0) if warm_up_steps else 1.0


def sharpen(p, T):
    """Sharpened probabilities [B, C]. Dividing by the largest one first keeps the powers from underflowing."""
    powers = (p / p.amax(dim=1, keepdim=True)) ** (1 / T)
    return powers / powers.sum(dim=1, keepdim=True)


class MixUp(nn.Module):
    """Mixes each row with a random row from the pool of all views and processes."""

    def __init__(self, seed, beta, one_lambda):
        super().__init__()
        self.random = seeding.SharedRandom(seed, "mixup")
        self.beta, self.one_lambda = beta, one_lambda

    def forward(self, views, targets):
        """Views [B_i, 3, H, W] and their targets [B_i, C] -> all mixed rows, view by view, and their targets."""
        sizes = [len(x) * processes.count() for x in views]
        b = self.random.beta(self.beta, 1 if self.one_lambda else sum(sizes)).expand(sum(sizes))
        order = self.random.permutation(sum(sizes))
        pool = torch.arange(sum(sizes), device=order.device).split(sizes)
        own = torch.cat([rows[processes.share(len(rows))] for rows in pool])
        return [self._mixed(parts, torch.maximum(b, 1 - b)[own], order[own]) for parts in (views, targets)]

    @staticmethod
    def _mixed(parts, weights, others):
        weights = weights.view(-1, *[1] * (parts[0].ndim - 1))
        return (
            weights * torch.cat(parts) + (1 - weights) * torch.cat([processes.gather(part) for part in parts])[others]
        )


def train_step(model, mixup, optimizer, batch_l, batch_u, weight_u, args):
    (x_l_weak,), labels_l, _ = batch_l
    (x_u_weak_1, x_u_weak_2), labels_u, _ = batch_u

    with torch.no_grad(), frozen_statistics(model, True):
        p = (F.softmax(model(x_u_weak_1), dim=1) + F.softmax(model(x_u_weak_2), dim=1)) / 2
    guesses = sharpen(p, args.T)
    targets_l = F.one_hot(labels_l, guesses.shape[1]).to(guesses.dtype)
    x, targets = mixup([x_l_weak, x_u_weak_1, x_u_weak_2], [targets_l, guesses, guesses])
    logits = model(x)
    logits_l, logits_u = logits.split([len(x_l_weak), 2 * len(x_u_weak_1)])
    targets_l, targets_u = targets.split([len(logits_l), len(logits_u)])
    loss_l = F.cross_entropy(logits_l, targets_l)
    loss_u = F.mse_loss(F.softmax(logits_u, dim=1), targets_u)
    loss = loss_l + weight_u * loss_u

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {
        "loss": loss,
        "loss_l": loss_l,
        "loss_u": loss_u,
        "accuracy_l": accuracy(logits_l, labels_l),  # of mixed images; the labeled one is at least half of each
        "pseudo_label_accuracy": masked_accuracy(guesses.argmax(dim=1), labels_u, torch.ones_like(labels_u)),
    }


def train_one_epoch(run, loader_l, loader_u, model, mixup, optimizer, scheduler, args):
    model.train()
    warm_up_steps = args.warm_up_epochs * args.iters_per_epoch
    for batch_l, batch_u in run.steps(loader_l, loader_u):
        weight_u = torch.full((), args.trade_off_con * ramp_up(run.step, warm_up_steps), device=run.device)
        metrics = train_step(model, mixup, optimizer, batch_l, batch_u, weight_u, args)
        scheduler.step()
        run.update(metrics)


def main(args):
    run = Run(__file__, args)
    if run.finished:
        return run.show()

    images = build.images(run, args)
    weak, _, test = build.views(images.spec, args)
    options = build.loading(run, args)
    loader_l = TrainLoader(images.labeled, [weak], args.batch_size, "labeled", **options)
    loader_u = TrainLoader(images.unlabeled, [weak, weak], args.unlabeled_batch_size, "unlabeled", **options)
    test_loader = TestLoader(images.test, test, **options)

    model = build.classifier(ImageClassifier, len(images.classes), args).to(run.device)
    mixup = MixUp(args.seed, args.beta, args.one_lambda).to(run.device)
    optimizer = build.optimizer(model, args)
    scheduler = build.schedule(optimizer, args)

    run.start({"model": model, "mixup": mixup, "optimizer": optimizer, "scheduler": scheduler}, evaluated=model)
    if args.phase == "test":
        return run.test(test_loader)
    for _ in run.epochs():
        train_one_epoch(run, loader_l, loader_u, model, mixup, optimizer, scheduler, args)
        run.end_epoch(run.evaluate(test_loader))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
