"""Which processes there are, which of them this is, and the groups through which they communicate.

There are two groups. The gloo group connects the hosts: they agree on things without waiting for a device. The NCCL
group exchanges tensors, if each process has a GPU of its own. Otherwise tensors are copied to the host and go through
gloo, too.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist

# No timeout: `lifeline` notices a process that dies, and a slow one may be busy with a download.
FOREVER = timedelta(days=365)


class _State:
    """What `connect` and `choose_group` made."""

    store: dist.Store | None = None
    nccl_group: dist.ProcessGroup | None = None


def launched_count() -> int:
    """How many processes `torchrun` started, including this one; 0 without torchrun or with a single process."""
    number = int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 0
    return number if number > 1 else 0


def connect() -> None:
    """Create the group of all processes; every process must call this once."""
    _State.store, rank, world_size = next(dist.rendezvous("env://"))
    dist.init_process_group("gloo", store=_State.store, rank=rank, world_size=world_size, timeout=FOREVER)


def store() -> dist.Store | None:
    """The key-value store that all processes share and the first one holds; None before `connect`."""
    return _State.store


def choose_group(device: torch.device) -> None:
    """Choose the group that exchanges tensors; every process must call this, with the device that it trains on."""
    if count() == 1 or _State.nccl_group is not None:
        return
    devices: list[tuple[str, str] | None] = [None] * count()
    dist.all_gather_object(devices, (os.environ["GROUP_RANK"], str(device)))
    if device.type == "cuda" and len(set(devices)) == len(devices):
        _State.nccl_group = new_group("nccl")


def new_group(backend: str) -> dist.ProcessGroup:
    """A further group of all processes; every process must call this."""
    return dist.new_group(backend=backend, timeout=FOREVER)  # type: ignore[return-value]  # every process is a member


def leave_gpus() -> None:
    """Release NCCL's resources; every process must call this."""
    if _State.nccl_group is not None:
        group, _State.nccl_group = _State.nccl_group, None
        dist.destroy_process_group(group)


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def nccl_group() -> dist.ProcessGroup | None:
    """The NCCL group; None unless each process has a GPU of its own."""
    return _State.nccl_group


def local_count() -> int:
    """How many processes there are on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if count() > 1 else 1


def local_rank() -> int:
    """Which of this machine's processes this is, from 0."""
    return int(os.environ["LOCAL_RANK"]) if count() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    return rank() == 0
