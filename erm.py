"""ERM: supervised training on the labeled images alone; with --oracle, on all training images with their labels.

    loss = CE(x_l_weak) + trade_off_cls_strong * CE(x_l_strong)

The two views are two forward passes, each with its own BatchNorm statistics. Both are in every method's loss but
Self-Tuning's, so that the rows of the table differ by the method alone.

Shell file: scripts/erm.sh
"""

from torch.nn import functional as F

from common import adapters, augment, cli, datasets, models, optim, splits
from common.evaluate import accuracy
from common.loaders import TestLoader, TrainLoader
from common.run import Run


def parse_args(argv=None):
    parser = cli.parser("erm", __doc__, unlabeled=False)
    group = parser.add_argument_group("method")
    group.add_argument("--oracle", action="store_true", help="train on the labels of all training images")
    group.add_argument(
        "--trade-off-cls-strong",
        type=cli.non_negative,
        default=0.1,
        help="weight of the strong labeled loss (default: 0.1)",
    )
    parser.set_defaults(epochs=20)
    return cli.parse(parser, argv)


def train_step(model, optimizer, batch_l, args):
    (x_l_weak, *x_l_strong), labels_l, _ = batch_l

    logits_l_weak = model(x_l_weak)
    logits_l_strong = [model(x) for x in x_l_strong]  # none where its weight is 0
    loss_l = F.cross_entropy(logits_l_weak, labels_l)
    loss_l = loss_l + args.trade_off_cls_strong * sum(F.cross_entropy(logits, labels_l) for logits in logits_l_strong)
    loss = loss_l

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"loss": loss, "accuracy_l": accuracy(logits_l_weak, labels_l)}


def train_one_epoch(run, loader_l, model, optimizer, scheduler, args):
    model.train()
    for (batch_l,) in run.steps(loader_l):
        metrics = train_step(model, optimizer, batch_l, args)
        scheduler.step()
        run.update(metrics)


def main(args):
    run = Run("erm", args)
    if run.finished:
        return run.show()

    data = datasets.load(
        args.data, args.root, args.any_counts, args.generated_split, args.labeled_list, args.train_resizing, args.flip
    )
    drawn = 0 if args.oracle else args.num_samples_per_class
    labeled, unlabeled = splits.split(data.train.labels, data.classes, drawn, args.split_seed, data.candidates)
    labeled, unlabeled, held_out = splits.hold_out(labeled, unlabeled, data, args.val_per_class, args.split_seed)
    if args.oracle:
        labeled = unlabeled[data.train.labels[unlabeled] >= 0]
    run.describe(data, labeled, held_out)
    policy = augment.policy(args.auto_augment, args.norm_mean, args.cutout)
    weak, strong, test = augment.transforms(data.spec, args.train_resizing, args.val_resizing, args.image_size, policy)
    normalizer = augment.Normalizer(args.norm_mean, args.norm_std)
    options = {"workers": args.workers, "cache": args.cache, "normalizer": normalizer, "device": run.device}
    images_l = data.train.subset(labeled)
    views_l = [weak, strong] if args.trade_off_cls_strong > 0 else [weak]
    loader_l = TrainLoader(images_l, views_l, args.batch_size, "labeled", args.seed, **options)
    test_loader = TestLoader(data.test, test, **options)

    backbone = models.backbone(
        args.arch, args.image_size, normalizer, args.scratch, args.pretrained_backbone, args.no_pool, args.drop_path
    )
    adapters.insert(backbone, args.image_size, args.lora, args.adapter)
    model = models.ImageClassifier(backbone, len(data.classes), args.bottleneck_dim, args.precision).to(run.device)
    optimizer = optim.create(
        args.optimizer, model, args.lr, args.wd, args.finetune, args.layer_decay, args.no_decay_on_norms
    )
    steps = args.epochs * args.iters_per_epoch
    scheduler = optim.schedule(optimizer, args.lr_scheduler, args.lr_gamma, args.lr_decay, steps, args.lr_warm_up_steps)

    run.start({"model": model, "optimizer": optimizer, "scheduler": scheduler}, evaluated=model)
    if args.phase == "test":
        return run.test(test_loader)
    for _ in run.epochs():
        train_one_epoch(run, loader_l, model, optimizer, scheduler, args)
        run.end_epoch(run.evaluate(test_loader))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
