"""The device: computes on the host, and refuses what a GPU refuses or, where that is forbidden, waits for."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.gpu.kernels import KERNELS
from tests.helpers.gpu.streams import Memory, Stream
from tests.helpers.gpu.tensors import GpuTensor, host_of

aten = torch.ops.aten
COPIES = (aten._to_copy, aten.copy_)
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._unsafe_index_put)
NEED_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def tensors_in(value: Any) -> list[Tensor]:
    """Of an operation's arguments, which are tensors, lists of them, or something else."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in tensors_in(item)] if isinstance(value, list | tuple) else []


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The value with another tensor for each."""
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(mapped(function, item) for item in value) if type(value) in (list, tuple) else value


@functools.cache
def has_kernel(name: str) -> bool:
    return torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, "CUDA")


def _is_group(value: Any) -> bool:
    return isinstance(value, torch.ScriptObject) and value._type().name() == "ProcessGroup"


@functools.cache
def written(func: Any) -> tuple[tuple[str, bool], ...]:
    """The names of an operation's arguments, and whether it changes them in place."""
    return tuple((a.name, a.alias_info is not None and a.alias_info.is_write) for a in func._schema.arguments)


class Gpu(TorchDispatchMode):
    """One process's GPU.

    Args:
        index: which of the machine's it is.

    Attributes:
        current: the index of the GPU that "cuda" means.
        stream: on which operations are queued.
        may_wait: whether the host may wait for the device.
        sides: the streams besides the first one.
        groups: the names of the process groups that stand for NCCL's.
    """

    def __init__(self, index: int = 0):
        super().__init__()
        self.index, self.current, self.stream, self.may_wait = index, 0, Stream(), True
        self.sides: list[Stream] = []
        self.groups: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = tensors_in([*args, *kwargs.values()])
        on_gpu = [tensor for tensor in tensors if isinstance(tensor, GpuTensor)]
        target = self._target(kwargs, on_gpu)
        if func.namespace == "c10d" and len(on_gpu) < len(tensors):
            self._refuse_over_nccl(func, args)
        if not on_gpu and target.type == "cpu":
            return func(*args, **kwargs)
        self._refuse_mixtures(func, tensors, on_gpu)
        if not self.may_wait:
            self._refuse_waiting(func, args, kwargs, tensors, target)
        self.stream.now += 1
        self._note_accesses(func, args, kwargs)
        return self._compute(func, args, kwargs, on_gpu, target)

    def _target(self, kwargs: dict[str, Any], on_gpu: list[GpuTensor]) -> torch.device:
        """Where the results will be. What is asked for on a GPU is asked of the host."""
        asked = kwargs.get("device")
        if asked is None:
            return on_gpu[0].device if on_gpu else torch.device("cpu")
        if asked.type == "cpu":
            return asked
        kwargs["device"] = torch.device("cpu")
        index = self.current if asked.index is None else asked.index
        if asked.type != "cuda" or index != self.index:
            raise RuntimeError(
                f"this process's device is cuda:{self.index}, and a tensor is put on {asked.type}:{index}"
            )
        return torch.device("cuda", index)

    def _refuse_mixtures(self, func: Any, tensors: list[Tensor], on_gpu: list[GpuTensor]) -> None:
        """Even the host's scalars, which many operations take."""
        if on_gpu and len(on_gpu) < len(tensors) and func.overloadpacket not in COPIES:
            raise RuntimeError(f"{func} has tensors of the host and of the GPU")
        known = torch.backends.cuda.is_built() and func.namespace == "aten"
        if known and not has_kernel(func.name()):
            raise NotImplementedError(f"{func} has no kernel for CUDA")

    def _refuse_over_nccl(self, func: Any, args: tuple) -> None:
        """NCCL takes no tensors of the host."""
        groups = [dist.ProcessGroup.unbox(value) for value in args if _is_group(value)]
        if any(group.group_name in self.groups for group in groups):
            raise RuntimeError(f"{func} sends a tensor of the host over NCCL")

    def _refuse_waiting(
        self, func: Any, args: tuple, kwargs: dict[str, Any], tensors: list[Tensor], target: torch.device
    ) -> None:
        packet = func.overloadpacket
        if packet in COPIES:
            source, into = tensors[-1], tensors[0].device if packet == aten.copy_ else target
            if source.device.type == into.type:
                return
            ahead = kwargs.get("non_blocking") or True in args[2:3]
            waits = into.type == "cpu" or not (ahead and getattr(source, "in_pinned_memory", False))
        elif packet in INDEXING:  # a mask has to be counted
            waits = any(index is not None and index.dtype == torch.bool for index in args[1])
        else:
            waits = bool(NEED_VALUES & set(func.tags))
        if waits:
            raise RuntimeError(f"{func} waits for the device")

    def _note_accesses(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        for position, (name, writes) in enumerate(written(func)):
            value = args[position] if position < len(args) else kwargs.get(name)
            for tensor in tensors_in(value):
                if isinstance(tensor, GpuTensor):
                    (tensor.memory.note_write if writes else tensor.memory.note_read)(self.stream)

    def _compute(
        self, func: Any, args: tuple, kwargs: dict[str, Any], on_gpu: list[GpuTensor], target: torch.device
    ) -> Any:
        kernel = KERNELS.get(func.overloadpacket, func)
        result = kernel(*mapped(host_of, args), **{name: mapped(host_of, value) for name, value in kwargs.items()})
        if torch.Tag.inplace_view in func.tags:  # squeeze_, for example: the tensor's own shape changes, too
            with torch._C._DisableTorchDispatch():
                func(*args, **kwargs)
        itself = {id(tensor.host): tensor for tensor in on_gpu}  # what was changed in place
        memories = {tensor.host.untyped_storage()._cdata: tensor.memory for tensor in on_gpu}  # what views share

        def placed(host: Tensor) -> Tensor:
            if id(host) in itself:
                return itself[id(host)]
            if target.type == "cpu":
                return host
            memory = memories.get(host.untyped_storage()._cdata) or Memory(self.stream)
            return GpuTensor(host, memory, target)

        return mapped(placed, result)

    @contextlib.contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        """Within, operations are queued on that stream."""
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    @contextlib.contextmanager
    def no_waiting(self) -> Iterator[None]:
        """Within, what makes the host wait for the device is an error."""
        before, self.may_wait = self.may_wait, False
        try:
            yield
        finally:
            self.may_wait = before
