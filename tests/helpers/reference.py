"""What the tests of the methods compare with: formulas in plain NumPy, and a model that remembers its passes."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def tensor(*rows: list[float]) -> Tensor:
    """The rows as a float64 tensor."""
    return torch.tensor(rows, dtype=torch.float64)


def unit(*rows: list[float]) -> Tensor:
    """The rows as a tensor, each of length 1."""
    return F.normalize(tensor(*rows), dim=1)


def near(actual: Tensor, *rows: list[float], atol: float = 1e-6) -> None:
    """Whether the tensor is what was worked out by hand."""
    torch.testing.assert_close(actual, tensor(*rows), rtol=0, atol=atol)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def cross_entropy(logits: np.ndarray, target: int) -> float:
    """Of one sample."""
    return -np.log(softmax(logits)[target])


def cross_entropy_gradient(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """d CE_i / d logits_i for every sample i: softmax minus one-hot."""
    return softmax(logits) - np.eye(logits.shape[1])[targets]


class SpyModel(nn.Module):
    """Points [B, 2] -> logits [B, 3], always from the same weights; keeps what passed through it, and how."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.bn, self.linear = nn.BatchNorm1d(2), nn.Linear(2, 3)
        self.inputs, self.modes, self.with_gradient = [], [], []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x)
        self.modes.append(self.training)
        self.with_gradient.append(torch.is_grad_enabled())
        return self.linear(self.bn(x))


def parameters(model: nn.Module) -> Tensor:
    """All of them in one vector."""
    return nn.utils.parameters_to_vector(model.parameters()).detach()
