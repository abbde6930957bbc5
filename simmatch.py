"""SimMatch: two kinds of pseudo-labels, over classes and over labeled images, correct each other.

    loss   = loss_l + trade_off_self_training * loss_u + trade_off_instance * loss_instance
    loss_l = CE(x_l_weak)
    loss_u = mean(mask * CE(x_u_strong, targets)),    mask = max(targets) >= threshold
    loss_instance = mean of -sum_k v_k log softmax_k(z_u_strong . z_k / T)
    q = normalize(softmax(x_u_weak) / mean of the newest `window` batches' softmax(x_u_weak))
    w = softmax_k(z_u_weak . z_k / T),    v_k = normalize(w_k * q[label_k])
    targets = smoothing * q + (1 - smoothing) * (for each class the sum of w over its labeled images)

z is a projection of the features to the unit sphere. A bank holds z_k for each labeled image, a running mean over its
weak views. Until every image has one, targets are q and loss_instance is 0. Targets are soft. Neither they nor the
bank carry a gradient.

Paper: Zheng et al., SimMatch: Semi-supervised Learning with Similarity Matching, CVPR 2022, arXiv:2203.06915. This is
its form for small banks; the one for ImageNet has a teacher. The defaults are those of the CIFAR settings. As there, an
average of the weights is tested (--ema 0: the weights themselves). The rest is as in fixmatch.py. No figure has been
published for this combination. Differences from the code of those settings:
 1. An embedding of the bank is normalized over its features, as in the paper's equation. The code normalizes each
    feature over the batch, which amounts to a lower temperature: --T 0.07 is closer to it.
 2. The window holds 128 batches (there 32): with hundreds of classes, a batch here has few images of each.
 3. Every view has a forward pass of its own, unless --joint-passes is given (there one pass for all). A batch has as
    many unlabeled as labeled images (there 7 times as many). No Cutout.
 4. Targets are mixed once every image is in the bank (there after 1,024 steps).

Cells: scripts/scratch.sh. Diff against: comatch.py.
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
    parser = cli.parser(__file__, __doc__, strong_labeled=False, joint_passes=True)
    group = parser.add_argument_group("method")
    group.add_argument(
        "--trade-off-self-training", type=cli.non_negative, default=1.0, help="weight of loss_u (default: 1)"
    )
    group.add_argument(
        "--trade-off-instance", type=cli.non_negative, default=1.0, help="weight of loss_instance (default: 1)"
    )
    group.add_argument("--threshold", type=cli.fraction, default=0.95, help="least confidence (default: 0.95)")
    group.add_argument("--T", type=cli.positive, default=0.1, help="temperature of embeddings (default: 0.1)")
    group.add_argument(
        "--smoothing", type=cli.fraction, default=0.9, help="weight of an image's own q in its target (default: 0.9)"
    )
    group.add_argument(
        "--window", type=cli.positive_int, default=128, metavar="N", help="batches to align with (default: 128)"
    )
    group.add_argument("--bank-momentum", type=cli.fraction, default=0.7, help="of the means z_k (default: 0.7)")
    group.add_argument(
        "--projection-dim", type=cli.positive_int, default=128, metavar="P", help="width of embeddings (default: 128)"
    )
    parser.set_defaults(epochs=60, ema=0.999)
    return cli.parse(parser, argv)


class Encoder(ImageClassifier):
    """The classifier with a projector next to the head. Both take the same bottleneck features."""

    def __init__(self, *shared, projection_dim):
        super().__init__(*shared)
        dim = self.feature_dim
        self.projector = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, projection_dim))

    def project(self, features):
        """Unit vectors [B, P]."""
        return F.normalize(self.projector(features), dim=1)

    def parameter_groups(self, lr, finetune):
        return [*super().parameter_groups(lr, finetune), {"params": self.projector.parameters(), "lr": lr}]


class Window(nn.Module):
    """The mean predictions of the newest batches: `means` [W, C], 0 in unused rows; `steps` counts all batches."""

    def __init__(self, num_classes, length):
        super().__init__()
        self.register_buffer("means", torch.zeros(length, num_classes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def align(self, p):
        """Predictions [B, C] divided by their mean, which includes this batch, and normalized."""
        self.means[(self.steps % len(self.means))[None]] = processes.mean(p.mean(dim=0))
        self.steps += 1
        aligned = p / self.means.sum(dim=0).clamp(min=1e-30)  # the sum serves as the mean: the factor cancels
        return aligned / aligned.sum(dim=1, keepdim=True)


class Bank(nn.Module):
    """An embedding for each of the K labeled images: `embeddings` [K, P], and whether it was `written` yet, bool [K].

    `one_hot` [K, C] are the images' labels. Embeddings begin as random unit vectors.
    """

    def __init__(self, labels, num_classes, projection_dim, momentum):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("embeddings", F.normalize(torch.randn(len(labels), projection_dim), dim=1))
        self.register_buffer("written", torch.zeros(len(labels), dtype=torch.bool))
        self.register_buffer("one_hot", F.one_hot(labels, num_classes).float(), persistent=False)

    def similarities(self, z, T):
        """Logits [B, K] of embeddings [B, P]."""
        return z @ self.embeddings.T / T

    def targets(self, p, z, T, smoothing):
        """Targets over classes [B, C] and over labeled images [B, K], from predictions [B, C] and embeddings [B, P]."""
        w = F.softmax(self.similarities(z, T), dim=1)
        own = torch.where(self.written.all(), smoothing, 1.0)
        unfolded = w * (p @ self.one_hot.T)
        instances = unfolded / unfolded.sum(dim=1, keepdim=True).clamp(min=1e-30)
        return own * p + (1 - own) * (w @ self.one_hot), instances

    def loss(self, z, instances, T):
        """Gradients flow into z [B, P] only."""
        loss = -(instances * F.log_softmax(self.similarities(z, T), dim=1)).sum(dim=1).mean()
        return torch.where(self.written.all(), loss, 0.0)

    def write(self, indices, z):
        """Update the embeddings of labeled images with z [B, P] of all processes. Of duplicates, the last is used."""
        indices, z = processes.gather(indices), processes.gather(z)
        equal = indices[:, None] == indices
        last = torch.where(equal, torch.arange(len(indices), device=z.device), -1).amax(dim=1)
        moved = self.momentum * self.embeddings[indices] + (1 - self.momentum) * z[last]
        self.embeddings[indices] = F.normalize(moved, dim=1)
        self.written.index_fill_(0, indices, True)


def self_training_loss(targets, logits_u_strong, threshold):
    """The mean is over the whole batch, selected or not."""
    confidence, pseudo_labels = targets.max(dim=1)
    mask = (confidence >= threshold).float()
    loss = (mask * F.cross_entropy(logits_u_strong, targets, reduction="none")).mean()
    return loss, pseudo_labels, mask


def train_step(model, window, bank, optimizer, batch_l, batch_u, args):
    (x_l_weak,), labels_l, indices_l = batch_l
    (x_u_weak, x_u_strong), labels_u, _ = batch_u

    features_l, features_u_weak, features_u_strong = passes(
        model.features, [x_l_weak, x_u_weak, x_u_strong], no_grad=x_u_weak, joint=args.joint_passes
    )
    logits_l_weak, logits_u_strong = model.head(features_l), model.head(features_u_strong)
    with torch.no_grad():
        z_l_weak, z_u_weak = model.project(features_l), model.project(features_u_weak)
        q = window.align(F.softmax(model.head(features_u_weak), dim=1))
        targets, instances = bank.targets(q, z_u_weak, args.T, args.smoothing)
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_u, pseudo_labels, mask = self_training_loss(targets, logits_u_strong, args.threshold)
    loss_instance = bank.loss(model.project(features_u_strong), instances, args.T)
    loss = loss_l + args.trade_off_self_training * loss_u + args.trade_off_instance * loss_instance

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    bank.write(indices_l, z_l_weak)  # after `backward`, which needs the old embeddings
    return {
        "loss": loss,
        "loss_l": loss_l,
        "loss_u": loss_u,
        "loss_instance": loss_instance,
        "accuracy_l": accuracy(logits_l_weak, labels_l),
        "pseudo_label_accuracy": masked_accuracy(pseudo_labels, labels_u, mask),
        "pseudo_label_ratio": 100 * mask.mean(),
    }


def train_one_epoch(run, loader_l, loader_u, model, window, bank, optimizer, scheduler, args):
    model.train()
    for batch_l, batch_u in run.steps(loader_l, loader_u):
        metrics = train_step(model, window, bank, optimizer, batch_l, batch_u, args)
        scheduler.step()
        run.update(metrics)


def main(args):
    run = Run(__file__, args)
    if run.finished:
        return run.show()

    images = build.images(run, args)
    weak, strong, test = build.views(images.spec, args)
    options = build.loading(run, args)
    loader_l = TrainLoader(images.labeled, [weak], args.batch_size, "labeled", **options)
    loader_u = TrainLoader(images.unlabeled, [weak, strong], args.unlabeled_batch_size, "unlabeled", **options)
    test_loader = TestLoader(images.test, test, **options)

    model = build.classifier(Encoder, len(images.classes), args, projection_dim=args.projection_dim).to(run.device)
    window = Window(len(images.classes), args.window).to(run.device)
    labels = torch.from_numpy(images.labeled.labels)
    bank = Bank(labels, len(images.classes), args.projection_dim, args.bank_momentum).to(run.device)
    optimizer = build.optimizer(model, args)
    scheduler = build.schedule(optimizer, args)

    state = {"model": model, "window": window, "bank": bank, "optimizer": optimizer, "scheduler": scheduler}
    run.start(state, evaluated=model)
    if args.phase == "test":
        return run.test(test_loader)
    for _ in run.epochs():
        train_one_epoch(run, loader_l, loader_u, model, window, bank, optimizer, scheduler, args)
        run.end_epoch(run.evaluate(test_loader))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
