"""The backward pass. Autograd's own engine asks CUDA's driver for its contexts, and there is none.

The order is the engine's, so that sums of gradients have its last bit: of the nodes that have got all their gradients,
the one that was made last comes first, and a leaf comes before any other.
"""

import heapq
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction


def run_backward(loss: Tensor, leaves: tuple[Tensor, ...] = ()) -> tuple[Tensor, ...]:
    """Add the gradients of a scalar to the leaves that it depends on; or give those of some leaves, and add none."""
    found: list[tuple[Tensor, Tensor]] = []
    missing = _numbers_of_gradients(loss.grad_fn)
    received: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    ready = [_entry(loss.grad_fn)]
    with torch.no_grad():
        while ready:
            node = heapq.heappop(ready)[-1]
            if leaves and hasattr(node, "variable"):
                found.append((node.variable, received.pop(node)[0]))
                continue
            for (following, number), result in zip(node.next_functions, _run(node, received.pop(node)), strict=False):
                if following is None:
                    continue
                sums = received.setdefault(following, {})
                if result is not None:
                    gradient = _fitted(result, following._input_metadata[number])
                    sums[number] = sums[number] + gradient if number in sums else gradient
                missing[following] -= 1
                if not missing[following]:
                    heapq.heappush(ready, _entry(following))
    return tuple(next(gradient for leaf, gradient in found if leaf is wanted) for wanted in leaves)


def _numbers_of_gradients(root: Any) -> Counter:
    """node -> how many gradients it gets from the nodes that lie between it and the root."""
    numbers, seen, waiting = Counter(), {root}, [root]
    while waiting:
        for following, _ in waiting.pop().next_functions:
            if following is not None:
                numbers[following] += 1
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
    return numbers


def _entry(node: Any) -> tuple[int, int, Any]:
    return -node._sequence_nr(), id(node), node


def _run(node: Any, gradients: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    function = node.apply if isinstance(node, BackwardCFunction) else node
    results = function(*(gradients.get(number) for number in range(len(node._input_metadata))))
    return results if isinstance(results, tuple) else (results,)


def _fitted(gradient: Tensor, expected: Any) -> Tensor:
    """What was broadcast is summed, and the type is that of the forward pass."""
    return gradient.sum_to_size(expected.shape).to(expected.dtype)
