"""The table of runs from scratch beside the published errors."""

import importlib
import re
from collections.abc import Callable
from types import SimpleNamespace

from scripts.results import from_scratch, published
from tests.helpers.written_runs import collect


def from_scratch_run(method: str, *flags: str) -> Callable:
    """The arguments of scripts/scratch.sh's command for CIFAR-10 with 250 labels, in place of those of `write_run`."""
    _python, script, *argv = published.commands("scratch", method, "CIFAR10", "250")[0]
    return lambda _: importlib.import_module(script.removesuffix(".py")).parse_args([*argv, *flags])


def test_runs_from_scratch_stand_beside_the_published_errors(write_run, tmp_path, capsys):
    """Best 95 and 94: errors 5 and 6, and 0.71 apart; the medians of both epochs are 6 and 7."""
    for seed, last, best in ((0, 93.0, 95.0), (1, 92.0, 94.0)):
        parse_args = from_scratch_run("fixmatch", "--seed", str(seed))
        write_run(f"fixmatch{seed}", last, best, pretraining="scratch", parse_args=parse_args)
    short = {
        "pretraining": "scratch",
        "method": "erm",
        "parse_args": from_scratch_run("erm", "--epochs", "9", "--ema", "0"),
    }
    write_run("erm", 40.0, 41.5, **short)
    write_run("oracle", 95.0, 95.5, **short | {"parse_args": from_scratch_run("oracle")})
    write_run("other", 95.0, 95.5, **short | {"parse_args": from_scratch_run("erm", "-a", "wrn_10_1")})
    collect(tmp_path)
    shown = capsys.readouterr().out
    table, others = shown.split("from scratch: error in percent")[1].split("top-1 accuracy in percent, after")
    rows = [re.split(r"  +", line) for line in table.splitlines()]
    assert ["CIFAR10", "250", "fixmatch", "2", "5.50 ± 0.71", "6.50 ± 0.71", "7.50 ± 0.71", "4.86 ± 0.05"] in rows
    assert ["CIFAR10", "250", "erm*", "1", "58.50", "59.25", "60.00", "56.24 ± 3.41"] in rows
    assert ["CIFAR10", "all", "oracle", "1", "4.50", "4.75", "5.00", "4.62 ± 0.05"] in rows
    assert re.search(r"^\* erm on CIFAR10, 250 labels: .*--epochs 9 \(published: 256\)", others, re.MULTILINE)
    assert "--ema 0.0 (published: 0.999)" in re.sub(r"\s+", " ", others)
    assert "wrn_10_1, scratch" in others
    assert "fixmatch" not in others


def test_the_published_errors_from_scratch_are_whole():
    errors = from_scratch.errors()
    assert len(errors) == 189
    assert len({method for method, _, _ in errors}) == 16
    assert errors["fixmatch", "CIFAR10", 40] == (7.47, 0.28)
    assert errors["oracle", "SVHN", 40][0] < errors["softmatch", "SVHN", 40][0] < errors["erm", "STL10", 1000][0]


def test_the_median_is_of_the_last_20_epochs():
    run = SimpleNamespace(history=[{"top1": 0.0}] * 30 + [{"top1": 90.0}] * 20)
    assert from_scratch._last_errors(run) == [10.0] * 20
