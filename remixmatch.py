"""ReMixMatch: MixMatch with strong views, guesses aligned with the labels' frequencies, and rotations to recognise.

    loss   = loss_l + ramp_up(step) * (trade_off_self_training * loss_u + trade_off_unmixed * loss_unmixed)
             + trade_off_rotation * loss_rotation
    loss_l = CE(mixed rows of x_l_strong, their mixed labels)
    loss_u = CE(mixed rows of x_u_weak, x_u_strong_1, ..., x_u_strong_K, their mixed labels)
    loss_unmixed  = CE(x_u_strong_1, guesses)
    loss_rotation = CE(rotation head of x_u_strong_1 turned by 0, 90, 180 or 270 degrees, which of them)
    guess  = sharpen(normalize(softmax(x_u_weak) * p_labeled / mean of `window`)),    sharpen(p) = normalize(p^(1 / T))
    mixed  = lambda * row + (1 - lambda) * a row of any view,    lambda = max(b, 1 - b), b ~ Beta(beta, beta)
    window = the mean predictions of the newest batches, p_labeled = running frequencies of the labels

Paper: Berthelot et al., ReMixMatch: Semi-Supervised Learning with Distribution Alignment and Augmentation Anchoring,
ICLR 2020, arXiv:1911.09785. No table has been published for these defaults: the weights, T and beta are those of the
authors' code from scratch. The number of strong views is TorchSSL's. Differences from the authors' code:
 1. K is 2, not 8, and the strong views are this suite's; there CTAugment, which learns its strength.
 2. All mixed rows share one pass, the only one that moves BatchNorm's running statistics. There they are cut into
    batches of the labeled batch's size, with equally many labeled rows in each. Only the last moves the statistics.
 3. The ramp takes 1 of 60 epochs; there 1/64 of the steps.
 4. This suite's optimizer and schedule; there Adam with a constant rate. Labeled images are not among the unlabeled.
 5. The four rotations alternate from image to image. There the first quarter of a batch has the first rotation, and so
    on.
As there, the state is updated after the step that used it. An average of the weights is tested (--ema 0: the weights
themselves).

The script is longer than its neighbours because the method has four losses, a second head, and two kinds of state.

Cells: scripts/scratch.sh. Diff against: mixmatch.py.
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
        "--trade-off-self-training", type=cli.non_negative, default=1.5, help="weight of loss_u (default: 1.5)"
    )
    group.add_argument(
        "--trade-off-unmixed", type=cli.non_negative, default=0.5, help="weight of loss_unmixed (default: 0.5)"
    )
    group.add_argument(
        "--trade-off-rotation", type=cli.non_negative, default=0.5, help="weight of loss_rotation (default: 0.5)"
    )
    group.add_argument(
        "--warm-up-epochs",
        type=cli.non_negative_int,
        default=1,
        metavar="N",
        help="the rise of loss_u and loss_unmixed (default: 1)",
    )
    group.add_argument("--T", type=cli.positive, default=0.5, help="temperature of the guesses (default: 0.5)")
    group.add_argument("--beta", type=cli.positive, default=0.75, help="of the distribution of lambda (default: 0.75)")
    group.add_argument(
        "--strong-views", type=cli.positive_int, default=2, metavar="K", help="of unlabeled images (default: 2)"
    )
    group.add_argument("--weak-labeled", action="store_true", help="weak views of labeled images (default: strong)")
    group.add_argument(
        "--window", type=cli.positive_int, default=128, metavar="N", help="batches in the window (default: 128)"
    )
    group.add_argument("--momentum", type=cli.fraction, default=0.999, help="of p_labeled (default: 0.999)")
    group.add_argument("--one-lambda", action="store_true", help="one lambda for a step (default: one for each row)")
    parser.set_defaults(epochs=60, ema=0.999)
    return cli.parse(parser, argv)


def ramp_up(step, warm_up_steps):
    """From 0 to 1 over the warm-up, step by step."""
    return min(step / warm_up_steps, 1.0) if warm_up_steps else 1.0


def sharpen(p, T):
    """Sharpened probabilities [B, C]. Dividing by the largest one first keeps the powers from underflowing."""
    powers = (p / p.amax(dim=1, keepdim=True)) ** (1 / T)
    return powers / powers.sum(dim=1, keepdim=True)


def rotated(x):
    """Images [B, 3, S, S], turned by 0, 90, 180, 270, 0, ... degrees to the left; and int64 [B], the quarter turns."""
    number = len(x) * processes.count()
    turns = torch.arange(number, device=x.device)[processes.share(number)] % 4
    all_four = torch.stack([torch.rot90(x, k, (2, 3)) for k in range(4)])
    return all_four[turns, torch.arange(len(x), device=x.device)], turns


class RotationClassifier(ImageClassifier):
    """The classifier with a second head for four rotations. Both heads take the same features."""

    def __init__(self, *shared):
        super().__init__(*shared)
        self.rotation_head = nn.Linear(self.feature_dim, 4)

    def rotations(self, x):
        """Logits [B, 4]."""
        return self.rotation_head(self.features(x))

    def parameter_groups(self, lr, finetune):
        return [*super().parameter_groups(lr, finetune), {"params": self.rotation_head.parameters(), "lr": lr}]


class Alignment(nn.Module):
    """Mean predictions of the newest batches, `window` [W, C]; running frequencies of the labels, `p_labeled` [C]."""

    def __init__(self, num_classes, window, momentum):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("window", torch.full((window, num_classes), 1 / num_classes))
        self.register_buffer("p_labeled", torch.full((num_classes,), 1 / num_classes))

    def forward(self, p):
        """Aligned predictions [B, C]."""
        aligned = p * ((self.p_labeled + 1e-6) / (self.window.mean(dim=0) + 1e-6))
        return aligned / aligned.sum(dim=1, keepdim=True)

    @torch.no_grad()
    def update(self, p, targets_l):
        """Takes a batch's predictions [B, C] before alignment, and its one-hot labels [B, C]."""
        self.window.copy_(torch.cat([self.window[1:], processes.mean(p.mean(dim=0))[None]]))
        self.p_labeled.lerp_(processes.mean(targets_l.mean(dim=0)), 1 - self.momentum)


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


def train_step(model, alignment, mixup, optimizer, batch_l, batch_u, ramp, args):
    (x_l,), labels_l, _ = batch_l
    (x_u_weak, *x_u_strong), labels_u, _ = batch_u

    with frozen_statistics(model, True):
        with torch.no_grad():
            p = F.softmax(model(x_u_weak), dim=1)
        logits_unmixed = model(x_u_strong[0])
        x_rotated, turns = rotated(x_u_strong[0])
        logits_rotation = model.rotations(x_rotated)
    guesses = sharpen(alignment(p), args.T)
    targets_l = F.one_hot(labels_l, guesses.shape[1]).to(guesses.dtype)
    views = [x_l, x_u_weak, *x_u_strong]
    x, targets = mixup(views, [targets_l] + [guesses] * (len(views) - 1))
    logits, number = model(x), len(x_l)
    loss_l = F.cross_entropy(logits[:number], targets[:number])
    loss_u = F.cross_entropy(logits[number:], targets[number:])
    loss_unmixed = F.cross_entropy(logits_unmixed, guesses)
    loss_rotation = F.cross_entropy(logits_rotation, turns)
    loss = loss_l + ramp * (args.trade_off_self_training * loss_u + args.trade_off_unmixed * loss_unmixed)
    loss = loss + args.trade_off_rotation * loss_rotation

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    alignment.update(p, targets_l)
    return {
        "loss": loss,
        "loss_l": loss_l,
        "loss_u": loss_u,
        "loss_unmixed": loss_unmixed,
        "loss_rotation": loss_rotation,
        "accuracy_l": accuracy(logits[:number], labels_l),  # of mixed images; the labeled one is at least half of each
        "pseudo_label_accuracy": masked_accuracy(guesses.argmax(dim=1), labels_u, torch.ones_like(labels_u)),
    }


def train_one_epoch(run, loader_l, loader_u, model, alignment, mixup, optimizer, scheduler, args):
    model.train()
    warm_up_steps = args.warm_up_epochs * args.iters_per_epoch
    for batch_l, batch_u in run.steps(loader_l, loader_u):
        ramp = torch.full((), ramp_up(run.step, warm_up_steps), device=run.device)
        metrics = train_step(model, alignment, mixup, optimizer, batch_l, batch_u, ramp, args)
        scheduler.step()
        run.update(metrics)


def main(args):
    run = Run(__file__, args)
    if run.finished:
        return run.show()

    images = build.images(run, args)
    weak, strong, test = build.views(images.spec, args)
    options = build.loading(run, args)
    views_l, views_u = [weak if args.weak_labeled else strong], [weak] + args.strong_views * [strong]
    loader_l = TrainLoader(images.labeled, views_l, args.batch_size, "labeled", **options)
    loader_u = TrainLoader(images.unlabeled, views_u, args.unlabeled_batch_size, "unlabeled", **options)
    test_loader = TestLoader(images.test, test, **options)

    model = build.classifier(RotationClassifier, len(images.classes), args).to(run.device)
    alignment = Alignment(len(images.classes), args.window, args.momentum).to(run.device)
    mixup = MixUp(args.seed, args.beta, args.one_lambda).to(run.device)
    optimizer = build.optimizer(model, args)
    scheduler = build.schedule(optimizer, args)

    state = {"model": model, "alignment": alignment, "mixup": mixup, "optimizer": optimizer, "scheduler": scheduler}
    run.start(state, evaluated=model)
    if args.phase == "test":
        return run.test(test_loader)
    for _ in run.epochs():
        train_one_epoch(run, loader_l, loader_u, model, alignment, mixup, optimizer, scheduler, args)
        run.end_epoch(run.evaluate(test_loader))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
