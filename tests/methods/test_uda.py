"""UDA: the side that the temperature acts on, the mask, and what the loss is averaged over, in both variants."""

import numpy as np
import pytest
import torch

import uda
from tests.helpers.reference import softmax

rng = np.random.default_rng(0)
WEAK, STRONG = 3 * rng.normal(size=(2, 32, 5))


def loss(weak, strong, threshold=0.7, T=0.85, variant="tllib") -> float:
    return uda.consistency_loss(torch.as_tensor(weak), torch.as_tensor(strong), threshold, T, variant)[0].item()


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(axis=1)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("T", [0.4, 0.85, 2.0])
def test_loss_is_numpys(threshold, T):
    selected = softmax(WEAK).max(axis=1) > threshold  # never sharpened
    assert selected.any()
    published = (selected * kl(softmax(WEAK), softmax(STRONG / T))).sum() / selected.sum()
    paper = (selected * kl(softmax(WEAK / T), softmax(STRONG))).sum() / 32
    assert loss(WEAK, STRONG, threshold, T, "tllib") == pytest.approx(published, rel=1e-6)
    assert loss(WEAK, STRONG, threshold, T, "paper") == pytest.approx(paper, rel=1e-6)


def test_temperature_acts_on_the_side_that_the_variant_says():
    """The fixed points: the published table's student ends softer than its target, the paper's sharper."""
    assert loss(WEAK, 0.85 * WEAK, variant="tllib") == pytest.approx(0, abs=1e-6)
    assert loss(WEAK, WEAK / 0.85, variant="paper") == pytest.approx(0, abs=1e-6)
    assert loss(WEAK, WEAK / 0.85, variant="tllib") > 1e-3
    assert loss(WEAK, 0.85 * WEAK, variant="paper") > 1e-3


@pytest.mark.parametrize("variant", ["tllib", "paper"])
def test_temperature_changes_the_loss(variant):
    assert loss(WEAK, STRONG, T=0.4, variant=variant) != loss(WEAK, STRONG, T=0.85, variant=variant)


def test_the_published_loss_is_a_mean_over_the_mask_and_the_papers_over_the_batch():
    """Of four images one is sure: the published table's mean is over it alone, the paper's over all four."""
    weak, strong = torch.zeros(4, 2), torch.zeros(4, 2)
    weak[0, 0] = 30.0
    assert loss(weak, strong, T=1.0, variant="tllib") == pytest.approx(np.log(2))
    assert loss(weak, strong, T=1.0, variant="paper") == pytest.approx(np.log(2) / 4)


@pytest.mark.parametrize("variant", ["tllib", "paper"])
def test_empty_mask_gives_zero_and_zero_gradient(variant):
    strong = torch.tensor(STRONG, requires_grad=True)
    value, mask = uda.consistency_loss(torch.tensor(WEAK), strong, 1.0, 0.85, variant)
    value.backward()
    assert mask.sum() == 0
    assert value == 0
    assert torch.equal(strong.grad, torch.zeros_like(strong))


def test_mask_is_strict_and_looks_at_the_confidence_before_sharpening():
    even = torch.zeros(4, 2)
    assert uda.consistency_loss(even, even, 0.5, 0.85, "tllib")[1].sum() == 0
    almost = torch.tensor([[0.5, 0.0]])  # 0.62, and 0.99 at T = 0.1
    assert uda.consistency_loss(almost, almost, 0.7, 0.1, "paper")[1].sum() == 0


@pytest.mark.parametrize("variant", ["tllib", "paper"])
def test_target_has_no_gradient(variant):
    weak, strong = torch.tensor(WEAK, requires_grad=True), torch.tensor(STRONG, requires_grad=True)
    uda.consistency_loss(weak, strong, 0.5, 0.85, variant)[0].backward()
    assert weak.grad is None
    assert strong.grad.abs().sum() > 0


def test_gradient_of_the_student_is_numpys():
    strong = torch.tensor(STRONG, requires_grad=True)
    uda.consistency_loss(torch.tensor(WEAK), strong, 0.5, 0.85, "tllib")[0].backward()
    selected = softmax(WEAK).max(axis=1) > 0.5
    expected = selected[:, None] * (softmax(STRONG / 0.85) - softmax(WEAK)) / 0.85 / selected.sum()
    assert np.allclose(strong.grad, expected)
