"""Mean Teacher: what the loss is and whom it reaches, how the teacher moves, and what --eval-teacher adds."""

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

import mean_teacher
from common.networks.classifier import ImageClassifier
from common.training.evaluate import evaluate
from tests.conftest import assert_equal_states, final_state, read_rows
from tests.helpers import steps
from tests.helpers.reference import softmax


def test_loss_is_a_sum_over_the_batch_and_its_gradient_the_students():
    y, t = 2 * np.random.default_rng(0).normal(size=(2, 6, 4))
    student, teacher = (torch.tensor(z, requires_grad=True) for z in (y, t))
    loss = mean_teacher.consistency_loss(student, teacher)
    loss.backward()
    p, d = softmax(y), softmax(y) - softmax(t)
    assert loss.item() == pytest.approx((d**2).sum())
    assert np.allclose(student.grad, 2 * p * (d - (p * d).sum(axis=1, keepdims=True)))
    assert teacher.grad is None


def test_loss_reaches_the_student_and_not_the_teacher():
    weights = []
    for trade_off in ("0", "5"):
        args = steps.arguments("mean_teacher", "--trade-off-con", trade_off)
        setup = steps.build("mean_teacher", args, dropout=0.0)
        for step in range(2):
            metrics = steps.train_step(setup, args, *steps.batches("mean_teacher", step))
            assert metrics["loss_u"] > 0.01
        assert all(p.grad is None and not p.requires_grad for p in setup.state[0].parameters())
        weights.append(setup.model.backbone.net[0].weight)
    assert not torch.allclose(*weights)


def test_teacher_is_no_part_of_what_is_optimized():
    args = steps.arguments("mean_teacher")
    setup = steps.build("mean_teacher", args)
    theirs = {id(p) for p in setup.state[0].parameters()}
    assert theirs.isdisjoint(id(p) for group in setup.optimizer.param_groups for p in group["params"])
    assert theirs.isdisjoint(map(id, setup.model.parameters()))


def students(number: int) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double() for _ in range(number)]


def test_teacher_is_at_first_the_mean_of_all_students():
    """a = 1 - 1/n: the first update copies, and the start counts for nothing."""
    start, *rest = students(6)
    teacher = mean_teacher.Teacher(start, alpha=0.999).double()
    for n, student in enumerate(rest, start=1):
        teacher.update(student)
        expected = sum(s[0].weight for s in rest[:n]) / n
        assert torch.allclose(teacher.network[0].weight, expected, atol=1e-6)
        assert torch.allclose(teacher.network[0].bias, sum(s[0].bias for s in rest[:n]) / n, atol=1e-6)


def test_teacher_is_later_the_exponential_average():
    start, *rest = students(9)
    teacher = mean_teacher.Teacher(start, alpha=0.75).double()
    expected = start[0].weight
    for n, student in enumerate(rest, start=1):
        teacher.update(student)
        a = [0, 1 / 2, 2 / 3, 3 / 4][n - 1] if n <= 4 else 0.75
        expected = a * expected + (1 - a) * student[0].weight
        assert torch.allclose(teacher.network[0].weight, expected, atol=1e-6)


def test_alpha_is_reached_after_a_thousand_steps():
    teacher = mean_teacher.Teacher(nn.BatchNorm1d(1), alpha=0.999)
    one = nn.BatchNorm1d(1)
    for updates, a in ((998, 1 - 1 / 999), (999, 0.999), (1500, 0.999)):
        nn.init.zeros_(teacher.network.weight)
        teacher.updates.fill_(updates)
        teacher.update(one)
        assert teacher.network.weight.item() == pytest.approx(1 - a, rel=1e-4)


def test_all_batchnorm_buffers_are_the_students():
    """By module, not by name: ResNet's `downsample.1` and the bottleneck's `1` are BatchNorm, too."""
    backbone = timm.create_model("resnet18", num_classes=0)
    backbone.feature_dim = 512
    student = ImageClassifier(backbone, 3, 8)
    teacher = mean_teacher.Teacher(student, 0.999)
    for buffer in student.buffers():
        buffer.copy_(torch.randint(1, 100, buffer.shape))
    teacher.update(student)
    buffers = dict(teacher.network.named_buffers())
    assert len(buffers) == 3 * 21
    assert_equal_states(buffers, dict(student.named_buffers()))


class OneBatch:
    device = torch.device("cpu")

    def __iter__(self):
        yield torch.ones(4, 3, 4, 4), torch.zeros(4, dtype=torch.int64)


def test_teacher_starts_as_the_student_and_stays_in_train_mode():
    setup = steps.build("mean_teacher", steps.arguments("mean_teacher"))
    teacher = setup.state[0]
    assert_equal_states(dict(teacher.network.state_dict()), dict(setup.model.state_dict()))
    before = copy.deepcopy(teacher.state_dict())
    evaluate(teacher, OneBatch(), steps.CLASSES)
    assert all(module.training for module in teacher.modules())
    assert_equal_states(dict(before), dict(teacher.state_dict()))


def test_eval_teacher_reports_beside_the_student_and_changes_nothing_else(small_run, tmp_path):
    plain = small_run("mean_teacher", log=tmp_path / "plain")
    both = small_run("mean_teacher", "--eval-teacher", log=tmp_path / "both")
    assert {"teacher_last_top1", "teacher_best_top1"} <= both.keys()
    assert not any("teacher" in key for key in plain)
    rows = zip(read_rows(tmp_path / "plain"), read_rows(tmp_path / "both"), strict=True)
    for row, with_teacher in rows:
        assert row == {key: value for key, value in with_teacher.items() if not key.startswith("teacher_")}
        assert {"teacher_top1", "teacher_mean_per_class"} <= with_teacher.keys()
    assert with_teacher["teacher_test_loss"] != with_teacher["test_loss"]
    states = [final_state(tmp_path / name) for name in ("plain", "both")]
    for part in ("model", "teacher", "optimizer", "rng"):
        assert_equal_states(states[0][part], states[1][part])
