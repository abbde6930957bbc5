"""Plain mode: FixMatch as the ancestor (TLlib) trains it, for the benchmark to compare with. Written for that alone.

It has the shape of the project's own scripts, so that both are measured by the same means. What makes it plain:
 1. Workers end every view with ToTensor and Normalize, and hand over float tensors, one by one, in NCHW.
 2. The workers are started anew for every pass over a set: with 40 labels and a batch of 32, for every batch. So are
    the test loader's. Every evaluation decodes and resizes all images again.
 3. Batches are copied to the device one after the other, and waited for.
 4. At every step, every meter is read (`.item()`), and so is whether a mask is empty.
 5. Losses have a backward pass each, in eager float32.
`Bank` and `Queue` are FlexMatch's and Self-Tuning's state in the same manner: with Python loops over classes and
samples.
"""

from collections import Counter, defaultdict

import torch
from torch.nn import functional as F
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from common import build, datasets
from common.datasets import splits
from common.loading import augment
from common.networks.classifier import ImageClassifier
from common.run import Run
from common.training import optim
from fixmatch import parse_args  # noqa: F401 (the same command line)


class Views(Dataset):
    """index -> (float views, label)."""

    def __init__(self, images, transforms):
        self.images, self.transforms = images, transforms

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images.load(index)
        return [transform(image) for transform in self.transforms], self.images.labels[index]


def views(args, spec):
    """The weak, the strong and the test transform: RGB image -> normalised float32 [3, H, W]."""
    size = args.image_size
    enlarge, flip = T.Resize((size, size), augment.BICUBIC), [T.RandomHorizontalFlip()] if spec.flip else []
    if args.train_resizing == "default":
        weak = [T.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=augment.BILINEAR), *flip]
    else:
        crop = T.RandomCrop(spec.native_size, padding=spec.native_size // 8, padding_mode="reflect")
        weak = [crop, *([enlarge] if args.train_resizing == "cifar" else []), *flip]
    squash = [T.Resize((round(size * 256 / 224),) * 2, augment.BICUBIC), T.CenterCrop(size)]
    test = {"default": squash, "cifar": [enlarge], "native": []}[args.val_resizing]
    strong = [*weak, *augment.policy(args.auto_augment, args.norm_mean, args.cutout)]
    last = [T.ToTensor(), T.Normalize(args.norm_mean, args.norm_std)]
    return [T.Compose(steps + last) for steps in (weak, strong, test)]


class Forever:
    """Endless batches on the device. When a pass ends, the loader begins anew, with new workers."""

    def __init__(self, loader, device):
        self.loader, self.device, self.iterator = loader, device, iter(())

    def batches(self, step):
        while True:
            batch = next(self.iterator, None)
            if batch is None:
                self.iterator = iter(self.loader)
                batch = next(self.iterator)
            views, labels = batch
            yield [view.to(self.device) for view in views], labels.to(self.device)


class Meters(defaultdict):
    """name -> [sum, weight], as plain numbers."""

    def __init__(self):
        super().__init__(lambda: [0.0, 0.0])

    def update(self, name, value, weight):
        self[name][0] += value * weight
        self[name][1] += weight


def train_step(model, optimizer, batch_l, batch_u, args):
    """name -> (value, weight) for the meters, as plain numbers."""
    (x_l_weak, x_l_strong), labels_l = batch_l
    (x_u_weak, x_u_strong), labels_u = batch_u
    optimizer.zero_grad()

    logits_l = model(x_l_weak)
    loss_l = F.cross_entropy(logits_l, labels_l)
    loss_l = loss_l + args.trade_off_cls_strong * F.cross_entropy(model(x_l_strong), labels_l)
    loss_l.backward()

    with torch.no_grad():
        logits_u = model(x_u_weak)
    confidence, pseudo_labels = F.softmax(logits_u, dim=1).max(dim=1)
    mask = (confidence > args.threshold).float()
    loss_u = (F.cross_entropy(model(x_u_strong), pseudo_labels, reduction="none") * mask).mean()
    loss_u = args.trade_off_self_training * loss_u
    loss_u.backward()
    optimizer.step()

    selected, number = mask.sum(), len(labels_l)
    metrics = {
        "loss": ((loss_l + loss_u).item(), number),
        "loss_l": (loss_l.item(), number),
        "loss_u": (loss_u.item(), number),
        "accuracy_l": (100 * (logits_l.argmax(dim=1) == labels_l).float().mean().item(), number),
        "pseudo_label_ratio": (100 * selected.item() / len(mask), 1),
    }
    if selected > 0:
        right = ((pseudo_labels == labels_u).float() * mask).sum()
        metrics["pseudo_label_accuracy"] = (100 * (right / selected).item(), selected.item())
    return metrics


def train_one_epoch(run, loader_l, loader_u, model, optimizer, scheduler, args):
    model.train()
    meters = Meters()
    batches = zip(range(args.iters_per_epoch), loader_l.batches(0), loader_u.batches(0), strict=False)
    for _, batch_l, batch_u in batches:
        for name, (value, weight) in train_step(model, optimizer, batch_l, batch_u, args).items():
            meters.update(name, value, weight)
        scheduler.step()


@torch.no_grad()
def evaluate(model, loader, num_classes):
    device = next(model.parameters()).device
    model.eval()
    meters, confusion = Meters(), torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    for (inputs,), targets in loader:
        x, labels = inputs.to(device), targets.to(device)
        logits = model(x)
        top5 = logits.topk(min(5, num_classes), dim=1).indices == labels[:, None]
        pairs = labels * num_classes + logits.argmax(dim=1)
        confusion += torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)
        meters.update("loss", F.cross_entropy(logits, labels).item(), len(labels))
        meters.update("top1", 100 * top5[:, 0].float().mean().item(), len(labels))
        meters.update("top5", 100 * top5.float().sum().item() / len(labels), len(labels))
    return {name: total / weight for name, (total, weight) in meters.items()}


def main(args):
    run = Run("plain", args)
    data = datasets.load(args.data, args.root, any_counts=args.any_counts)
    labeled, unlabeled = splits.split(data.train.labels, data.classes, args.num_samples_per_class, args.split_seed)
    weak, strong, test = views(args, data.spec)
    loader_l, loader_u = (
        DataLoader(
            Views(data.train.subset(indices), [weak, strong]),
            size,
            shuffle=True,
            drop_last=True,
            num_workers=args.workers,
        )
        for indices, size in ((labeled, args.batch_size), (unlabeled, args.unlabeled_batch_size))
    )
    test_loader = DataLoader(Views(data.test, [test]), args.batch_size, num_workers=args.workers)

    model = build.classifier(ImageClassifier, len(data.classes), args)
    model.precision = "float32"  # whatever --precision says
    model = model.to(run.device, memory_format=torch.contiguous_format)
    optimizer = SGD(model.parameter_groups(args.lr, args.finetune), momentum=0.9, weight_decay=args.wd, nesterov=True)
    steps = args.epochs * args.iters_per_epoch
    scheduler = optim.schedule(optimizer, args.lr_scheduler, args.lr_gamma, args.lr_decay, steps)
    loader_l, loader_u = Forever(loader_l, run.device), Forever(loader_u, run.device)
    for _ in range(args.epochs):
        train_one_epoch(run, loader_l, loader_u, model, optimizer, scheduler, args)
        torch.save(model.state_dict(), run.folder.path / "latest.pth")
        evaluate(model, test_loader, len(data.classes))


class Bank:
    """FlexMatch's last confident pseudo-labels [N], counted anew at every step."""

    def __init__(self, num_images, num_classes, device):
        self.labels, self.num_classes = torch.full((num_images,), -1, device=device), num_classes

    def thresholds(self, pseudo_labels, threshold):
        """The threshold of each pseudo-label [B]."""
        counts = Counter(self.labels.tolist())
        if max(counts.values()) == len(self.labels):
            beta = torch.zeros(self.num_classes)
        else:
            counts.pop(-1, None)
            most = max(counts.values())
            beta = torch.tensor([counts[c] / most for c in range(self.num_classes)])
        beta = beta.to(pseudo_labels.device)[pseudo_labels]
        return threshold * beta / (2 - beta)

    def update(self, indices, pseudo_labels, is_confident):
        if is_confident.any():
            self.labels[indices[is_confident]] = pseudo_labels[is_confident]


class Queue:
    """Self-Tuning's keys [P, CK], class after class, with a loop over the samples for everything."""

    def __init__(self, num_classes, K, projection_dim, device):
        self.K, self.pointers = K, [0] * num_classes
        self.keys = F.normalize(torch.randn(projection_dim, num_classes * K, device=device), dim=0)

    def loss(self, queries, keys, labels, T):
        queue, K = self.keys.clone(), self.K
        own = torch.einsum("bp,bp->b", queries, keys)
        rows = []
        for i, label in enumerate(labels.tolist()):
            same = queue[:, label * K : (label + 1) * K]
            others = torch.cat([queue[:, : label * K], queue[:, (label + 1) * K :]], dim=1)
            rows.append(torch.cat([own[i : i + 1], queries[i] @ same, queries[i] @ others]))
        log_p = F.log_softmax(torch.stack(rows) / T, dim=1)
        target = torch.zeros_like(log_p)
        target[:, : K + 1] = 1 / (K + 1)
        return F.kl_div(log_p, target, reduction="batchmean")

    def enqueue(self, keys, labels):
        for key, label in zip(keys, labels.tolist(), strict=True):
            self.keys[:, label * self.K + self.pointers[label]] = key
            self.pointers[label] = (self.pointers[label] + 1) % self.K
