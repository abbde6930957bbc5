"""Where to train, and how tensors get there."""

import logging

import torch
from torch import Tensor

from common.errors import UserError
from common.system import processes

logger = logging.getLogger("common")


def find_device(name: str | None) -> torch.device:
    """The device of that name, by default CUDA where there is one; of several GPUs each process takes its own.

    A GPU is made the current one: what asks for no device in particular, a stream's end say, would otherwise take
    memory on the first GPU.

    Raises:
        UserError: it does not exist, or does not compute.
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
    """Copy a tensor of the host to the device, without waiting for it.

    Only from pinned memory does a copy not hold up the main process; what is pinned already is left as it is.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
