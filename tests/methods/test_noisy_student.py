"""Noisy Student: soft targets and weights by hand, what its teachers see, and its rounds, whole and interrupted."""

import copy
import json
import os
import signal
from unittest import mock

import numpy as np
import pytest
import torch

import noisy_student
from common import datasets
from common.datasets import splits
from common.errors import Interrupted
from common.training import evaluate
from scripts import collect_results
from scripts.results import cells, plots, runs
from tests.conftest import SMALL, assert_equal_states, assert_same_run, final_state, read_rows, train_small
from tests.helpers.few_images import all_images
from tests.helpers.reference import SpyModel, softmax
from tests.helpers.stops import at_call

ROUNDS = ("--rounds", "2", "--lr", "0.1")  # two epochs of three steps each


class Loader(list):
    """These batches, in order."""

    def __init__(self, batches):
        super().__init__((batch, None) for batch in batches)
        self.order = torch.arange(sum(map(len, batches)))


def pseudo_labels(*rows: list[float], threshold: float = 0.0, balance: bool = False) -> noisy_student.PseudoLabels:
    """As a teacher makes them that gives these probabilities, for two images at a time."""
    made = noisy_student.PseudoLabels(len(rows), len(rows[0])).double()
    logits = torch.tensor(rows, dtype=torch.float64).log()
    made.make(torch.nn.Identity(), Loader(logits.split(2)), threshold, balance)
    return made


def test_loss_by_hand():
    """One image: T 2 makes of 16 to 1 the targets 4/5 and 1/5, and of the student's 9 to 1, 3/4 and 1/4."""
    teacher, student = torch.tensor([[16.0, 1.0]]).log(), torch.tensor([[9.0, 1.0]]).log()
    loss = noisy_student.self_training_loss(student, teacher, torch.ones(1), 2.0)
    assert loss.item() == pytest.approx(-0.8 * np.log(0.75) - 0.2 * np.log(0.25))


@pytest.mark.parametrize("T", [0.5, 2.0])
def test_loss_and_gradient_are_numpys(T):
    rng = np.random.default_rng(0)
    y_teacher, y_strong = 2 * rng.normal(size=(2, 32, 5))
    weights = rng.uniform(0, 2, size=32) * (rng.random(32) < 0.7)
    teacher, strong = (torch.tensor(y, requires_grad=True) for y in (y_teacher, y_strong))
    loss = noisy_student.self_training_loss(strong, teacher.detach(), torch.tensor(weights), T)
    loss.backward()
    targets, predictions = softmax(y_teacher / T), softmax(y_strong / T)
    assert loss.item() == pytest.approx(np.mean(-weights * (targets * np.log(predictions)).sum(axis=1)))
    assert np.allclose(strong.grad, weights[:, None] * (predictions - targets) / T / 32)


def test_all_images_have_the_weight_1():
    made = pseudo_labels([0.5, 0.5], [0.9, 0.1], [0.2, 0.8])
    assert made.weights.tolist() == [1, 1, 1]
    assert made.logits.exp().tolist() == pytest.approx(np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]))


def test_those_that_a_threshold_leaves_out_are_made_up_for():
    made = pseudo_labels([0.55, 0.45], [0.9, 0.1], [0.2, 0.8], [0.6, 0.4], threshold=0.6)
    assert made.weights.tolist() == pytest.approx([0, 2, 2, 0])
    assert pseudo_labels([0.55, 0.45], [0.4, 0.6], threshold=1.0).weights.tolist() == [0, 0]


def test_a_threshold_that_no_image_reaches_is_reported(log):
    pseudo_labels([0.55, 0.45], [0.4, 0.6], threshold=0.5)
    assert not log.messages
    pseudo_labels([0.55, 0.45], [0.4, 0.6], threshold=1.0)
    assert log.messages == ["no pseudo-label is above --threshold: this round learns from the labels alone"]


def test_balance_gives_every_class_that_is_there_the_same_weight():
    rows = [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.7, 0.2, 0.1], [0.1, 0.9, 0.0]]  # none is of the last class
    assert pseudo_labels(*rows, balance=True).weights.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    made = pseudo_labels(*rows, balance=True, threshold=0.65)
    assert made.weights.tolist() == pytest.approx([1, 0, 1, 2])


def test_the_teacher_is_in_eval_mode_without_gradients_and_stays_as_it_was():
    teacher = SpyModel()
    teacher.train()
    before, batches = copy.deepcopy(teacher.state_dict()), torch.randn(2, 4, 2)
    noisy_student.PseudoLabels(8, 3).make(teacher, Loader(batches), 0.0, False)
    assert all(map(torch.equal, teacher.inputs, batches))
    assert (teacher.modes, teacher.with_gradient) == ([False, False], [False, False])
    assert_equal_states(teacher.state_dict(), before)


# Rounds


class Spy:
    """What a run does at the beginning of its rounds, and how often."""

    def __init__(self):
        self.beginnings, self.teachers, self.views, self.rates = [], [], [], []
        self.names, self.test_loader = [], noisy_student.TestLoader
        self.train_step, self.make = noisy_student.train_step, noisy_student.PseudoLabels.make

    def step(self, model, labels, optimizer, batch_l, batch_u, args):
        weights = copy.deepcopy(model.state_dict())
        rates = [group["lr"] for group in optimizer.param_groups]
        self.rates.append(rates[-1])
        if not optimizer.state:  # a fresh one
            self.beginnings.append((weights, rates, batch_u is not None))
        return self.train_step(model, labels, optimizer, batch_l, batch_u, args)

    def labels(self, labels, teacher, loader, *args):
        batches = list(loader)
        self.teachers.append(copy.deepcopy(teacher.state_dict()))
        self.views.append((torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])))
        self.make(labels, teacher, loader, *args)

    def loader(self, images, view, stream=None, **options):
        if stream is not None:
            self.names.append(view.name)
            options |= {"stream": stream}
        return self.test_loader(images, view, **options)

    def train(self, log, *flags: str) -> dict:
        with (
            mock.patch.object(noisy_student, "TestLoader", self.loader),
            mock.patch.object(noisy_student, "train_step", self.step),
            mock.patch.object(noisy_student.PseudoLabels, "make", autospec=True, side_effect=self.labels),
        ):
            return train_small("noisy_student", *ROUNDS, *flags, log=log)


@pytest.fixture(autouse=True, scope="module")
def _all_images():
    """A teacher labels them in several batches."""
    with all_images():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run: its folder, its result, and what was seen of it."""
    log, spy = tmp_path_factory.mktemp("noisy student") / "run", Spy()
    return log, spy.train(log), spy


def test_every_round_begins_anew_with_the_weights_of_the_first(whole):
    _, _, spy = whole
    weights, rates, has_teacher = zip(*spy.beginnings, strict=True)
    assert has_teacher == (False, True, True)
    for later in (1, 2):
        assert_equal_states(weights[later], weights[0])
        assert rates[later] == rates[0] == [0.1] * 3
    assert spy.rates[:6] == spy.rates[6:12] == spy.rates[12:]
    assert len(set(spy.rates[:6])) == 6  # they fall within a round


def test_round_0_is_erm(whole, tmp_path):
    log, _, spy = whole
    train_small("erm", "--lr", "0.1", log=tmp_path / "erm")
    assert_equal_states(spy.teachers[0], final_state(tmp_path / "erm")["model"])  # of the last epoch, not the best
    scores = ("loss", "accuracy_l", "top1", "mean_per_class", "test_loss")
    for row, expected in zip(read_rows(log), read_rows(tmp_path / "erm"), strict=False):
        assert {name: row[name] for name in scores} == {name: expected[name] for name in scores}


def test_each_teacher_sees_all_images_in_order_in_views_of_its_own(whole, tmp_path):
    _, _, spy = whole
    (first, labels), (second, same_labels) = spy.views
    data = datasets.load("Digits", ".")
    _, unlabeled = splits.split(data.train.labels, data.classes, 4, 0, data.candidates)
    assert labels.tolist() == same_labels.tolist() == data.train.labels[unlabeled].tolist()
    assert (first != second).flatten(1).any(dim=1).float().mean() > 0.9
    assert spy.names == ["weak", "weak"]
    clean = Spy()
    clean.train(tmp_path / "clean", "--clean-teacher", "--epochs", "1", "--iters-per-epoch", "1")
    assert torch.equal(clean.views[0][0], clean.views[1][0])
    assert clean.names == ["test", "test"]


def test_the_result_is_the_last_rounds(whole):
    log, result, _ = whole
    rows = read_rows(log)
    assert [(row["epoch"], row["step"], row["round"]) for row in rows] == [
        *((1, 3, 0), (2, 6, 0), (3, 9, 1), (4, 12, 1), (5, 15, 2), (6, 18, 2))
    ]
    assert [result["last_top1"], result["best_top1"]] == [rows[5]["top1"], max(rows[4]["top1"], rows[5]["top1"])]
    assert result["best_epoch"] in (5, 6)
    assert [scores["last_top1"] for scores in result["rounds"]] == [rows[i]["top1"] for i in (1, 3, 5)]
    assert [scores["best_epoch"] for scores in result["rounds"]][-1] == result["best_epoch"]
    assert all(2 * r + 1 <= scores["best_epoch"] <= 2 * r + 2 for r, scores in enumerate(result["rounds"]))
    best = torch.load(log / "checkpoints" / "best.pth", weights_only=True)
    assert best["epoch"] == result["best_epoch"]
    assert "loss_u" not in rows[1]
    assert rows[2]["pseudo_label_ratio"] == 100


def test_a_better_epoch_of_an_earlier_round_is_not_the_best(tmp_path):
    """Here every epoch is worse than the one before."""
    scores = iter(range(90, 0, -10))
    evaluate = lambda *args: dict.fromkeys(("top1", "mean_per_class"), float(next(scores)))  # noqa: E731
    with mock.patch("common.training.evaluate.evaluate", side_effect=evaluate):
        result = train_small("noisy_student", *ROUNDS, "--iters-per-epoch", "1", log=tmp_path / "run")
    assert (result["best_top1"], result["best_epoch"], result["last_top1"]) == (50, 5, 40)
    assert torch.load(tmp_path / "run" / "checkpoints" / "best.pth", weights_only=True)["epoch"] == 5


def test_an_average_of_the_weights_teaches_and_begins_anew(tmp_path):
    flags, spy = ("--lr", "0.1", "--ema", "0.9", "--epochs", "1", "--iters-per-epoch", "1"), Spy()
    train_small("erm", *flags, log=tmp_path / "erm")
    spy.train(tmp_path / "run", *flags, "--rounds", "1")
    average = final_state(tmp_path / "erm")["ema"]
    assert_equal_states(dict(spy.teachers[0]), {name.removeprefix("network."): p for name, p in average.items()})
    begin, state = spy.beginnings[1][0]["head.weight"], final_state(tmp_path / "run")
    assert torch.equal(state["ema"]["network.head.weight"], begin.lerp(state["model"]["head.weight"], 0.1))


@pytest.mark.parametrize("checkpoint", ["best", "latest"])
def test_its_checkpoints_can_be_tested(whole, checkpoint):
    log, result, _ = whole
    args = [*SMALL, *ROUNDS, "--log", str(log), "--phase", "test", "--checkpoint", checkpoint]
    scores = noisy_student.main(noisy_student.parse_args(args))
    assert scores["top1"] == result["best_top1" if checkpoint == "best" else "last_top1"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("stop", ["pseudo-labels", "the first step"])
def test_killed_around_the_beginning_of_a_round_it_ends_with_the_same_bits(whole, tmp_path, stop):
    """In the second round with a teacher; a run that was in a round already needs no pseudo-labels."""
    step, make, counts = noisy_student.train_step, noisy_student.PseudoLabels.make, {"steps": 0, "labels": 0}

    def killing_step(*args):
        counts["steps"] += 1
        if counts["steps"] == 13 and stop == "the first step":
            raise Killed
        return step(*args)

    def killing_make(labels, teacher, loader, *args):
        counts["labels"] += 1
        if counts["labels"] == 2 and stop == "pseudo-labels":
            teacher = mock.Mock(side_effect=[*map(teacher, torch.randn(3, 64, 3, 32, 32)), Killed])
        return make(labels, teacher, loader, *args)

    with (
        mock.patch.object(noisy_student, "train_step", killing_step),
        mock.patch.object(noisy_student.PseudoLabels, "make", killing_make),
    ):
        with pytest.raises(Killed):
            train_small("noisy_student", *ROUNDS, log=tmp_path / "run")
        train_small("noisy_student", *ROUNDS, "--workers", "1", log=tmp_path / "run")
    assert_same_run(tmp_path / "run", whole[0])


def test_a_signal_while_pseudo_labels_are_made_leaves_the_teacher(whole, tmp_path):
    """The next student begins anew before the run can stop. It must not be saved in its teacher's place."""
    make, made = noisy_student.PseudoLabels.make, []

    def signaled(*args):
        made.append(1)
        if len(made) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return make(*args)

    with mock.patch.object(noisy_student.PseudoLabels, "make", signaled), pytest.raises(Interrupted):
        train_small("noisy_student", *ROUNDS, log=tmp_path / "run")
    train_small("noisy_student", *ROUNDS, log=tmp_path / "run")
    assert_same_run(tmp_path / "run", whole[0])


def test_a_run_that_was_stopped_within_a_round_takes_the_pseudo_labels_from_its_checkpoint(whole, tmp_path):
    step, counts = noisy_student.train_step, {"steps": 0}

    def killing_step(*args):
        counts["steps"] += 1
        if counts["steps"] == 10:  # the first one of the round's second epoch
            raise Killed
        return step(*args)

    with mock.patch.object(noisy_student, "train_step", killing_step), pytest.raises(Killed):
        train_small("noisy_student", *ROUNDS, log=tmp_path / "run")
    spy = Spy()
    spy.train(tmp_path / "run")
    assert len(spy.teachers) == 1
    assert_same_run(tmp_path / "run", whole[0])


def test_its_speed_counts_the_steps_of_all_rounds(whole):
    result = json.loads((whole[0] / "result.json").read_text())
    assert result["steps_per_second"] == pytest.approx(6 * 3 / result["seconds"])


def test_the_plot_shows_its_last_round(whole):
    (found,) = cells.cells(runs.read_runs([whole[0]]))[0].values()
    assert plots.curves(found[0], "top1") == [[row["top1"] for row in read_rows(whole[0])[4:]]]


def test_unfinished_it_is_reported_by_the_epochs_of_all_rounds(whole, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("args.json", "metrics.jsonl"):
        (folder / name).write_bytes((whole[0] / name).read_bytes())
    lines = (folder / "metrics.jsonl").read_text().splitlines()[:3]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert json.loads(lines[-1])["round"] == 1
    assert collect_results.progress(runs.read_runs([folder])[0]).endswith("(3 of 6 epochs)")


def test_a_signal_right_after_a_resumption_leaves_the_teacher(whole, tmp_path, monkeypatch):
    """The run was stopped at the end of a round, and goes on with pseudo-labels before any step."""
    make = noisy_student.PseudoLabels.make

    def signaled(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return make(*args)

    with monkeypatch.context() as patch:
        at_call(patch, evaluate, "evaluate", 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match="after step 6"):
            train_small("noisy_student", *ROUNDS, log=tmp_path / "run")
    with mock.patch.object(noisy_student.PseudoLabels, "make", signaled), pytest.raises(Interrupted):
        train_small("noisy_student", *ROUNDS, log=tmp_path / "run")
    train_small("noisy_student", *ROUNDS, log=tmp_path / "run")
    assert_same_run(tmp_path / "run", whole[0])
