"""A tensor on the GPU."""

import torch
from torch import Tensor, nn

from tests.helpers.gpu.backward import run_backward
from tests.helpers.gpu.streams import Memory, Stream


class GpuTensor(Tensor):
    """Shape, type and device are its own; `host` has the values, and `memory` knows which streams use them."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    host: Tensor
    memory: Memory

    @staticmethod
    def __new__(cls, host: Tensor, memory: Memory, device: torch.device):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=device,
        )
        tensor.host, tensor.memory = host, memory
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} on a tensor whose GPU is gone")

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = self.detach().clone().requires_grad_(self.requires_grad)
            copied._is_param = isinstance(self, nn.Parameter)
            memo[id(self)] = copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        """In a file it is a tensor of the host, which is what loading with map_location="cpu" makes of any."""
        return self.host.__reduce_ex__(protocol)

    def backward(self):
        run_backward(self)

    def tolist(self):
        return self.cpu().tolist()

    def record_stream(self, stream: Stream) -> None:
        self.memory.recorded.add(stream)


def host_of(tensor: Tensor) -> Tensor:
    return tensor.host if isinstance(tensor, GpuTensor) else tensor
