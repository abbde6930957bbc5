"""The choice among runs: never by the test set, with intervals of differences, and refused where it is none."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score

import erm
import fixmatch
from common import datasets, trained
from common.errors import UserError
from scripts import collect_results, select_run
from scripts.results import agreement
from tests.conftest import read_rows, train_small
from tests.datasets.test_images import photo
from tests.helpers.few_images import all_images
from tests.helpers.written_runs import change

FAR = ("--lr", "0.2")


@pytest.fixture
def write_run(tmp_path):
    """`write_run("name", 80.0, "--lr", "0.1")`: a finished run with this accuracy on held-out images in the end.

    With `right`, a string of 0 and 1, it recorded which of them it names rightly.
    """

    def write(
        name: str,
        val: float,
        *flags: str,
        test: float = 50.0,
        loss: float = 1.0,
        number: int = 2,
        right: str = "",
        labeled: tuple[int, ...] = (1000, 1001),
        **facts,
    ):
        args = vars(fixmatch.parse_args(["data", "-d", "Digits", "--val-per-class", str(number), *flags]))
        folder = tmp_path / name
        folder.mkdir()
        (folder / "args.json").write_text(json.dumps({"method": "fixmatch", "args": args}))
        rows = [{"val_top1": 170 - val, "val_loss": 1 / loss}, {"val_top1": val, "val_loss": loss}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        held_out = [args["split_seed"] * 10_000 + i for i in range(10 * number)]
        (folder / "labeled.json").write_text(json.dumps({"indices": labeled, "held_out": held_out}))
        lines = [f"{image},3,{'35'[bit == '0']}" for image, bit in zip(held_out, right, strict=False)]
        if right:
            (folder / "held_out.csv").write_text("\n".join(["index,label,predicted", *lines, ""]))
        keys = ("arch", "num_samples_per_class", "seed", "split_seed", "epochs", "iters_per_epoch")
        result = {key: args[key] for key in keys} | {"method": "fixmatch", "dataset": "Digits", "oracle": False}
        result |= {"pretraining": "supervised", "last_top1": 1.0, "best_top1": 99.0, "seconds": 1.0}
        result |= {"val_top1": 170 - val, "val_best_top1": test, "val_best_epoch": 1}
        (folder / "result.json").write_text(json.dumps(result | facts))
        return folder

    return write


def select(*argv) -> None:
    select_run.main(select_run.parse_args([str(word) for word in argv]))


def rows_of(out: str) -> list[tuple[str, ...]]:
    """Of the ranking: score, points below the first and half of the interval, number of the setting."""
    return re.findall(r"^\d+ +([\d.]+) +(?:–|([\d.]+) ± ([\d.]+)) +\[(\d+)\]$", out, re.MULTILINE)


def test_the_best_on_the_held_out_images_is_chosen_whatever_the_test_set_says(write_run, tmp_path, capsys):
    write_run("low", 70.0, "--lr", "0.1", test=90.0)
    best = write_run("high", 80.0, *FAR, test=60.0)
    select(tmp_path)
    out = capsys.readouterr().out
    assert [row[0] for row in rows_of(out)] == ["80.0", "70.0"]
    assert re.search(r"^\[1\] lr 0\.2\n\[2\] lr 0\.1$", out, re.MULTILINE)
    assert "chosen: lr 0.2; its test accuracy in the epoch that the held-out images choose: 60.0\n" in out
    assert "90.0" not in out
    assert out.endswith(f"{best / 'checkpoints' / 'best.pth'}\n")


def test_one_seed_is_compared_over_its_images_and_says_so(write_run, tmp_path, capsys):
    """20 images: 16 and 10 right, all of the latter among the former, so that 6 tell them apart."""
    write_run("a", 80.0, *FAR, right="1" * 16 + "0" * 4)
    write_run("b", 50.0, "--lr", "0.1", right="1" * 10 + "0" * 10)
    select(tmp_path)
    out = " ".join(capsys.readouterr().out.split())
    gained, lost = 7 / 22, 1 / 22
    half = 1.96 * 100 * math.sqrt((gained + lost - (gained - lost) ** 2) / 22)
    assert f"50.0 30.0 ± {half:.1f} [2]" in out
    assert "are over 20 images. Seed 0 is the only one. Another seed may change more" in out
    assert "No other setting may as well be the best." in out
    assert "held_out.csv" not in out


def test_runs_without_a_record_of_their_images_have_a_wider_interval(write_run, tmp_path, capsys):
    """16 and 10 of 20, as if of different images: not told apart."""
    write_run("a", 80.0, *FAR, right="1" * 16 + "0" * 4)
    write_run("b", 50.0, "--lr", "0.1")
    select(tmp_path)
    out = " ".join(capsys.readouterr().out.split())
    half = 1.96 * 100 * math.sqrt((17 * 5 + 11 * 11) / 22**3)
    assert f"50.0 30.0 ± {half:.1f} [2]" in out
    assert "Not all runs have a held_out.csv, which says which images they have right." in out


def test_several_seeds_are_compared_in_pairs(write_run, tmp_path, capsys):
    """Differences of 8, 10 and 12: 10 ± 4.30 * 2 / sqrt(3), though either setting varies by 30 points."""
    for seed, (high, low) in enumerate([(40.0, 32.0), (60.0, 50.0), (70.0, 58.0)]):
        write_run(f"a{seed}", high, *FAR, "--seed", str(seed), number=500)
        write_run(f"b{seed}", low, "--lr", "0.1", "--seed", str(seed), number=500)
    select(tmp_path)
    out = capsys.readouterr().out
    assert rows_of(out) == [("56.7", "", "", "1"), ("46.7", "10.0", "5.0", "2")]
    assert "Means over the seeds 0, 1, 2. The 95 % intervals are over these seeds.\n" in out
    assert "No other setting may as well be the best." in out


def test_equal_differences_of_few_images_are_not_taken_for_certain(write_run, tmp_path, capsys):
    """One image more in each of two seeds is no deviation at all over the seeds, but 40 images cannot tell.

    Without a record of the images it is the least that they can differ by.
    """
    for right, gained, lost in [("", 2, 1), ("0" * 5 + "1" * 15, 6, 5)]:
        for seed in (0, 1):
            shutil.rmtree(tmp_path / f"a{seed}", ignore_errors=True)
            shutil.rmtree(tmp_path / f"b{seed}", ignore_errors=True)
            write_run(f"a{seed}", 80.0, *FAR, "--seed", str(seed), right=right and "1" * 16 + "0" * 4)
            write_run(f"b{seed}", 75.0, "--lr", "0.1", "--seed", str(seed), right=right)
        select(tmp_path)
        out = capsys.readouterr().out
        error = 100 * math.sqrt(((gained + lost) / 22 - (1 / 22) ** 2) / 22)
        assert rows_of(out)[1] == ("75.0", "5.0", f"{1.96 * error / 2**0.5:.1f}", "2")
        assert "The other setting may as well be the best." in out
        assert "held_out.csv" not in out


def test_seeds_that_share_their_held_out_images_do_not_average_them_out(write_run, tmp_path, capsys):
    for seed in (0, 1):
        flags = ("--seed", str(seed), "--split-seed", "0")
        write_run(f"a{seed}", 80.0, *FAR, *flags, right="1" * 16 + "0" * 4)
        write_run(f"b{seed}", 75.0, "--lr", "0.1", *flags, right="1" * 15 + "0" * 5)
    select(tmp_path)
    error = 100 * math.sqrt((3 / 22 - (1 / 22) ** 2) / 22)
    assert rows_of(capsys.readouterr().out)[1] == ("75.0", "5.0", f"{1.96 * error:.1f}", "2")


def test_settings_are_ranked_over_the_seeds_that_all_have(write_run, tmp_path, capsys):
    """A's other seeds were easy: over the common one, B is better."""
    for seed, val in enumerate([95.0, 95.0, 60.0]):
        write_run(f"a{seed}", val, *FAR, "--seed", str(seed))
    write_run("b2", 62.5, "--lr", "0.1", "--seed", "2", number=4)
    args = json.loads((tmp_path / "b2" / "args.json").read_text())
    args["args"]["val_per_class"] = 2
    (tmp_path / "b2" / "args.json").write_text(json.dumps(args))
    shutil.copy(tmp_path / "a2" / "labeled.json", tmp_path / "b2")
    select(tmp_path)
    out, err = capsys.readouterr()
    assert [(row[0], row[3]) for row in rows_of(out)] == [("62.5", "1"), ("60.0", "2")]
    assert "chosen: lr 0.1;" in out
    left_out = "".join(f"left out, not all settings have seed {seed}: {tmp_path / f'a{seed}'}\n" for seed in (0, 1))
    assert err == left_out
    shutil.rmtree(tmp_path / "a2")
    with pytest.raises(
        UserError, match=r"the settings have no seed in common \(0, 1; 2\): run all with the same seeds"
    ):
        select(tmp_path)


def test_runs_of_one_seed_with_other_labels_are_refused(write_run, tmp_path):
    first = write_run("a", 80.0, *FAR)
    for name, flags, facts in [
        ("labels", (), {"labeled": (1000, 1002)}),
        ("held_out", ("--split-seed", "3"), {}),
    ]:
        other = write_run(name, 80.0, "--lr", "0.1", *flags, **facts)
        with pytest.raises(UserError, match=r"has other labeled or held-out images than '.*/a' of the same seed"):
            select(first, other)


def test_another_resizing_of_the_same_images_is_compared(write_run, tmp_path, capsys):
    """The fingerprint of the dataset then holds the images' size; that of the test images does not."""
    first = write_run("a", 80.0, *FAR, data_sha256="1" * 64, test_sha256="7" * 64)
    native = ("--train-resizing", "native", "--val-resizing", "native")
    second = write_run("b", 70.0, *FAR, *native, data_sha256="2" * 64, test_sha256="7" * 64)
    select(first, second)
    assert re.findall(r"^\[\d\] .*$", capsys.readouterr().out, re.MULTILINE) == [
        "[1] image_size 224, train_resizing cifar, val_resizing cifar",
        "[2] image_size 32, train_resizing native, val_resizing native",
    ]
    third = write_run("c", 70.0, "--lr", "0.1", *native, data_sha256="3" * 64, test_sha256="7" * 64)
    with pytest.raises(
        UserError, match=r"c' has data_sha256 33333333, but '.*/b' has 22222222: name runs with the same images"
    ):
        select(first, second, third)
    fourth = write_run("d", 70.0, "--lr", "0.1", data_sha256="1" * 64, test_sha256="8" * 64)
    with pytest.raises(UserError, match="d' has test_sha256 88888888, but"):
        select(first, fourth)
    own = [
        write_run(name, 70.0, "--lr", lr, data_sha256="1" * 64, content_sha256=content * 64)
        for name, lr, content in (("e", "0.1", "5"), ("f", "0.2", "6"))
    ]
    with pytest.raises(UserError, match=r"f' has content_sha256 66666666, but '.*/e' has 55555555"):
        select(*own)


def test_of_equals_the_smaller_loss_is_first(write_run, tmp_path, capsys):
    write_run("a", 80.0, "--lr", "0.1", loss=0.5)
    write_run("b", 80.0, *FAR, loss=0.4)
    select(tmp_path)
    assert "chosen: lr 0.2;" in capsys.readouterr().out


def test_how_uncertain_the_choice_is(write_run, tmp_path, capsys):
    for i, val in enumerate([95.0, 90.0, 40.0]):
        write_run(str(i), val, "--lr", f"0.{i + 1}", number=10)
    select(tmp_path)
    text = " ".join(capsys.readouterr().out.split())
    assert "The 95 % intervals are over 100 images, and hold for all settings together." in text
    assert "1 of the 2 others may as well be the best. More images or seeds may tell them apart." in text
    select(tmp_path / "0", tmp_path / "2")
    assert "No other setting may as well be the best." in capsys.readouterr().out


def of_another_method(folder, method: str, **flags) -> None:
    """Make it a run of another method."""
    args = json.loads((folder / "args.json").read_text())["args"] | flags
    (folder / "args.json").write_text(json.dumps({"method": method, "args": args}))
    change(folder, method=method)


def test_methods_are_compared_on_one_leaderboard(write_run, tmp_path, capsys):
    for seed in ("0", "1"):
        write_run(f"fixmatch{seed}", 70.0 + 5 * int(seed), "--seed", seed)
        of_another_method(write_run(f"uda{seed}", 80.0, "--seed", seed), "uda")
        of_another_method(write_run(f"uda{seed}fast", 75.0, "--seed", seed, "--lr", "0.1"), "uda")
    select(tmp_path)
    out = capsys.readouterr().out
    assert [row[0] for row in rows_of(out)] == ["80.0", "75.0", "72.5"]
    names = re.findall(r"^\[\d\] (.*)$", out, re.MULTILINE)
    assert names == ["uda, lr 0.003", "uda, lr 0.1", "fixmatch"]
    assert "chosen: uda, lr 0.003; its test accuracy" in out


def test_parts_of_the_labels_count_as_seeds(write_run, tmp_path, capsys):
    for lr, scores in (("0.1", (60.0, 70.0)), ("0.2", (50.0, 80.0))):
        for part, score in enumerate(scores, 1):
            folder = write_run(f"{lr}_{part}", score, "--lr", lr, number=0)
            args = json.loads((folder / "args.json").read_text())["args"] | {"val_fold": f"{part}/2"}
            (folder / "args.json").write_text(json.dumps({"method": "fixmatch", "args": args}))
            images = {"indices": [1000 + part], "held_out": [10 * part, 10 * part + 1]}
            (folder / "labeled.json").write_text(json.dumps(images))
            change(folder, chosen_by="last epoch", **dict.fromkeys(("last_top1", "best_top1", "val_best_top1")))
    select(tmp_path)
    out = capsys.readouterr().out
    assert [row[0] for row in rows_of(out)] == ["65.0", "65.0"]
    assert "Means over the seeds 0 (part 1/2), 0 (part 2/2). The 95 % intervals are over these parts." in out
    assert "Seed 0 is the only one." in out
    assert "its test accuracy after the last epoch: not measured" in out.replace("\n    ", " ")
    collect_results.main(collect_results.parse_args([str(tmp_path), "--csv", str(tmp_path / "out.csv")]))
    out = capsys.readouterr().out
    assert re.search(r"seeds +last +held-out +best on test", out)
    assert re.search(r"fixmatch \[1\] +4 per class +1 \(2 parts\) +not measured +65.0 ± 7.1 +not measured", out)
    assert ",,65.0," in (tmp_path / "out.csv").read_text()


def test_what_cannot_be_compared_is_refused(write_run, tmp_path, capsys):
    first = write_run("a", 80.0, *FAR)
    with pytest.raises(UserError, match="1 finished runs are no choice"):
        select(first)
    with pytest.raises(UserError, match="all these runs have the same settings"):
        select(first, write_run("seed", 80.0, *FAR, "--seed", "1"))
    for name, facts in {
        "images": {"data_sha256": "00"},
        "labels": {"num_samples_per_class": 9},
    }.items():
        with pytest.raises(
            UserError, match=r"' has \w+ .*, but '.*/a' has .*: name runs with the same images and labels"
        ):
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


def test_a_damaged_record_of_images_is_one_line(write_run, tmp_path):
    folders = [write_run(str(i), 80.0, "--lr", f"0.{i}", right="1" * 20) for i in (1, 2)]
    for text, message in [
        ("index\n1\n", r"held_out\.csv' is damaged"),
        ("index,label,predicted\n5,1,1\n", r"has a held_out\.csv of other images: remove it"),
    ]:
        (folders[1] / "held_out.csv").write_text(text)
        with pytest.raises(UserError, match=message):
            select(tmp_path)


@pytest.mark.parametrize("text", ["{}", "{", '{"held_out": 3}'])
def test_a_damaged_list_of_images_is_one_line(write_run, tmp_path, text):
    for i in (1, 2):
        (write_run(str(i), 80.0, "--lr", f"0.{i}") / "labeled.json").write_text(text)
    with pytest.raises(UserError, match=r"labeled\.json' is damaged"):
        select(tmp_path)


# Without labels


def some_clusters(number: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features in three groups, and the groups."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(3, size=number)
    return np.eye(3)[groups] + noise * rng.normal(size=(number, 3)), groups


def test_agreement_by_hand():
    """Predictions that are the clusters under other names agree wholly, and random ones not at all."""
    features, groups = some_clusters(300, 0.01)
    same = agreement.Agreement(features, (groups + 1) % 3, 3)
    assert same.value == pytest.approx(100)
    rng = np.random.default_rng(1)
    wrong = np.where(rng.random(300) < 0.1, rng.integers(3, size=300), groups)
    some = agreement.Agreement(features, wrong, 3)
    assert some.value == pytest.approx(100 * adjusted_mutual_info_score(wrong, groups))
    none = agreement.Agreement(features, rng.integers(3, size=300), 3)
    assert abs(none.value) < 2
    assert agreement.error_over_images(same, same) == 0
    assert agreement.error_over_images(same, some) == pytest.approx(np.std(some.on_halves(), ddof=1))


def test_the_error_over_images_is_the_deviation_over_other_images():
    """Of the difference of two networks, where the clusters are uncertain, too."""

    def networks(seed: int) -> list[agreement.Agreement]:
        rng = np.random.default_rng(1000 + seed)
        found = []
        for noise in (0.2, 0.25):
            features, groups = some_clusters(120, noise, seed)
            predictions = np.where(rng.random(120) < 0.2, rng.integers(3, size=120), groups)
            found.append(agreement.Agreement(features, predictions, 3))
        return found

    pairs = [networks(seed) for seed in range(24)]
    deviation = np.std([first.value - other.value for first, other in pairs], ddof=1)
    errors = [agreement.error_over_images(*pair) for pair in pairs[:4]]
    assert np.mean(errors) == pytest.approx(deviation, rel=0.4)


@pytest.fixture(autouse=True, scope="module")
def _enough_for_clusters():
    with all_images():
        yield


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
    assert re.search(r"^rank +agreement with clusters, % +below the first ", out, re.MULTILINE)
    scores = [float(x) for x in re.findall(r"^\d +([-\d.]+) ", out, re.MULTILINE)]
    assert scores == sorted(scores, reverse=True)
    assert "chosen: lr 0.05; its test accuracy after the last epoch: " in out
    assert re.search(r"± \d+\.\d +\[2\]$", out, re.MULTILINE)
    assert "over 300 images" in out
    assert out.endswith("latest.pth\n")


def test_features_have_length_1_and_predictions_are_those_of_the_last_epoch(trained_runs):
    network, test = trained.load(trained_runs / "0.05", "latest"), datasets.load("Digits", "data").test
    features, predictions = agreement.features_and_predictions(network, test, torch.device("cpu"), 0)
    assert np.linalg.norm(features, axis=1) == pytest.approx(1, abs=1e-5)
    assert 100 * np.mean(predictions == test.labels) == pytest.approx(read_rows(trained_runs / "0.05")[-1]["top1"])


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


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")  # all show the same
def test_images_of_ones_own_are_read_as_each_run_read_them(tmp_path, monkeypatch):
    """A table of predictions is the list, and one of the runs turns its photographs."""
    rows = ["path,class,confidence"]
    for i in range(26):
        name = f"train/{'cat' if i % 2 else 'dog'}/{i}.png"
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        photo(tmp_path / "photos" / name, 6)
        rows.append(f"{name},{'cat' if i % 2 else 'dog'},{0.9 if i < 6 else 0.4}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    argv = (
        f"{tmp_path}/photos -d ImageFolder --labeled-list {tmp_path}/table.csv --min-confidence 0.5 -a wrn_10_1_half "
        "--scratch --image-size 16 -j 0 --bottleneck-dim 8 --epochs 1 -i 1 -b 2 --device cpu"
    ).split()
    for name, flags in (("stored", []), ("turned", ["--exif-orientation"])):
        erm.main(erm.parse_args([*argv, *flags, "--log", str(tmp_path / "runs" / name)]))
    content = json.loads((tmp_path / "runs" / "stored" / "args.json").read_text())
    del content["args"]["exif_orientation"]  # as of a run that is older than the flag
    (tmp_path / "runs" / "stored" / "args.json").write_text(json.dumps(content))
    seen, read = [], agreement.features_and_predictions

    def noting(network, images, *args):
        seen.append((network.file.parent.parent.name, network.file.name, len(images), images.load(0).size))
        return read(network, images, *args)

    monkeypatch.setattr(agreement, "features_and_predictions", noting)
    select(tmp_path / "runs", "-j", "0", "--device", "cpu")
    assert sorted(seen) == [("stored", "latest.pth", 20, (24, 32)), ("turned", "latest.pth", 20, (32, 24))]

    broken = np.full((20, 8), np.nan), np.zeros(20)
    monkeypatch.setattr(agreement, "features_and_predictions", lambda *args: broken)
    with pytest.raises(UserError, match="stored': the network's outputs are NaN or infinite: leave this run out"):
        select(tmp_path / "runs", "-j", "0", "--device", "cpu")
