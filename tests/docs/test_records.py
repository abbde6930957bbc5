"""The tables of README and docs whose runs have records in docs/records show these records, to the last digit.

Not covered: choosing.md, foundation.md, performance.md, label.sh's calls, and most figures within sentences.
"""

import json
import re
import shutil
import statistics
import tarfile
from collections import defaultdict
from pathlib import Path
from unittest import mock

import pytest

from scripts import collect_results, select_run
from scripts.compare_runs import compare, setting
from scripts.results import tables
from scripts.results.cells import Cell, cells, footnotes
from scripts.results.paired import half_width, in_words
from scripts.results.runs import CellKey, read_runs
from tests.conftest import ROOT, UNPACKS
from tests.helpers.shell import dry_run, parse

RECORDS = ROOT / "docs" / "records"
README = ROOT / "README.md"
FROM_SCRATCH = ROOT / "docs" / "from_scratch.md"
INGREDIENTS = ROOT / "docs" / "ingredients.md"
WEIGHTS_OF_MIXMATCH = "| MixMatch's weight | rate 0.03 | rate 0.1 |"


@pytest.fixture
def unpacked(tmp_path):
    """`unpacked("digits")`: the folder of an archive's runs."""

    def unpack(name: str) -> Path:
        with tarfile.open(RECORDS / f"{name}.tar.xz") as archive:
            archive.extractall(tmp_path, **({"filter": "data"} if UNPACKS else {}))  # noqa: S202 (it is our own)
        return tmp_path / "logs" / name

    return unpack


# Whose seeds are of several versions of the suite, which the pages say, too.
VERSIONS = {
    "digits": [
        "the seeds of 14 rows are of several versions of this suite: git commits 05df43e, 4bb54ec, f5ef219, fcfb48a"
    ],
    "finetune": ["the seeds of 21 rows are of several versions of this suite: git commits 0769f30, d078f23"],
}


def cells_of(folder: Path) -> dict[CellKey, list[Cell]]:
    """The cells, which no other note doubts."""
    table, notes = cells(read_runs([folder]))
    assert notes == VERSIONS.get(folder.name, [])
    return table


def by_name(folder: Path) -> dict[tuple[str, str], Cell]:
    """The cells, by method or oracle and number of labels."""
    table = cells_of(folder)
    assert all(len(several) == 1 for several in table.values())
    return {name_of(cell.runs[0].result): cell for (cell,) in table.values()}


def name_of(result: dict) -> tuple[str, str]:
    """Of a result, or of a command's arguments."""
    return ("oracle", "all") if result.get("oracle") else (result["method"], str(10 * result["num_samples_per_class"]))


def rows(page: Path, header: str) -> list[list[str]]:
    """The rows of a page's table, below its header."""
    lines = page.read_text().partition(f"\n{header}\n")[2].splitlines()[1:]
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([word.strip() for word in line.strip("|").split("|")])
    return found


def method(title: str) -> str:
    """`Pi Model` -> pi_model; what follows a comma says which runs they are."""
    return re.sub(r"[ -]", "_", title.partition(",")[0].lower())


def table(page: Path, header: str) -> dict[str, tuple[str, ...]]:
    """The figures of a page's table, by method."""
    return {method(title): tuple(figures) for title, *figures in rows(page, header)}


def of_the_readme() -> dict[str, tuple[str, str]]:
    """The last two columns of the README's methods: fine-tuned, and Digits."""
    found = rows(README, "| script, cells | method | in plain words | paper | published | fine-tuned | Digits |")
    return {row[0].partition(".py")[0].strip("["): (row[-2], row[-1]) for row in found}


def test_the_docs_show_the_recorded_runs_on_digits(unpacked):
    """All methods in docs/from_scratch.md, and in the last column of the README's methods."""
    found = by_name(unpacked("digits"))
    shown = {name: digits for name, (_, digits) in of_the_readme().items()}
    last = {name: cell.show("last_top1") for (name, _), cell in found.items()}
    assert {name: figure for name, figure in shown.items() if figure != "–"} | {"oracle": last["oracle"]} == last
    assert f"the oracle has {last['oracle'].split()[0]}" in (ROOT / "README.md").read_text()
    assert table(FROM_SCRATCH, "| method | last epoch | best on test |") == {
        name: (cell.show("last_top1"), cell.show("best_top1")) for (name, _), cell in found.items()
    }
    assert {tuple(cell.seeds) for cell in found.values()} == {(0, 1, 2)}


def test_the_quickstarts_table(unpacked, tmp_path, capsys):
    """As README shows it, over three seeds."""
    quickstart = tmp_path / "quickstart"
    for run in unpacked("digits").iterdir():
        if run.name.partition("_seed")[0] in ("erm", "fixmatch", "oracle"):
            shutil.copytree(run, quickstart / run.name)
    with mock.patch.object(collect_results, "draw"):
        collect_results.main(collect_results.parse_args([str(quickstart)]))
    printed = capsys.readouterr().out
    shown = re.search(r"^```text\n(dataset .+?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    assert shown in printed


def test_fashion_mnist_from_scratch(unpacked):
    found = by_name(unpacked("fashion"))
    assert {tuple(cell.seeds) for cell in found.values()} == {(0, 1, 2)}
    oracle, last = found["oracle", "all"], {}
    for labels in ("40", "400"):
        own = {name: cell for (name, number), cell in found.items() if number == labels} | {"oracle": oracle}
        assert table(FROM_SCRATCH, f"| {labels} labels | seeds | last epoch | best on test |") == {
            name: (str(len(cell.seeds)), cell.show("last_top1"), cell.show("best_top1")) for name, cell in own.items()
        }
        last[labels] = {name: cell.show("last_top1") for name, cell in own.items()}
    assert last["40"].keys() == last["400"].keys()
    said = " ".join((ROOT / "README.md").read_text().split())
    erm, best, most = (last["40"][name] for name in ("erm", "freematch", "oracle"))
    assert f"with 40 labels, ERM has {erm}, FreeMatch {best}, and the oracle {most}" in said


@pytest.mark.parametrize(
    ("labels", "rates", "tuned"),
    [("40", ("0.01", "0.03", "0.1", "0.3", "1"), ("40", "all")), ("400", ("0.01", "0.03", "0.1", "0.3"), ("400",))],
)
def test_the_rates_of_fashion_are_what_held_out_images_chose(labels, rates, tuned, unpacked):
    """In bold in the tables, and in the commands of fashion.sh."""
    folder, shown, chosen = unpacked("tuning"), {}, {}
    for run in (folder / rates[0]).iterdir():
        (settings,) = cells(read_runs(folder.glob(f"*/{run.name}")))[0].values()
        name, number = name_of(settings[0].runs[0].result)
        if number in tuned:
            ranked = select_run.ranked(settings, select_run.HeldOut())
            scores = {f"{each.setting.runs[0].args['lr']:g}": f"{each.score:.1f}" for each in ranked}
            assert scores.keys() == set(rates)
            best = chosen[name] = next(iter(scores))
            shown[name] = tuple(f"**{scores[rate]}**" if rate == best else scores[rate] for rate in rates)
    assert table(FROM_SCRATCH, f"| {labels} labels, rate | {' | '.join(rates)} |") == shown
    names = [(name_of(args)[0], f"{args['lr']:g}") for args in map(parse, dry_run("fashion", labels))]
    assert {name: rate for name, rate in names if name in chosen} == chosen


def test_the_weight_of_mixmatch_is_what_held_out_images_chose(unpacked):
    """In bold in the table, and in fashion.sh's commands. With 400 labels the protocol's weight fails at any rate."""
    folder, shown = unpacked("tuning_mixmatch"), {}
    for weight in ("1", "10", "30", "100"):
        (settings,) = cells(read_runs(folder.glob(f"{weight}/*/mixmatch_40_*")))[0].values()
        ranked = select_run.ranked(settings, select_run.HeldOut())
        assert {each.setting.runs[0].args["trade_off_con"] for each in ranked} == {float(weight)}
        shown[weight] = {each.setting.runs[0].args["lr"]: each.score for each in ranked}
    best = max((scores[rate], weight, rate) for weight, scores in shown.items() for rate in (0.03, 0.1))
    table = {title.partition(",")[0]: figures for title, *figures in rows(FROM_SCRATCH, WEIGHTS_OF_MIXMATCH)}
    for weight, scores in shown.items():
        figures = {rate: f"{scores[rate]:.1f}" for rate in (0.03, 0.1)}
        assert table[weight] == [f"**{x}**" if (weight, rate) == best[1:] else x for rate, x in figures.items()]
    (args,) = [parse(command) for command in dry_run("fashion", "mixmatch 40", SEEDS="0")]
    assert (f"{args['trade_off_con']:g}", args["lr"]) == best[1:]

    (failed,) = cells(read_runs(folder.glob("100/*/mixmatch_400_*")))[0].values()
    scores = [each.score for each in select_run.ranked(failed, select_run.HeldOut())]
    assert len(scores) == 4
    assert f"({min(scores):.1f} to {max(scores):.1f} %)" in FROM_SCRATCH.read_text()


@pytest.mark.parametrize(("base", "header"), [("all", "one left out"), ("none", "one alone")])
def test_which_ingredient_matters(base, header, unpacked):
    folder = unpacked("ingredients")
    pattern, number = {"all": ("no*", 8), "none": ("only_*", 7)}[base]  # none is among the former
    settings = sorted(path.name for path in (folder / "fixmatch").glob(pattern))
    assert len(settings) == number
    expected = {base: [], **{name: [] for name in settings}}
    for name in ("fixmatch", "flexmatch"):
        cell = setting(folder / name / base)
        assert cell.seeds == [0, 1, 2, 3, 4]
        expected[base] += [cell.show("last_top1"), ""]
        for other in settings:
            found = compare(cell, setting(folder / name / other), "last_top1")
            assert found.seeds == "5"
            expected[other] += [f"{found.difference:+.1f} ± {found.half_width:.1f}", f"{found.time:.2f}"]
    shown = {
        title.split("`")[1]: figures
        for title, *figures in rows(INGREDIENTS, f"| {header} | FixMatch | time | FlexMatch | time |")
    }
    assert shown == expected


FINE_TUNING = ROOT / "docs" / "finetuning.md"
TITLES = {"cifar10_jpeg/": "CIFAR-10"}
FINE_TUNED = ["seeds", "last", "minus erm", "best on test", "pseudo-labels right", "images with one"]
IN_THE_PAGE = "seeds | last epoch | minus ERM | best on test | pseudo-labels right | images with one"


def test_fine_tuning(unpacked):
    """The tables have the columns that collect_results.py prints, a table for each dataset that was run."""
    runs = cells_of(unpacked("finetune"))
    by_dataset = defaultdict(dict)
    for key, several in runs.items():
        by_dataset[key.dataset][key] = several
    for dataset, own in by_dataset.items():
        names, *found = tables.other_table(tables.in_order(own), footnotes(own), "erm", pseudo_labels=True)
        columns = [names.index(name) for name in FINE_TUNED]
        shown = table(FINE_TUNING, f"| {TITLES.get(dataset, dataset)} | {IN_THE_PAGE} |")
        assert shown == {row[names.index("method")]: tuple(row[i] for i in columns) for row in found}
        if dataset == "FashionMNIST":
            last = {name: figures[1] for name, figures in shown.items()}
            of_methods = {name: figure for name, (figure, _) in of_the_readme().items() if figure != "–"}
            assert of_methods | {"oracle": last["oracle"]} == last
            assert f"the oracle has {last['oracle']};" in " ".join(README.read_text().split())


def test_what_the_average_of_the_weights_hides(unpacked):
    """The methods that test an average: a table for each dataset, of this average and of the weights themselves."""
    found, erm = defaultdict(dict), {}
    for key, (cell,) in cells_of(unpacked("finetune")).items():
        if cell.method == "erm":
            erm[key.dataset] = cell
        elif cell.has("raw_last_top1"):
            found[key.dataset][cell.method] = cell
    assert found["FashionMNIST"].keys() == {"mixmatch", "comatch", "simmatch", "adamatch", "remixmatch"}
    for dataset, own in found.items():
        base, expected = {run.result["seed"]: run.result["last_top1"] for run in erm[dataset].runs}, {}
        for name, cell in own.items():
            expected[name] = []
            for field in ("last_top1", "raw_last_top1"):
                less = [run.result[field] - base[run.result["seed"]] for run in cell.runs]
                expected[name] += [cell.show(field), in_words(statistics.fmean(less), half_width(less))]
        header = f"| {TITLES.get(dataset, dataset)} | average, as above | minus ERM | weights themselves | minus ERM |"
        assert table(FINE_TUNING, header) == {name: tuple(figures) for name, figures in expected.items()}


def test_the_oracles_rate_on_cifar10(unpacked):
    """ERM and the oracle at ERM's rate, from the table, and at most other methods' rate."""
    of_the_table = on_cifar10(unpacked("finetune"))
    slower = on_cifar10(unpacked("finetune_rates"))
    assert {run.args["lr"] for cell in slower.values() for run in cell.runs} == {0.003}
    assert {tuple(cell.seeds) for cell in slower.values()} == {(0, 1, 2)}
    shown = table(FINE_TUNING, "| CIFAR-10, last epoch | rate 0.03, as above | rate 0.003 |")
    assert shown == {name: (of_the_table[name].show("last_top1"), slower[name].show("last_top1")) for name in slower}


def on_cifar10(folder: Path) -> dict[str, Cell]:
    """By method or oracle."""
    runs = [run for run in read_runs([folder]) if run.args["data"] == "ImageFolder"]
    return {cell.method: cell for (cell,) in cells(runs)[0].values()}


def test_what_two_parts_of_fine_tuning_are_worth(unpacked):
    folder, expected = unpacked("finetune_parts"), {"both": [], "no_finetune": [], "no_bottleneck": []}
    for name in ("erm", "fixmatch"):
        base = setting(folder / name / "both")
        assert base.seeds == [0, 1, 2, 3, 4]
        expected["both"].append(base.show("last_top1"))
        for other in ("no_finetune", "no_bottleneck"):
            found = compare(base, setting(folder / name / other), "last_top1")
            assert found.seeds == "5"
            expected[other].append(f"{found.difference:+.1f} ± {found.half_width:.1f}")
    shown = rows(FINE_TUNING, "| FashionMNIST, 40 labels | ERM | FixMatch |")
    assert {title.split("`")[1]: figures for title, *figures in shown} == expected


WHICH_METHOD = ROOT / "docs" / "which_method.md"
DATASETS = {"FashionMNIST": "FashionMNIST", "ImageFolder": "CIFAR-10"}


def test_which_method_and_how_long(unpacked):
    """A table for each dataset and number of labels whose runs are all finished."""
    found = defaultdict(dict)
    for folder in sorted(unpacked("which_method").iterdir()):
        result = json.loads((folder / "result.json").read_text())
        epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [epoch["step"] for epoch in epochs] == [80, 160, 240, 320]
        figures = [*(f"{epoch['top1']:.1f}" for epoch in epochs), f"{result['seconds'] / 60:.0f}"]
        labels = 10 * result["num_samples_per_class"]
        found[DATASETS[result["dataset"]], labels][result["method"]] = tuple(figures)
    for (dataset, labels), own in found.items():
        assert len(own) == 5
        assert table(WHICH_METHOD, f"| {dataset}, {labels:,} labels | 80 steps | 160 | 240 | 320 | minutes |") == own
