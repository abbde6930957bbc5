"""SyncBatchNorm's five operations, which PyTorch has for CUDA alone, for tensors of the host [B, C, ...]."""

import torch
from torch import Tensor


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))


def _dims(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def stats(x, eps):
    mean = _wide(x).mean(_dims(x))
    return mean, (_wide(x).var(_dims(x), unbiased=False) + eps).rsqrt()


def gather_stats_with_counts(x, means, invstds, running_mean, running_var, momentum, eps, counts):
    """From statistics [processes, C] of shares of `counts` values to those of the whole; they move the running ones."""
    weights = (counts / counts.sum())[:, None]
    mean = (weights * means).sum(0)
    variance = (weights * (invstds**-2 - eps + (means - mean) ** 2)).sum(0)
    if running_mean is not None:
        number = counts.sum()
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * number / (number - 1), momentum)
    return mean, (variance + eps).rsqrt()


def elemt(x, weight, bias, mean, invstd, eps):
    y = (_wide(x) - _per_channel(mean, x)) * _per_channel(invstd, x)
    if weight is not None:
        y = y * _per_channel(weight, x) + _per_channel(bias, x)
    return y.to(x.dtype)


def backward_reduce(dy, x, mean, invstd, weight, for_input, for_weight, for_bias):
    sum_dy = _wide(dy).sum(_dims(x))
    sum_dy_xmu = (_wide(dy) * (_wide(x) - _per_channel(mean, x))).sum(_dims(x))
    return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd if for_weight else None, sum_dy if for_bias else None


def backward_elemt(dy, x, mean, invstd, weight, sum_dy, sum_dy_xmu, counts):
    number = counts.sum()
    slope = _per_channel(sum_dy_xmu * invstd**2 / number, x) * (_wide(x) - _per_channel(mean, x))
    scale = invstd if weight is None else invstd * weight
    return ((_wide(dy) - _per_channel(sum_dy / number, x) - slope) * _per_channel(scale, x)).to(x.dtype)


aten = torch.ops.aten
KERNELS = {
    aten.batch_norm_stats: stats,
    aten.batch_norm_gather_stats_with_counts: gather_stats_with_counts,
    aten.batch_norm_elemt: elemt,
    aten.batch_norm_backward_reduce: backward_reduce,
    aten.batch_norm_backward_elemt: backward_elemt,
}
