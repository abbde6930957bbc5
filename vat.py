"""VAT: predictions should not change if an image moves a little in the direction that changes them most.

    loss   = loss_l + trade_off_con * ramp_up(step) * loss_u + trade_off_entropy * loss_entropy
    loss_l = CE(x_l_weak) + trade_off_cls_strong * CE(x_l_strong)
    loss_u = mean over images of KL(softmax(x_u_weak) || softmax(x_u_weak + eps * d))
    loss_entropy = mean over images of the entropy of softmax(x_u_weak)
    d      <- the gradient of KL(softmax(x_u_weak) || softmax(x_u_weak + r)) with respect to r, at r = xi * d, scaled to
              length 1; --power-iterations times, from a random direction

Paper: Miyato et al., Virtual Adversarial Training: A Regularization Method for Supervised and Semi-Supervised Learning,
TPAMI 2019, arXiv:1704.03976. No table has been published for these defaults. Weights, ramp and eps are TorchSSL's for
training from scratch; the rest is as in pi_model.py. Differences from the authors' code:
 1. The weight is 0.3 with a ramp over 0.4 of the epochs, and the entropy's weight 0.06. Theirs are 1 without a ramp,
    and 0 or 1.
 2. xi is 0.1. Their 1e-6 would be lost when pixels are rounded. 0.1 is still too small for --precision bf16.
 3. eps is a length in normalised pixels. At 32 x 32 pixels a value changes by 0.11 on average. At 224 x 224 pixels the
    same change takes --eps 42, which no source has tried.
 4. The pass of x_u_weak moves BatchNorm's running statistics, unless --labeled-statistics; the perturbed ones never do.
 5. Labeled images have a strong view and loss, too.
As there, a step's unlabeled passes share their dropout masks, since different masks alone would change predictions.

Cells: scripts/scratch.sh. Diff against: pi_model.py.
"""

import torch
from torch.nn import functional as F

from common import build, cli
from common.loading.loaders import TestLoader, TrainLoader
from common.networks import ImageClassifier, frozen_statistics
from common.run import Run
from common.system import processes, seeding
from common.training.evaluate import accuracy


def parse_args(argv=None):
    parser = cli.parser(__file__, __doc__)
    group = parser.add_argument_group("method")
    group.add_argument(
        "--trade-off-con", type=cli.non_negative, default=0.3, help="weight of the consistency loss (default: 0.3)"
    )
    group.add_argument(
        "--warm-up-epochs",
        type=cli.non_negative_int,
        default=16,
        metavar="N",
        help="epochs over which that weight rises from 0, step by step (default: 16)",
    )
    group.add_argument(
        "--trade-off-entropy", type=cli.non_negative, default=0.06, help="weight of the entropy (default: 0.06)"
    )
    group.add_argument("--eps", type=cli.positive, default=6.0, help="length of the perturbation (default: 6)")
    group.add_argument("--xi", type=cli.positive, default=0.1, help="length of the trial perturbation (default: 0.1)")
    group.add_argument(
        "--power-iterations",
        type=cli.non_negative_int,
        default=1,
        metavar="K",
        help="steps of the search; 0: a random direction (default: 1)",
    )
    group.add_argument(
        "--labeled-statistics",
        action="store_true",
        help="no pass of unlabeled images moves BatchNorm's running statistics (default: the unperturbed one does)",
    )
    parser.set_defaults(epochs=40)
    return cli.parse(parser, argv)


def ramp_up(step, warm_up_steps):
    """From 0 to 1 over the warm-up, step by step."""
    return min(step / warm_up_steps, 1.0) if warm_up_steps else 1.0


def same_masks(x):
    """Within the block, a pass does not advance the generators, so the next pass draws the same dropout masks."""
    return torch.random.fork_rng([x.device] if x.is_cuda else [])


def divergence(p, logits):
    """KL(p || softmax(logits)) of each image [B]."""
    return F.kl_div(F.log_softmax(logits, dim=1), p, reduction="none").sum(dim=1)


def entropy(logits):
    """The mean over images. The gradient flows through both factors."""
    log_p = F.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(dim=1).mean()


def unit(x):
    """Scale each image to length 1; zeros stay zero. Dividing by the largest value first avoids underflow."""
    flat = x.flatten(1)
    largest = flat.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return F.normalize(flat / largest, dim=1).view_as(x)


def direction(model, x, p, d, xi, iterations):
    """Power iteration, beginning from d, which has the shape of x. The weights get no gradients."""
    d = unit(d)
    for _ in range(iterations):
        r = (xi * d).requires_grad_()
        with same_masks(x):
            logits = model(x + r)
        (gradient,) = torch.autograd.grad(divergence(p, logits).sum(), r)
        d = unit(gradient)
    return d


def noise(x, random):
    """Normal random numbers in the shape of x: this process's share of those for the whole batch."""
    number = len(x) * processes.count()
    return random.normal(number, *x.shape[1:])[processes.share(number)].to(x.dtype)


def train_step(model, random, optimizer, batch_l, batch_u, weight_u, args):
    (x_l_weak, *x_l_strong), labels_l, _ = batch_l
    (x_u_weak,), _, _ = batch_u

    logits_l_weak = model(x_l_weak)
    logits_l_strong = [model(x) for x in x_l_strong]  # empty if their weight is 0
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_l = loss_l + args.trade_off_cls_strong * sum(F.cross_entropy(logits, labels_l) for logits in logits_l_strong)

    with frozen_statistics(model, args.labeled_statistics), same_masks(x_u_weak):
        logits_u_weak = model(x_u_weak)
    p = F.softmax(logits_u_weak.detach(), dim=1)
    with frozen_statistics(model, True):
        d = direction(model, x_u_weak, p, noise(x_u_weak, random), args.xi, args.power_iterations)
        logits_u_moved = model(x_u_weak + args.eps * d)
    loss_u = divergence(p, logits_u_moved).mean()
    loss_entropy = entropy(logits_u_weak)
    loss = loss_l + weight_u * loss_u + args.trade_off_entropy * loss_entropy

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {
        "loss": loss,
        "loss_l": loss_l,
        "loss_u": loss_u,
        "loss_entropy": loss_entropy,
        "accuracy_l": accuracy(logits_l_weak, labels_l),
    }


def train_one_epoch(run, loader_l, loader_u, model, random, optimizer, scheduler, args):
    model.train()
    warm_up_steps = args.warm_up_epochs * args.iters_per_epoch
    for batch_l, batch_u in run.steps(loader_l, loader_u):
        weight_u = torch.full((), args.trade_off_con * ramp_up(run.step, warm_up_steps), device=run.device)
        metrics = train_step(model, random, optimizer, batch_l, batch_u, weight_u, args)
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
    random = seeding.SharedRandom(args.seed, "perturbation").to(run.device)
    optimizer = build.optimizer(model, args)
    scheduler = build.schedule(optimizer, args)

    run.start({"model": model, "random": random, "optimizer": optimizer, "scheduler": scheduler}, evaluated=model)
    if args.phase == "test":
        return run.test(test_loader)
    for _ in run.epochs():
        train_one_epoch(run, loader_l, loader_u, model, random, optimizer, scheduler, args)
        run.end_epoch(run.evaluate(test_loader))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
