"""UDA: the prediction on a strong view should equal a confident one on the weak view.

    loss   = loss_l + trade_off_con * loss_u
    loss_l = CE(x_l_weak) + trade_off_cls_strong * CE(x_l_strong)
    mask   = confidence(x_u_weak) > threshold
    tllib:   loss_u = sum(mask * KL(softmax(x_u_weak) || softmax(x_u_strong / T))) / max(sum(mask), 1)
    paper:   loss_u = mean(mask * KL(softmax(x_u_weak / T) || softmax(x_u_strong)))

Paper: Xie et al., Unsupervised Data Augmentation for Consistency Training, NeurIPS 2020, arXiv:1904.12848, equation 1
and section 2.4. Differences from the paper, all as in the published table:
 1. The temperature divides the student's logits, which smooths the student. In the paper it sharpens the target.
 2. The loss is averaged over the selected images, so a single selected image has the weight of a full batch.
    --uda-variant paper undoes both. The paper's temperature is --T 0.4.
 3. No training signal annealing, as many unlabeled as labeled images in a batch, and no average of the weights.
 4. The labeled images have a strong view and loss, too, and are not among the unlabeled.
 5. Every view has a forward pass of its own, as in fixmatch.py (--joint-passes: one for all).

Shell file: scripts/uda.sh. Diff against: fixmatch.py.
"""

from torch.nn import functional as F

from common import build, cli
from common.loading.loaders import TestLoader, TrainLoader
from common.networks import ImageClassifier, passes
from common.run import Run
from common.system import processes
from common.training.evaluate import accuracy


def parse_args(argv=None):
    parser = cli.parser(__file__, __doc__, joint_passes=True)
    group = parser.add_argument_group("method")
    group.add_argument(
        "--trade-off-con", type=cli.non_negative, default=1.0, help="weight of the consistency loss (default: 1)"
    )
    group.add_argument("--threshold", type=cli.fraction, default=0.7, help="least confidence (default: 0.7)")
    group.add_argument(
        "--T",
        type=cli.positive,
        default=0.85,
        help="temperature of the student; with --uda-variant paper of the target (default: 0.85)",
    )
    group.add_argument(
        "--uda-variant",
        choices=("tllib", "paper"),
        default="tllib",
        help="the form of loss_u (default: tllib, the published table's)",
    )
    parser.set_defaults(epochs=60)
    return cli.parse(parser, argv)


def consistency_loss(logits_u_weak, logits_u_strong, threshold, T, variant):
    """Nothing flows back into `logits_u_weak`. Its confidence is computed without the temperature."""
    logits_u_weak = logits_u_weak.detach()
    target = F.softmax(logits_u_weak, dim=1)
    mask = (target.max(dim=1).values > threshold).float()
    if variant == "paper":
        target, logits, number = F.softmax(logits_u_weak / T, dim=1), logits_u_strong, len(mask)
    else:
        logits = logits_u_strong / T
        number = processes.sum(mask.sum()).clamp(min=1) / processes.count()  # per process: their losses are averaged
    divergence = F.kl_div(F.log_softmax(logits, dim=1), target, reduction="none").sum(dim=1)
    return (mask * divergence).sum() / number, mask


def train_step(model, optimizer, batch_l, batch_u, args):
    (x_l_weak, *x_l_strong), labels_l, _ = batch_l
    (x_u_weak, x_u_strong), _, _ = batch_u

    views = [x_l_weak, *x_l_strong, x_u_weak, x_u_strong]  # x_l_strong is empty if its weight is 0
    logits_l_weak, *logits_l_strong, logits_u_weak, logits_u_strong = passes(
        model, views, no_grad=x_u_weak, joint=args.joint_passes
    )
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_l = loss_l + args.trade_off_cls_strong * sum(F.cross_entropy(logits, labels_l) for logits in logits_l_strong)
    loss_u, mask = consistency_loss(logits_u_weak, logits_u_strong, args.threshold, args.T, args.uda_variant)
    loss = loss_l + args.trade_off_con * loss_u

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {
        "loss": loss,
        "loss_l": loss_l,
        "loss_u": loss_u,
        "accuracy_l": accuracy(logits_l_weak, labels_l),
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

    model = build.classifier(ImageClassifier, len(images.classes), args).to(run.device)
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
