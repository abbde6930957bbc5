"""ERM: supervised training on the labeled images alone; with --oracle, on all training images with their labels.

    loss = CE(x_l_weak) + trade_off_cls_strong * CE(x_l_strong)

Each view has its own forward pass, with its own BatchNorm statistics. In the published table all methods but
Self-Tuning have this labeled loss, so that the rows differ only by the method.

Shell file: scripts/erm.sh
"""

from torch.nn import functional as F

from common import build, cli
from common.loading.loaders import TestLoader, TrainLoader
from common.networks import ImageClassifier
from common.run import Run
from common.training.evaluate import accuracy


def parse_args(argv=None):
    parser = cli.parser(__file__, __doc__, unlabeled=False)
    group = parser.add_argument_group("method")
    group.add_argument("--oracle", action="store_true", help="train on the labels of all training images")
    parser.set_defaults(epochs=20)
    return cli.parse(parser, argv)


def train_step(model, optimizer, batch_l, args):
    (x_l_weak, *x_l_strong), labels_l, _ = batch_l

    logits_l_weak = model(x_l_weak)
    logits_l_strong = [model(x) for x in x_l_strong]  # empty if their weight is 0
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
    run = Run(__file__, args)
    if run.finished:
        return run.show()

    images = build.images(run, args, all_labels=args.oracle)
    weak, strong, test = build.views(images.spec, args)
    options = build.loading(run, args)
    views_l = [weak, strong] if args.trade_off_cls_strong > 0 else [weak]
    loader_l = TrainLoader(images.labeled, views_l, args.batch_size, "labeled", **options)
    test_loader = TestLoader(images.test, test, **options)

    model = build.classifier(ImageClassifier, len(images.classes), args).to(run.device)
    optimizer = build.optimizer(model, args)
    scheduler = build.schedule(optimizer, args)

    run.start({"model": model, "optimizer": optimizer, "scheduler": scheduler}, evaluated=model)
    if args.phase == "test":
        return run.test(test_loader)
    for _ in run.epochs():
        train_one_epoch(run, loader_l, model, optimizer, scheduler, args)
        run.end_epoch(run.evaluate(test_loader))
    return run.finish()


if __name__ == "__main__":
    cli.launch(parse_args, main)
