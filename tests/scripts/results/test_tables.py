"""The columns of the tables, and the files they are written into, against numbers worked out by hand."""

import csv
import json
import re
from pathlib import Path

import pytest

import dst
import erm
from common.errors import UserError
from scripts.results import tables
from tests.helpers.written_runs import change, collect


def columns(markdown: Path, *names: str) -> dict[str, list[str]]:
    """These columns of a table, by method and labels."""
    header, _, *rows = [line.strip("| ").split("|") for line in markdown.read_text().splitlines() if line[:1] == "|"]
    at = [[word.strip() for word in header].index(name) for name in names]
    return {" ".join(row[2].split() + row[3].split()[:1]): [row[i].strip() for i in at] for row in rows}


def test_the_epoch_chosen_on_held_out_images_has_a_column(write_run, tmp_path, capsys):
    """For those runs that hold images out; in a published table a line, and no average over other datasets."""
    write_run("without", 60, 70, dataset="Digits")
    for i, (dataset, chosen) in enumerate([("Digits", 65.0), ("Digits", 67.0), ("CIFAR10", 66.25)]):
        flags = ("--val-per-class", "2", "--seed", str(i))
        change(write_run(f"{dataset}{i}", 60, 70, *flags, dataset=dataset), val_best_top1=chosen, val_top1=90.0)
    collect(tmp_path, "--csv", tmp_path / "cells.csv")
    out = capsys.readouterr().out
    assert re.search(r"seeds +last +chosen on val +best on test +seconds$", out, re.MULTILINE)
    assert re.search(r"fixmatch \[\d\] +4 per class +2 +60\.0 ± 0\.0 +66\.0 ± 1\.4 +70\.0 ± 0\.0 ", out)
    assert re.search(r"fixmatch \[\d\] +4 per class +1 +60\.0 +– +70\.0 ", out)
    assert re.search(r"^ +last epoch .*\n +chosen on val +– +66\.2( +–)+$", out, re.MULTILINE)
    rows = list(csv.DictReader((tmp_path / "cells.csv").read_text().splitlines()))
    assert {row["val_best_mean"] for row in rows} == {"66.25", "66.0", ""}
    assert {row["val_best_deviation"] for row in rows} == {"", str(2**0.5)}
    for folder in tmp_path.glob("Digits*"):  # as with --val-fold: nothing was chosen
        change(folder, chosen_by="last epoch")
    capsys.readouterr()
    collect(tmp_path)
    out = capsys.readouterr().out
    assert re.search(r"seeds +last +best on test +seconds$", out, re.MULTILINE)
    assert re.search(r"\n +chosen on val +– +66\.2( +–)+$", out, re.MULTILINE)  # of CIFAR10


def test_the_difference_from_a_method_is_paired_by_seed(write_run, tmp_path, capsys):
    """Of +1, +2 and +1: 4/3 ± 4.303 / 3. Of +20 and +10: 15 ± 12.706 * 5. The mean of the erm that both have is 65."""
    of_erm = {"dataset": "Digits", "parse_args": erm.parse_args, "method": "erm"}
    for seed, (lower, higher) in enumerate(((60.0, 61.0), (70.0, 72.0), (80.0, 81.0))):
        write_run(f"erm{seed}", lower, 90, "--seed", str(seed), **of_erm)
        write_run(f"fixmatch{seed}", higher, 90, "--seed", str(seed), dataset="Digits")
    for seed in (0, 1):
        write_run(f"oracle{seed}", 80.0, 90, "--oracle", "--seed", str(seed), **of_erm)
    write_run("many", 99.0, 99, "--num-samples-per-class", "40", dataset="Digits")
    table = tmp_path / "table.md"
    collect(tmp_path, "--against", "erm", "--markdown", table)
    shown = {"erm 4": ["–"], "fixmatch 4": ["+1.3 ± 1.4"], "oracle all": ["+15.0 ± 63.5"], "fixmatch 40": ["–"]}
    assert columns(table, "minus erm") == shown
    out = capsys.readouterr().out
    assert "minus erm, oracle on Digits (resnet50, supervised): not both have seed 2\n" in out
    assert out.count("minus erm, ") == 1

    write_run("erm40", 98.0, 99, "--num-samples-per-class", "40", **of_erm)
    collect(tmp_path, "--against", "erm", "--markdown", table)
    more = {"fixmatch 40": ["+1.0"], "erm 40": ["–"], "oracle all": ["–"]}  # which of the two is meant?
    assert columns(table, "minus erm") == shown | more

    write_run("later", 90.0, 99, "--num-samples-per-class", "7", dataset="Digits")
    write_run("later_erm", 90.0, 99, "--num-samples-per-class", "7", "--seed", "9", **of_erm)  # no seed in common
    collect(tmp_path, "--against", "erm", "--markdown", table)
    assert columns(table, "minus erm") == shown | more | {"fixmatch 7": ["–"], "erm 7": ["–"]}

    for name, tested in (("vat", "a"), ("vat_erm", "b")):  # there are two sets of test images of that name
        own = of_erm if name == "vat_erm" else {"dataset": "Digits"}
        change(write_run(name, 90.0, 99, "--num-samples-per-class", "8", **own), test_sha256=tested)
    collect(tmp_path, "--against", "erm", "--markdown", table)
    assert columns(table, "minus erm")["fixmatch 8"] == ["–"]

    for name, labels in (("fixmatch1", "a"), ("erm1", "b")):
        change(tmp_path / name, labeled_sha256=labels)
    capsys.readouterr()
    collect(tmp_path, "--against", "erm")
    out = capsys.readouterr().out.replace("\n    ", " ")
    where = "on Digits (resnet50, supervised): not"
    assert f"minus erm, fixmatch {where} the same labels, so the pairs differ by their draw, too: seed 1\n" in out
    assert out.count("minus erm, ") == 1

    for name, own in (("untested", {"dataset": "Digits"}), ("untested_erm", of_erm)):
        change(write_run(name, 90.0, 99, "--num-samples-per-class", "9", **own), last_top1=None, best_top1=None)
    collect(tmp_path, "--against", "erm", "--markdown", table)
    assert columns(table, "minus erm")["fixmatch 9"] == ["–"]

    write_run("slow0", 50.0, 90, "--lr", "0.9", **of_erm)
    with pytest.raises(UserError, match=r"erm, 4 labels on Digits .* with several settings \(lr 0.003; lr 0.9\)"):
        collect(tmp_path, "--against", "erm")
    with pytest.raises(UserError, match="no run of 'dst' to compare with: --against takes erm, fixmatch, oracle"):
        collect(tmp_path, "--against", "dst")

    for seed in (0, 1):
        write_run(f"published{seed}", 60.0, 61, "--seed", str(seed), method="dst", parse_args=dst.parse_args)
    with pytest.raises(UserError, match=r"none of the published tables: use scripts/compare_runs.py for these$"):
        collect(tmp_path, "--against", "dst")


def test_how_good_the_pseudo_labels_of_the_last_epoch_are(write_run, tmp_path, capsys):
    names = ("pseudo-labels right", "images with one")
    for seed, ratio in ((0, 50.0), (1, 70.0)):
        folder = write_run(f"run{seed}", 60, 70, "--seed", str(seed), dataset="Digits")
        row = {"epoch": 2, "top1": 60.0, "pseudo_label_accuracy": 90.0, "pseudo_label_ratio": ratio}
        (folder / "metrics.jsonl").write_text(json.dumps(row | {"epoch": 1, "pseudo_label_ratio": 3.0}) + "\n")
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    folder = write_run("erm", 50, 60, dataset="Digits", parse_args=erm.parse_args, method="erm")
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "top1": 50.0}\n')
    collect(tmp_path, "--pseudo-labels", "--markdown", tmp_path / "table.md")
    assert columns(tmp_path / "table.md", *names) == {"erm 4": ["–", "–"], "fixmatch 4": ["90.0 ± 0.0", "60.0 ± 14.1"]}
    collect(tmp_path)
    assert names[0] not in capsys.readouterr().out.rpartition("top-1 accuracy")[2]
    file = tmp_path / "run1" / "metrics.jsonl"  # a seed without a confident pseudo-label: no mean of the others
    file.write_text(file.read_text().replace('"pseudo_label_accuracy": 90.0', '"pseudo_label_accuracy": null'))
    collect(tmp_path, "--pseudo-labels", "--markdown", tmp_path / "table.md")
    assert names[0] not in (tmp_path / "table.md").read_text()  # nothing is left to show
    assert columns(tmp_path / "table.md", names[1])["fixmatch 4"] == ["60.0 ± 14.1"]


def test_csv_and_markdown(write_run, tmp_path, capsys):
    write_run("0", 60.125, 70)
    write_run("1", 61, 74, "--seed", "1")
    write_run("short", 10, 20, "--epochs", "1")
    collect(
        tmp_path,
        "--csv",
        tmp_path / "cells.csv",
        "--markdown",
        tmp_path / "table.md",
        "--plots",
        tmp_path / "p",
        plots=True,
    )
    first, second = csv.DictReader((tmp_path / "cells.csv").read_text().splitlines())
    assert {key: first[key] for key in ("dataset", "pretraining", "row", "method", "seeds", "published")} == {
        "dataset": "CIFAR10",
        "pretraining": "supervised",
        "row": "fixmatch",
        "method": "fixmatch",
        "seeds": "0 1",
        "published": "74.5",
    }
    assert float(first["best_mean"]) == 72
    assert float(first["best_deviation"]) == pytest.approx(8**0.5)
    assert float(first["last_mean"]) == 60.5625
    assert float(first["last_deviation"]) == pytest.approx(0.875 / 2**0.5)
    assert float(first["difference"]) == -2.5
    assert (first["settings"], second["settings"]) == ("epochs 60", "epochs 1")
    assert (second["best_deviation"], second["departures"]) == ("", "--epochs 1 (published: 60)")
    page = (tmp_path / "table.md").read_text()
    assert "| fixmatch " in page
    assert "| 72.0 ± 2.8 " in page
    assert "- not in the table: " in page
    assert {path.name for path in (tmp_path / "p").iterdir()} == {
        "accuracy.png",
        "last_epoch.png",
        "pseudo_labels.png",
        "published_supervised.png",
    }


def test_text_and_markdown_by_hand():
    table = [["a", "bcd"], ["xx", "–"]]
    assert tables.text(table) == "a   bcd\n-------\nxx  –"
    assert tables.markdown(table) == "| a  | bcd |\n| -- | --- |\n| xx | –   |"
