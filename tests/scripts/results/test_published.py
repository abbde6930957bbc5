"""The tables of the published cells against numbers worked out by hand."""

import os
import re
import subprocess
from types import SimpleNamespace

import pytest

import erm
from scripts.results import published
from scripts.results.runs import CellKey
from tests.conftest import ROOT, SMALL
from tests.helpers.written_runs import collect


def lines_of(shown: str, row: str) -> dict[str, list[str]]:
    """The four lines of a method in a published table that was printed: name -> the words after it."""
    names = ("best on test", "published", "difference", "last epoch")
    found = re.search(rf"^{row}  .*\n.*\n.*\n.*$", shown, re.MULTILINE).group().splitlines()
    found[0] = found[0].removeprefix(row)
    assert all(line.strip().startswith(name) for line, name in zip(found, names, strict=True))
    return {name: re.split(r"  +", line.strip())[1:] for line, name in zip(found, names, strict=True)}


def test_a_cell_against_the_published_figure_by_hand(write_run, tmp_path, capsys):
    """Best 70, 74, 75: mean 73, deviation sqrt((9 + 1 + 4) / 2) = 2.646; published 74.5."""
    assert published.accuracies()[CellKey("CIFAR10", "resnet50", "supervised", "fixmatch")] == 74.5
    for seed, (last, best) in enumerate([(60, 70), (62, 74), (70, 75)]):
        write_run(f"seed{seed}", last, best, "--seed", str(seed))
    write_run("dtd", 50.0, 51.25, dataset="DTD")
    collect(tmp_path)
    out, err = capsys.readouterr()
    assert err == ""
    assert "resnet50, supervised: top-1 accuracy in percent (130 of 132 cells missing):" in out
    assert "moco" not in out
    header = re.search("^method .*$", out, re.MULTILINE).group().split()
    assert header == ["method", "top-1", *published.datasets(), "Avg"]
    lines = lines_of(out, "fixmatch")
    at = {dataset: i for i, dataset in enumerate(published.datasets())}
    assert [lines[name][at["CIFAR10"]] for name in lines] == ["73.0 ± 2.6", "74.5", "-1.5", "64.0 ± 5.3"]
    dtd = published.accuracies()[CellKey("DTD", "resnet50", "supervised", "fixmatch")]
    assert [lines[name][at["DTD"]] for name in lines] == ["51.2", f"{dtd:.1f}", f"{51.25 - dtd:+.1f}", "50.0"]
    assert {lines["best on test"][at[d]] for d in at if d not in {"CIFAR10", "DTD"}} == {"–"}
    assert [lines[name][-1] for name in lines] == ["–", f"{average('fixmatch'):.1f}", "–", "–"]
    assert "*" not in out


def average(row: str) -> float:
    return sum(value for key, value in published.accuracies().items() if key[2:] == ("supervised", row)) / 11


def test_rows_without_a_run_show_the_published_figures(write_run, tmp_path, capsys):
    write_run("run", 60, 70)
    collect(tmp_path)
    table = capsys.readouterr().out.split("\n---", 1)[1]
    assert re.search(rf"^dst +published .* {average('dst'):.1f}$", table, re.MULTILINE)
    assert re.search(r"^erm, 10 labels +published( +–){12}$", table, re.MULTILINE)
    names = re.findall(r"^(\w[\w, ]*?)  ", table, re.MULTILINE)
    assert names == published.rows()


def test_the_average_is_over_all_datasets(write_run, tmp_path, capsys):
    for i, dataset in enumerate(published.datasets()):
        write_run(dataset, 40 + i, 50 + i, dataset=dataset)
    collect(tmp_path)
    lines = lines_of(capsys.readouterr().out, "fixmatch")
    assert lines["best on test"][-1] == "55.0"
    assert lines["last epoch"][-1] == "45.0"
    assert lines["difference"][-1] == f"{55 - average('fixmatch'):+.1f}"


def test_runs_of_different_settings_are_never_averaged(write_run, tmp_path, capsys):
    """The published settings are shown, though the others have more seeds."""
    write_run("published", 60, 70)
    write_run("short0", 10, 20, "--epochs", "1", "--seed", "0")
    write_run("short1", 10, 30, "--epochs", "1", "--seed", "1")
    collect(tmp_path)
    out = capsys.readouterr().out
    assert lines_of(out, "fixmatch")["best on test"][1] == "70.0"
    where = r"fixmatch on CIFAR10 \(resnet50, supervised\)"
    assert re.search(rf"^not in the table: {where} with epochs 1: best 25\.0 ± 7\.1$", out, re.MULTILINE)


def test_splits_of_both_kinds_are_not_averaged(write_run, tmp_path, capsys):
    for seed in range(3):
        write_run(str(seed), 60, 70, "--seed", str(seed))
    write_run("fixed", 60, 90, "--split-seed", "0", "--seed", "4")
    collect(tmp_path)
    out = capsys.readouterr().out
    assert lines_of(out, "fixmatch")["best on test"][1] == "70.0 ± 0.0"
    assert "with split_seed 0: best 90.0" in out


@pytest.mark.parametrize(("flags", "number"), [((), 3), (("--split-seed", "0"), 3), (("--split-seed", "5"), 3)])
def test_seeds_with_their_own_split_or_one_for_all_are_a_cell(write_run, tmp_path, capsys, flags, number):
    for seed in range(3):
        write_run(str(seed), 60, 70 + seed, *flags, "--seed", str(seed))
    collect(tmp_path)
    assert lines_of(capsys.readouterr().out, "fixmatch")["best on test"][1] == "71.0 ± 1.0"


def test_the_same_seed_twice_counts_once(write_run, tmp_path, capsys):
    write_run("a", 60, 70)
    write_run("b", 60, 72)
    write_run("c", 60, 80, "--seed", "1")
    collect(tmp_path)
    out = capsys.readouterr().out
    assert lines_of(out, "fixmatch")["best on test"][1] == "75.0 ± 7.1"
    assert re.search(r"^left out, the same settings and seed as '\S*/a': '\S*/b'$", out, re.MULTILINE)


def test_a_cell_of_other_settings_than_the_published_is_marked(write_run, tmp_path, capsys):
    write_run("run", 60, 70, "--lr", "0.01", "-i", "100", "--seed", "3")
    collect(tmp_path)
    out = capsys.readouterr().out
    assert lines_of(out, "fixmatch")["best on test"][1] == "70.0*"
    where = r"\* fixmatch on CIFAR10 \(resnet50, supervised\)"
    assert re.search(rf"^{where}: --lr 0.01 \(published: 0.003\), --iters-per-epoch 100 \(published: 500\)$", out, re.M)


def test_each_of_erms_rows_is_compared_with_its_own_command(write_run, tmp_path, capsys):
    environment = os.environ | {"DRY_RUN": "1"}
    command = ["bash", ROOT / "scripts" / "erm.sh", "supervised", "CIFAR10"]
    lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    for i, line in enumerate(lines):
        argv = line.split()[2:]  # after python erm.py
        write_run(str(i), 60, 70 + i, method="erm", parse_args=lambda _, argv=argv: erm.parse_args(argv))
    collect(tmp_path)
    out = capsys.readouterr().out
    shown = [lines_of(out, row)["best on test"][1] for row in ("erm, 4 labels", "erm, 10 labels", "oracle")]
    assert shown == ["70.0", "71.0", "72.0"]
    assert "*" not in out


def test_ten_labels_are_not_set_beside_the_figures_of_four(write_run, tmp_path, capsys):
    write_run("run", 60, 70, "--num-samples-per-class", "10")
    collect(tmp_path)
    out = capsys.readouterr().out
    assert re.search(r"^CIFAR10 +resnet50, supervised +fixmatch +10 per class +1 +60\.0 +70\.0 ", out, re.MULTILINE)


def test_moco_and_other_methods_and_other_networks(write_run, tmp_path, capsys):
    write_run("moco", 60, 70, pretraining="moco")
    write_run("own", 60, 71, pretraining="moco", method="own_method")
    write_run("other", 60, 72, "-a", "resnet18", pretraining="other_file")
    collect(tmp_path, plots=True)
    out = capsys.readouterr().out
    assert "resnet50, moco_v2_800ep_backbone: top-1 accuracy in percent (131 of 132 cells missing):" in out
    assert "resnet50, supervised" not in out
    assert lines_of(out, "fixmatch")["best on test"][1] == "70.0"
    assert lines_of(out, "own_method")["best on test"][1] == "71.0"
    assert re.search(r"^CIFAR10 +resnet18, other_file +fixmatch +4 per class +1 +60\.0 +72\.0 +10$", out, re.MULTILINE)
    assert (tmp_path / "published_moco.png").read_bytes()[:4] == b"\x89PNG"
    assert not (tmp_path / "published_supervised.png").exists()


def test_the_published_table_is_whole():
    assert len(published.accuracies()) == 242
    assert len(published.datasets()) == 11
    assert published.rows()[:3] == ["erm, 4 labels", "erm, 10 labels", "pseudo_label"]
    assert SMALL[2] not in published.datasets()


def test_the_votes_sources_are_compared_below_logs(write_run, tmp_path, capsys):
    """Another LOGS is no other setting, and another run is."""
    command = published.commands("v_pet", "supervised", "CIFAR10")[0]
    sources = published.arguments(command)["sources"]
    own = {"method": "v_pet", "dataset": "CIFAR10"}
    for name, found in (("elsewhere", [f"/scratch/me/{s}" for s in sources]), ("other", ["logs/dst/x", "logs/uda/x"])):
        args = SimpleNamespace(**published.arguments(command) | {"sources": found})
        run = write_run(name, 60, 70, **own, parse_args=lambda _, args=args: args)
        collect(run)
        assert ("--sources" in capsys.readouterr().out) is (name == "other")
