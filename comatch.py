"""CoMatch: pseudo-labels are smoothed over similar images, and form a graph that the embeddings learn.

    loss     = loss_l + trade_off_self_training * loss_u + trade_off_contrast * loss_contrast
    loss_l   = CE(x_l_weak)
    loss_u   = mean(mask * CE(x_u_strong_1, targets)),      mask = max(targets) >= threshold
    q        = normalize(softmax(x_u_weak) / mean of the newest `window` batches' softmax(x_u_weak))
    targets  = smoothing * q + (1 - smoothing) * sum over a bank's (z_k, p_k) of softmax_k(z_u_weak . z_k / T) * p_k
    loss_contrast = mean over i of -sum_j graph_ij * log(softmax_j(z_u_strong_1_i . z_u_strong_2_j / T) + 1e-7)
    graph_ij = 1 if i = j, else targets_i . targets_j; entries below graph_threshold are set to 0; rows sum to 1

z is a projection of the features to the unit sphere. The bank holds weak views of the newest batches: z and q of
unlabeled images, z and the label of labeled ones. Targets are soft, and carry no gradient.

Paper: Li et al., CoMatch: Semi-supervised Learning with Contrastive Graph Regularization, ICCV 2021, arXiv:2011.11183.
The defaults are those of the authors' code for CIFAR-10. As there, an average of the weights is tested (--ema 0: the
weights themselves). The rest is as in fixmatch.py. No figure has been published for this combination. Differences from
the authors' code:
 1. The window holds 128 batches (there 32): with hundreds of classes, a batch here has few images of each.
 2. Every view has a forward pass of its own, unless --joint-passes is given (there one pass for all). A batch has as
    many unlabeled as labeled images (there 7 times as many).
 3. Both strong views are RandAugment's, as in USB (there the second one is SimCLR's), without Cutout.
 4. Smoothing begins when the bank is full (there one step later, in USB in the second epoch).
USB's form, on which published errors from scratch are based, has a ReLU in the projector and adds 1e-6 where q is
divided.

Cells: scripts/scratch.sh. Diff against: fixmatch.py.
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
        "--trade-off-contrast", type=cli.non_negative, default=1.0, help="weight of loss_contrast (default: 1)"
    )
    group.add_argument("--threshold", type=cli.fraction, default=0.95, help="least confidence (default: 0.95)")
    group.add_argument(
        "--graph-threshold", type=cli.fraction, default=0.8, help="least similarity of targets (default: 0.8)"
    )
    group.add_argument("--T", type=cli.positive, default=0.2, help="temperature of embeddings (default: 0.2)")
    group.add_argument(
        "--smoothing", type=cli.fraction, default=0.9, help="weight of an image's own q in its target (default: 0.9)"
    )
    group.add_argument(
        "--window", type=cli.positive_int, default=128, metavar="N", help="batches to align with (default: 128)"
    )
    group.add_argument(
        "--bank-batches", type=cli.positive_int, default=5, metavar="N", help="batches in the bank (default: 5)"
    )
    group.add_argument(
        "--projection-dim", type=cli.positive_int, default=64, metavar="P", help="width of embeddings (default: 64)"
    )
    parser.set_defaults(epochs=60, ema=0.999)
    return cli.parse(parser, argv)


class Encoder(ImageClassifier):
    """The classifier with a projector next to the head. Both take the same bottleneck features."""

    def __init__(self, *shared, projection_dim):
        super().__init__(*shared)
        dim = self.feature_dim
        self.projector = nn.Sequential(nn.Linear(dim, dim), nn.LeakyReLU(0.1), nn.Linear(dim, projection_dim))

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
    """A ring of the K newest weak views: `embeddings` [K, P], `probabilities` [K, C]; `written` counts all so far."""

    def __init__(self, K, projection_dim, num_classes):
        super().__init__()
        self.register_buffer("embeddings", torch.zeros(K, projection_dim))
        self.register_buffer("probabilities", torch.zeros(K, num_classes))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    def smooth(self, p, z, T, smoothing):
        """Predictions [B, C] of images with embeddings [B, P], moved towards their neighbours' in a full bank."""
        neighbors = F.softmax(z @ self.embeddings.T / T, dim=1) @ self.probabilities
        own = torch.where(self.written >= len(self.embeddings), smoothing, 1.0)
        return own * p + (1 - own) * neighbors

    def write(self, z, p):
        """Add embeddings [B, P] and predictions [B, C], and those of the other processes.

        Give predictions from before `smooth`: after it, errors would feed themselves.
        """
        z, p = processes.gather(z), processes.gather(p)
        slots = (self.written + torch.arange(len(z), device=z.device)) % len(self.embeddings)
        self.embeddings[slots], self.probabilities[slots] = z, p
        self.written += len(z)


def self_training_loss(targets, logits_u_strong, threshold):
    """The mean is over the whole batch, selected or not."""
    confidence, pseudo_labels = targets.max(dim=1)
    mask = (confidence >= threshold).float()
    loss = (mask * F.cross_entropy(logits_u_strong, targets, reduction="none")).mean()
    return loss, pseudo_labels, mask


def contrastive_loss(targets, z_1, z_2, T, graph_threshold):
    """Gradients flow into both embeddings [B, P]. Each image of a process is compared with those of all processes."""
    everyones = processes.gather(targets)
    graph = targets @ everyones.T
    graph.diagonal(processes.share(len(everyones)).start).fill_(1)
    graph = torch.where(graph >= graph_threshold, graph, 0.0)
    graph = graph / graph.sum(dim=1, keepdim=True)
    similarities = F.softmax(z_1 @ processes.gather_with_gradients(z_2).T / T, dim=1)
    return -(graph * (similarities + 1e-7).log()).sum(dim=1).mean()


def train_step(model, window, bank, optimizer, batch_l, batch_u, args):
    (x_l_weak,), labels_l, _ = batch_l
    (x_u_weak, *x_u_strong), labels_u, _ = batch_u

    features_l, features_u_weak, *features_u_strong = passes(
        model.features, [x_l_weak, x_u_weak, *x_u_strong], no_grad=x_u_weak, joint=args.joint_passes
    )
    logits_l_weak, logits_u_strong = model.head(features_l), model.head(features_u_strong[0])
    with torch.no_grad():
        z_l_weak, z_u_weak = model.project(features_l), model.project(features_u_weak)
        q = window.align(F.softmax(model.head(features_u_weak), dim=1))
        targets = bank.smooth(q, z_u_weak, args.T, args.smoothing)
    bank.write(z_u_weak, q)
    bank.write(z_l_weak, F.one_hot(labels_l, q.shape[1]).to(q.dtype))
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_u, pseudo_labels, mask = self_training_loss(targets, logits_u_strong, args.threshold)
    loss_contrast = contrastive_loss(targets, *map(model.project, features_u_strong), args.T, args.graph_threshold)
    loss = loss_l + args.trade_off_self_training * loss_u + args.trade_off_contrast * loss_contrast

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {
        "loss": loss,
        "loss_l": loss_l,
        "loss_u": loss_u,
        "loss_contrast": loss_contrast,
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
    loader_u = TrainLoader(images.unlabeled, [weak, strong, strong], args.unlabeled_batch_size, "unlabeled", **options)
    test_loader = TestLoader(images.test, test, **options)

    model = build.classifier(Encoder, len(images.classes), args, projection_dim=args.projection_dim).to(run.device)
    window = Window(len(images.classes), args.window).to(run.device)
    K = args.bank_batches * (loader_l.batch_size + loader_u.batch_size)
    bank = Bank(K, args.projection_dim, len(images.classes)).to(run.device)
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
