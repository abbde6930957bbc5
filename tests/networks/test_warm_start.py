"""`--init-from`: a training begins with a finished run's network, and knows whose it was."""

import hashlib
import importlib
import json
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch

from common import build, trained
from common.errors import UserError
from common.run import Run
from tests.conftest import SMALL, assert_same_run, final_state, resolved, train_small
from tests.helpers.stops import stop_in_step
from tests.methods.test_methods import METHODS

VIT = "-a test_vit --optimizer adamw --lr 0.01 --epochs 1 --iters-per-epoch 2 --no-bottleneck --bottleneck-dim 1024"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, to be read only."""
    folder = tmp_path_factory.mktemp("warm") / "run"
    train_small("erm", "--lr", "0.1", log=folder)
    return folder


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "checkpoints" / "best.pth").read_bytes()).hexdigest()


class Begun(Exception):  # noqa: N818
    """In place of a training."""


def beginning(method: str, log: Path, *flags: str) -> dict:
    """The state with which a run would begin."""
    script, states = importlib.import_module(method), []

    def start(self, state, evaluated):
        states.append({name: item.state_dict() for name, item in state.items()})
        raise Begun

    own = resolved(METHODS[method].split())
    with mock.patch.object(Run, "start", start), pytest.raises(Begun):
        script.main(script.parse_args([*SMALL, *own, *flags, "--log", str(log)]))
    return states[0]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_begins_with_the_runs_network(method, run, tmp_path):
    weights = torch.load(run / "checkpoints" / "best.pth")["model"]
    state = beginning(method, tmp_path, "--init-from", str(run))
    assert all(torch.equal(state["model"][name], weight) for name, weight in weights.items())
    copied = {"mean_teacher": ("teacher", "network."), "self_tuning": ("key_encoder", "encoder.")}
    if method in copied:
        part, prefix = copied[method]
        assert all(torch.equal(state[part][prefix + name], weight) for name, weight in weights.items())


def test_what_does_not_fit_begins_anew(run, tmp_path, capsys):
    weights = torch.load(run / "checkpoints" / "best.pth")["model"]
    state = beginning("erm", tmp_path, "--init-from", str(run), "--bottleneck-dim", "8")["model"]
    backbone = [name for name in weights if name.startswith("backbone.")]
    assert backbone
    assert all(torch.equal(state[name], weights[name]) for name in backbone)
    assert not torch.equal(state["head.bias"], weights["head.bias"])  # of that shape, but of another bottleneck
    assert f"begins with the weights of '{run}', epoch 1; bottleneck, head begin anew\n" in capsys.readouterr().out


def test_a_count_of_steps_begins_anew(tmp_path):
    """DST's reversal grows with the steps; its heads go on."""
    train_small("dst", *METHODS["dst"].split(), log=tmp_path / "run")
    weights = torch.load(tmp_path / "run" / "checkpoints" / "best.pth")["model"]
    assert weights["reversal.steps"] > 0
    state = beginning("dst", tmp_path / "next", "--init-from", str(tmp_path / "run"))["model"]
    assert state["reversal.steps"] == 0
    assert torch.equal(state["pseudo_head.0.weight"], weights["pseudo_head.0.weight"])


def test_it_is_recorded_and_resumed_to_the_bit(run, tmp_path):
    flags = ("--init-from", str(run))
    result = train_small("fixmatch", *flags, log=tmp_path / "whole")
    stop_in_step(2, "fixmatch", *flags, log=tmp_path / "parts")
    train_small("fixmatch", *flags, log=tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    expected = {"init_from": str(run), "pretraining": "run run", "pretraining_sha256": sha256(run)}
    assert {key: result[key] for key in expected} == expected
    recorded = json.loads((tmp_path / "whole" / "args.json").read_text())
    assert (recorded["args"]["init_from"], recorded["pretraining_sha256"]) == (str(run), sha256(run))
    assert final_state(tmp_path / "whole")["pretraining_sha256"] == sha256(run)


def test_another_run_of_that_name_is_refused(run, tmp_path):
    """In the middle, and where a finished run is shown."""
    start = shutil.copytree(run, tmp_path / "start")
    flags = ("--init-from", str(start))
    stop_in_step(2, "erm", *flags, log=tmp_path / "new")
    shutil.rmtree(start)
    train_small("erm", "--seed", "1", log=start)
    with pytest.raises(UserError, match=r"was begun with another file than '.*start/checkpoints/best.pth' is now"):
        train_small("erm", *flags, log=tmp_path / "new")
    shutil.rmtree(start)
    shutil.copytree(run, start)
    assert train_small("erm", *flags, log=tmp_path / "new")["init_from"] == str(start)
    torch.save(torch.load(start / "checkpoints/best.pth") | {"epoch": 5}, start / "checkpoints/best.pth")
    with pytest.raises(UserError, match="was begun with another file than"):
        train_small("erm", *flags, log=tmp_path / "new")
    shutil.rmtree(start)  # what is finished needs it no more
    train_small("erm", *flags, log=tmp_path / "new")
    train_small("erm", *flags, "--phase", "test", log=tmp_path / "new")


def test_other_statistics_are_reported(run, tmp_path, capsys):
    beginning("erm", tmp_path, "--init-from", str(run), "--norm-mean", "0", "0", "0")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert f"the images of '{run}' were normalised otherwise" in line


@pytest.mark.parametrize(("before", "after"), [("", "--lora 2"), ("--lora 2", "--lora 2"), ("--lora 2", ""),
                                               ("", "--adapter 4"), ("--adapter 4", "--adapter 4")])  # fmt: skip
def test_with_adapters_it_begins_as_the_run_ended(before, after, tmp_path):
    """The same logits; and the latest checkpoint, which lacks the frozen weights, is read again."""
    if "--lora" in before + after:
        pytest.importorskip("peft")
    old, new = tmp_path / "old", tmp_path / "new"
    script = importlib.import_module("erm")
    train_small("erm", *VIT.split(), *before.split(), log=old)
    argv = [*SMALL, *VIT.split(), *after.split(), "--init-from", str(old), "--log", str(new)]
    model = build.classifier(trained.ImageClassifier, 10, script.parse_args(argv)).eval()
    train_small("erm", *VIT.split(), *after.split(), "--init-from", str(old), log=new)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = trained.load(old, "best").model(images)
    assert expected.std() > 0
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    best, latest = (trained.load(new, name).model(images) for name in ("best", "latest"))
    torch.testing.assert_close(best, latest, rtol=1e-4, atol=1e-5)


def test_a_run_of_other_classes_is_refused(run, tmp_path):
    start = shutil.copytree(run, tmp_path / "start")
    content = torch.load(start / "checkpoints" / "best.pth")
    torch.save(content | {"classes": [*content["classes"][:9], "ten"]}, start / "checkpoints" / "best.pth")
    line = r"other classes than 'data' has \(number 10 is 'ten' there and '9' here\): give both the same, or take its"
    with pytest.raises(UserError, match=line):
        train_small("erm", "--init-from", str(start), log=tmp_path / "new")
    assert not (tmp_path / "new" / "args.json").exists()


@pytest.mark.parametrize("after", ["", "--adapter 2", "--lora 4"])
def test_a_runs_adapters_are_not_lost_in_silence(after, tmp_path):
    train_small("erm", *VIT.split(), "--adapter", "4", log=tmp_path / "old")
    with pytest.raises(UserError, match=r"has --adapter 4, which cannot be merged into a backbone: give it"):
        train_small("erm", *VIT.split(), *after.split(), "--init-from", str(tmp_path / "old"), log=tmp_path / "new")
