"""Paired comparisons, against numbers worked out by hand, and what cannot be compared."""

import json
import re
from pathlib import Path

import pytest

import fixmatch
from common.errors import UserError
from scripts import compare_runs


@pytest.fixture
def write_runs(tmp_path):
    """`write_runs("name", {0: 60.0, 1: 62.0}, "--lr", "0.1")`: a finished run for each seed, with its last accuracy."""

    def write(name: str, scores: dict[int, float], *flags: str, speed: float = 10.0, **facts) -> Path:
        for seed, score in scores.items():
            args = vars(fixmatch.parse_args(["data", "-d", "Digits", "--seed", str(seed), *flags]))
            folder = tmp_path / name / f"seed{seed}"
            folder.mkdir(parents=True)
            (folder / "args.json").write_text(json.dumps({"method": "fixmatch", "args": args}))
            keys = ("arch", "num_samples_per_class", "seed", "split_seed", "epochs", "iters_per_epoch")
            result = {key: args[key] for key in keys} | {"method": "fixmatch", "dataset": "Digits", "oracle": False}
            result |= {"pretraining": "supervised", "last_top1": score, "best_top1": score + 1, "seconds": 1.0}
            result |= {"steps_per_second": speed + seed}
            (folder / "result.json").write_text(json.dumps(result | facts))
        return tmp_path / name

    return write


def compared(*argv) -> None:
    compare_runs.main(compare_runs.parse_args([str(word) for word in argv]))


def test_the_difference_is_paired_by_seed_with_students_interval(write_runs, tmp_path, capsys):
    """Of +1, +2 and +1: the mean is 4/3, the deviation 1/sqrt(3), and 4.303 the quantile of two degrees of freedom.

    Both means are over the common seeds: 70 of the base, though its four have 52.8.
    """
    base = write_runs("all", {0: 60.0, 1: 70.0, 2: 80.0, 7: 1.0}, speed=12)
    other = write_runs("no_ema", {2: 81.0, 1: 72.0, 0: 61.0}, "--lr", "0.5", speed=6)
    compared(base, other, "--markdown", tmp_path / "table.md")
    out = capsys.readouterr().out
    assert re.search(r"^setting +seeds +last_top1 +all's +difference, 95 % +time$", out, re.MULTILINE)
    assert re.search(r"^no_ema +3 +71\.3 +70\.0 +\+1\.3 ± 1\.4 +1\.86$", out, re.MULTILINE)  # 13/7, of 12/6 and 14/8
    assert "52.8" not in out
    assert "* no_ema: lr 0.5 (all: lr 0.003)\n  left out, not both have it: seed 7\n" in out
    assert (tmp_path / "table.md").read_text().startswith("| setting | seeds | last_top1 | all's |")


def test_pairs_with_other_labels_are_named_and_other_test_images_refused(write_runs, tmp_path, capsys):
    base = write_runs("base", {0: 60.0}, labeled_sha256="a", test_sha256="t")
    write_runs("base", {1: 60.0}, labeled_sha256="b", test_sha256="t")
    other = write_runs("other", {0: 61.0, 1: 61.0}, "--lr", "0.5", labeled_sha256="a", test_sha256="t")
    compared(base, other)
    assert "  not the same labels, so the pairs differ by their draw, too: seed 1\n" in capsys.readouterr().out
    elsewhere = write_runs("elsewhere", {0: 61.0}, test_sha256="u")
    with pytest.raises(UserError, match=r"'.*base' and '.*elsewhere' were tested on different images: "):
        compared(base, elsewhere)


def test_parts_of_the_labels_are_paired_one_by_one(write_runs, tmp_path, capsys):
    """Two parts of one seed are two pairs, not four: with differences of +1 and +3, 2 ± 12.706 * 1."""
    for part, (base, other) in enumerate([(60.0, 61.0), (70.0, 73.0)], 1):
        for name, score, rate in (("a", base, "0.003"), ("b", other, "0.5")):
            write_runs(f"{name}/{part}", {0: score}, "--val-fold", f"{part}/2", "--lr", rate)
    write_runs("b/3", {1: 99.0}, "--val-fold", "1/2", "--lr", "0.5")
    compared(tmp_path / "a", tmp_path / "b")
    out = capsys.readouterr().out
    assert re.search(r"^b +1 \(2 parts\) +67\.0 +65\.0 +\+2\.0 ± 12\.7 ", out, re.MULTILINE)
    assert "left out, not both have it: seed 1 (part 1/2)\n" in out


def test_runs_with_fewer_labels_are_other_settings(write_runs, tmp_path):
    """A run on all labels, on half of them and on three quarters of them: their mean would say nothing."""
    for number, flags in enumerate(([], ["--val-fold", "1/2"], ["--val-fold", "1/4"])):
        write_runs(f"all/{number}", {0: 60.0 + number}, *flags)
    with pytest.raises(UserError, match=r"several settings \(val_fold None; val_fold K/2; val_fold K/4\)"):
        compared(tmp_path / "all", tmp_path / "all")


def test_equal_differences_have_no_interval(write_runs, capsys):
    """Each seed gains one image of fifty. An interval of no width would say that every seed does."""
    base, other = write_runs("a", {0: 60.0, 1: 70.1}), write_runs("b", {0: 62.0, 1: 72.1}, "--lr", "0.5")
    compared(base, other)
    assert re.search(r"^b +2 +67\.0 +65\.0 +\+2\.0 +1\.00$", capsys.readouterr().out, re.MULTILINE)


def test_another_score_can_be_compared_and_one_seed_has_no_interval(write_runs, capsys):
    base, other = write_runs("a", {0: 60.0}), write_runs("b", {0: 50.0}, "--lr", "0.5", best_top1=99.0)
    compared(base, other, "--score", "best_top1")
    assert re.search(r"^b +1 +99\.0 +61\.0 +\+38\.0 +1\.00$", capsys.readouterr().out, re.MULTILINE)


def test_what_cannot_be_compared_is_refused(write_runs, tmp_path):
    base = write_runs("base", {0: 60.0})
    write_runs("two/a", {0: 1.0})
    write_runs("two/b", {0: 1.0}, "--lr", "0.5")
    (tmp_path / "empty").mkdir()
    for argv, message in [
        ((base, tmp_path / "empty"), "no finished run below '.*empty': finish one"),
        ((base, tmp_path / "nowhere"), "folder '.*nowhere' does not exist"),
        ((base, tmp_path / "two"), r"the runs below '.*two' have several settings \(lr 0.003; lr 0.5\)"),
        ((base, write_runs("later", {3: 1.0})), "have no seed in common: run both with the same SEEDS"),
        ((base, base, "--score", "val_top1"), "not all runs of .* have a number 'val_top1' in their result.json"),
        ((base, base, "--score", "method"), "have a number 'method'"),
        ((base, write_runs("old", {0: 1.0}, steps_per_second=None)), "have a number 'steps_per_second'"),
        ((base, base, "--markdown", tmp_path), "cannot save '.*' \\(Is a directory\\): put that right"),
    ]:
        with pytest.raises(UserError, match=message):
            compared(*argv)


def test_held_out_scores_of_other_images_are_not_compared(write_runs, tmp_path):
    """Of folders without test images, whose fingerprint is that of an empty set in each."""
    facts = {"val_top1": 50.0, "test_sha256": "e" * 64}
    flags = ("--val-per-class", "2")
    base = write_runs("base", {0: 0.0}, *flags, **facts, content_sha256="a" * 64)
    other = write_runs("other", {0: 0.0}, *flags, **facts, content_sha256="b" * 64)
    same = write_runs("same", {0: 0.0}, *flags, **facts, content_sha256="a" * 64)
    elsewhere = write_runs("elsewhere", {0: 0.0}, *flags, **facts, content_sha256="a" * 64)
    for folder, held_out in ((base, [1, 2]), (other, [1, 2]), (same, [1, 2]), (elsewhere, [1, 3])):
        (folder / "seed0" / "labeled.json").write_text(json.dumps({"indices": [0], "held_out": held_out}))
    compared(base, same, "--score", "val_top1")
    for folder in (other, elsewhere):
        with pytest.raises(UserError, match=r"held other images out: compare runs on the same images$"):
            compared(base, folder, "--score", "val_top1")
