"""Mean Teacher: the student should predict like a teacher that is the running average of its weights.

    loss   = loss_l + trade_off_con * ramp_up(epoch) * loss_u
    loss_l = CE(x_l_weak) + trade_off_cls_strong * CE(x_l_strong)
    loss_u = sum over the batch of |softmax(student(x_u_weak_1)) - softmax(teacher(x_u_weak_2))|^2
    teacher <- a * teacher + (1 - a) * student,    a = min(alpha, 1 - 1 / step)

Paper: Tarvainen and Valpola, Mean Teachers Are Better Role Models, NeurIPS 2017, arXiv:1703.01780, equations 1 and 2.
Differences from the paper, all as in the published table:
 1. The consistency loss is a sum over the batch, not a mean: it grows with --unlabeled-batch-size.
 2. It is also a sum over the classes, with the final weight 0.1. The authors' code averages, with the weight 100.
    Labeled images have a strong view with a loss, and no consistency loss.
 3. The student is evaluated. The paper evaluates the teacher; --eval-teacher reports it, too.
 4. The teacher's passes are in train mode: they use their own batch statistics and dropout. After each step the teacher
    copies the student's BatchNorm buffers, which matter only if the teacher is evaluated.

Shell file: scripts/mean_teacher.sh. Diff against: pi_model.py.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from common import build, cli
from common.loading.loaders import TestLoader, TrainLoader
from common.networks import ImageClassifier, ema, frozen_statistics
from common.run import Run
from common.system import processes
from common.training.evaluate import accuracy


def parse_args(argv=None):
    parser = cli.parser(__file__, __doc__)
    group = parser.add_argument_group("method")
    group.add_argument(
        "--trade-off-con", type=cli.non_negative, default=0.1, help="weight of the consistency loss (default: 0.1)"
    )
    group.add_argument(
        "--warm-up-epochs",
        type=cli.non_negative_int,
        default=10,
        metavar="N",
        help="epochs until the consistency loss has its full weight (default: 10)",
    )
    group.add_argument(
        "--ramp-up",
        choices=("exp", "linear"),
        default="exp",
        help="how its weight rises until then: exp(-5 (1 - t)^2), or t (default: exp)",
    )
    group.add_argument(
        "--labeled-statistics",
        action="store_true",
        help="the unlabeled images' passes do not move BatchNorm's running statistics (default: all passes do)",
    )
    group.add_argument("--alpha", type=cli.fraction, default=0.999, help="decay of the teacher (default: 0.999)")
    group.add_argument("--eval-teacher", action="store_true", help="report the teacher next to the student in training")
    parser.set_defaults(epochs=40, lr=0.01, lr_gamma=0.0001)
    return cli.parse(parser, argv)


def ramp_up(epoch, warm_up_epochs, shape):
    """t, or exp(-5 (1 - t)^2): .0067, .017, .041, ... 1. Once per epoch, t rises, from 0 to 1 over the warm-up."""
    t = min(epoch, warm_up_epochs) / warm_up_epochs if warm_up_epochs else 1.0
    return t if shape == "linear" else math.exp(-5 * (1 - t) ** 2)


def consistency_loss(logits_student, logits_teacher):
    """A sum over batch and classes. Nothing flows back into the teacher."""
    difference = F.softmax(logits_student, dim=1) - F.softmax(logits_teacher.detach(), dim=1)
    return difference.square().sum() * processes.count()  # the processes' losses are averaged, not summed


class Teacher(nn.Module):
    """A copy of the student whose parameters follow the student's as a running average; always in train mode."""

    def __init__(self, student, alpha):
        super().__init__()
        self.network = ema.copy_of(student)
        self.alpha = alpha
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        return self.network(x)

    @torch.no_grad()
    def update(self, student):
        """At first the mean over all steps (the first update copies the student), later the exponential average.

        `ema.ModelEma` starts and rounds differently. With it, old commands would give other last bits.
        """
        self.updates += 1
        a = (1 - 1 / self.updates).clamp(max=self.alpha)
        parameters = list(self.network.parameters())
        torch._foreach_mul_(parameters, a)
        torch._foreach_add_(parameters, torch._foreach_mul(list(student.parameters()), 1 - a))
        ema.copy_buffers(student, self.network)


def train_step(model, teacher, optimizer, batch_l, batch_u, weight_u, args):
    (x_l_weak, *x_l_strong), labels_l, _ = batch_l
    (x_u_weak_1, x_u_weak_2), _, _ = batch_u

    logits_l_weak = model(x_l_weak)
    logits_l_strong = [model(x) for x in x_l_strong]  # empty if their weight is 0
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_l = loss_l + args.trade_off_cls_strong * sum(F.cross_entropy(logits, labels_l) for logits in logits_l_strong)

    with torch.no_grad():
        logits_teacher = teacher(x_u_weak_2)
    with frozen_statistics(model, args.labeled_statistics):
        logits_student = model(x_u_weak_1)
    loss_u = consistency_loss(logits_student, logits_teacher)
    loss = loss_l + weight_u * loss_u

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    teacher.update(model)
    return {
        "loss": loss,
        "loss_l": loss_l,
        "loss_u": loss_u,
        "accuracy_l": accuracy(logits_l_weak, labels_l),
    }


def train_one_epoch(run, loader_l, loader_u, model, teacher, optimizer, scheduler, args):
    model.train()
    weight_u = args.trade_off_con * ramp_up(run.epoch, args.warm_up_epochs, args.ramp_up)
    weight_u = torch.tensor(weight_u, device=run.device)
    for batch_l, batch_u in run.steps(loader_l, loader_u):
        metrics = train_step(model, teacher, optimizer, batch_l, batch_u, weight_u, args)
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
    loader_u = TrainLoader(images.unlabeled, [weak, weak], args.unlabeled_batch_size, "unlabeled", **options)
    test_loader = TestLoader(images.test, test, **options)

    model = build.classifier(ImageClassifier, len(images.classes), args).to(run.device)
    teacher = Teacher(model, args.alpha).to(run.device)
    optimizer = build.optimizer(model, args)
    scheduler = build.schedule(optimizer, args)

    run.start({"model": model, "teacher": teacher, "optimizer": optimizer, "scheduler": scheduler}, evaluated=model)
    if args.phase == "test":
        return run.test(test_loader)
    for _ in run.epochs():
        train_one_epoch(run, loader_l, loader_u, model, teacher, optimizer, scheduler, args)
        others = {"teacher": teacher} if args.eval_teacher else {}
        run.end_epoch(run.evaluate(test_loader, **others))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
