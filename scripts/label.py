"""Label a folder of photos by some that are labeled, in a given time.

    bash scripts/label.sh PHOTOS LABELS.csv [MINUTES]
    python scripts/label.py PHOTOS LABELS.csv [MINUTES] [--out FOLDER] [--weights FILE]

LABELS.csv has lines `path,class`; docs/own_images.md says what is accepted. In about so many minutes it

1. measures how long a step takes, and plans,
2. trains the labels alone (ERM) and some methods that use all photos. A quarter of the labels is held out, and again
   with another quarter as long as there is time,
3. takes the method that names most of the held-out labels rightly, and says how sure that is,
4. trains it on all labels, and writes into the folder:

predictions.csv     the class of every photo; correct it, and it is the list for the next time
report.png          what is confused, on the held-out labels
NAME_model/         the network in timm's own format
runs/               all trainings: ordinary run folders, made by the commands that are printed

Interrupted, the same command continues.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import timm

sys.path.insert(0, str(Path(__file__).parent.parent))

import export
from common import cli, datasets, trained
from common.datasets import Data
from common.datasets.images import one_size
from common.errors import UserError
from common.records import progress
from common.system.devices import find_device
from scripts.labeling import evidence, pages, planning
from scripts.labeling.work import Work
from scripts.results.runs import outcomes, read_runs

ALONE = "erm"  # the labels alone, which all others are compared with
# What is tried, and with which flags; the first one is taken where nothing can be held out.
METHODS = {
    "fixmatch": "--lr 0.003 --threshold 0.7",
    "flexmatch": "--lr 0.003 --threshold 0.95",
    "pseudo_label": "--lr 0.003 --threshold 0.8",
    ALONE: "--lr 0.03",
}
ARCH = "tf_efficientnet_lite0"
SIZES = ((40, 64), (96, 96))  # images of one size up to the first number are enlarged to the second
PHOTOGRAPHS = {"cpu": 128, "cuda": 224}  # the network's input for larger ones
MEASURED = 5  # steps


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("photos", type=cli.filepath, metavar="PHOTOS", help="folder with all photos")
    parser.add_argument("labels", type=cli.filepath, metavar="LABELS.csv", help="list of those that are labeled")
    parser.add_argument("minutes", type=cli.positive, nargs="?", default=20.0, metavar="MINUTES", help="(default: 20)")
    parser.add_argument("--out", type=cli.filepath, metavar="FOLDER", help="where all goes (default: PHOTOS_labels)")
    parser.add_argument("--weights", type=cli.path, metavar="FILE", help="backbone file (default: timm downloads it)")
    parser.add_argument("--scratch", action="store_true", help="begin with random weights")
    parser.add_argument("-a", "--arch", default=ARCH, help="network (default: %(default)s)")
    parser.add_argument("--image-size", type=cli.positive_int, metavar="PIXELS", help="(default: by the photos)")
    parser.add_argument("--no-flip", action="store_true", help="a mirrored photo may be of another class: text, digits")
    parser.add_argument("--exif-orientation", action="store_true", help="turn photos as their EXIF orientation says")
    parser.add_argument("--seed", type=cli.seed, default=0, help="of every random choice (default: 0)")
    parser.add_argument("-j", "--workers", type=cli.non_negative_int, metavar="N", help="loader processes of each set")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    args = parser.parse_args(argv)
    if args.scratch and args.weights:
        raise UserError("--scratch begins with random weights, and --weights with a file: give one of them")
    args.out = args.out or Path(f"{args.photos.resolve().name}_labels")
    inside = args.out.resolve().is_relative_to(args.photos.resolve())
    if inside or args.photos.resolve().is_relative_to(args.out.resolve()):
        raise UserError(f"--out '{args.out}' and PHOTOS must not lie within each other: choose another --out")
    return args


def common_flags(args, data: Data) -> list[str]:
    """What all trainings have in common."""
    words = [str(args.photos), "-d", "ImageFolder", "--labeled-list", str(args.labels), "-a", args.arch]
    words += ["--scratch"] if args.scratch else ["--finetune"]
    words += ["--no-bottleneck", "--seed", str(args.seed), *size_flags(args, data)]
    if args.weights:
        config = timm.get_pretrained_cfg(args.arch) if timm.is_model(args.arch) else None
        words += ["--pretrained-backbone", args.weights]
        if config is not None:  # timm knows what its own weights want, but not what a file does
            words += ["--norm-mean", *map(str, config.mean), "--norm-std", *map(str, config.std)]
    words += ["--no-flip"] if args.no_flip else []
    words += ["--exif-orientation"] if args.exif_orientation else []
    words += ["--device", args.device] if args.device else []
    return words + (["-j", str(args.workers)] if args.workers is not None else [])


def size_flags(args, data: Data) -> list[str]:
    """Small squares of one size are enlarged, as those of CIFAR-10 are; photographs are cropped."""
    try:
        side = one_size(data.train.images, "cifar")
    except UserError:  # they are photographs
        side = None
    for largest, size in SIZES:
        if side is not None and side <= largest:
            resizing = ["--train-resizing", "cifar", "--val-resizing", "cifar"]
            return [*resizing, "--image-size", str(args.image_size or size)]
    return ["--image-size", str(args.image_size or PHOTOGRAPHS[find_device(args.device).type])]


def training(shared: list[str], method: str, epochs: int, steps: int) -> list[str]:
    """The flags of a training.

    Args:
        shared: see `common_flags`.
        steps: of all epochs together.
    """
    return [*shared, *METHODS[method].split(), "--epochs", str(epochs), "-i", str(steps // epochs)]


def refuse_unexportable(folder: Path) -> None:
    """Export the network of a finished run, but write nothing: better now than after all trainings.

    Raises:
        UserError: timm's own format cannot hold the network, as with this project's Wide ResNets.
    """
    run = trained.load(folder, "best")
    try:
        export.timm_files(run, *export.plain_network(run))
    except UserError:
        raise UserError(f"-a {run.args.arch}: timm's own format cannot hold it: choose another, {ARCH} say") from None


def measure(work: Work, shared: list[str], images: int) -> planning.Costs:
    """How long a step of each method takes, and the rest of a run: of a few steps each.

    Args:
        images: how many there will be to predict.
    """
    if "costs" not in work.facts:
        step, rest = {}, []
        for method in METHODS:
            before, log = work.seconds, work.folder / "runs" / "speed" / method
            result = work.run(method, *training(shared, method, 1, MEASURED), "--log", log)
            step[method] = result["seconds"] / MEASURED
            rest.append(max(work.seconds - before - result["seconds"], 0.0))
            if len(step) == 1:
                refuse_unexportable(log)
        # A step has two or more passes of 32 images, forwards and backwards, which is three times as much as forwards.
        end = 2 * max(rest) + min(step.values()) / 6 * images / 32
        work.save(costs={"step": step, "run": max(rest) + min(step.values()), "end": end})
    return planning.Costs(**work.facts["costs"])


def usable(data: Data) -> int:
    """How many labels can be held out: those of classes with two or more."""
    numbers = Counter(data.train.labels[: data.candidates].tolist())
    return sum(number for number in numbers.values() if number > 1)


def trial(work: Work, method: str, number: int) -> Path:
    """The folder of a method's run without one part of the labels."""
    return work.folder / "runs" / "trials" / method / f"part{number}"


def trials(work: Work, method: str) -> list[Path]:
    """Those that all methods have."""
    return [trial(work, method, number) for number in range(1, work.facts["done"] + 1)]


def try_methods(work: Work, minutes: float, shared: list[str], data: Data, costs: planning.Costs) -> None:
    """Every method on one part of the labels after the other, as long as there is time."""
    if "plan" not in work.facts:
        found = planning.plan(60 * minutes - work.seconds, work.seconds, costs, usable(data))
        work.save(plan={"rounds": found.rounds, "steps": found.steps}, done=0)
    rounds, steps = work.facts["plan"]["rounds"], work.facts["plan"]["steps"]
    print(f"\nplan: {rounds} x {len(METHODS)} trials and one training, of {steps:,} steps each")
    for number in range(work.facts["done"] + 1, rounds + 1):
        begun = trial(work, next(iter(METHODS)), number).exists()
        left = 60 * minutes - work.seconds
        if number > 1 and not begun and left < costs.trials(steps) + costs.final(steps // 2):
            print(f"\nthere is no time for round {number} of {rounds}: it is left out")
            break
        for method in METHODS:
            words = [*training(shared, method, planning.EPOCHS, steps), "--val-fold", f"{number}/{planning.FOLDS}"]
            work.run(method, *words, "--log", trial(work, method, number))
        work.save(done=number)


def rank(work: Work) -> list[evidence.Ranked]:
    """The methods by the held-out labels of all trials; none where there was none."""
    right: dict[str, dict[int, bool]] = {}
    for method in METHODS:
        found = [outcomes(run) or {} for folder in trials(work, method) for run in read_runs([folder])]
        right[method] = {image: is_right for each in found for image, is_right in each.items()}
    return evidence.ranking(right) if work.facts["done"] else []


def train_on_all(
    work: Work, minutes: float, shared: list[str], costs: planning.Costs, ranked: list[evidence.Ranked]
) -> str:
    """The chosen method on all labels; its name."""
    if "chosen" not in work.facts:
        method = ranked[0].method if ranked else next(iter(METHODS))
        steps = planning.final_steps(60 * minutes - work.seconds, costs, method, work.facts["plan"]["steps"])
        work.save(chosen=method, final_steps=steps)
    method = work.facts["chosen"]
    words = training(shared, method, planning.EPOCHS, work.facts["final_steps"])
    work.run(method, *words, "--log", work.folder / "runs" / "final")
    return method


def write(work: Work, args, data: Data, method: str) -> Path:
    """Predictions, report and network; the folder of the last."""
    final, model = work.folder / "runs" / "final", work.folder / f"{args.photos.resolve().name}_model"
    more = ["--device", args.device] if args.device else []
    more += ["-j", str(args.workers)] if args.workers is not None else []
    work.run("predict", final, args.photos, "--out", work.folder / "predictions.csv", *more)
    work.run("export", final, model, "--timm")
    if trials(work, method):
        pages.report(trials(work, method), data, work.folder / "report.png", args.device)
    return model


def main(args):
    progress.log_to(None)
    if not args.labels.is_file():
        raise UserError(f"there is no list '{args.labels}': name another, or write lines of a path and a class")
    turned = args.exif_orientation
    data = datasets.load("ImageFolder", args.photos, labeled_list=args.labels, exif_orientation=turned)
    names = ["photos", "labels", "minutes", "weights", "scratch", "arch", "image_size", "no_flip", "exif_orientation"]
    arguments = {name: getattr(args, name) for name in [*names, "seed"]}
    work = Work(args.out, {name: str(x) if isinstance(x, Path) else x for name, x in arguments.items()})
    if "told" not in work.facts:
        shared = common_flags(args, data)
        try:
            costs = measure(work, shared, len(data.train) + len(data.test))
        except UserError as error:
            if "could not be downloaded" not in str(error):
                raise
            raise UserError(f"{error}; here: WEIGHTS=FILE or --weights FILE (scripts/lite0_backbone.py)") from None
        try_methods(work, args.minutes, shared, data, costs)
        ranked = rank(work)
        method = train_on_all(work, args.minutes, shared, costs, ranked)
        model = write(work, args, data, method)
        held_out = trials(work, method)
        work.save(told=pages.lines(work, args.photos, data.candidates or 0, ranked, held_out, model))
    print("\n" + "\n".join(work.facts["told"]))
    return work.facts


if __name__ == "__main__":
    cli.launch(parse_args, main)
