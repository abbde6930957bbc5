"""Which processes there are, which of them this is, and over what they talk.

There are two groups. Over gloo the hosts agree, without waiting for a device. Over NCCL tensors travel, where each
process has a GPU of its own; elsewhere they take gloo, too, through the host.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist

# A process that dies is noticed (see `lifeline`); a slow one, at a download, may be slow.
FOREVER = timedelta(days=365)


class _State:
    """What `connect` and `use` made."""

    store: dist.Store | None = None
    on_gpus: dist.ProcessGroup | None = None


def launched() -> int:
    """How many processes `torchrun` started, this one among them; 0 where it did not, or where there is only one."""
    number = int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 0
    return number if number > 1 else 0


def connect() -> None:
    """Make the group of all processes; every process must call this, once."""
    _State.store, rank, world_size = next(dist.rendezvous("env://"))
    dist.init_process_group("gloo", store=_State.store, rank=rank, world_size=world_size, timeout=FOREVER)


def store() -> dist.Store | None:
    """The table of names and numbers that all processes share, held by the first one; None before `connect`."""
    return _State.store


def use(device: torch.device) -> None:
    """Choose over what tensors travel; every process must call this, with the device that it trains on."""
    if count() == 1 or _State.on_gpus is not None:
        return
    devices: list[tuple[str, str] | None] = [None] * count()
    dist.all_gather_object(devices, (os.environ["GROUP_RANK"], str(device)))
    if device.type == "cuda" and len(set(devices)) == len(devices):
        _State.on_gpus = new_group("nccl")


def new_group(backend: str) -> dist.ProcessGroup:
    """A further group of all processes; every process must call this."""
    return dist.new_group(backend=backend, timeout=FOREVER)  # type: ignore[return-value]  # every process is a member


def leave_gpus() -> None:
    """Give NCCL's resources back; every process must call this."""
    if _State.on_gpus is not None:
        group, _State.on_gpus = _State.on_gpus, None
        dist.destroy_process_group(group)


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def on_gpus() -> dist.ProcessGroup | None:
    """The NCCL group; None where the processes do not each have a GPU of their own."""
    return _State.on_gpus


def local_count() -> int:
    """How many processes there are on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if count() > 1 else 1


def local_rank() -> int:
    """Which of this machine's processes this is, from 0."""
    return int(os.environ["LOCAL_RANK"]) if count() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0
