"""SoftMatch: FixMatch with a soft mask, which falls as a Gaussian below the mean confidence.

    loss   = loss_l + trade_off_self_training * loss_u
    loss_l = CE(x_l_weak) + trade_off_cls_strong * CE(x_l_strong)
    loss_u = mean(mask * CE(x_u_strong, pseudo_labels)),    mask = exp(-min(confidence - mu, 0)^2 * n_sigma^2 / (2 var))
    confidence = max(normalize(q / q_hat)),    pseudo_labels = argmax q,    q = softmax(x_u_weak)
    q_hat      = running mean of q
    mu, var    = running mean and variance of the confidence

Paper: Chen et al., SoftMatch: Addressing the Quantity-Quality Trade-off in Semi-supervised Learning, ICLR 2023,
arXiv:2301.10921. The form is that of the authors' code in USB, which computes mu and var after the alignment; their
code in TorchSSL does so before. No published table has these settings. Differences from the paper:
 1. fixmatch.py's differences from FixMatch, except for the mask.

Shell file: scripts/softmatch.sh. Diff against: fixmatch.py.
"""

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
    group.add_argument("--n-sigma", type=cli.positive, default=2.0, help="steepness of the mask (default: 2)")
    group.add_argument("--momentum", type=cli.fraction, default=0.999, help="of the running means (default: 0.999)")
    parser.set_defaults(epochs=60)
    return cli.parse(parser, argv)


class Gaussian(nn.Module):
    """Running `mu` and `var` of the confidence, and `q_hat` [C], the running mean of the predictions."""

    def __init__(self, num_classes, momentum, n_sigma):
        super().__init__()
        self.momentum, self.n_sigma = momentum, n_sigma
        self.register_buffer("mu", torch.tensor(1 / num_classes))
        self.register_buffer("var", torch.tensor(1.0))
        self.register_buffer("q_hat", torch.zeros(num_classes))  # replaced by the first batch's mean

    @torch.no_grad()
    def update(self, probabilities):
        """Move the running means towards a batch of probabilities [B, C]. Returns its aligned confidences [B]."""
        q = processes.mean(probabilities.mean(dim=0))
        self.q_hat.lerp_(q, torch.where(self.q_hat.any(), 1 - self.momentum, 1.0))
        uniform = 1 / len(self.q_hat)
        aligned = probabilities * ((uniform + 1e-6) / (self.q_hat + 1e-6))
        confidence = (aligned / aligned.sum(dim=1, keepdim=True)).amax(dim=1)
        of_all = processes.gather(confidence)
        self.mu.lerp_(of_all.mean(), 1 - self.momentum)
        self.var.lerp_(of_all.var(), 1 - self.momentum)
        return confidence

    def mask(self, confidence):
        """The weights [B] of aligned confidences [B]: 1 above the mean, and below it a Gaussian's."""
        below = (confidence - self.mu).clamp(max=0)
        return torch.exp(-below.square() / (2 * self.var.clamp(min=1e-12) / self.n_sigma**2))


def self_training_loss(logits_u_weak, logits_u_strong, gaussian):
    """The mean is over the whole batch. Pseudo-labels are not aligned. Nothing flows back into `logits_u_weak`."""
    probabilities = F.softmax(logits_u_weak.detach(), dim=1)
    pseudo_labels = probabilities.argmax(dim=1)
    mask = gaussian.mask(gaussian.update(probabilities))
    loss = (mask * F.cross_entropy(logits_u_strong, pseudo_labels, reduction="none")).mean()
    return loss, pseudo_labels, mask


def train_step(model, gaussian, optimizer, batch_l, batch_u, args):
    (x_l_weak, *x_l_strong), labels_l, _ = batch_l
    (x_u_weak, x_u_strong), labels_u, _ = batch_u

    views = [x_l_weak, *x_l_strong, x_u_weak, x_u_strong]  # x_l_strong is empty if its weight is 0
    logits_l_weak, *logits_l_strong, logits_u_weak, logits_u_strong = passes(
        model, views, no_grad=x_u_weak, joint=args.joint_passes
    )
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_l = loss_l + args.trade_off_cls_strong * sum(F.cross_entropy(logits, labels_l) for logits in logits_l_strong)
    loss_u, pseudo_labels, mask = self_training_loss(logits_u_weak, logits_u_strong, gaussian)
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


def train_one_epoch(run, loader_l, loader_u, model, gaussian, optimizer, scheduler, args):
    model.train()
    for batch_l, batch_u in run.steps(loader_l, loader_u):
        metrics = train_step(model, gaussian, optimizer, batch_l, batch_u, args)
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
    gaussian = Gaussian(len(images.classes), args.momentum, args.n_sigma).to(run.device)
    optimizer = build.optimizer(model, args)
    scheduler = build.schedule(optimizer, args)

    run.start({"model": model, "gaussian": gaussian, "optimizer": optimizer, "scheduler": scheduler}, evaluated=model)
    if args.phase == "test":
        return run.test(test_loader)
    for _ in run.epochs():
        train_one_epoch(run, loader_l, loader_u, model, gaussian, optimizer, scheduler, args)
        run.end_epoch(run.evaluate(test_loader))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
