"""The cells of scripts/foundation.sh: all of them parse, name weights that exist, and count votes that are there."""

import importlib

import pytest
import timm

from tests.helpers.shell import dry_run, shell

STEPS = {"DTD": {3: 450, 6: 900}, "SUN397": {3: 3750, 6: 7450}}  # with the labels alone


def parsed(commands: list[list[str]]) -> dict[str, dict]:
    """The folder of each run -> its arguments, with its script's name."""
    runs = {}
    for _, script, *argv in commands:
        args = vars(importlib.import_module(script.removesuffix(".py")).parse_args(argv))
        runs[args["log"]] = args | {"script": script}
    return runs


@pytest.fixture(scope="module")
def cells():
    return parsed(dry_run("foundation"))


def test_every_cell_once_with_the_papers_settings(cells):
    assert len(cells) == 2 * 2 * 2 * 2 * 7
    for args in cells.values():
        assert args["arch"] in timm.list_pretrained()
        assert (args["lora"], args["adapter"]) in [(4, None), (None, 16)]
        assert (args["image_size"], args["bottleneck_dim"], args["wd"]) == (224, 0, 5e-4)
        steps = args["epochs"] * args["iters_per_epoch"]
        assert args["lr_warm_up_steps"] == pytest.approx(0.025 * steps, abs=1)
        if args["script"] == "erm.py":
            assert steps == STEPS[args["data"]][args["num_samples_per_class"]]
        else:
            assert steps == {"DTD": 3420, "SUN397": 80460}[args["data"]]


def test_votes_are_of_earlier_runs_of_the_same_cell(cells):
    order, numbers = list(cells), {"st": 1, "pet": 2, "v_pet": 4}
    for log, args in cells.items():
        if args["script"] == "v_pet.py":
            method, cell = log.split("/")[-2:]
            assert len(args["sources"]) == numbers[method]
            for source in args["sources"]:
                assert order.index(source) < order.index(log)
                assert (cells[source]["script"], source.split("/")[-1]) == ("erm.py", cell)


def test_words_rows_seeds_and_extra_flags():
    command = "foundation", "clip lora DTD v_pet -- --target softmax-counts"
    runs = parsed(dry_run(*command, ROWS="3", SEEDS="0 2", LOGS="my logs"))
    assert list(runs) == [f"my logs/clip_lora/v_pet/dtd_3_labels_per_class{seed}" for seed in ("", "_seed2")]
    same = [dry_run("foundation", f"clip lora DTD erm{end}", ROWS="3") for end in ("", " --")]
    assert same[0] == same[1]
    last = runs["my logs/clip_lora/v_pet/dtd_3_labels_per_class_seed2"]
    assert last["target"] == "softmax-counts"
    assert last["sources"][3] == "my logs/dinov2_adapter/erm/dtd_3_labels_per_class_seed2"


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [("resnet", {}, "'resnet' is none of clip dinov2 lora"), ("", {"ROWS": "4"}, "ROWS takes 3 and 6, not '4'")],
)
def test_other_words_are_refused(words, environment, message):
    done = shell("foundation", words, DRY_RUN="1", **environment)
    assert done.returncode == 2
    assert message in done.stderr
