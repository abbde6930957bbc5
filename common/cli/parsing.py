"""Make a script's parser, and parse a command line."""

import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import flags, resume
from common.cli.arguments import Arguments, Formatter, Parser
from common.cli.resolve import resolve


def parser(
    script: str,
    doc: str,
    *,
    unlabeled: bool = True,
    schedule: bool = True,
    strong_labeled: bool = True,
    joint_passes: bool = False,
    example: str = "",
) -> Parser:
    """A parser with the flags that all methods share.

    Args:
        script: the script's file, `__file__`. Its name is the method's; the default of `--log` is `logs/<method>`.
        doc: the script's docstring.
        unlabeled: whether the method draws batches of unlabeled images.
        schedule: whether it uses `--lr-scheduler`.
        strong_labeled: whether strong views of labeled images have a loss with a weight.
        joint_passes: whether its views may share a forward pass; see `classifier.passes`.
        example: flags that the method requires, for the example in `--help`.
    """
    method = Path(script).stem
    words = f"python {method}.py data -d CIFAR100 -a resnet50 --finetune {example} --log logs/{method}/cifar100"
    p = Parser(
        shown=flags.SHOWN,
        example=" ".join(words.split()),
        description=doc,
        formatter_class=Formatter,
    )
    flags.add_data(p)
    flags.add_views(p)
    flags.add_model(p, joint_passes)
    flags.add_optimization(p, unlabeled, schedule, strong_labeled)
    flags.add_run(p, method)
    return p


def parse(p: Parser, argv: Sequence[str] | None) -> Arguments:
    """Parse a command line, and fill in the flags that were not given: with `--phase test`, with the run's values.

    Raises:
        UserError: a flag is unknown, out of range, or contradicts another flag or the dataset; or there is no run to
            test.
    """
    resume.take_flags_of_tested(p, sys.argv[1:] if argv is None else argv)
    args = p.parse_args(argv, namespace=Arguments())
    args.parser = p
    resolve(args)
    frozen = args.lora or args.adapter
    if args.phase == "test" and (args.checkpoint == "best" or not frozen):
        # The checkpoint holds all weights, so no others are downloaded or read.
        args.scratch, args.pretrained_backbone, args.init_from = True, None, None
    return args
