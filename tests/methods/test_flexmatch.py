"""FlexMatch's bank, counts and thresholds against a literal implementation, to the last bit."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import flexmatch
from common.errors import UserError
from tests.helpers import steps
from tests.helpers.transcription import flexmatch_thresholds

N, C, B = 60, 5, 8


def logits(g: torch.Generator) -> torch.Tensor:
    """Of classes 0 to 3; class 4 is never predicted. A third are torn between two classes: confidence 1/2 exactly."""
    y = 2 * torch.randn(B, C, generator=g)
    torn = torch.rand(B, generator=g) < 1 / 3
    pairs = torch.rand(B, C - 1, generator=g).topk(2).indices
    y[torn] = torch.full((B, C), -1e4).scatter(1, pairs, 0.0)[torn]
    y[:, C - 1] = -1e4
    return y


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("threshold", [0.5, 0.95])
def test_thousand_random_steps(threshold, warmup):
    threshold = torch.tensor(threshold).item()  # as float32 has it
    g = torch.Generator().manual_seed(0)
    curriculum, bank = flexmatch.Curriculum(N, C), [-1] * N
    ties, low = 0, 0
    for _ in range(1000):
        y, indices = logits(g), torch.randperm(N, generator=g)[:B]
        thresholds = flexmatch_thresholds(bank, C, threshold, warmup)
        assert curriculum.thresholds(threshold, warmup).tolist() == thresholds
        loss, pseudo_labels, mask = flexmatch.self_training_loss(y, -y, indices, curriculum, threshold, warmup)

        expected = 0.0
        for i, (confidence, label) in enumerate(
            zip(*(t.tolist() for t in F.softmax(y, dim=1).max(dim=1)), strict=True)
        ):
            assert pseudo_labels[i] == label
            assert mask[i] == (confidence > thresholds[label])
            expected += mask[i] * F.cross_entropy(-y[i], torch.tensor(label)) / B
            if confidence > threshold:
                bank[indices[i]] = label
            ties += confidence == thresholds[label]
            low += confidence < thresholds[label]
        assert curriculum.bank.tolist() == bank
        assert curriculum.counts.tolist() == [Counter(bank)[value] for value in range(-1, C)]
        assert torch.isclose(loss, torch.as_tensor(expected), rtol=1e-5)
    assert Counter(bank)[C - 1] == 0
    assert low > 100
    assert threshold != 0.5 or ties > 100


def curriculum_of(bank: list[int]) -> flexmatch.Curriculum:
    curriculum = flexmatch.Curriculum(len(bank), 3)
    values = torch.tensor(bank)
    curriculum.update(torch.arange(len(bank)), values.clamp(min=0), values >= 0)
    return curriculum


@pytest.mark.parametrize(
    ("bank", "warmup", "betas"),
    [
        ([-1] * 9, False, [0, 0, 0]),
        ([-1] * 9, True, [0, 0, 0]),
        ([2] * 9, False, [0, 0, 0]),  # everything in one class: back to the start
        ([2] * 9, True, [0, 0, 0]),
        ([-1, -1, -1, -1, -1, 0, 0, 1, 1], False, [1, 1, 0]),  # a tie for the best class
        ([-1, -1, -1, -1, 0, 0, 1, 0, 0], False, [1, 1 / 4, 0]),
        ([-1, -1, -1, -1, -1, 0, 0, 1, 1], True, [2 / 5, 2 / 5, 0]),  # unseen images count as a class
        ([-1, 0, 0, 0, 0, 1, 1, 2, 2], True, [1, 1 / 2, 1 / 2]),
    ],
)
def test_thresholds_by_hand(bank, warmup, betas):
    expected = [0.95 * beta / (2 - beta) for beta in betas]
    assert curriculum_of(bank).thresholds(0.95, warmup).tolist() == pytest.approx(expected)


def test_at_the_first_step_everything_is_selected():
    curriculum = flexmatch.Curriculum(8, 3)
    y = torch.zeros(8, 3)
    assert flexmatch.self_training_loss(y, y, torch.arange(8), curriculum, 0.95, False)[2].sum() == 8
    assert curriculum.counts.tolist() == [8, 0, 0, 0]  # and nothing learned


def test_thresholds_are_those_before_the_batch():
    """Two sure images of class 0 raise its threshold for the next batch, not for their own."""
    curriculum = flexmatch.Curriculum(8, 2)
    y = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.1, 0.0]])
    unsure = [
        flexmatch.self_training_loss(y, y, torch.arange(3), curriculum, 0.95, False)[2][2].item() for _ in range(2)
    ]
    assert unsure == [1, 0]


def test_entries_are_kept_when_confidence_falls_and_overwritten_when_it_returns():
    curriculum = curriculum_of([0, 1, -1])
    one = torch.tensor([0])
    curriculum.update(one, torch.tensor([2]), torch.tensor([False]))
    assert curriculum.bank.tolist() == [0, 1, -1]
    curriculum.update(one, torch.tensor([2]), torch.tensor([True]))
    assert curriculum.bank.tolist() == [2, 1, -1]
    assert curriculum.counts.tolist() == [1, 0, 1, 1]


def test_pseudo_labels_have_no_gradient():
    weak, strong = (torch.randn(8, 3, requires_grad=True) for _ in range(2))
    curriculum = flexmatch.Curriculum(8, 3)
    flexmatch.self_training_loss(weak, strong, torch.arange(8), curriculum, 0.95, False)[0].backward()
    assert weak.grad is None
    assert np.all(strong.grad.abs().sum(dim=1).numpy() > 0)


def test_no_warmup_is_really_false():
    assert steps.arguments("flexmatch").warmup is False
    assert steps.arguments("flexmatch", "--no-warmup").warmup is False
    assert steps.arguments("flexmatch", "--warmup").warmup is True
    with pytest.raises(UserError, match="False"):  # which type=bool would take for true
        steps.arguments("flexmatch", "--warmup", "False")


def test_bank_lasts_over_epochs():
    args = steps.arguments("flexmatch", "--threshold", "0.5", "--bottleneck-dim", "6")
    setup = steps.build("flexmatch", args)
    scheduler = torch.optim.lr_scheduler.LambdaLR(setup.optimizer, lambda t: 1)
    steps.Epochs("flexmatch", (3,)).train(setup, args, scheduler)
    learned = setup.state[0].bank.clone()
    steps.Epochs("flexmatch", (0,)).train(setup, args, scheduler)  # an epoch that begins, and no more
    assert (learned >= 0).any()
    assert torch.equal(setup.state[0].bank, learned)
