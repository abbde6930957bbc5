"""What the processes of a run exchange. Every process must call each of these functions, in the same order.

B is the size of the whole batch, of which each process has a share of B / count images.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from common.system.processes.groups import count, is_first, local_rank, nccl_group, rank

# For methods


def sum(tensor: Tensor) -> Tensor:
    """The sum over the processes. Gradients flow back: each process gets the sum of all processes' gradients."""
    return _Sum.apply(tensor) if count() > 1 else tensor


def mean(tensor: Tensor) -> Tensor:
    """The mean over the processes: the means of all shares become the mean of the batch. Gradients flow back."""
    return sum(tensor) / count() if count() > 1 else tensor


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """All shares [B / count, ...] of a batch, in its order: [B, ...]. No gradient flows back.

    Meant for tensors without gradients: keys of a queue, labels, images to be mixed. See also `gather_with_gradients`.
    """
    if count() == 1:
        return tensor
    local = _travelling(tensor.contiguous())
    shares = [torch.empty_like(local) for _ in range(count())]
    dist.all_gather(shares, local, group=nccl_group())
    return torch.cat(shares).to(tensor.device)


def gather_with_gradients(tensor: Tensor) -> Tensor:
    """All shares [B / count, ...] of a batch, in its order: [B, ...]. Gradients flow back through it.

    Meant for losses that compare the images of a batch with each other. Each process gets, for its share, the sum of
    all processes' gradients. Once the weights' gradients are averaged, they are those of the mean of the processes'
    losses, as with one process. The backward pass is a collective, too: every process's loss must depend on the result.
    """
    return _Gather.apply(tensor) if count() > 1 else tensor


def share(number: int) -> slice:
    """This process's positions in a batch of `number` images, which the number of processes must divide."""
    size = number // count()
    return slice(rank() * size, (rank() + 1) * size)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return gather(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)[share(len(gradient))]


def _sum(tensor: Tensor) -> Tensor:
    travelling = _travelling(tensor.clone(memory_format=torch.contiguous_format))
    dist.all_reduce(travelling, group=nccl_group())
    return travelling.to(tensor.device)


def _travelling(tensor: Tensor) -> Tensor:
    return tensor if nccl_group() is not None else tensor.cpu()


# To keep the processes in step


@torch.no_grad()
def average_gradients(optimizer: Optimizer, *_: Any) -> None:
    """Replace each gradient by its mean over the processes. A hook to be called before the optimizer's step.

    All gradients of one type are sent as one tensor.
    """
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                by_type.setdefault(p.grad.dtype, []).append(p.grad)
    for gradients in by_type.values():
        flat = mean(torch.cat([gradient.flatten() for gradient in gradients]))
        pieces = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [piece.view(g.shape) for piece, g in zip(pieces, gradients, strict=True)])


@torch.no_grad()
def broadcast(tensors: list[Tensor]) -> None:
    """Overwrite the tensors with the first process's values."""
    if count() > 1:
        for tensor in tensors:
            travelling = _travelling(tensor.contiguous())
            dist.broadcast(travelling, 0, group=nccl_group())
            tensor.copy_(travelling)


def by_first(function: Callable) -> Callable:
    """Decorate a function so that the first process alone runs it. The others wait, and get the value it returned."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if count() == 1:
            return function(*args, **kwargs)
        value = [function(*args, **kwargs) if is_first() else None]
        dist.broadcast_object_list(value, 0)
        return value[0]

    return wrapped


@contextlib.contextmanager
def first_of_machine_first() -> Iterator[None]:
    """Run the block in the first process of each machine, then in the others, which find what the first downloaded."""
    if local_rank() > 0:
        _wait_for_all()
    try:
        yield
    finally:
        if local_rank() == 0:
            _wait_for_all()


def once_per_machine(function: Callable[[], Any]) -> Any:
    """Call the function in the first process of each machine only. The machine's other processes get its value."""
    values = gather_objects(function() if local_rank() == 0 else None)
    return values[rank() - local_rank()]


def gather_objects(value: Any) -> list[Any]:
    """Every process's value, in order of their ranks."""
    if count() == 1:
        return [value]
    values = [None] * count()
    dist.all_gather_object(values, value)
    return values


def maximum(number: int) -> int:
    """The largest of the processes' numbers. It is exchanged between the hosts, without waiting for a device."""
    if count() == 1:
        return number
    numbers = torch.tensor(number)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def _wait_for_all() -> None:
    if count() > 1:
        dist.barrier()
