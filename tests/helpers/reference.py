"""What the tests of the methods compare with: formulas in plain NumPy, and a model that remembers its passes."""

import numpy as np
import torch
from torch import Tensor, nn


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
