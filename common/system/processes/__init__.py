"""All that the suite knows of the processes of a run. With a single process, every function here returns its argument.

`torchrun` starts them. Each works on its share of every batch and holds all of the state, which is the same in all:
what a method calls global (a count, a mean, a bank) it gets from here, gradients are averaged before the optimizer's
step, and BatchNorm sees the whole batch (`batch_norm`). The loss of a run is the mean of its processes' losses, since
their shares are of one size. The first process alone writes and prints.

groups       which processes there are, which of them this is, and over what they talk
collectives  what they tell each other: sums, means, batches, gradients, weights, values of Python
lifeline     how they begin and end together, in order of time
"""

from common.system.processes.collectives import (
    average_gradients,
    by_first,
    first_of_machine_first,
    gather,
    gather_objects,
    gather_with_gradients,
    largest,
    mean,
    once_per_machine,
    parts,
    share,
    sum,
    take_from_first,
)
from common.system.processes.groups import (
    count,
    is_first,
    launched,
    local_count,
    local_rank,
    on_gpus,
    rank,
    use,
)
from common.system.processes.lifeline import join, leave

__all__ = [
    "average_gradients",
    "by_first",
    "count",
    "first_of_machine_first",
    "gather",
    "gather_objects",
    "gather_with_gradients",
    "is_first",
    "join",
    "largest",
    "launched",
    "leave",
    "local_count",
    "local_rank",
    "mean",
    "on_gpus",
    "once_per_machine",
    "parts",
    "rank",
    "share",
    "sum",
    "take_from_first",
    "use",
]
