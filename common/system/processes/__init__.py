"""The processes of one run. With a single process, all of this does nothing.

`torchrun` starts them. Each process works on its share of every batch and holds the whole state, which is the same in
all of them. What is global in a method (a count, a mean, a bank) is exchanged by the functions here. Gradients are
averaged before the optimizer's step, and BatchNorm sees the whole batch (`networks/batch_norm.py`). The shares are of
equal size, so the loss of the run is the mean of the processes' losses. Only the first process writes and prints.

groups       which processes there are, which of them this is, and the groups through which they communicate
collectives  what they exchange: sums, means, batches, gradients, weights, Python objects
lifeline     how they begin and end together, and how one that dies ends the others
"""

from common.system.processes.collectives import (
    average_gradients,
    broadcast,
    by_first,
    first_of_machine_first,
    gather,
    gather_objects,
    gather_with_gradients,
    maximum,
    mean,
    once_per_machine,
    share,
    sum,
)
from common.system.processes.groups import (
    choose_group,
    count,
    is_first,
    launched_count,
    local_count,
    local_rank,
    nccl_group,
    rank,
)
from common.system.processes.lifeline import join, leave

__all__ = [
    "average_gradients",
    "broadcast",
    "by_first",
    "choose_group",
    "count",
    "first_of_machine_first",
    "gather",
    "gather_objects",
    "gather_with_gradients",
    "is_first",
    "join",
    "launched_count",
    "leave",
    "local_count",
    "local_rank",
    "maximum",
    "mean",
    "nccl_group",
    "once_per_machine",
    "rank",
    "share",
    "sum",
]
