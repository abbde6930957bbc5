"""Every method's training step, written out slowly and literally, for the tests to compare the scripts with.

One class a method; nothing comes from the scripts. Samples are looped over, every loss has a backward of its own, in
the order of the reference implementation, and whatever the scripts keep incrementally is worked out anew. A network is
given as its parts (`backbone`, `bottleneck`, `head`, and what else the method has), which are put together here.
"""

import copy
import math
from collections import Counter

import torch
from torch import Tensor, nn

from common.system import seeding


def log_softmax(row: Tensor) -> Tensor:
    shifted = row - row.max().detach()
    return shifted - shifted.exp().sum().log()


def softmax(row: Tensor) -> Tensor:
    return log_softmax(row).exp()


def cross_entropy(row: Tensor, target: int) -> Tensor:
    return -log_softmax(row)[target]


def mean(terms: list):
    return sum(terms) / len(terms)


def confident(row: Tensor) -> tuple[float, int]:
    """The largest probability and its class, as plain numbers: no gradient can come of them."""
    p = softmax(row.detach()).tolist()
    return max(p), p.index(max(p))


class Method:
    """What the methods share: the two labeled passes, and SGD with the exponential schedule."""

    tenth = ("backbone",)  # the parts that learn at a tenth of the rate with --finetune

    def __init__(self, net: nn.Module, args, num_images: int, num_classes: int):
        self.net, self.args, self.num_images, self.num_classes = net, args, num_images, num_classes
        self.velocity = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
        self.step, self.epoch = 0, 0
        self.prepare()

    def prepare(self) -> None:
        """Make the method's own state."""

    def begin_epoch(self) -> None:
        pass

    def after_step(self) -> None:
        pass

    def backwards(self, batch_l, batch_u) -> dict:
        """All passes and backwards of a step; gives its metrics."""
        raise NotImplementedError

    def train_epoch(self, batches, before_step) -> list[dict]:
        self.begin_epoch()
        rows = []
        for batch in batches:
            before_step(self.step)
            self.net.zero_grad()
            rows.append(self.backwards(*batch))
            if getattr(self.args, "labeled_statistics", False):
                self.restore_buffers()
            self.descend()
            self.step += 1
            self.after_step()
        self.epoch += 1
        return rows

    @torch.no_grad()
    def restore_buffers(self) -> None:
        """To what they were after the labeled passes."""
        for buffer, before in zip(self.net.buffers(), self.buffers, strict=True):
            buffer.copy_(before)

    def rate(self) -> float:
        return self.args.lr * (1 + self.args.lr_gamma * self.step) ** -self.args.lr_decay

    @torch.no_grad()
    def descend(self) -> None:
        """Nesterov's SGD, with weight decay on everything."""
        for name, p in self.net.named_parameters():
            factor = 0.1 if self.args.finetune and name.split(".")[0] in self.tenth else 1
            gradient = p.grad + self.args.wd * p
            self.velocity[name] = 0.9 * self.velocity[name] + gradient
            p.sub_(factor * self.rate() * (gradient + 0.9 * self.velocity[name]))

    def logits(self, x: Tensor) -> Tensor:
        return self.net.head(self.net.bottleneck(self.net.backbone(x)))

    def supervised(self, batch_l) -> tuple[Tensor, dict]:
        """The loss of both labeled views, with its backward."""
        (weak, strong), labels, _ = batch_l
        y_weak, y_strong = self.logits(weak), self.logits(strong)
        self.buffers = copy.deepcopy(list(self.net.buffers()))
        loss = mean([cross_entropy(y, t) for y, t in zip(y_weak, labels, strict=True)])
        strong_loss = mean([cross_entropy(y, t) for y, t in zip(y_strong, labels, strict=True)])
        loss = loss + self.args.trade_off_cls_strong * strong_loss
        loss.backward()
        return loss, {"loss_l": loss, "accuracy_l": accuracy(y_weak, labels)}

    def self_training(self, selected: list, predictions: Tensor, weight: float) -> Tensor:
        """CE with the (selected, pseudo-label) of each sample, over the whole batch, with its backward."""
        terms = [s * cross_entropy(y, c) for (s, c), y in zip(selected, predictions, strict=True)]
        loss = mean(terms)
        (weight * loss).backward()
        return loss


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return mean([100.0 * (row.argmax().item() == t) for row, t in zip(logits, labels.tolist(), strict=True)])


def of_pseudo_labels(selected: list, labels: Tensor) -> dict:
    right = [100.0 * s * (c == t) for (s, c), t in zip(selected, labels.tolist(), strict=True)]
    number = sum(s for s, _ in selected)
    return {"pseudo_label_accuracy": (sum(right), number), "pseudo_label_ratio": 100 * number / len(selected)}


class Erm(Method):
    def backwards(self, batch_l) -> dict:
        loss, metrics = self.supervised(batch_l)
        return {"loss": loss, "accuracy_l": metrics["accuracy_l"]}


class PseudoLabel(Method):
    def backwards(self, batch_l, batch_u) -> dict:
        loss_l, metrics = self.supervised(batch_l)
        (weak,), labels, _ = batch_u
        y = self.logits(weak)
        selected = [(p > self.args.threshold, c) for p, c in map(confident, y)]
        weight = self.args.trade_off_self_training
        loss_u = self.self_training(selected, y, weight)
        return metrics | {"loss": loss_l + weight * loss_u, "loss_u": loss_u} | of_pseudo_labels(selected, labels)


def ramp_up(epoch: int, length: int) -> float:
    t = min(epoch, length) / length if length else 1
    return math.exp(-5 * (1 - t) ** 2)


def squared_distance(p: Tensor, q: Tensor) -> Tensor:
    return sum((a - b) ** 2 for a, b in zip(p, q, strict=True))


class PiModel(Method):
    def backwards(self, batch_l, batch_u) -> dict:
        loss_l, metrics = self.supervised(batch_l)
        (first, second), _, _ = batch_u
        y, z = self.logits(first), self.logits(second)
        pairs = zip(y, z.detach() if self.args.one_sided else z, strict=True)
        loss_u = mean([squared_distance(softmax(a), softmax(b)) for a, b in pairs])
        weight = self.args.trade_off_con * ramp_up(self.epoch, self.args.warm_up_epochs)
        (weight * loss_u).backward()
        return metrics | {"loss": loss_l + weight * loss_u, "loss_u": loss_u}


class MeanTeacher(Method):
    def prepare(self) -> None:
        self.teacher = copy.deepcopy(self.net)
        for p in self.teacher.parameters():
            p.requires_grad = False

    def backwards(self, batch_l, batch_u) -> dict:
        loss_l, metrics = self.supervised(batch_l)
        (view, view_of_teacher), _, _ = batch_u
        with torch.no_grad():
            targets = self.teacher.head(self.teacher.bottleneck(self.teacher.backbone(view_of_teacher)))
        pairs = zip(self.logits(view), targets, strict=True)
        loss_u = sum(squared_distance(softmax(y), softmax(t)) for y, t in pairs)  # a sum over the batch, too
        weight = self.args.trade_off_con * ramp_up(self.epoch, self.args.warm_up_epochs)
        (weight * loss_u).backward()
        return metrics | {"loss": loss_l + weight * loss_u, "loss_u": loss_u}

    @torch.no_grad()
    def after_step(self) -> None:
        a = min(self.args.alpha, 1 - 1 / self.step)
        for mine, p in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
            mine.copy_(a * mine + (1 - a) * p)
        for mine, module in zip(self.teacher.modules(), self.net.modules(), strict=True):
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                mine.running_mean.copy_(module.running_mean)
                mine.running_var.copy_(module.running_var)
                mine.num_batches_tracked.copy_(module.num_batches_tracked)


class Uda(Method):
    def backwards(self, batch_l, batch_u) -> dict:
        loss_l, metrics = self.supervised(batch_l)
        (weak, strong), _, _ = batch_u
        with torch.no_grad():
            y_weak = self.logits(weak)
        terms, number, T = [], 0, self.args.T
        for w, s in zip(y_weak, self.logits(strong), strict=True):
            paper = self.args.uda_variant == "paper"
            q, log_p = (softmax(w / T), log_softmax(s)) if paper else (softmax(w), log_softmax(s / T))
            selected = confident(w)[0] > self.args.threshold
            terms.append(selected * sum(q[c] * (q[c].log() - log_p[c]) for c in range(len(q))))
            number += selected
        loss_u = mean(terms) if paper else sum(terms) / max(number, 1)
        weight = self.args.trade_off_con
        (weight * loss_u).backward()
        ratio = 100 * number / len(terms)
        return metrics | {"loss": loss_l + weight * loss_u, "loss_u": loss_u, "pseudo_label_ratio": ratio}


class FixMatch(Method):
    def select(self, y_weak: Tensor, indices: Tensor) -> list:
        return [(p > self.args.threshold, c) for p, c in map(confident, y_weak)]

    def bias(self):
        return 0.0

    def backwards(self, batch_l, batch_u) -> dict:
        loss_l, metrics = self.supervised(batch_l)
        (weak, strong), labels, indices = batch_u
        with torch.no_grad():
            y_weak = self.logits(weak)
        selected = self.select(y_weak, indices)
        weight = self.args.trade_off_self_training
        loss_u = self.self_training(selected, self.logits(strong) + self.bias(), weight)
        return metrics | {"loss": loss_l + weight * loss_u, "loss_u": loss_u} | of_pseudo_labels(selected, labels)


def flexmatch_thresholds(bank: list[int], num_classes: int, threshold: float, warmup: bool) -> list[float]:
    """Of each class, from a count of the whole bank; float32 is rounded to after each operation, as tensors do."""
    counts = Counter(bank)
    if max(counts.values()) == len(bank):
        return [0.0] * num_classes
    most = max(number for value, number in counts.items() if warmup or value != -1)
    betas = [torch.tensor(counts[c] / most, dtype=torch.float32) for c in range(num_classes)]
    return [(threshold * beta / (2 - beta)).item() for beta in betas]


class FlexMatch(FixMatch):
    def prepare(self) -> None:
        self.bank = [-1] * self.num_images

    def select(self, y_weak: Tensor, indices: Tensor) -> list:
        thresholds = flexmatch_thresholds(self.bank, self.num_classes, self.args.threshold, self.args.warmup)
        predictions = [confident(y) for y in y_weak]
        for index, (p, c) in zip(indices.tolist(), predictions, strict=True):
            if p > self.args.threshold:
                self.bank[index] = c
        return [(p > thresholds[c], c) for p, c in predictions]


class DebiasMatch(FixMatch):
    def begin_epoch(self) -> None:
        if self.epoch == 0 or not self.args.persistent_q_hat:
            self.q_hat = torch.full((self.num_classes,), 1 / self.num_classes, dtype=torch.float64)

    def bias(self) -> Tensor:
        return (self.args.tau * self.q_hat.log()).float()

    def select(self, y_weak: Tensor, indices: Tensor) -> list:
        m = self.args.momentum
        self.q_hat = m * self.q_hat + (1 - m) * mean([softmax(y.double()) for y in y_weak])
        return super().select(y_weak - self.bias(), indices)


def average(old: list[float], new: list[float], m: float) -> list[float]:
    return [m * a + (1 - m) * b for a, b in zip(old, new, strict=True)]


def shares(classes: list[int], num_classes: int) -> list[float]:
    return [classes.count(c) / len(classes) for c in range(num_classes)]


def normalized(values: list) -> list:
    return [v / sum(values) for v in values]


def balanced(means: list, histogram: list[float]) -> list:
    return normalized([p / h if h else 0.0 for p, h in zip(means, histogram, strict=True)])


class FreeMatch(FixMatch):
    def prepare(self) -> None:
        self.tau, self.q_hat, self.histogram = 1 / self.num_classes, *([1 / self.num_classes] * self.num_classes,) * 2

    def select(self, y_weak: Tensor, indices: Tensor) -> list:
        m, rows = self.args.momentum, [softmax(y.double()).tolist() for y in y_weak]
        labels = [row.index(max(row)) for row in rows]
        self.tau = min(m * self.tau + (1 - m) * mean([max(row) for row in rows]), self.args.max_tau)
        self.q_hat = average(self.q_hat, [mean(column) for column in zip(*rows, strict=True)], m)
        self.histogram = average(self.histogram, shares(labels, self.num_classes), m)
        return [
            (max(row) >= self.tau * self.q_hat[c] / max(self.q_hat), c) for row, c in zip(rows, labels, strict=True)
        ]

    def fairness(self, selected: list, y_strong: Tensor):
        rows = [softmax(y) for (s, _), y in zip(selected, y_strong, strict=True) if s]
        if not rows:
            return torch.zeros(())
        predicted = [row.argmax().item() for row in rows]
        b = balanced([mean(column) for column in zip(*rows, strict=True)], shares(predicted, self.num_classes))
        a = balanced(self.q_hat, self.histogram)
        return sum(a[c] * torch.as_tensor(b[c] + 1e-12).log() for c in range(self.num_classes))

    def backwards(self, batch_l, batch_u) -> dict:
        loss_l, metrics = self.supervised(batch_l)
        (weak, strong), labels, indices = batch_u
        with torch.no_grad():
            y_weak = self.logits(weak)
        selected, y_strong = self.select(y_weak, indices), self.logits(strong)
        loss_u = mean([s * cross_entropy(y, c) for (s, c), y in zip(selected, y_strong, strict=True)])
        loss_f = self.fairness(selected, y_strong)
        unsupervised = self.args.trade_off_self_training * loss_u + self.args.trade_off_fairness * loss_f
        unsupervised.backward()
        losses = {"loss": loss_l + unsupervised, "loss_u": loss_u, "loss_f": loss_f}
        return metrics | losses | of_pseudo_labels(selected, labels)


class SoftMatch(FixMatch):
    def prepare(self) -> None:
        self.mu, self.var = 1 / self.num_classes, 1.0

    def select(self, y_weak: Tensor, indices: Tensor) -> list:
        m, rows = self.args.momentum, [softmax(y.double()).tolist() for y in y_weak]
        means = [mean(column) for column in zip(*rows, strict=True)]
        self.q_hat = average(self.q_hat, means, m) if self.step > 0 else means
        target = 1 / self.num_classes
        aligned = [[p * (target + 1e-6) / (q + 1e-6) for p, q in zip(row, self.q_hat, strict=True)] for row in rows]
        confidences = [max(normalized(row)) for row in aligned]
        center = mean(confidences)
        variance = sum((x - center) ** 2 for x in confidences) / (len(confidences) - 1)
        self.mu, self.var = m * self.mu + (1 - m) * center, m * self.var + (1 - m) * variance
        scale = 2 * self.var / self.args.n_sigma**2
        weights = [1.0 if x >= self.mu else math.exp(-((x - self.mu) ** 2) / scale) for x in confidences]
        return [(weight, row.index(max(row))) for weight, row in zip(weights, rows, strict=True)]


class SelfTuning(Method):
    tenth = ("backbone", "projector")

    def prepare(self) -> None:
        self.encoder_k = copy.deepcopy(self.net)
        for p in self.encoder_k.parameters():
            p.requires_grad = False
        columns = torch.randn(self.args.projection_dim, self.num_classes * self.args.K)
        self.queue = columns / columns.norm(dim=0)  # class c in the columns from cK on
        self.pointers = [0] * self.num_classes

    def rate(self) -> float:
        passed = sum(self.epoch >= milestone for milestone in self.args.milestones)
        return self.args.lr * self.args.lr_gamma**passed

    @staticmethod
    def encode(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        features = net.bottleneck(net.backbone(x))
        projected = net.projector(features)
        return torch.stack([row / row.norm() for row in projected]), net.head(features)

    @torch.no_grad()
    def keys(self, x: Tensor) -> Tensor:
        m = self.args.m
        for mine, p in zip(self.encoder_k.parameters(), self.net.parameters(), strict=True):
            mine.copy_(m * mine + (1 - m) * p)
        return self.encode(self.encoder_k, x)[0]

    def contrast(self, x_query: Tensor, x_key: Tensor, labels: list[int] | None) -> tuple[Tensor, Tensor]:
        """The loss, and the logits of the queries. Without labels they are predicted by a pass of their own."""
        if labels is None:
            labels = [row.argmax().item() for row in self.encode(self.net, x_query)[1]]
        h_q, y_q = self.encode(self.net, x_query)
        h_k = self.keys(x_key)
        loss = pgc_loss(h_q, h_k, labels, self.queue.clone(), self.args.K, self.args.T)
        enqueue(self.queue, self.pointers, h_k, labels, self.args.K)
        return loss, y_q

    def backwards(self, batch_l, batch_u) -> dict:
        (query, key), labels, _ = batch_l
        loss_pgc_l, y = self.contrast(query, key, labels.tolist())
        loss_cls = mean([cross_entropy(row, t) for row, t in zip(y, labels, strict=True)])
        (loss_cls + loss_pgc_l).backward()
        (query, key), _, _ = batch_u
        loss_u, _ = self.contrast(query, key, None)
        loss_u.backward()
        metrics = {"loss_cls": loss_cls, "loss_pgc_l": loss_pgc_l, "loss_u": loss_u, "accuracy_l": accuracy(y, labels)}
        return metrics | {"loss": loss_cls + loss_pgc_l + loss_u}


def pgc_loss(queries: Tensor, keys: Tensor, labels: list[int], queue: Tensor, K: int, T: float) -> Tensor:
    """KL divergence from the target that is uniform over the own key and the K keys of the class; a batch mean."""
    losses = []
    for query, key, label in zip(queries, keys, labels, strict=True):
        mine = [column for column in range(queue.shape[1]) if column // K == label]
        others = [column for column in range(queue.shape[1]) if column // K != label]
        ordered = torch.cat([key[:, None], queue[:, mine], queue[:, others]], dim=1)
        log_p = log_softmax(query @ ordered / T)
        losses.append(sum((math.log(1 / (K + 1)) - log_p[j]) / (K + 1) for j in range(K + 1)))
    return mean(losses)


def enqueue(queue: Tensor, pointers: list[int], keys: Tensor, labels: list[int], K: int) -> None:
    """One key after the other, in place."""
    for key, label in zip(keys, labels, strict=True):
        queue[:, label * K + pointers[label]] = key
        pointers[label] = (pointers[label] + 1) % K


class Dst(Method):
    def prepare(self) -> None:
        self.n = 0

    def after_step(self) -> None:
        self.n += 1

    def all_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(features, their copy, main, worst, pseudo): the worst-case head stands on a copy cut off from the graph."""
        features = self.net.bottleneck(self.net.backbone(x))
        cut = features.detach().requires_grad_()
        return features, cut, self.net.head(features), self.net.worst_head(cut), self.net.pseudo_head(features)

    def backwards(self, batch_l, batch_u) -> dict:
        (weak_l, strong_l), labels, _ = batch_l
        (weak_u, strong_u), labels_u, _ = batch_u
        args, B = self.args, len(labels)

        y_strong = self.all_heads(strong_l)[2]
        strong_loss = mean([cross_entropy(y, t) for y, t in zip(y_strong, labels, strict=True)])
        (args.trade_off_cls_strong * strong_loss).backward()

        features, cut, y, worst, _ = self.all_heads(torch.cat([weak_l, weak_u]))
        loss_weak = mean([cross_entropy(row, t) for row, t in zip(y[:B], labels, strict=True)])
        predictions = [row.argmax().item() for row in y]
        agree = mean([cross_entropy(a, c) for a, c in zip(worst[:B], predictions[:B], strict=True)])
        pairs = zip(worst[B:], predictions[B:], strict=True)
        differ = mean([-(1 - softmax(a)[c] + 1e-6).clamp(max=1).log() for a, c in pairs])
        loss_worst = args.eta * (args.eta_prime * agree + differ)
        loss_worst.backward()  # the worst-case head's parameters, and the copy of the features
        c = 2 * 0.1 / (1 + math.exp(-self.n / 1000)) - 0.1
        torch.autograd.backward([loss_weak, features], [None, -c * cut.grad])

        selected = [(p > args.threshold, t) for p, t in map(confident, y[B:])]
        loss_u = self.self_training(selected, self.all_heads(strong_u)[4], args.trade_off_self_training)
        loss_l = loss_weak + args.trade_off_cls_strong * strong_loss
        loss = loss_l + loss_worst + args.trade_off_self_training * loss_u
        metrics = {"loss": loss, "loss_l": loss_l, "loss_u": loss_u, "loss_worst": loss_worst}
        return metrics | {"accuracy_l": accuracy(y[:B], labels)} | of_pseudo_labels(selected, labels_u)


class NoisyStudent(Method):
    """A round with a teacher: `teacher` holds its logits for each image, and `weights` how much the image counts."""

    teacher: list[list[float]]
    weights: list[float]

    def backwards(self, batch_l, batch_u) -> dict:
        loss_l, metrics = self.supervised(batch_l)
        (strong,), labels, indices = batch_u
        T, terms, selected = self.args.T, [], []
        for y, i in zip(self.logits(strong), indices.tolist(), strict=True):
            exponentials = [math.exp(value / T) for value in self.teacher[i]]
            target = [value / sum(exponentials) for value in exponentials]
            terms.append(-self.weights[i] * sum(q * log_p for q, log_p in zip(target, log_softmax(y / T), strict=True)))
            selected.append((self.weights[i] > 0, target.index(max(target))))
        loss_u, weight = mean(terms), self.args.trade_off_self_training
        (weight * loss_u).backward()
        return metrics | {"loss": loss_l + weight * loss_u, "loss_u": loss_u} | of_pseudo_labels(selected, labels)


class AdaMatch(Method):
    def prepare(self) -> None:
        uniform = [1 / self.num_classes] * self.num_classes
        self.p_labeled, self.p_unlabeled, self.newest = uniform, uniform, [uniform] * self.args.window
        self.mixing = seeding.SharedRandom(self.args.seed, "interpolation")

    def all_logits(self, views: list[Tensor]) -> list[Tensor]:
        """Of one pass for all views, or of one for each; the weak unlabeled one, the last but one, is a target."""
        if self.args.interpolate:
            return list(self.logits(torch.cat(views)).split([len(x) for x in views]))
        labeled = [self.logits(x) for x in views[:2]]
        with torch.no_grad():
            weak = self.logits(views[2])
        return [*labeled, weak, self.logits(views[3])]

    def mix(self, views: list[Tensor], logits: list[Tensor]) -> list[Tensor]:
        before = copy.deepcopy(list(self.net.buffers()))
        alone = self.logits(torch.cat(views)).split([len(x) for x in views])
        for buffer, value in zip(self.net.buffers(), before, strict=True):
            buffer.data.copy_(value)
        numbers = self.mixing.uniform(2, *logits[0].shape)
        return [a * n + b * (1 - n) for n, a, b in zip(numbers, alone, logits, strict=True)]

    def backwards(self, batch_l, batch_u) -> dict:
        (views_l, labels, _), (views_u, labels_u, _) = batch_l, batch_u
        *logits_l, y_weak, y_strong = self.all_logits([*views_l, *views_u])
        if self.args.interpolate:
            logits_l = self.mix(list(views_l), logits_l)
        losses = [mean([cross_entropy(y, t) for y, t in zip(each, labels, strict=True)]) for each in logits_l]
        loss_l = losses[0] + self.args.trade_off_cls_strong * losses[1]

        rows_l, rows_u = ([softmax(y.detach().double()).tolist() for y in each] for each in (logits_l[0], y_weak))
        means_l, means_u = ([mean(column) for column in zip(*rows, strict=True)] for rows in (rows_l, rows_u))
        self.p_labeled = average(self.p_labeled, means_l, self.args.momentum)
        if self.args.window:
            self.newest = [*self.newest[1:], means_u]
            self.p_unlabeled = [mean(column) for column in zip(*self.newest, strict=True)]
        else:
            self.p_unlabeled = average(self.p_unlabeled, means_u, self.args.momentum)
        ratio = [(a + 1e-6) / (b + 1e-6) for a, b in zip(self.p_labeled, self.p_unlabeled, strict=True)]
        aligned = [normalized([p * r for p, r in zip(row, ratio, strict=True)]) for row in rows_u]
        tau = self.args.threshold * mean([max(row) for row in rows_l])
        selected = [(max(row) >= tau, row.index(max(row))) for row in aligned]

        loss_u = mean([s * cross_entropy(y, c) for (s, c), y in zip(selected, y_strong, strict=True)])
        length = self.args.warm_up_epochs * self.args.iters_per_epoch
        weight = (1 - math.cos(math.pi * min(self.step / length, 1))) / 2 if length else 1.0
        loss = loss_l + weight * self.args.trade_off_self_training * loss_u
        loss.backward()
        metrics = {"loss": loss, "loss_l": loss_l, "loss_u": loss_u, "accuracy_l": accuracy(logits_l[0], labels)}
        return metrics | of_pseudo_labels(selected, labels_u)


class Vat(Method):
    def prepare(self) -> None:
        self.random = seeding.SharedRandom(self.args.seed, "perturbation")

    def furthest(self, weak: Tensor, p: list[Tensor], masks: Tensor) -> Tensor:
        """The direction of each image."""
        d = torch.stack([image / image.norm() for image in self.random.normal(*weak.shape)])
        for _ in range(self.args.power_iterations):
            r = (self.args.xi * d).requires_grad_()
            torch.set_rng_state(masks)
            (gradient,) = torch.autograd.grad(self.moved(p, weak + r) * len(weak), r)
            d = torch.stack([image / image.norm() for image in gradient])
        torch.set_rng_state(masks)
        return d

    def moved(self, p: list[Tensor], x: Tensor) -> Tensor:
        pairs = [(row, log_softmax(y)) for row, y in zip(p, self.logits(x), strict=True)]
        return mean([sum(a * (a.log() - b) for a, b in zip(*pair, strict=True)) for pair in pairs])

    def backwards(self, batch_l, batch_u) -> dict:
        loss_l, metrics = self.supervised(batch_l)
        (weak,), _, _ = batch_u
        args, masks = self.args, torch.get_rng_state()
        y = self.logits(weak)
        if not args.labeled_statistics:
            self.buffers = copy.deepcopy(list(self.net.buffers()))
        p = [softmax(row.detach()) for row in y]
        loss_u = self.moved(p, weak + args.eps * self.furthest(weak, p, masks))
        loss_entropy = mean([-sum(a * a.log() for a in softmax(row)) for row in y])
        weight = args.trade_off_con * min(self.step / (args.warm_up_epochs * args.iters_per_epoch), 1)
        (weight * loss_u + args.trade_off_entropy * loss_entropy).backward()
        self.restore_buffers()
        loss = loss_l + weight * loss_u + args.trade_off_entropy * loss_entropy
        return metrics | {"loss": loss, "loss_u": loss_u, "loss_entropy": loss_entropy}


def soft_cross_entropy(row: Tensor, target: list[float]) -> Tensor:
    return -sum(q * log_p for q, log_p in zip(target, log_softmax(row), strict=True))


class WithProjector(Method):
    """The parts of CoMatch and SimMatch that are the same."""

    def prepare(self) -> None:
        self.newest, self.bank = [], []

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and unit vectors of one pass."""
        features = self.net.bottleneck(self.net.backbone(x))
        return self.net.head(features), torch.stack([z / z.norm() for z in self.net.projector(features)])

    def align(self, logits: Tensor) -> list[list[float]]:
        rows = [softmax(y.double()).tolist() for y in logits]
        self.newest = [*self.newest, [mean(column) for column in zip(*rows, strict=True)]][-self.args.window :]
        means = [mean(column) for column in zip(*self.newest, strict=True)]
        return [normalized([p / q for p, q in zip(row, means, strict=True)]) for row in rows]

    def weights(self, z: Tensor, entries: list[Tensor]) -> Tensor:
        return log_softmax(torch.stack([z @ entry for entry in entries]) / self.args.T)

    def self_training_of(self, targets: list[list[float]], logits: Tensor) -> tuple[Tensor, list]:
        selected = [(max(q) >= self.args.threshold, q.index(max(q))) for q in targets]
        terms = [s * soft_cross_entropy(y, q) for (s, _), y, q in zip(selected, logits, targets, strict=True)]
        return mean(terms), selected


class CoMatch(WithProjector):
    """`bank`: pairs of an embedding and a prediction, the ring in its own order."""

    def smooth(self, q: list[float], z: Tensor) -> list[float]:
        if self.step < self.args.bank_batches:
            return q
        weights = self.weights(z, [entry for entry, _ in self.bank]).exp().tolist()
        others = [sum(w * p[c] for w, (_, p) in zip(weights, self.bank, strict=True)) for c in range(len(q))]
        return average(q, others, self.args.smoothing)

    def store(self, pairs: list) -> None:
        size = len(pairs) * self.args.bank_batches
        if len(self.bank) < size:
            self.bank += pairs
        else:
            first = self.step * len(pairs) % size
            self.bank[first : first + len(pairs)] = pairs

    def backwards(self, batch_l, batch_u) -> dict:
        ((weak_l,), labels, _), ((weak, strong_1, strong_2), labels_u, _) = batch_l, batch_u
        y_l, z_l = self.encode(weak_l)
        with torch.no_grad():
            y_weak, z_weak = self.encode(weak)
        (y_1, z_1), (_, z_2) = self.encode(strong_1), self.encode(strong_2)

        q = self.align(y_weak)
        targets = [self.smooth(each, z) for each, z in zip(q, z_weak, strict=True)]
        one_hot = [[float(c == t) for c in range(self.num_classes)] for t in labels]
        self.store([*zip(z_weak, q, strict=True), *zip(z_l.detach(), one_hot, strict=True)])

        losses = []
        for i, own in enumerate(targets):
            row = [
                1.0 if i == j else sum(a * b for a, b in zip(own, other, strict=True))
                for j, other in enumerate(targets)
            ]
            row = normalized([value if value >= self.args.graph_threshold else 0.0 for value in row])
            similar = self.weights(z_1[i], list(z_2)).exp()
            losses.append(-sum(g * (s + 1e-7).log() for g, s in zip(row, similar, strict=True)))
        loss_contrast = mean(losses)
        loss_l = mean([cross_entropy(y, t) for y, t in zip(y_l, labels, strict=True)])
        loss_u, selected = self.self_training_of(targets, y_1)
        loss = loss_l + self.args.trade_off_self_training * loss_u + self.args.trade_off_contrast * loss_contrast
        loss.backward()
        metrics = {"loss": loss, "loss_l": loss_l, "loss_u": loss_u, "loss_contrast": loss_contrast}
        return metrics | {"accuracy_l": accuracy(y_l, labels)} | of_pseudo_labels(selected, labels_u)


class SimMatch(WithProjector):
    """`bank`: an embedding for each labeled image; `missing`: those that no batch has had yet."""

    missing: set[int]

    def backwards(self, batch_l, batch_u) -> dict:
        ((weak_l,), labels, indices), ((weak, strong), labels_u, _) = batch_l, batch_u
        y_l, z_l = self.encode(weak_l)
        with torch.no_grad():
            y_weak, z_weak = self.encode(weak)
        y_strong, z_strong = self.encode(strong)

        targets, losses, whole = [], [], not self.missing
        for q, z, z_s in zip(self.align(y_weak), z_weak, z_strong, strict=True):
            w = self.weights(z, self.bank).exp().tolist()
            instances = normalized([weight * q[k % self.num_classes] for k, weight in enumerate(w)])
            classes = [sum(w[c :: self.num_classes]) for c in range(self.num_classes)]
            targets.append(average(q, classes, self.args.smoothing) if whole else q)
            losses.append(-sum(v * s for v, s in zip(instances, self.weights(z_s, self.bank), strict=True)))
        loss_instance = mean(losses) if whole else torch.zeros(())
        loss_l = mean([cross_entropy(y, t) for y, t in zip(y_l, labels, strict=True)])
        loss_u, selected = self.self_training_of(targets, y_strong)
        loss = loss_l + self.args.trade_off_self_training * loss_u + self.args.trade_off_instance * loss_instance
        loss.backward()

        for k, z in zip(indices.tolist(), z_l.detach(), strict=True):
            moved = self.args.bank_momentum * self.bank[k] + (1 - self.args.bank_momentum) * z
            self.bank[k] = moved / moved.norm()
            self.missing.discard(k)
        metrics = {"loss": loss, "loss_l": loss_l, "loss_u": loss_u, "loss_instance": loss_instance}
        return metrics | {"accuracy_l": accuracy(y_l, labels)} | of_pseudo_labels(selected, labels_u)


def sharpened(row: list[float], T: float) -> list[float]:
    return normalized([p ** (1 / T) for p in row])


class MixMatch(Method):
    def prepare(self) -> None:
        self.random = seeding.SharedRandom(self.args.seed, "mixup")

    def still(self, x: Tensor) -> Tensor:
        """The logits of a pass that leaves the buffers."""
        before = copy.deepcopy(list(self.net.buffers()))
        y = self.logits(x)
        for buffer, value in zip(self.net.buffers(), before, strict=True):
            buffer.data.copy_(value)
        return y

    def mix(self, views: list[Tensor], targets: list[list[list[float]]]) -> tuple[Tensor, list[list[float]]]:
        rows, labels = [x for view in views for x in view], [t for each in targets for t in each]
        drawn = self.random.beta(self.args.beta, 1 if self.args.one_lambda else len(rows)).tolist()
        drawn = drawn * len(rows) if self.args.one_lambda else drawn
        x, mixed = [], []
        for i, j in enumerate(self.random.permutation(len(rows)).tolist()):
            b = max(drawn[i], 1 - drawn[i])
            x.append(b * rows[i] + (1 - b) * rows[j])
            mixed.append([b * s + (1 - b) * t for s, t in zip(labels[i], labels[j], strict=True)])
        return torch.stack(x), mixed

    def one_hot(self, labels: Tensor) -> list[list[float]]:
        return [[float(t == c) for c in range(self.num_classes)] for t in labels.tolist()]

    def backwards(self, batch_l, batch_u) -> dict:
        ((x_l,), labels, _), ((first, second), labels_u, _) = batch_l, batch_u
        with torch.no_grad():
            a, b = ([softmax(y).tolist() for y in self.still(x)] for x in (first, second))
        means = [[(p + q) / 2 for p, q in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]
        guesses = [sharpened(row, self.args.T) for row in means]
        x, targets = self.mix([x_l, first, second], [self.one_hot(labels), guesses, guesses])
        y, B = self.logits(x), len(x_l)
        loss_l = mean([soft_cross_entropy(row, t) for row, t in zip(y[:B], targets[:B], strict=True)])
        pairs = zip(y[B:], targets[B:], strict=True)
        loss_u = mean([squared_distance(softmax(row), t) / self.num_classes for row, t in pairs])
        weight = self.args.trade_off_con * min(self.step / (self.args.warm_up_epochs * self.args.iters_per_epoch), 1)
        (loss_l + weight * loss_u).backward()
        right = [100.0 * (g.index(max(g)) == t) for g, t in zip(guesses, labels_u.tolist(), strict=True)]
        metrics = {"loss": loss_l + weight * loss_u, "loss_l": loss_l, "loss_u": loss_u}
        return metrics | {"accuracy_l": accuracy(y[:B], labels), "pseudo_label_accuracy": (sum(right), len(right))}


class ReMixMatch(MixMatch):
    def prepare(self) -> None:
        super().prepare()
        uniform = [1 / self.num_classes] * self.num_classes
        self.window, self.p_labeled = [uniform] * self.args.window, uniform

    def backwards(self, batch_l, batch_u) -> dict:
        ((x_l,), labels, _), ((weak, *strong), labels_u, _) = batch_l, batch_u
        args, one_hot = self.args, self.one_hot(labels)
        with torch.no_grad():
            rows = [softmax(y).tolist() for y in self.still(weak)]
        means = [mean(column) for column in zip(*self.window, strict=True)]
        ratios = [(a + 1e-6) / (b + 1e-6) for a, b in zip(self.p_labeled, means, strict=True)]
        aligned = [normalized([p * r for p, r in zip(row, ratios, strict=True)]) for row in rows]
        guesses = [sharpened(row, args.T) for row in aligned]
        y_unmixed = self.still(strong[0])
        turned = torch.stack([torch.rot90(image, i % 4, [1, 2]) for i, image in enumerate(strong[0])])
        head, self.net.head = self.net.head, self.net.rotation_head
        y_turned = self.still(turned)
        self.net.head = head
        x, targets = self.mix([x_l, weak, *strong], [one_hot] + [guesses] * (1 + len(strong)))
        y, B = self.logits(x), len(x_l)

        loss_l = mean([soft_cross_entropy(row, t) for row, t in zip(y[:B], targets[:B], strict=True)])
        loss_u = mean([soft_cross_entropy(row, t) for row, t in zip(y[B:], targets[B:], strict=True)])
        loss_unmixed = mean([soft_cross_entropy(row, t) for row, t in zip(y_unmixed, guesses, strict=True)])
        loss_rotation = mean([cross_entropy(row, i % 4) for i, row in enumerate(y_turned)])
        ramp = min(self.step / (args.warm_up_epochs * args.iters_per_epoch), 1)
        loss = loss_l + ramp * args.trade_off_self_training * loss_u + ramp * args.trade_off_unmixed * loss_unmixed
        loss = loss + args.trade_off_rotation * loss_rotation
        loss.backward()

        self.window = [*self.window[1:], [mean(column) for column in zip(*rows, strict=True)]]
        self.p_labeled = average(self.p_labeled, [mean(column) for column in zip(*one_hot, strict=True)], args.momentum)
        right = [100.0 * (g.index(max(g)) == t) for g, t in zip(guesses, labels_u.tolist(), strict=True)]
        metrics = {"loss": loss, "loss_l": loss_l, "loss_u": loss_u, "loss_unmixed": loss_unmixed}
        metrics |= {"loss_rotation": loss_rotation, "accuracy_l": accuracy(y[:B], labels)}
        return metrics | {"pseudo_label_accuracy": (sum(right), len(right))}


METHODS = {
    "erm": Erm,
    "pseudo_label": PseudoLabel,
    "pi_model": PiModel,
    "mean_teacher": MeanTeacher,
    "uda": Uda,
    "fixmatch": FixMatch,
    "self_tuning": SelfTuning,
    "flexmatch": FlexMatch,
    "debiasmatch": DebiasMatch,
    "dst": Dst,
    "freematch": FreeMatch,
    "softmatch": SoftMatch,
    "noisy_student": NoisyStudent,
    "adamatch": AdaMatch,
    "vat": Vat,
    "comatch": CoMatch,
    "simmatch": SimMatch,
    "mixmatch": MixMatch,
    "remixmatch": ReMixMatch,
}
