"""A running average of a network's weights, which is often better than the weights of any single step."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from common.networks import adapters

Network = TypeVar("Network", bound=nn.Module)


class ModelEma(nn.Module):
    """A copy of a network whose parameters are the exponential moving average (EMA) of the network's.

    average <- decay * average + (1 - decay) * parameter, from the first weights on (Mean Teachers, arXiv:1703.01780,
    without that paper's start). Buffers, such as BatchNorm's running statistics, are copied.

    If a method's algorithm contains an average of weights, its script has its own. Those treat buffers and the first
    steps differently, and round differently: with this class, the methods' numbers would change.

    Args:
        network: is not changed.
        decay: from 0 (the average is the network itself) to below 1.
    """

    def __init__(self, network: nn.Module, decay: float):
        super().__init__()
        self.network = copy_of(network)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Update the average after a step. Does not wait for the device."""
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - self.decay)
        copy_buffers(network, self.network)


def copy_of(network: Network) -> Network:
    """A copy without gradients. It shares the frozen weights around adapters with the network, and nothing else."""
    shared = {id(weight): weight for weight in adapters.frozen_weights(network)}
    return copy.deepcopy(network, shared).requires_grad_(False)


@torch.no_grad()
def copy_buffers(source: nn.Module, target: nn.Module) -> None:
    """Copy all buffers of a network into a copy of it, grouped by type. Does not wait for the device.

    Given mixed types, as BatchNorm's means and counts are, PyTorch would copy one tensor after the other.
    """
    by_type: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for buffer, copied in zip(source.buffers(), target.buffers(), strict=True):
        if copied is not buffer:  # see `copy_of`
            sources, targets = by_type.setdefault(buffer.dtype, ([], []))
            sources.append(buffer)
            targets.append(copied)
    for sources, targets in by_type.values():
        torch._foreach_copy_(targets, sources)
