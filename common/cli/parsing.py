"""The flags of a script, and what it makes of a command line."""

import sys
from collections.abc import Sequence

from common.cli import flags, resume
from common.cli.arguments import Arguments, Formatter, Parser
from common.cli.resolve import resolve


def parser(
    method: str,
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
        method: the script's name; the default of `--log` is `logs/<method>`.
        doc: the script's docstring.
        unlabeled: whether the method draws batches of unlabeled images.
        schedule: whether it follows one of the schedules `exp` and `cos`.
        strong_labeled: whether the strong views of labeled images have a loss of their own, and it a weight.
        joint_passes: whether its views may share a pass; see `classifier.passes`.
        example: flags that the method requires, for the command that `--help` shows.
    """
    words = f"python {method}.py data -d CIFAR100 -a resnet50 --finetune {example} --log logs/{method}/cifar100"
    p = Parser(
        shown=flags.SHOWN,
        example=" ".join(words.split()),
        description=doc,
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    flags.add_data(p)
    flags.add_views(p)
    flags.add_model(p, joint_passes)
    flags.add_optimization(p, unlabeled, schedule, strong_labeled)
    flags.add_run(p, method)
    return p


def parse(p: Parser, argv: Sequence[str] | None) -> Arguments:
    """Parse, and fill in what depends on the dataset's name. Reads no file but that of a run that is tested.

    Raises:
        UserError: a flag is unknown, out of range, or at odds with the dataset; or there is no run to test.
    """
    resume.take_flags_of_tested(p, sys.argv[1:] if argv is None else argv)
    args = p.parse_args(argv, namespace=Arguments())
    args.parser = p
    resolve(args)
    frozen = args.lora or args.adapter
    if args.phase == "test" and (args.checkpoint == "best" or not frozen):
        # The checkpoint holds all the weights: nothing is downloaded or looked for.
        args.scratch, args.pretrained_backbone, args.init_from = True, None, None
    return args
