"""Find the device to train on, and copy tensors to it."""

import logging

import torch
from torch import Tensor

from common.errors import UserError
from common.system import processes

logger = logging.getLogger("common")


def find_device(name: str | None) -> torch.device:
    """The device of that name; by default CUDA if there is a GPU. With several processes, each takes its own GPU.

    The GPU becomes PyTorch's current one. Otherwise operations without an explicit device would take memory on the
    first GPU.

    Args:
        name: `--device`, or None.

    Raises:
        UserError: the device does not exist, or does not compute.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu":
            logger.warning("no CUDA device found: running on the CPU, which is slow for anything but small networks")
    try:
        device = torch.device(name)
        if device == torch.device("cuda") and processes.count() > 1 and torch.cuda.device_count():
            device = torch.device("cuda", processes.local_rank() % torch.cuda.device_count())
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
        # `meta` has no values, `mps` no float64, and a GPU that is too old for this PyTorch no kernels.
        torch.ones(1, dtype=torch.float64, device=device).add(1).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"--device {name} cannot be used ({reason}): try --device cpu") from None
    return device


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host to the device, without waiting for the copy to end.

    A copy is asynchronous only from pinned memory. A tensor that is pinned already is not pinned again.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
