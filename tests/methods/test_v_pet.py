"""V-PET: votes, ties and soft labels by hand; sources are read as they were trained, and unfit ones refused."""

import dataclasses
import json
import os
import shutil
import signal
from types import SimpleNamespace
from unittest import mock

import pytest
import timm
import torch
from torch import nn

import v_pet
from common import datasets
from common.errors import Interrupted, UserError
from common.loading.loaders import Batch
from tests import conftest
from tests.conftest import final_state, read_rows, train_small
from tests.helpers.few_images import TRAIN
from tests.helpers.stops import at_call


def cast(*votes: list[int], classes: int = 3, target: str = "mean") -> v_pet.Votes:
    made = v_pet.Votes(len(votes), len(votes[0]), classes, target)
    made.votes.copy_(torch.tensor(votes))
    return made


def test_soft_labels_by_hand():
    votes = cast([0, 0, 0], [0, 1, 2], [2, 1, 2], [1, 1, 0])
    thirds = torch.tensor([[3, 0, 0], [1, 1, 1], [0, 1, 2], [1, 2, 0]]) / 3
    torch.testing.assert_close(votes(torch.tensor([0, 1, 2, 3])), thirds)
    torch.testing.assert_close(votes(torch.tensor([3, 3, 0])), thirds[[3, 3, 0]])


def test_ties_are_shared():
    votes = cast([0, 1, 1, 0], [2, 2, 1, 1])
    assert votes(torch.tensor([0, 1])).tolist() == [[0.5, 0.5, 0], [0, 0.5, 0.5]]


def test_the_released_codes_target_by_hand():
    """Four votes of four: .948 of 4 classes, .536 of 47 and .121 of 397."""
    e4 = 2.718281828459045**4
    for classes in (4, 47, 397):
        target = cast([1, 1, 1, 1], classes=classes, target="softmax-counts")(torch.tensor([0]))[0]
        assert target[1].item() == pytest.approx(e4 / (e4 + classes - 1))
        assert target.sum().item() == pytest.approx(1)
    target = cast([0, 2, 2], target="softmax-counts")(torch.tensor([0]))[0]
    assert target.tolist() == pytest.approx([0.24472847, 0.09003057, 0.66524096])  # softmax(1, 0, 2)


def test_the_loss_by_hand():
    """KL of (1/2, 1/2, 0) to (1/4, 1/2, 1/4) is log(2) / 2, of (0, 0, 1) to (1/2, 1/4, 1/4) it is log(4)."""
    logits = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]).log()
    targets = torch.tensor([[0.5, 0.5, 0], [0, 0, 1]])
    loss = v_pet.self_training_loss(logits, targets)
    assert loss.item() == pytest.approx((0.5 * 0.6931472 + 1.3862944) / 2)


class Table(nn.Module):
    """Gives the logits that an image carries in its first channel, and refuses to be trained."""

    def forward(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        return x[:, 0, 0]


class Backwards(list):
    """Batches of one image, the second one first."""

    order = torch.tensor([1, 0])


def test_a_vote_is_the_best_class_of_the_views_mean_logits():
    """Of the first image two views say 1, and so would the mean of their probabilities (1.20 to 1.58); but the mean of
    the logits says 0 (5 to 4). Of the second image all say 2.
    """
    views = [
        torch.tensor([[0.0, 2, 0], [0, 0, 1]]),
        torch.tensor([[5.0, 0, 0], [0, 0, 1]]),
        torch.tensor([[0.0, 2, 0], [0, 0, 1]]),
    ]
    images = [view[:, None, None, :].expand(2, 3, 1, 3) for view in views]
    votes = v_pet.Votes(2, 2, 3, "mean")
    votes.cast(1, Table(), [Backwards([(image[1:], None), (image[:1], None)]) for image in images])
    assert votes.votes.tolist() == [[0, 0], [0, 2]]


def test_agreement_and_accuracies_by_hand():
    """The third image's label is not known; of the last one the classes are level, and the first of them counts."""
    summary = cast([0, 0, 1], [1, 1, 1], [2, 0, 0], [1, 2, 0]).summary([0, 1, -1, 0])
    assert summary == {
        "pairwise_agreement": {"1-2": 50.0, "1-3": 25.0, "2-3": 50.0},
        "unanimous": 25.0,
        "source_accuracy": [66.67, 66.67, 66.67],
        "most_votes_accuracy": 100.0,
    }
    alone = cast([0], [1]).summary([-1, -1])
    assert alone["pairwise_agreement"] == {}
    assert (alone["source_accuracy"], alone["most_votes_accuracy"]) == ([None], None)


class Linear(nn.Module):
    """Images [B, 3, 2, 2] -> logits [B, 3]; it notes its inputs."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(12, 3), []

    def forward(self, x):
        self.seen.append(x)
        return self.layer(x.flatten(1))


@pytest.mark.parametrize("with_labels", [False, True])
def test_a_step_passes_the_views_and_adds_the_losses(with_labels):
    torch.manual_seed(0)
    model, votes = Linear(), cast([0, 0], [1, 2], [2, 2])
    view = [torch.randn(2, 3, 2, 2) for _ in range(4)]
    labels = torch.tensor([0, 2])
    batch_u = Batch(tuple(view[:2]), torch.tensor([1, -1]), torch.tensor([2, 1]))
    batch_l = Batch(tuple(view[2:]), labels, torch.tensor([0, 1])) if with_labels else None
    before = [model.layer(x.flatten(1)).detach() for x in view]
    args = SimpleNamespace(trade_off_cls_strong=0.1)
    weight = model.layer.weight.detach().clone()
    metrics = v_pet.train_step(model, votes, torch.optim.SGD(model.parameters(), lr=0.1), batch_l, batch_u, args)

    log_p = [logits.double().log_softmax(1) for logits in before]
    loss = sum(-p[0, 2] + 0.5 * (-p[1, 1] - p[1, 2]) - 0.6931472 for p in log_p[:2]) / 2
    supervised = sum(w * -(p[0, 0] + p[1, 2]) / 2 for p, w in zip(log_p[2:], (1, 0.1), strict=True))
    assert metrics["loss"].item() == pytest.approx((loss + with_labels * supervised).item(), rel=1e-5)
    assert metrics["loss_u"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert {"loss_l", "accuracy_l"} & metrics.keys() == ({"loss_l", "accuracy_l"} if with_labels else set())
    assert not with_labels or metrics["loss_l"].item() == pytest.approx(supervised.item(), rel=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(model.seen, view, strict=False))
    assert len(model.seen) == (4 if with_labels else 2)
    assert metrics["pseudo_label_accuracy"][1] == 1  # only one label is known

    targets = torch.tensor([[0, 0, 1], [0, 0.5, 0.5]])  # of the images 2 and 1; and of the two labels
    targets = [targets, targets, *[torch.eye(3)[labels]] * 2]
    shares = [1, 1, *(with_labels * w for w in (1, 0.1))]
    gradient = sum(
        w * (logits.softmax(1) - y).T @ x.flatten(1) / 2
        for w, logits, y, x in zip(shares, before, targets, view, strict=True)
    )
    torch.testing.assert_close(model.layer.weight, weight - 0.1 * gradient, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two runs that differ in network, image size, statistics and method; the second is an average, with adapters."""
    folder = tmp_path_factory.mktemp("sources")
    train_small("erm", log=folder / "a")
    torch.manual_seed(5)
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), folder / "vit.pth")
    own = f"-a test_vit --pretrained-backbone {folder}/vit.pth --adapter 4 --ema 0.5 --norm-mean .5 .5 .5 --seed 1 "
    own += "--split-seed 0 --train-resizing cifar --val-resizing cifar --image-size 48"
    with mock.patch.object(conftest, "SMALL", [flag for flag in conftest.SMALL if flag != "--scratch"]):
        train_small("fixmatch", *own.split(), log=folder / "b")
    return folder


def test_a_source_sees_images_as_it_was_trained_on_them(sources, monkeypatch):
    """On the test images, and in the view that they are tested in, its votes are right as often as it was."""
    of_test = lambda *args, make=v_pet.augment.transforms, **more: make(*args, **more)[2:] * 3  # noqa: E731
    monkeypatch.setattr(v_pet.augment, "transforms", of_test)
    args = v_pet.parse_args([*conftest.SMALL, "--sources", "none", "--passes", "1"])
    data = datasets.load("Digits", "data")
    votes = v_pet.Votes(len(data.test), 2, 10, "mean")
    folders = [sources / "a", sources / "b"]
    found = v_pet.make_votes(votes, data.test, data.spec, folders, args, {"workers": 0, "device": torch.device("cpu")})
    results = [json.loads((folder / "result.json").read_text())["last_top1"] for folder in folders]
    assert found["votes"]["source_accuracy"] == pytest.approx(results, abs=0.01)


def test_sources_of_another_kind_vote(sources, tmp_path):
    folders = [str(sources / "a"), str(sources / "b")]
    result = train_small("v_pet", "--sources", *folders, "--passes", "1", log=tmp_path / "run")
    assert result["method"] == "v_pet"
    found = json.loads((tmp_path / "run" / "sources.json").read_text())
    assert [(s["method"], s["arch"]) for s in found["sources"]] == [("erm", "wrn_10_1_half"), ("fixmatch", "test_vit")]
    votes = final_state(tmp_path / "run")["votes"]["votes"]
    assert votes.shape == (TRAIN - 40, 2)
    agreement = found["votes"]["pairwise_agreement"]["1-2"]
    assert agreement == pytest.approx(100 * (votes[:, 0] == votes[:, 1]).float().mean().item(), abs=0.01)
    assert "loss_l" not in read_rows(tmp_path / "run")[0]


def test_flags_reach_the_votes_the_views_and_the_rate(sources, tmp_path, monkeypatch):
    """Each of three passes has weak views of its own; the targets are of the kind asked for; the rate falls."""
    passes, rates, make, step = [], [], v_pet.TestLoader, v_pet.train_step

    def loader(images, transform, *args, stream=None, **options):
        passes.append((stream, transform.name))
        return make(images, transform, *args, **options | ({} if stream is None else {"stream": stream}))

    def noted(model, votes, optimizer, batch_l, batch_u, args):
        rates.append(optimizer.param_groups[-1]["lr"])
        assert (votes.target, votes.votes.shape[1]) == ("softmax-counts", 1)
        return step(model, votes, optimizer, batch_l, batch_u, args)

    monkeypatch.setattr(v_pet, "TestLoader", loader)
    monkeypatch.setattr(v_pet, "train_step", noted)
    flags = "--passes 3 --target softmax-counts --lr 0.5 --lr-gamma 1 --lr-decay 1 --epochs 1"
    train_small("v_pet", "--sources", str(sources / "a"), *flags.split(), log=tmp_path / "run")
    assert passes[1:] == [("votes 0", "weak"), ("votes 1", "weak"), ("votes 2", "weak")]
    assert rates == pytest.approx([0.5, 0.25, 0.5 / 3])


def test_the_loaders_of_the_training(sources, tmp_path):
    loader = mock.Mock(side_effect=[None, UserError("asked")])
    flags = "--with-labels -b 6 --unlabeled-batch-size 10 --seed 3 --split-seed 0".split()
    with mock.patch.object(v_pet, "TrainLoader", loader), pytest.raises(UserError, match="asked"):
        train_small("v_pet", "--sources", str(sources / "a"), *flags, log=tmp_path / "run")
    found = [([each.name for each in call.args[1]], *call.args[2:], call.kwargs["seed"]) for call in loader.mock_calls]
    assert found == [(["weak", "strong"], 6, "labeled", 3), (["weak", "strong"], 10, "unlabeled", 3)]


def test_the_defaults():
    """As docs/differences.md and the docstring say: ten passes, mean targets, and no labels again."""
    args = v_pet.parse_args(["data", "-d", "Digits", "--sources", "a"])
    assert (args.passes, args.target, args.with_labels, args.trade_off_cls_strong) == (10, "mean", False, 0.1)
    assert (args.epochs, args.lr, args.lr_gamma, args.lr_decay) == (30, 0.003, 0.0004, 0.75)


@pytest.mark.parametrize(
    ("spoil", "flags", "message"),
    [
        (lambda run: (run / "result.json").unlink(), "", "holds no finished run: run its command to the end, or name"),
        (shutil.rmtree, "", "holds no finished run: run its command to the end, or name"),
        (lambda run: None, "--split-seed 3", "was trained on other images or labels than this run is to be: choose"),
        (lambda run: None, "--num-samples-per-class 3", "was trained on other images or labels than this run is to"),
        (lambda run: (run / "labeled.json").write_text("[]"), "", r"labeled.json' cannot be read .*: name another run"),
        (lambda run: (run / "labeled.json").write_text("{}"), "", "was trained on other images or labels than this"),
    ],
    ids=["unfinished", "missing", "another split", "other labels", "damaged", "empty"],
)
def test_unfit_sources_are_refused(sources, tmp_path, spoil, flags, message):
    shutil.copytree(sources / "a", tmp_path / "source")
    spoil(tmp_path / "source")
    with pytest.raises(UserError, match=message) as error:
        train_small("v_pet", "--sources", str(tmp_path / "source"), *flags.split(), log=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "args.json").exists()


def test_sources_on_your_own_images_are_known_by_their_files(sources, tmp_path):
    """With --train-resizing native the fingerprint of the names also holds the size, which another resizing lacks."""
    shutil.copytree(sources / "a", tmp_path / "source")
    file = tmp_path / "source" / "labeled.json"
    own = json.loads(file.read_text()) | {"content_sha256": "c" * 64}
    fingerprints = {"labeled_sha256": own["labeled_sha256"], "data_sha256": "of a size", "content_sha256": "c" * 64}
    file.write_text(json.dumps(own))
    v_pet.check_sources([str(tmp_path / "source")], fingerprints)
    file.write_text(json.dumps(own | {"content_sha256": "e" * 64, "data_sha256": "of a size"}))
    with pytest.raises(UserError, match="was trained on other images"):
        v_pet.check_sources([str(tmp_path / "source")], fingerprints)


def test_the_run_itself_is_no_source(sources, tmp_path):
    """With --overwrite it would be discarded before it votes."""
    shutil.copytree(sources / "a", tmp_path / "run")
    with pytest.raises(UserError, match="--sources and --log name the same folder: choose another --log"):
        train_small("v_pet", "--sources", str(tmp_path / "run"), "--overwrite", log=tmp_path / "run")
    assert (tmp_path / "run" / "result.json").is_file()


def test_a_source_leaves_neither_its_precision_nor_its_mirroring(sources, tmp_path, monkeypatch):
    shutil.copytree(sources / "a", tmp_path / "source")
    file = tmp_path / "source" / "args.json"
    content = json.loads(file.read_text())
    content["args"] |= {"precision": "tf32", "flip": False}
    file.write_text(json.dumps(content))
    args = v_pet.parse_args([*conftest.SMALL, "--sources", "none", "--passes", "1"])
    data = datasets.load("Digits", "data")
    spec, options = dataclasses.replace(data.spec, flip=True), {"workers": 0, "device": torch.device("cpu")}
    transforms = mock.Mock(wraps=v_pet.augment.transforms)
    monkeypatch.setattr(v_pet.augment, "transforms", transforms)
    votes = v_pet.Votes(len(data.test), 2, 10, "mean")
    v_pet.make_votes(votes, data.test, spec, [tmp_path / "source", sources / "a"], args, options)
    assert [call.args[0].flip for call in transforms.call_args_list] == [False, True]
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_source_named_twice_is_refused(sources, tmp_path):
    twice = [str(sources / "a"), str(sources / "b" / ".." / "a")]
    with pytest.raises(UserError, match="--sources names a run twice: give each of them once"):
        train_small("v_pet", "--sources", *twice, log=tmp_path / "run")


def test_a_resumption_needs_no_sources(sources, tmp_path, monkeypatch):
    """Their votes are in the checkpoint."""
    folders = [str(shutil.copytree(sources / name, tmp_path / name)) for name in "ab"]
    flags = ("--sources", *folders, "--passes", "1")
    train_small("v_pet", *flags, log=tmp_path / "whole")
    with monkeypatch.context() as patch:
        at_call(patch, v_pet, "train_step", 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            train_small("v_pet", *flags, log=tmp_path / "run")
    for folder in folders:
        shutil.rmtree(folder)
    train_small("v_pet", *flags, log=tmp_path / "run")
    conftest.assert_same_run(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(UserError, match="holds no finished run"):
        train_small("v_pet", *flags, "--overwrite", log=tmp_path / "run")


def test_a_source_votes_on_the_weak_views_of_its_own_training():
    own = SimpleNamespace(
        train_resizing="default", val_resizing="cifar", image_size=24, flip=True, norm_mean=[0.1, 0.2, 0.3]
    )
    own.norm_std, own.exif_orientation = [0.4, 0.5, 0.6], False
    data, options = datasets.load("Digits", "data"), {"workers": 0, "device": torch.device("cpu")}
    args = SimpleNamespace(passes=2)
    loaders = list(v_pet.views_for(SimpleNamespace(args=own), "folder", data.test, data.spec, args, options))
    assert len(loaders) == 2
    for loader in loaders:
        assert "RandomResizedCrop(size=(24, 24)" in repr(loader.transform)
        assert (loader.normalizer.mean, loader.normalizer.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_the_network_of_the_last_epoch_votes(sources, tmp_path):
    """That of the best one is not looked at."""
    shutil.copytree(sources / "a", tmp_path / "source")
    (tmp_path / "source" / "checkpoints" / "best.pth").unlink()
    args = v_pet.parse_args([*conftest.SMALL, "--sources", "none", "--passes", "1"])
    data, options = datasets.load("Digits", "data"), {"workers": 0, "device": torch.device("cpu")}
    votes = v_pet.Votes(len(data.test), 1, 10, "mean")
    found = v_pet.make_votes(votes, data.test, data.spec, [tmp_path / "source"], args, options)
    assert len(found["sources"]) == 1


def test_the_accuracies_of_a_step_by_hand():
    """The views are the logits. The last unlabeled image's label is not known."""
    model, rows, votes = nn.Linear(3, 3, bias=False), torch.eye(3), cast([2, 2], [1, 1], [0, 0], [1, 1])
    nn.init.eye_(model.weight)
    batch_u = Batch((rows[[2, 0, 1, 1]], rows[[0, 1, 2, 0]]), torch.tensor([2, 0, 1, -1]), torch.arange(4))
    batch_l = Batch((rows[[0, 1]], rows[[2, 2]]), torch.tensor([0, 0]), torch.arange(2))
    args, optimizer = SimpleNamespace(trade_off_cls_strong=0.1), torch.optim.SGD(model.parameters(), lr=0.1)
    metrics = v_pet.train_step(model, votes, optimizer, batch_l, batch_u, args)
    assert [value.item() for value in metrics["pseudo_label_accuracy"]] == [100, 3]  # votes 2 1 0, labels 2 0 1
    assert [value.item() for value in metrics["accuracy_u"]] == [300, 3]  # of the weak view; the strong one has none
    assert metrics["accuracy_l"] == 50
