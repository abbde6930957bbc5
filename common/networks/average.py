"""A running average of a network's weights, which is often better than the weights of any single step."""

import copy

import torch
from torch import nn


class Average(nn.Module):
    """A copy of a network whose parameters follow the network's as an exponential average.

    average <- decay * average + (1 - decay) * parameter, from the first weights on (Mean Teachers, arXiv:1703.01780,
    without that paper's start). Buffers, such as the running statistics of BatchNorm, are copied as they are.

    Args:
        network: is left alone; the copy has no gradients.
        decay: from 0, where the average is the network itself, to below 1.
    """

    def __init__(self, network: nn.Module, decay: float):
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the network's weights after a step. Does not wait for the device."""
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - self.decay)
        buffers = list(self.network.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(network.buffers()))
