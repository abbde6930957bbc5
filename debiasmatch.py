"""DebiasMatch: FixMatch with pseudo-labels that are corrected for the bias of earlier predictions.

    loss   = loss_l + trade_off_self_training * loss_u
    loss_l = CE(x_l_weak) + trade_off_cls_strong * CE(x_l_strong)
    loss_u = mean(mask * CE(x_u_strong + tau * log q_hat, pseudo_labels))
    mask and pseudo_labels from softmax(x_u_weak - tau * log q_hat), as in FixMatch
    q_hat <- momentum * q_hat + (1 - momentum) * mean softmax(x_u_weak),    before it is used

Paper: Wang et al., Debiased Learning from Naturally Imbalanced Pseudo-Labels, CVPR 2022, arXiv:2201.01490, equations 3
to 6. Differences from the paper, all as in the published table:
 1. q_hat is reset to uniform in every epoch, so its strength depends on --iters-per-epoch: after 500 steps 39 % of it
    come from predictions. --persistent-q-hat keeps it for the whole run. The table's tau were tuned with the reset.
 2. Pseudo-labels use q_hat after its update. In the authors' code they use it before.
 3. No second strong view, no CLD loss, and no average of the weights to make pseudo-labels. loss_u has the weight 1,
    and tau is 1 (in the authors' code 10 and 0.4).
 4. fixmatch.py's differences from FixMatch.

Shell file: scripts/debiasmatch.sh. Diff against: fixmatch.py.
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
    group.add_argument("--threshold", type=cli.fraction, default=0.95, help="least confidence (default: 0.95)")
    group.add_argument("--tau", type=cli.non_negative, default=1.0, help="strength of the debiasing (default: 1)")
    group.add_argument("--momentum", type=cli.fraction, default=0.999, help="of the average q_hat (default: 0.999)")
    group.add_argument(
        "--persistent-q-hat", action="store_true", help="keep q_hat from epoch to epoch, as the paper does"
    )
    parser.set_defaults(epochs=90)
    return cli.parse(parser, argv)


class QHat(nn.Module):
    """q_hat [C], the running average of the predicted class distribution. In float32, since 1 - momentum is small."""

    def __init__(self, num_classes, momentum):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("q_hat", torch.full((num_classes,), 1 / num_classes))

    def reset(self):
        self.q_hat.fill_(1 / len(self.q_hat))

    @torch.no_grad()
    def update(self, logits_u_weak):
        q = processes.mean(F.softmax(logits_u_weak, dim=1).mean(dim=0))
        self.q_hat.mul_(self.momentum).add_(q, alpha=1 - self.momentum)

    def log(self):
        return self.q_hat.clamp(min=1e-12).log()


def self_training_loss(logits_u_weak, logits_u_strong, bias, threshold):
    """`bias` [C] is tau * log q_hat. Nothing flows back into `logits_u_weak` or `bias`."""
    confidence, pseudo_labels = F.softmax(logits_u_weak.detach() - bias, dim=1).max(dim=1)
    mask = (confidence > threshold).float()
    loss = (mask * F.cross_entropy(logits_u_strong + bias, pseudo_labels, reduction="none")).mean()
    return loss, pseudo_labels, mask


def train_step(model, q_hat, optimizer, batch_l, batch_u, args):
    (x_l_weak, *x_l_strong), labels_l, _ = batch_l
    (x_u_weak, x_u_strong), labels_u, _ = batch_u

    views = [x_l_weak, *x_l_strong, x_u_weak, x_u_strong]  # x_l_strong is empty if its weight is 0
    logits_l_weak, *logits_l_strong, logits_u_weak, logits_u_strong = passes(
        model, views, no_grad=x_u_weak, joint=args.joint_passes
    )
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_l = loss_l + args.trade_off_cls_strong * sum(F.cross_entropy(logits, labels_l) for logits in logits_l_strong)
    q_hat.update(logits_u_weak)
    bias = args.tau * q_hat.log()
    loss_u, pseudo_labels, mask = self_training_loss(logits_u_weak, logits_u_strong, bias, args.threshold)
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


def train_one_epoch(run, loader_l, loader_u, model, q_hat, optimizer, scheduler, args):
    model.train()
    if run.at_epoch_start and not args.persistent_q_hat:
        q_hat.reset()
    for batch_l, batch_u in run.steps(loader_l, loader_u):
        metrics = train_step(model, q_hat, optimizer, batch_l, batch_u, args)
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
    q_hat = QHat(len(images.classes), args.momentum).to(run.device)
    optimizer = build.optimizer(model, args)
    scheduler = build.schedule(optimizer, args)

    run.start({"model": model, "q_hat": q_hat, "optimizer": optimizer, "scheduler": scheduler}, evaluated=model)
    if args.phase == "test":
        return run.test(test_loader)
    for _ in run.epochs():
        train_one_epoch(run, loader_l, loader_u, model, q_hat, optimizer, scheduler, args)
        run.end_epoch(run.evaluate(test_loader))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
