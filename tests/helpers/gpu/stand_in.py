"""The GPU in the place of `torch.cuda`."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import optimizer

from tests.helpers.gpu.backward import run_backward
from tests.helpers.gpu.device import Gpu
from tests.helpers.gpu.streams import Stream
from tests.helpers.gpu.tensors import GpuTensor

RNG_STATE = 16  # bytes


def _pin_memory(tensor: Tensor) -> Tensor:
    pinned = tensor.clone()
    pinned.in_pinned_memory = True
    return pinned


def _grad(output: Tensor, leaves: Any, *args: Any, grad=torch.autograd.grad, **kwargs: Any) -> tuple[Tensor, ...]:
    """`torch.autograd.grad`. On the GPU it is asked for one leaf; on the CPU, where adapters are tried, for several."""
    return run_backward(output, (leaves,)) if isinstance(output, GpuTensor) else grad(output, leaves, *args, **kwargs)


def _functions(gpu: Gpu, number: int) -> dict[str, Any]:
    """Of `torch.cuda`: what the suite, and PyTorch on its behalf, asks of it."""

    class SideStream(Stream):
        def __init__(self, device: torch.device | None = None):
            super().__init__(device)
            gpu.sides.append(self)

    def set_device(device: torch.device) -> None:
        gpu.current = torch.device(device).index

    def set_rng_state(state: torch.Tensor, device: torch.device) -> None:
        """CUDA refuses a state of another size than its own, too."""
        if len(state) != RNG_STATE:
            raise RuntimeError("RNG state is wrong size")

    return {
        "is_available": lambda: True,
        "device_count": lambda: number,
        "current_device": lambda: gpu.current,
        "set_device": set_device,
        "get_device_name": lambda device: "a GPU that is none",
        "get_device_capability": lambda device: (8, 0),
        "is_bf16_supported": lambda: True,
        "is_current_stream_capturing": lambda: False,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device: torch.zeros(RNG_STATE, dtype=torch.uint8),
        "set_rng_state": set_rng_state,
        "Stream": SideStream,
        "stream": gpu.on,
        "current_stream": lambda device: gpu.stream,
        "_lazy_init": lambda: None,
    }


@contextlib.contextmanager
def math_attention() -> Iterator[None]:
    """A form of attention that the host has, too, with the same bits."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextlib.contextmanager
def gpu(index: int = 0, number: int = 1) -> Iterator[Gpu]:
    """Within, this process has the GPU `index` of `number`.

    At the end no memory of a side stream may have been freed too early. That of the first stream lives as long as the
    run, but for what it alone uses.
    """
    device, new_group = Gpu(index), dist.new_group

    def new_gloo_group(backend: str, **kwargs: Any) -> dist.ProcessGroup:
        group = new_group(**kwargs)
        if backend == "nccl":
            device.groups.add(group.group_name)
        return group

    with contextlib.ExitStack() as stack:
        for name, function in _functions(device, number).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", _pin_memory))
        stack.enter_context(mock.patch.object(torch.autograd, "grad", _grad))
        stack.enter_context(mock.patch.object(dist, "new_group", new_gloo_group))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # the host has no operations of its names
        kinds = [torch.Tensor, torch.nn.Parameter, GpuTensor]  # those that optimizers update many at once
        stack.enter_context(mock.patch.object(optimizer, "_foreach_supported_types", kinds))
        stack.enter_context(math_attention())
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        # Autograd begins before there is a device, or it would start a thread for it, and none may be forked any more.
        torch.ones((), requires_grad=True).backward()
        torch._C._ensureCUDADeviceGuardSet()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda"): made here, and then copied
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        stack.enter_context(device)
        yield device
    early = [line for stream in device.sides for line in stream.early]
    assert not early, early[0]
