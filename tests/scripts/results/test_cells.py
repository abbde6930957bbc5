"""Which runs are seeds of one cell, and what its row and its footnotes say."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

import erm
from scripts.results import runs
from scripts.results.cells import cells
from scripts.results.runs import read_runs
from tests.helpers.written_runs import DIGITS, SIX_SETTINGS, change, collect
from tests.methods.test_methods import METHODS


def test_runs_on_different_images_are_never_averaged(write_run, tmp_path, capsys):
    for seed in range(2):
        folder = write_run(f"run{seed}", 60, 70 + 10 * seed, "--seed", str(seed), dataset="ImageFolder")
        change(folder, data_sha256=f"{seed}" * 64)
    collect(tmp_path)
    out = capsys.readouterr().out
    assert re.search(r"fixmatch \[1\] +4 per class +1 +60\.0 +70\.0 ", out)
    assert re.search(r"fixmatch \[2\] +4 per class +1 +60\.0 +80\.0 ", out)
    assert "\n[1] data_sha256 00000000\n[2] data_sha256 11111111\n" in out


def test_images_of_the_same_names_are_averaged_only_if_their_files_are_the_same(write_run, tmp_path):
    for seed, content in enumerate("aab"):
        folder = write_run(f"run{seed}", 60, 60, "--seed", str(seed), dataset="ImageFolder")
        change(folder, data_sha256="d" * 64, content_sha256=content * 64, data_folder=f"photos_{content}")
    table, _ = cells(read_runs([tmp_path]))
    assert {key.dataset: [cell.seeds for cell in several] for key, several in table.items()} == {
        "photos_a/": [[0, 1]],
        "photos_b/": [[2]],
    }
    older = tmp_path / "run1" / "result.json"
    content = json.loads(older.read_text())
    del content["content_sha256"]
    older.write_text(json.dumps(content))
    table, _ = cells(read_runs([tmp_path]))  # which of the two files of each name did it read?
    assert {key.dataset: [cell.seeds for cell in several] for key, several in table.items()} == {
        "photos_a/": [[0], [1]],
        "photos_b/": [[2]],
    }
    shutil.rmtree(tmp_path / "run2")  # with the same names and labels, its files are taken to be the same
    ((cell,),) = cells(read_runs([tmp_path]))[0].values()
    assert cell.seeds == [0, 1]


def test_images_of_ones_own_go_by_their_folders_name(write_run, tmp_path, capsys):
    """The same images under another name are the same dataset; a folder named as a dataset is no published one."""
    own = {"dataset": "ImageFolder"}
    for i, (root, sha256) in enumerate(
        [("a/photos", "1"), ("/tmp/job/copy", "1"), ("CIFAR10", "2"), ("cells|$x$", "3")]
    ):
        folder = write_run(str(i), 60 + i, 70, "--seed", str(i), **own)
        for name, other in (("args.json", {"root": root}), ("result.json", {"data_sha256": 64 * sha256})):
            content = json.loads((folder / name).read_text())
            (content["args"] if name == "args.json" else content).update(other)
            (folder / name).write_text(json.dumps(content))
    file = tmp_path / "3" / "result.json"  # younger: it says the name, and that no split is official
    file.write_text(json.dumps(json.loads(file.read_text()) | {"data_folder": "dogs|$x$\x1b", "official_split": None}))
    collect(tmp_path, "--markdown", tmp_path / "table.md", plots=True)
    out = capsys.readouterr().out
    rows = dict(re.findall(r"^(\S+/) +resnet50, supervised +fixmatch +4 per class +(\d) ", out, re.MULTILINE))
    assert rows == {"photos/": "2", "CIFAR10/": "1", "dogs|$x$?/": "1"}
    assert "published" not in out
    assert "| dogs\\|$x$?/" in (tmp_path / "table.md").read_text()
    assert len(list(tmp_path.glob("accuracy_*.png"))) == 3
    assert (tmp_path / "accuracy_CIFAR10__resnet50_supervised.png").is_file()


def test_older_runs_of_ones_own_images_are_seeds_of_younger_ones(write_run, tmp_path, capsys):
    """They say that the split of the folders is an official one."""
    for seed, official in enumerate((True, None)):
        file = write_run(str(seed), 60, 70, "--seed", str(seed), dataset="ImageFolder") / "result.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"official_split": official}))
    collect(tmp_path)
    assert re.search(r"fixmatch +4 per class +2 ", capsys.readouterr().out)


def test_flags_that_old_runs_lack_have_their_defaults(write_run, tmp_path, capsys):
    """A run from before --optimizer is a seed of the cell of a younger one, where the values agree."""
    for i, lr in enumerate(("0.1", "0.1", "0.2")):
        write_run(str(i), 60, 70 + i, "--lr", lr, "--seed", str(i), dataset="Digits")
    file = tmp_path / "0" / "args.json"
    content = json.loads(file.read_text())
    for name in ("optimizer", "layer_decay", "unlabeled_batch_size"):
        del content["args"][name]
    file.write_text(json.dumps(content))
    collect(tmp_path)
    out = capsys.readouterr().out
    assert re.search(r"fixmatch \[1\] +4 per class +2 +60\.0 ± 0\.0 +70\.5 ± 0\.7", out)
    assert re.findall(r"^\[.*$", out, re.MULTILINE) == ["[1] lr 0.1", "[2] lr 0.2"]


@pytest.mark.parametrize("method", METHODS)
def test_every_methods_defaults_are_known(method):
    assert runs._default_arguments(method).data == "ImageFolder"


def test_a_run_with_all_labels_has_a_row_of_its_own(write_run, tmp_path, capsys):
    folder = write_run("run", 60, 70, "--num-samples-per-class", "all", dataset="ImageFolder")
    (folder / "labeled.json").write_text(json.dumps({"indices": [*range(24)]}))
    collect(tmp_path)
    assert re.search(
        r"^data/ +resnet50, supervised +fixmatch +all \(24\) +1 +60\.0 +70\.0 ", capsys.readouterr().out, re.M
    )


def test_the_number_of_all_labels_is_shown(write_run, tmp_path, capsys):
    """24 of a list are not the oracle's 2,324; held-out images are none of them, and seeds may differ."""
    for seed, number in enumerate((24, 26)):
        flags = ("--num-samples-per-class", "all", "--val-per-class", "2", "--seed", str(seed))
        folder = write_run(f"run{seed}", 60, 70, *flags, **DIGITS)
        content = {"indices": [*range(number)], "held_out": [*range(1000, 1020)]}
        (folder / "labeled.json").write_text(json.dumps(content))
    oracle = write_run("oracle", 90, 90, "--oracle", method="erm", parse_args=erm.parse_args, **DIGITS)
    (oracle / "labeled.json").write_text(json.dumps({"indices": [*range(2324)]}))
    collect(tmp_path)
    out = capsys.readouterr().out
    assert re.search(r"fixmatch +all \(24 to 26\) +2 ", out)
    assert re.search(r"oracle +all \(2,324\) +1 ", out)


def test_six_runs_of_six_settings_have_footnotes(write_run, tmp_path, capsys):
    """At most 120 columns; a footnote says no more than tells the runs of its method apart."""
    digits = {"dataset": "Digits", "pretraining": "scratch"}
    for i, flags in enumerate(SIX_SETTINGS):
        write_run(str(i), 60 + i, 70 + i, "-a", "wrn_28_2", *flags, **digits)
    for i in (0, 2):
        write_run(f"other{i}", 90 + i, 90 + i, "-a", "wrn_28_2", *SIX_SETTINGS[i], method="own_method", **digits)
    collect(tmp_path, "--markdown", tmp_path / "table.md", "--csv", tmp_path / "cells.csv")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[: -len(["CSV", "Markdown"])])) <= 120
    rows = {
        row.group(1): row.group(2)
        for line in lines
        if (row := re.match(r"Digits .*? (\S+ \[\d\]) .* (\d\d\.0) ", line))
    }
    assert rows == {f"fixmatch [{i + 1}]": f"{70 + i:.1f}" for i in range(6)} | {
        "own_method [7]": "90.0",
        "own_method [8]": "92.0",
    }
    notes = re.sub(r"\n {4}", " ", "\n".join(lines))
    noted = dict(re.findall(r"^\[(\d)\] (.*)$", notes, re.MULTILINE))
    assert noted.keys() == set("12345678")
    for i, flags in enumerate(SIX_SETTINGS):
        for flag, value in zip(flags[::2], flags[1::2], strict=True):
            if flag != "--seed":
                assert f"{flag.removeprefix('--').replace('-', '_')} {value}" in noted[str(i + 1)].split(", ")
    assert noted["7"] == "layer_decay 1.0, lr 0.01, lr_warm_up_steps 0, optimizer sgd"
    page = (tmp_path / "table.md").read_text()
    assert "| own_method [7] |" in page
    assert f"- [7] {noted['7']}\n" in page
    assert noted["7"] in {row["settings"] for row in csv.DictReader((tmp_path / "cells.csv").read_text().splitlines())}


def test_equal_differences_share_a_footnote(write_run, tmp_path, capsys):
    for method in ("fixmatch", "own_method"):
        for lr in ("0.1", "0.2"):
            write_run(method + lr, 60, 70, "--lr", lr, dataset="Digits", method=method)
    collect(tmp_path)
    out = capsys.readouterr().out
    assert sorted(re.findall(r"(?:fixmatch|own_method) \[\d\]", out)) == [
        "fixmatch [1]",
        "fixmatch [2]",
        "own_method [1]",
        "own_method [2]",
    ]
    assert re.findall(r"^\[.*$", out, re.MULTILINE) == ["[1] lr 0.1", "[2] lr 0.2"]


def test_a_note_says_that_the_script_has_changed_between_the_seeds(write_run, tmp_path, capsys):
    for seed, script in enumerate(("aa", "aa", None)):
        change(write_run(f"s{seed}", 60, 70, "--seed", str(seed)), script_sha256=script)
    collect(tmp_path)
    assert "has changed" not in capsys.readouterr().out  # an older run does not say it
    change(write_run("s3", 60, 70, "--seed", "3"), script_sha256="bb")
    collect(tmp_path)
    out = " ".join(capsys.readouterr().out.split())
    names = ", ".join(str(tmp_path / f"s{seed}") for seed in range(4))
    assert f"fixmatch.py has changed between or within these runs: {names}" in out


def test_one_note_says_that_seeds_are_of_several_commits(write_run, tmp_path, capsys):
    def of_commit(name: str, commit: str | None, *flags: str) -> None:
        change(write_run(name, 60, 70, *flags), git_commit=commit)

    a, b = "a" * 40, "b" * 40
    for rate in ("0.1", "0.2"):
        for seed, commit in enumerate((a, a, None)):
            of_commit(f"{rate}_{seed}", commit, "--lr", rate, "--seed", str(seed))
    collect(tmp_path)
    assert "several versions" not in capsys.readouterr().out
    of_commit("0.1_3", f"{b}-dirty", "--lr", "0.1", "--seed", "3")
    collect(tmp_path)
    shown = "the seeds of 1 row are of several versions of this suite: git commits aaaaaaa, bbbbbbb-dirty\n"
    assert shown in capsys.readouterr().out
    of_commit("0.2_3", b, "--lr", "0.2", "--seed", "3")
    collect(tmp_path)
    shown = "the seeds of 2 rows are of several versions of this suite: git commits aaaaaaa, bbbbbbb, bbbbbbb-dirty\n"
    assert shown in capsys.readouterr().out


def test_another_settings_split_seed_does_not_divide_a_cell(write_run, tmp_path):
    """Three seeds on the split of seed 0, beside three that draw their own labels."""
    for seed in range(3):
        write_run(f"fixed{seed}", 60, 70, "--lr", "0.01", "--split-seed", "0", "--seed", str(seed), **DIGITS)
        write_run(f"own{seed}", 60, 70, "--lr", "0.03", "--seed", str(seed), **DIGITS)
    (several,) = cells(read_runs([tmp_path]))[0].values()
    assert [cell.seeds for cell in several] == [[0, 1, 2], [0, 1, 2]]


def test_a_note_says_that_the_script_has_changed_within_a_run(write_run, tmp_path, capsys):
    """Preempted, edited, and continued: each seed is half old and half new, though all end with the same script."""
    for seed in range(2):
        folder = write_run(str(seed), 60, 70, "--seed", str(seed))
        row = (folder / "metrics.jsonl").read_text().splitlines()[-1]
        (folder / "metrics.jsonl").write_text(json.dumps(json.loads(row) | {"step": 20}) + "\n")
        sessions = [{"from_step": 0, "script_sha256": "aa"}, {"from_step": 20, "script_sha256": "bb"}]
        change(folder, script_sha256="aa", sessions=sessions)
    collect(tmp_path)
    assert "has changed" not in capsys.readouterr().out  # the second session made no step
    for seed in range(2):
        sessions[1]["from_step"] = 5
        change(tmp_path / str(seed), script_sha256="bb", sessions=sessions)
    collect(tmp_path)
    assert "fixmatch.py has changed between or within these runs" in " ".join(capsys.readouterr().out.split())


def test_seeds_that_began_with_other_weights_of_timm_are_not_averaged(write_run, tmp_path, capsys):
    """An older run, which does not say which it had, is taken to have had those of the others."""
    for seed, weights in enumerate(("x.old", "x.new")):
        change(write_run(str(seed), 60, 70, "--seed", str(seed), dataset="Digits"), pretraining_weights=weights)
    collect(tmp_path)
    out = capsys.readouterr().out
    assert "\n[1] pretraining_weights x.old\n[2] pretraining_weights x.new\n" in out
    change(tmp_path / "1", pretraining_weights="x.old")
    write_run("older", 60, 70, "--seed", "2", dataset="Digits")
    (several,) = cells(read_runs([tmp_path]))[0].values()
    assert [cell.seeds for cell in several] == [[0, 1, 2]]


@pytest.mark.parametrize("folder", ["logs/{}_seed{}", "logs/{}/seed{}"])
def test_seeds_that_each_began_from_their_own_run_are_a_cell(write_run, tmp_path, folder):
    for seed in range(2):
        for name in ("erm", "dst"):
            start = folder.format(name, seed)
            run = write_run(f"{name}{seed}", 60, 70, "--seed", str(seed), "--init-from", start, dataset="Digits")
            change(run, init_from=start, pretraining=f"run {Path(start).name}", pretraining_sha256=f"{name}{seed}")
    table, _ = cells(read_runs([tmp_path]))
    assert {key.pretraining: [cell.seeds for cell in several] for key, several in table.items()} == {
        "run erm": [[0, 1]],
        "run dst": [[0, 1]],
    }


def test_seeds_that_began_with_other_files_of_one_name_are_not_averaged(write_run, tmp_path):
    for seed in range(2):
        folder = write_run(str(seed), 60, 70, "--seed", str(seed), dataset="Digits", pretraining="backbone")
        change(folder, pretraining_sha256=str(seed) * 64)
    (several,) = cells(read_runs([tmp_path]))[0].values()
    assert [cell.seeds for cell in several] == [[0], [1]]
