"""Self-Tuning: contrast every image with the keys of its class, which is its label or its pseudo-label.

    loss   = loss_l + loss_u
    loss_l = CE(x_l_query, labels) + PGC(x_l_query, x_l_key, labels)
    loss_u = PGC(x_u_query, x_u_key, pseudo_labels),    pseudo_labels = argmax of a separate pass, without a threshold
    PGC    = KL(target || softmax(similarities / T)), over an image's own key and all keys in the queue. The target is
             uniform over the own key and the K keys of the image's class

Paper: Wang et al., Self-Tuning for Data-Efficient Deep Learning, ICML 2021, arXiv:2102.12903, section 3.2. Differences
from the paper's own code, all as in the published table:
 1. The projector and the classifier take the bottleneck's output, after its dropout. The projector learns at the
    backbone's rate.
 2. Longer training at other rates. The published MoCo rows have the same milestones, and no cosine schedule.
 3. Weight decay 5e-4 (there 1e-4), timm's RandAugment, this suite's crops, and one centre crop in the test (there ten).
As in that code, the key encoder moves twice a step (once per call of PGC), and the unlabeled call sees the labeled keys
of the same step.

The script is longer than its neighbours because the method has a second network, a queue and a loss on both.

Shell file: scripts/self_tuning.sh. Diff against: fixmatch.py.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import MultiStepLR

from common import build, cli
from common.loading.loaders import TestLoader, TrainLoader
from common.networks import ImageClassifier, ema
from common.run import Run
from common.system import processes
from common.training.evaluate import accuracy, masked_accuracy


def parse_args(argv=None):
    parser = cli.parser(__file__, __doc__, schedule=False, strong_labeled=False)
    group = parser.add_argument_group("method")
    group.add_argument(
        "--projection-dim", type=cli.positive_int, default=1024, metavar="P", help="width of the keys (default: 1024)"
    )
    group.add_argument("--T", type=cli.positive, default=0.07, help="temperature (default: 0.07)")
    group.add_argument("--K", type=cli.positive_int, default=32, help="keys per class in the queue (default: 32)")
    group.add_argument("--m", type=cli.fraction, default=0.999, help="decay of the key encoder (default: 0.999)")
    group.add_argument(
        "--milestones",
        type=cli.positive_int,
        nargs="+",
        default=[12, 24, 36, 48],
        metavar="N",
        help="epochs after which the rate falls (default: 12 24 36 48)",
    )
    group.add_argument("--lr-gamma", type=cli.non_negative, default=0.1, help="factor of the rate there (default: 0.1)")
    parser.set_defaults(epochs=60)
    return cli.parse(parser, argv)


class Encoder(ImageClassifier):
    """The classifier with a projector next to the head. Both take the same bottleneck features."""

    def __init__(self, *shared, projection_dim):
        super().__init__(*shared)
        self.projector = nn.Linear(self.feature_dim, projection_dim)

    def project(self, x):
        """Unit vectors [B, P] and logits [B, C]."""
        features = self.features(x)
        return F.normalize(self.projector(features), dim=1), self.head(features)

    def parameter_groups(self, lr, finetune):
        projector = {"params": self.projector.parameters(), "lr": 0.1 * lr if finetune else lr}
        return [*super().parameter_groups(lr, finetune), projector]


class KeyEncoder(nn.Module):
    """A copy of the encoder that follows it slowly. Always in train mode, with its own BatchNorm statistics."""

    def __init__(self, encoder, m):
        super().__init__()
        self.encoder = ema.copy_of(encoder)
        self.m = m

    @torch.no_grad()
    def forward(self, x):
        return self.encoder.project(x)[0]

    @torch.no_grad()
    def update(self, encoder):
        """Moves the parameters only. `ema.ModelEma` also copies buffers, and rounds differently in the last bits."""
        parameters = list(self.encoder.parameters())
        torch._foreach_mul_(parameters, self.m)
        torch._foreach_add_(parameters, list(encoder.parameters()), alpha=1 - self.m)


class Queue(nn.Module):
    """For each class a ring buffer of its K newest keys: `keys` [C, K, P], and `pointers` [C] to the next slots."""

    def __init__(self, num_classes, K, projection_dim):
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(num_classes, K, projection_dim), dim=2))
        self.register_buffer("pointers", torch.zeros(num_classes, dtype=torch.int64))

    def loss(self, queries, keys, labels, T):
        """PGC of queries [B, P] with their own keys [B, P] and labels [B], for the present queue."""
        C, K, P = self.keys.shape
        own = (queries * keys).sum(dim=1, keepdim=True)
        similarities = torch.cat([own, queries @ self.keys.view(C * K, P).T], dim=1)
        log_p = F.log_softmax(similarities / T, dim=1)
        rows = torch.arange(len(labels), device=labels.device)
        positives = torch.cat([log_p[:, :1], log_p[:, 1:].view(-1, C, K)[rows, labels]], dim=1)
        return -positives.mean(dim=1).mean() - math.log(K + 1)

    @torch.no_grad()
    def enqueue(self, keys, labels):
        """Same result as adding the keys one by one: of several keys for one slot, the last is written."""
        C, K, _ = self.keys.shape
        one_hot = F.one_hot(labels, C)
        rank = one_hot.cumsum(dim=0).gather(1, labels[:, None]).squeeze(1) - 1  # among the batch's keys of that class
        slots = (self.pointers[labels] + rank) % K
        same_slot = (labels[:, None] == labels) & (slots[:, None] == slots)
        last = torch.where(same_slot, torch.arange(len(labels), device=labels.device), -1).max(dim=1).values
        self.keys[labels, slots] = keys[last]
        self.pointers.copy_((self.pointers + one_hot.sum(dim=0)) % K)


def train_step(model, key_encoder, queue, optimizer, batch_l, batch_u, args):
    (x_l_query, x_l_key), labels_l, _ = batch_l
    (x_u_query, x_u_key), labels_u, _ = batch_u
    optimizer.zero_grad()

    queries_l, logits_l = model.project(x_l_query)
    key_encoder.update(model)
    keys_l = key_encoder(x_l_key)
    loss_cls = F.cross_entropy(logits_l, labels_l)
    loss_pgc_l = queue.loss(queries_l, keys_l, labels_l, args.T)
    (loss_cls + loss_pgc_l).backward()  # before `enqueue` changes the keys that the graph needs
    queue.enqueue(processes.gather(keys_l), processes.gather(labels_l))

    with torch.no_grad():
        pseudo_labels = model(x_u_query).argmax(dim=1)
    queries_u, _ = model.project(x_u_query)
    key_encoder.update(model)
    keys_u = key_encoder(x_u_key)
    loss_u = queue.loss(queries_u, keys_u, pseudo_labels, args.T)
    loss_u.backward()
    queue.enqueue(processes.gather(keys_u), processes.gather(pseudo_labels))

    optimizer.step()
    return {
        "loss": loss_cls + loss_pgc_l + loss_u,
        "loss_cls": loss_cls,
        "loss_pgc_l": loss_pgc_l,
        "loss_u": loss_u,
        "accuracy_l": accuracy(logits_l, labels_l),
        "pseudo_label_accuracy": masked_accuracy(pseudo_labels, labels_u, torch.ones_like(labels_u)),
    }


def train_one_epoch(run, loader_l, loader_u, model, key_encoder, queue, optimizer, scheduler, args):
    model.train()
    for batch_l, batch_u in run.steps(loader_l, loader_u):
        metrics = train_step(model, key_encoder, queue, optimizer, batch_l, batch_u, args)
        run.update(metrics)
    if scheduler.last_epoch == run.epoch:  # not again where an interrupted evaluation is repeated
        scheduler.step()


def main(args):
    run = Run(__file__, args)
    if run.finished:
        return run.show()

    images = build.images(run, args)
    _, strong, test = build.views(images.spec, args)
    options = build.loading(run, args)
    loader_l = TrainLoader(images.labeled, [strong, strong], args.batch_size, "labeled", **options)
    loader_u = TrainLoader(images.unlabeled, [strong, strong], args.unlabeled_batch_size, "unlabeled", **options)
    test_loader = TestLoader(images.test, test, **options)

    model = build.classifier(Encoder, len(images.classes), args, projection_dim=args.projection_dim).to(run.device)
    key_encoder = KeyEncoder(model, args.m).to(run.device)
    queue = Queue(len(images.classes), args.K, args.projection_dim).to(run.device)
    optimizer = build.optimizer(model, args)
    scheduler = MultiStepLR(optimizer, args.milestones, args.lr_gamma)

    state = {"model": model, "key_encoder": key_encoder, "queue": queue, "optimizer": optimizer, "scheduler": scheduler}
    run.start(state, evaluated=model)
    if args.phase == "test":
        return run.test(test_loader)
    for _ in run.epochs():
        train_one_epoch(run, loader_l, loader_u, model, key_encoder, queue, optimizer, scheduler, args)
        run.end_epoch(run.evaluate(test_loader))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
