"""BatchNorm over the whole batch of several processes, and passes that leave its running statistics alone."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import UserError
from common.system import processes


def over_processes(model: nn.Module) -> None:
    """Synchronise every BatchNorm of a model: its statistics, and their gradients, are those of the whole batch.

    With one process nothing is changed. Parameters, buffers and their names stay the same. Frozen BatchNorms (see
    `adapters`) take no statistics and are left alone.

    Args:
        model: in train mode, except for its frozen parts.

    Raises:
        UserError: the model has a BatchNorm of another kind than `KINDS`.
    """
    if processes.count() == 1:
        return
    kinds = KINDS if processes.nccl_group() is None else KINDS_ON_GPUS
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            if type(module) not in kinds:
                raise UserError(
                    f"the {type(module).__name__} '{name}' cannot take its statistics from several processes: take one"
                )
            module.__class__ = kinds[type(module)]  # in place: a new module would need each kind's arguments


@contextlib.contextmanager
def frozen_statistics(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Within the block, forward passes do not update the running statistics of a model's BatchNorms.

    In train mode BatchNorm still normalises with the batch's own statistics, and gradients flow through them. In eval
    mode it still reads the running statistics.

    Args:
        model: any network.
        enabled: False changes nothing.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats] if enabled else []
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


class WholeBatchNorm(nn.BatchNorm2d):
    """As `torch.nn.SyncBatchNorm`, which refuses the CPU: [B / processes, C, ...] -> the same shape."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept any number of dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        return _normalize(self, x) if self.training else super().forward(x)


class WholeBatchNormAct(BatchNormAct2d):
    """The same for timm's BatchNorm with an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(_normalize(self, x))) if self.training else super().forward(x)


class _OnGpus:
    """Looks the NCCL group up when it is needed. A network that stored it, as in SyncBatchNorm, could not be copied."""

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        return processes.nccl_group()


class GpuBatchNorm(_OnGpus, nn.SyncBatchNorm):  # type: ignore[override]
    """PyTorch's own. Its kernels exchange once where `WholeBatchNorm` exchanges twice."""


class GpuBatchNormAct(_OnGpus, SyncBatchNormAct):  # type: ignore[override]
    """The same for timm's BatchNorm with an activation."""


KINDS = {nn.BatchNorm1d: WholeBatchNorm, nn.BatchNorm2d: WholeBatchNorm, BatchNormAct2d: WholeBatchNormAct}
KINDS_ON_GPUS = {nn.BatchNorm1d: GpuBatchNorm, nn.BatchNorm2d: GpuBatchNorm, BatchNormAct2d: GpuBatchNormAct}


def _normalize(norm: _BatchNorm, x: Tensor) -> Tensor:
    """The variance takes a second exchange, of squared differences to the mean: E[x^2] - E[x]^2 loses digits."""
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1] + [1] * (x.ndim - 2)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = processes.mean(wide.mean(dims))
    centered = wide - mean.view(shape)
    variance = processes.mean(centered.square().mean(dims))
    _track(norm, mean.detach(), variance.detach(), x.numel() // x.shape[1] * processes.count())
    y = centered * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    return y.to(x.dtype)


@torch.no_grad()
def _track(norm: Any, mean: Tensor, variance: Tensor, number: int) -> None:
    if not norm.track_running_stats:
        return
    norm.num_batches_tracked += 1
    momentum = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    for running, new in ((norm.running_mean, mean), (norm.running_var, variance * (number / (number - 1)))):
        running.mul_(1 - momentum).add_(momentum * new)
