"""DST, Debiased Self-Training: pseudo-labels train a separate head, and a worst-case head estimates their bias.

    loss      = loss_l + loss_worst + trade_off_self_training * loss_u
    loss_l    = CE(head(x_l_weak)) + trade_off_cls_strong * CE(head(x_l_strong))
    loss_u    = mean(mask * CE(pseudo_head(x_u_strong), pseudo_labels)),    mask = confidence(x_u_weak) > threshold
    loss_worst = eta * (eta_prime * CE(worst_head(x_l_weak), predictions_l)
                        - mean log(1 - softmax(worst_head(x_u_weak))[predictions_u]))

The worst-case head minimises its loss: it agrees with the head on labeled images and disagrees on unlabeled ones. Its
gradient reaches the features reversed, and scaled by a c that rises from 0 to 0.1. So the features learn to make such a
head impossible. The head itself learns from loss_l alone, and never sees a pseudo-label.

Paper: Chen et al., Debiased Self-Training for Semi-Supervised Learning, NeurIPS 2022, arXiv:2202.07136, equations 5 to
9. Differences from the paper, all as in the published table:
 1. On labeled images, the worst-case head learns the head's predictions. In the paper it learns the labels.
 2. The labeled images have a strong view and loss, too; the authors advise --trade-off-cls-strong 0.
 3. fixmatch.py's differences from FixMatch hold here, too, except that the weak views share a pass.

Labeled and unlabeled weak views share one forward pass, and so BatchNorm statistics. The script is longer than its
neighbours because of the two heads and the gradient reversal.

Shell file: scripts/dst.sh. Diff against: fixmatch.py.
"""

import torch
from torch import nn
from torch.nn import functional as F

from common import build, cli
from common.loading.loaders import TestLoader, TrainLoader
from common.networks import ImageClassifier
from common.run import Run
from common.training.evaluate import accuracy, masked_accuracy


def parse_args(argv=None):
    parser = cli.parser(__file__, __doc__)
    group = parser.add_argument_group("method")
    group.add_argument(
        "--trade-off-self-training", type=cli.non_negative, default=1.0, help="weight of loss_u (default: 1)"
    )
    group.add_argument("--threshold", type=cli.fraction, default=0.7, help="least confidence (default: 0.7)")
    group.add_argument("--eta", type=cli.non_negative, default=1.0, help="weight of the worst-case loss (default: 1)")
    group.add_argument(
        "--eta-prime", type=cli.non_negative, default=2.0, help="weight of its labeled part (default: 2)"
    )
    group.add_argument(
        "--width", type=cli.positive_int, default=2048, metavar="D", help="of the two extra heads (default: 2048)"
    )
    parser.set_defaults(epochs=90, lr=0.01, lr_gamma=0.0002)
    return cli.parse(parser, argv)


class GradientReversal(nn.Module):
    """Identity forward, times -c backward; c = 0.1 tanh(n / 2000) after n steps."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        return ScaleGradient.apply(x, -0.1 * torch.tanh(self.steps / 2000))


class ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.saved_tensors[0] * gradient, None


class DebiasedClassifier(ImageClassifier):
    """The classifier with a pseudo head and, after a gradient reversal, a worst-case head. Only `head` is tested."""

    def __init__(self, *shared, width):
        super().__init__(*shared)
        self.reversal = GradientReversal()
        dim, num_classes = self.feature_dim, self.head.out_features
        self.worst_head, self.pseudo_head = (
            nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, num_classes))
            for _ in range(2)
        )

    def parameter_groups(self, lr, finetune):
        heads = [*self.worst_head.parameters(), *self.pseudo_head.parameters()]
        return [*super().parameter_groups(lr, finetune), {"params": heads, "lr": lr}]


def worst_case_loss(logits_l, worst_l, logits_u, worst_u, eta_prime):
    """The targets are the head's predictions, without a gradient."""
    predictions_l, predictions_u = logits_l.argmax(dim=1), logits_u.argmax(dim=1)
    p_other = 1 - F.softmax(worst_u, dim=1).gather(1, predictions_u[:, None]).squeeze(1)
    disagree = -(p_other + 1e-6).clamp(max=1).log().mean()
    return eta_prime * F.cross_entropy(worst_l, predictions_l) + disagree


def self_training_loss(logits_u_weak, logits_u_strong, threshold):
    """The mean is over the whole batch, selected or not. Nothing flows back into `logits_u_weak`."""
    confidence, pseudo_labels = F.softmax(logits_u_weak.detach(), dim=1).max(dim=1)
    mask = (confidence > threshold).float()
    loss = (mask * F.cross_entropy(logits_u_strong, pseudo_labels, reduction="none")).mean()
    return loss, pseudo_labels, mask


def train_step(model, optimizer, batch_l, batch_u, args):
    (x_l_weak, *x_l_strong), labels_l, _ = batch_l
    (x_u_weak, x_u_strong), labels_u, _ = batch_u

    logits_l_strong = [model(x) for x in x_l_strong]  # empty if their weight is 0

    features = model.features(torch.cat([x_l_weak, x_u_weak]))
    sizes = [len(x_l_weak), len(x_u_weak)]
    logits_l_weak, logits_u_weak = model.head(features).split(sizes)
    worst_l, worst_u = model.worst_head(model.reversal(features)).split(sizes)
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_l = loss_l + args.trade_off_cls_strong * sum(F.cross_entropy(logits, labels_l) for logits in logits_l_strong)
    loss_worst = args.eta * worst_case_loss(logits_l_weak, worst_l, logits_u_weak, worst_u, args.eta_prime)

    logits_u_strong = model.pseudo_head(model.features(x_u_strong))
    loss_u, pseudo_labels, mask = self_training_loss(logits_u_weak, logits_u_strong, args.threshold)
    loss = loss_l + loss_worst + args.trade_off_self_training * loss_u

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.reversal.steps += 1
    return {
        "loss": loss,
        "loss_l": loss_l,
        "loss_u": loss_u,
        "loss_worst": loss_worst,
        "accuracy_l": accuracy(logits_l_weak, labels_l),
        "pseudo_label_accuracy": masked_accuracy(pseudo_labels, labels_u, mask),
        "pseudo_label_ratio": 100 * mask.mean(),
    }


def train_one_epoch(run, loader_l, loader_u, model, optimizer, scheduler, args):
    model.train()
    for batch_l, batch_u in run.steps(loader_l, loader_u):
        metrics = train_step(model, optimizer, batch_l, batch_u, args)
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

    model = build.classifier(DebiasedClassifier, len(images.classes), args, width=args.width).to(run.device)
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
