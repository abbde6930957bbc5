"""The two learning-rate schedules. Both are stepped after every optimizer step; the first step is t = 0."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from common.errors import UserError


def schedule(optimizer: Optimizer, name: str, gamma: float, decay: float, total_steps: int) -> LambdaLR:
    """The schedule of `--lr-scheduler`; each parameter group keeps its own base rate.

    exp: lr * (1 + gamma * t) ** -decay          (supervised pretraining)
    cos: lr * max(0, cos(7 pi t / (16 T)))       (MoCo; FixMatch, arXiv:2001.07685)

    Args:
        gamma, decay: of `exp`.
        total_steps: T of `cos`.
    """
    if name == "exp":
        return LambdaLR(optimizer, lambda t: (1 + gamma * t) ** -decay)
    if name == "cos":
        return LambdaLR(optimizer, lambda t: max(0.0, math.cos(7 * math.pi * t / (16 * total_steps))))
    raise UserError(f"unknown schedule '{name}': choose exp or cos")
