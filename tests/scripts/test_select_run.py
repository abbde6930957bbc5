"""The choice among runs: never by the test set, with an interval by hand, and refused where it is none."""

import json
import re
import shutil

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

import fixmatch
from common.errors import UserError
from scripts import select_run
from scripts.results import agreement
from tests.conftest import train_small

FAR = ("--lr", "0.2")


@pytest.fixture
def write_run(tmp_path):
    """`write_run("name", 80.0, "--lr", "0.1")`: a finished run with this accuracy on held-out images in the end."""

    def write(name: str, val: float, *flags: str, test: float = 50.0, loss: float = 1.0, number: int = 2, **facts):
        args = vars(fixmatch.parse_args(["data", "-d", "Digits", "--val-per-class", str(number), *flags]))
        folder = tmp_path / name
        folder.mkdir()
        (folder / "args.json").write_text(json.dumps({"method": "fixmatch", "args": args}))
        rows = [{"val_top1": 170 - val, "val_loss": 1 / loss}, {"val_top1": val, "val_loss": loss}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "labeled.json").write_text(json.dumps({"held_out": list(range(10 * number))}))
        keys = ("arch", "num_samples_per_class", "seed", "split_seed", "epochs", "iters_per_epoch")
        result = {key: args[key] for key in keys} | {"method": "fixmatch", "dataset": "Digits", "oracle": False}
        result |= {"pretraining": "supervised", "last_top1": 1.0, "best_top1": 99.0, "seconds": 1.0}
        result |= {"val_top1": 170 - val, "val_best_top1": test, "val_best_epoch": 1}
        (folder / "result.json").write_text(json.dumps(result | facts))
        return folder

    return write


def select(*argv) -> None:
    select_run.main(select_run.parse_args([str(word) for word in argv]))


def test_the_best_on_the_held_out_images_is_chosen_whatever_the_test_set_says(write_run, tmp_path, capsys):
    write_run("low", 70.0, "--lr", "0.1", test=90.0)
    best = write_run("high", 80.0, *FAR, test=60.0)
    select(tmp_path)
    out = capsys.readouterr().out
    assert re.search(r"^1 +80\.0 +58\.4 to 91\.9 +1 +\[1\]\n2 +70\.0 +48\.1 to 85\.5 +1 +\[2\]$", out, re.MULTILINE)
    assert re.search(r"^\[1\] lr 0\.2\n\[2\] lr 0\.1$", out, re.MULTILINE)
    assert "chosen: lr 0.2; its test accuracy: 60.0\n" in out
    assert "90.0" not in out
    assert out.endswith(f"{best / 'checkpoints' / 'best.pth'}\n")


def test_wilsons_interval_by_hand():
    """8 of 10: the middle is (0.8 + 1.9208 / 10) / 1.38415, the half 1.96 sqrt(0.016 + 0.009604) / 1.38415."""
    assert select_run.wilson(80, 10) == pytest.approx((49.02, 94.33), abs=0.01)
    assert select_run.wilson(100, 20) == pytest.approx((83.89, 100.0), abs=0.01)
    assert select_run.wilson(0, 20) == pytest.approx((0.0, 16.11), abs=0.01)


def test_seeds_are_averaged_and_their_images_counted_once_for_each_split(write_run, tmp_path, capsys):
    for seed in (0, 1):
        write_run(f"own{seed}", 80.0 + 10 * seed, *FAR, "--seed", str(seed))
        write_run(f"fixed{seed}", 70.0, "--lr", "0.1", "--seed", str(seed), "--split-seed", "3")
    select(tmp_path)
    own, fixed = (select_run.wilson(85, 40), select_run.wilson(70, 20))
    out = capsys.readouterr().out
    assert re.search(rf"^1 +85\.0 +{own[0]:.1f} to {own[1]:.1f} +2 ", out, re.MULTILINE)
    assert re.search(rf"^2 +70\.0 +{fixed[0]:.1f} to {fixed[1]:.1f} +2 ", out, re.MULTILINE)


def test_of_equals_the_smaller_loss_is_first(write_run, tmp_path, capsys):
    write_run("a", 80.0, "--lr", "0.1", loss=0.5)
    write_run("b", 80.0, *FAR, loss=0.4)
    select(tmp_path)
    assert "chosen: lr 0.2;" in capsys.readouterr().out


def test_how_uncertain_the_choice_is(write_run, tmp_path, capsys):
    for i, val in enumerate([95.0, 90.0, 70.0]):
        write_run(str(i), val, "--lr", f"0.{i + 1}", number=10)
    select(tmp_path)
    text = " ".join(capsys.readouterr().out.split())
    assert "1 of the 2 others may as well be the best: within the first one's interval, over 100 images." in text
    select(tmp_path / "0", tmp_path / "2")
    text = " ".join(capsys.readouterr().out.split())
    assert "No other setting is within the first one's interval, over 100 images." in text


def test_what_cannot_be_compared_is_refused(write_run, tmp_path, capsys):
    first = write_run("a", 80.0, *FAR)
    with pytest.raises(UserError, match="1 finished runs are no choice"):
        select(first)
    with pytest.raises(UserError, match="all these runs have the same settings"):
        select(first, write_run("seed", 80.0, *FAR, "--seed", "1"))
    for name, facts in {
        "method": {"method": "uda"},
        "images": {"data_sha256": "00"},
        "labels": {"num_samples_per_class": 9},
    }.items():
        with pytest.raises(UserError, match=r"' has \w+ .*, but '.*/a' has .*: name runs of one method"):
            select(first, write_run(name, 80.0, **facts))
    with pytest.raises(UserError, match="has val_per_class 5, but"):
        select(first, write_run("number", 80.0, number=5))
    none = [write_run(f"none{i}", 80.0, "--lr", f"0.{i}", number=0) for i in (3, 4)]
    for folder in none:
        result = json.loads((folder / "result.json").read_text())
        del result["val_top1"]
        (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match="none3' held no images out to choose by: train with --val-per-class N"):
        select(*none, "--by", "val")
    write_run("half", 80.0, "--lr", "0.7").joinpath("result.json").unlink()
    with pytest.raises(UserError, match="1 finished runs"):
        select(first, tmp_path / "half")
    assert f"not finished, left out: {tmp_path / 'half'}\n" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", '{"val_top1": "high", "val_loss": 1.0}', '{"val_top1": 1.0}'])
def test_damaged_metrics_are_one_line(write_run, tmp_path, text):
    for i in (1, 2):
        (write_run(str(i), 80.0, "--lr", f"0.{i}") / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"metrics\.jsonl' is damaged: run its command again"):
        select(tmp_path)


@pytest.mark.parametrize("text", ["{}", "{", '{"held_out": 3}'])
def test_a_damaged_list_of_images_is_one_line(write_run, tmp_path, text):
    for i in (1, 2):
        (write_run(str(i), 80.0, "--lr", f"0.{i}") / "labeled.json").write_text(text)
    with pytest.raises(UserError, match=r"labeled\.json' is damaged"):
        select(tmp_path)


# Without labels


def test_agreement_by_hand():
    """Predictions that are the clusters under other names agree wholly, and random ones not at all."""
    rng = np.random.default_rng(0)
    groups = rng.integers(3, size=300)
    features = np.eye(3)[groups] + 0.01 * rng.normal(size=(300, 3))
    value, low, high = agreement.with_clusters(features, (groups + 1) % 3, 3)
    assert (value, low, high) == pytest.approx((100, 100, 100))
    wrong = np.where(rng.random(300) < 0.1, rng.integers(3, size=300), groups)
    value, low, high = agreement.with_clusters(features, wrong, 3)
    assert value == pytest.approx(100 * adjusted_mutual_info_score(wrong, groups))
    assert (low + high) / 2 == pytest.approx(value)
    assert 5 < high - low < 20
    value, low, high = agreement.with_clusters(features, rng.integers(3, size=300), 3)
    assert abs(value) < 2
    assert low < 0 < high


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory):
    """Two runs with another learning rate, and their folder; to be read only."""
    folder = tmp_path_factory.mktemp("runs")
    for lr in ("0.05", "0.0001"):
        train_small("erm", "--lr", lr, "--iters-per-epoch", "15", log=folder / lr)
    return folder


def test_without_held_out_images_the_clusters_choose(trained_runs, capsys):
    select(trained_runs, "--images", "300", "-j", "0", "--device", "cpu")
    out = capsys.readouterr().out
    assert re.search(r"^rank +agreement with clusters, % +95 % interval", out, re.MULTILINE)
    scores = [float(x) for x in re.findall(r"^\d +([-\d.]+) ", out, re.MULTILINE)]
    assert scores == sorted(scores, reverse=True)
    assert "chosen: lr 0.05; its test accuracy: " in out
    assert "over 300 images" in out
    assert out.endswith("latest.pth\n")


def test_what_has_no_clusters_is_refused(trained_runs, tmp_path):
    folders = [shutil.copytree(folder, tmp_path / folder.name) for folder in trained_runs.iterdir()]

    def put(name: str, **facts) -> None:
        for folder in folders:
            content = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(content | facts))

    put("labeled.json", indices=list(range(1150)))
    with pytest.raises(
        UserError, match="left 48 images unlabeled, too few for clusters of 10 classes: choose --by val"
    ):
        select(*folders, "--by", "clusters")
    put("result.json", data_sha256="0")
    with pytest.raises(UserError, match="'data' holds other images than the runs had: name their folder with --root"):
        select(*folders, "--by", "clusters")
