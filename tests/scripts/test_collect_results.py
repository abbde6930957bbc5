"""The program as a whole: what it prints, where it draws, and what it refuses."""

import errno
import json
import os
import re

import pytest
from PIL import Image

import erm
from common.errors import UserError
from tests.helpers.few_images import TRAIN
from tests.helpers.written_runs import collect


def test_real_runs_of_one_dataset(small_run, tmp_path, capsys):
    """As the quickstart calls it."""
    short = ("--epochs", "1", "--iters-per-epoch", "1")
    results = [small_run("erm", *short, "--seed", seed, log=tmp_path / f"erm_seed{seed}") for seed in ("0", "1")]
    small_run("erm", *short, "--oracle", log=tmp_path / "oracle_seed0")
    collect(tmp_path, plots=True)
    out = capsys.readouterr().out
    last = [result["last_top1"] for result in results]
    mean, deviation = sum(last) / 2, abs(last[0] - last[1]) / 2**0.5
    erm, oracle = re.findall(r"^Digits .*$", out, re.MULTILINE)
    assert f"erm     4 per class  2      {mean:.1f} ± {deviation:.1f} " in erm
    assert re.search(rf"oracle +all \({TRAIN}\) +1 ", oracle)
    assert out.endswith(f"accuracy over epochs: {tmp_path / 'accuracy.png'}\n")


def test_runs_that_are_not_finished_are_listed(write_run, tmp_path, capsys):
    write_run("done", 60, 70)
    half = write_run("half", 60, 70, "--seed", "1", finished=False)
    collect(tmp_path)
    assert capsys.readouterr().err == f"not finished: {half} (2 of 60 epochs)\n"


def test_plots_are_not_put_among_images(tmp_path, monkeypatch, capsys):
    """The next training with a list would take them for unlabeled images."""
    root = tmp_path / "photos"
    for i in range(4):
        (root / f"{'ab'[i % 2]}").mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), 60).save(root / "ab"[i % 2] / f"{i}.png")
    (root / "labels.csv").write_text("".join(f"{'ab'[i % 2]}/{i}.png,{'ab'[i % 2]}\n" for i in range(4)))
    monkeypatch.chdir(root)
    flags = "-a wrn_10_1_half --scratch --image-size 16 --bottleneck-dim 8 --epochs 1 -i 1 -b 2 -j 0 --device cpu"
    argv = f". -d ImageFolder --labeled-list labels.csv {flags} --log logs/run".split()
    erm.main(erm.parse_args(argv))
    message = (
        r"^plots in '.*' would be taken for images, since '.*photos' holds those of '.*run': name a .* with --plots$"
    )
    with pytest.raises(UserError, match=message):
        collect("logs")
    monkeypatch.chdir(tmp_path)  # from where the run's own `.` is another folder
    with pytest.raises(UserError, match=message):
        collect("photos/logs")
    with pytest.raises(UserError, match=message):
        collect("photos/logs", "--plots", root / "plots")
    labeled = root / "logs" / "run" / "labeled.json"
    content = json.loads(labeled.read_text())
    del content["names"]  # an older run
    labeled.write_text(json.dumps(content))
    monkeypatch.chdir(root)
    with pytest.raises(UserError, match=message):
        collect("logs")
    assert not list(root.glob("logs/*.png"))
    collect("logs", "--plots", tmp_path / "plots")
    assert "photos/" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("result.json", "{", r"result\.json' is damaged"),
        ("result.json", '{"val_best_top1": "high"}', r"result\.json' is damaged"),
        ("args.json", "[]", r"args\.json' is damaged"),
        ("metrics.jsonl", "{}\n{", r"metrics\.jsonl' is damaged"),
    ],
)
def test_damaged_files_are_one_line(write_run, tmp_path, file, text, message):
    (write_run("run", 60, 70) / file).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        collect(tmp_path)
    assert "\n" not in str(error.value)


def test_bad_folders_are_one_line(tmp_path, write_run):
    with pytest.raises(UserError, match="'/nowhere' does not exist"):
        collect("/nowhere")
    with pytest.raises(UserError, match="no finished run below"):
        collect(tmp_path)
    write_run("run", 60, 70)
    with pytest.raises(UserError, match=r"cannot save '\S*/none/x.csv' \(No such file or directory\)"):
        collect(tmp_path, "--csv", tmp_path / "none" / "x.csv")


def test_a_full_disk_leaves_the_old_table(write_run, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_run("run", 60, 70)
    (tmp_path / "x.csv").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot save '\S*/x.csv' \(No space left on device\): free some space"):
        collect(tmp_path, "--csv", tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == "old"
