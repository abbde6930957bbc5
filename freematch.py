"""FreeMatch: FixMatch with a threshold for each class that follows the predictions.

    loss   = loss_l + trade_off_self_training * loss_u + trade_off_fairness * loss_f
    loss_l = CE(x_l_weak) + trade_off_cls_strong * CE(x_l_strong)
    loss_u = mean(mask * CE(x_u_strong, pseudo_labels)),    mask = confidence(x_u_weak) >= thresholds[pseudo_labels]
    thresholds[c] = tau * q_hat[c] / max(q_hat)
    loss_f = sum(normalize(q_hat / histogram) * log normalize(q_strong / histogram_strong))
    tau, q_hat, histogram = running means of the confidence, predictions and pseudo-labels of x_u_weak
    q_strong, histogram_strong = this batch's mean prediction and predicted classes, over the selected x_u_strong

Paper: Wang et al., FreeMatch: Self-adaptive Thresholding for Semi-supervised Learning, ICLR 2023, arXiv:2205.07246.
The form is that of the authors' code in USB. No published table has these settings. Differences from the paper:
 1. --trade-off-fairness is 0.001, as in USB's settings (the paper: 0.01 where labels are few, 0.05 elsewhere).
 2. fixmatch.py's differences from FixMatch, but the mask is >=, as in the paper.
 3. tau has no limit. USB has one on SVHN, --max-tau 0.95.

Shell file: scripts/freematch.sh. Diff against: flexmatch.py.
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
    group.add_argument(
        "--trade-off-fairness", type=cli.non_negative, default=0.001, help="weight of loss_f (default: 0.001)"
    )
    group.add_argument("--momentum", type=cli.fraction, default=0.999, help="of the running means (default: 0.999)")
    group.add_argument("--max-tau", type=cli.fraction, default=1.0, help="limit of the global threshold (default: 1)")
    parser.set_defaults(epochs=60)
    return cli.parse(parser, argv)


class Curriculum(nn.Module):
    """Running means of the confidence (`tau`), predictions (`q_hat` [C]) and pseudo-labels (`histogram` [C])."""

    def __init__(self, num_classes, momentum, max_tau):
        super().__init__()
        self.momentum, self.max_tau = momentum, max_tau
        self.register_buffer("tau", torch.tensor(1 / num_classes))
        self.register_buffer("q_hat", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("histogram", torch.full((num_classes,), 1 / num_classes))

    def thresholds(self):
        return self.tau * self.q_hat / self.q_hat.max()

    @torch.no_grad()
    def update(self, probabilities, confidence, pseudo_labels):
        one_hot = F.one_hot(pseudo_labels, len(self.q_hat)).to(probabilities.dtype)
        self.tau.lerp_(processes.mean(confidence.mean()), 1 - self.momentum).clamp_(max=self.max_tau)
        self.q_hat.lerp_(processes.mean(probabilities.mean(dim=0)), 1 - self.momentum)
        self.histogram.lerp_(processes.mean(one_hot.mean(dim=0)), 1 - self.momentum)


def self_training_loss(logits_u_weak, logits_u_strong, curriculum):
    """The thresholds are those after this batch. The mean is over the whole batch, selected or not."""
    probabilities = F.softmax(logits_u_weak.detach(), dim=1)
    confidence, pseudo_labels = probabilities.max(dim=1)
    curriculum.update(probabilities, confidence, pseudo_labels)
    mask = (confidence >= curriculum.thresholds()[pseudo_labels]).float()
    loss = (mask * F.cross_entropy(logits_u_strong, pseudo_labels, reduction="none")).mean()
    return loss, pseudo_labels, mask


def fairness_loss(logits_u_strong, mask, curriculum):
    """Minus a cross-entropy, as in the paper; 0 if nothing is selected. Only the mean prediction has a gradient."""
    q = F.softmax(logits_u_strong, dim=1)
    one_hot = F.one_hot(q.argmax(dim=1), q.shape[1]).to(q.dtype)
    q, histogram = processes.sum(mask @ q), processes.sum(mask @ one_hot)  # sums; `balanced` normalizes them
    target = balanced(curriculum.q_hat, curriculum.histogram)
    loss = (target * (balanced(q, histogram) + 1e-12).log()).sum()
    return torch.where(histogram.sum() > 0, loss, 0.0)


def balanced(q, histogram):
    """q / histogram, normalized. Classes that are not in the histogram get 0."""
    ratio = q * torch.where(histogram > 0, 1 / histogram, 0.0)
    return ratio / ratio.sum().clamp(min=1e-12)


def train_step(model, curriculum, optimizer, batch_l, batch_u, args):
    (x_l_weak, *x_l_strong), labels_l, _ = batch_l
    (x_u_weak, x_u_strong), labels_u, _ = batch_u

    views = [x_l_weak, *x_l_strong, x_u_weak, x_u_strong]  # x_l_strong is empty if its weight is 0
    logits_l_weak, *logits_l_strong, logits_u_weak, logits_u_strong = passes(
        model, views, no_grad=x_u_weak, joint=args.joint_passes
    )
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_l = loss_l + args.trade_off_cls_strong * sum(F.cross_entropy(logits, labels_l) for logits in logits_l_strong)
    loss_u, pseudo_labels, mask = self_training_loss(logits_u_weak, logits_u_strong, curriculum)
    loss_f = fairness_loss(logits_u_strong, mask, curriculum)
    loss = loss_l + args.trade_off_self_training * loss_u + args.trade_off_fairness * loss_f

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {
        "loss": loss,
        "loss_l": loss_l,
        "loss_u": loss_u,
        "loss_f": loss_f,
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
    curriculum = Curriculum(len(images.classes), args.momentum, args.max_tau).to(run.device)
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
