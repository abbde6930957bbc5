"""The processes of one run: all that the suite knows of them. With one, every function here gives back its argument.

`torchrun` starts them. Each works on its share of every batch and holds all of the state, which is the same in all:
what a method calls global (a count, a mean, a bank) it gets from here, gradients are averaged before the optimizer's
step, and BatchNorm sees the whole batch (`batch_norm`). The loss of a run is the mean of its processes' losses, since
their shares are of one size. The first process alone writes and prints.

Two groups: gloo, over which the hosts agree without waiting for a device, and NCCL for tensors, where each process has
a GPU of its own; elsewhere tensors take gloo, too, through the host.
"""

import atexit
import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

# A process that dies is noticed (see `_Lifeline`); a slow one, at a download, may be slow.
FOREVER = timedelta(days=365)


class _State:
    """What `join` made: for every process alike, but for the lifeline."""

    store: dist.Store | None = None
    on_gpus: dist.ProcessGroup | None = None
    lifeline: "_Lifeline | None" = None


def launched() -> int:
    """How many processes `torchrun` started, this one among them; 0 where it did not, or where there is only one."""
    number = int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 0
    return number if number > 1 else 0


def join() -> None:
    """Meet the other processes; they all must come. Once is enough, and alone there is nobody to meet."""
    if not launched() or dist.is_initialized():
        return
    _State.store, rank, world_size = next(dist.rendezvous("env://"))
    dist.init_process_group("gloo", store=_State.store, rank=rank, world_size=world_size, timeout=FOREVER)
    _State.lifeline = _Lifeline()
    _State.lifeline.start()


def use(device: torch.device) -> None:
    """Choose how tensors travel, from the devices of all processes."""
    if count() == 1 or _State.on_gpus is not None:
        return
    devices = gather_objects((os.environ["GROUP_RANK"], str(device)))
    if device.type == "cuda" and len(set(devices)) == len(devices):
        torch.cuda.set_device(device)
        _State.on_gpus = dist.new_group(backend="nccl", timeout=FOREVER)


def count() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def on_gpus() -> dist.ProcessGroup | None:
    """The NCCL group, where each process has a GPU of its own."""
    return _State.on_gpus


def local_count() -> int:
    """How many there are on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if count() > 1 else 1


def local_rank() -> int:
    """Which of this machine's processes this is, from 0."""
    return int(os.environ["LOCAL_RANK"]) if count() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


# What is global in a method


def sum(tensor: Tensor) -> Tensor:
    """The sum over the processes. A gradient flows back to each of them."""
    return _Sum.apply(tensor) if count() > 1 else tensor


def mean(tensor: Tensor) -> Tensor:
    """The mean over the processes: of means over their shares, the mean over the batch. A gradient flows back."""
    return sum(tensor) / count() if count() > 1 else tensor


def parts(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What each process contributes to a sum that shall be the mean."""
    return tuple(tensor / count() for tensor in tensors) if count() > 1 else tensors


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """All shares [B / count, ...] of a batch, in its order: [B, ...]. No gradient flows back."""
    if count() == 1:
        return tensor
    local = _travelling(tensor.contiguous())
    shares = [torch.empty_like(local) for _ in range(count())]
    dist.all_gather(shares, local, group=_State.on_gpus)
    return torch.cat(shares).to(tensor.device)


def share(number: int) -> slice:
    """Which of so many positions are this process's, where they can be divided."""
    size = number // count()
    return slice(rank() * size, (rank() + 1) * size)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)


def _sum(tensor: Tensor) -> Tensor:
    travelling = _travelling(tensor.clone(memory_format=torch.contiguous_format))
    dist.all_reduce(travelling, group=_State.on_gpus)
    return travelling.to(tensor.device)


def _travelling(tensor: Tensor) -> Tensor:
    return tensor if _State.on_gpus is not None else tensor.cpu()


# What keeps the processes the same


@torch.no_grad()
def average_gradients(optimizer: Optimizer, *_: Any) -> None:
    """Before the optimizer's step: the mean over the processes of each gradient, all of one type in one piece."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                by_type.setdefault(p.grad.dtype, []).append(p.grad)
    for gradients in by_type.values():
        flat = mean(torch.cat([gradient.flatten() for gradient in gradients]))
        pieces = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [piece.view(g.shape) for piece, g in zip(pieces, gradients, strict=True)])


@torch.no_grad()
def take_from_first(tensors: list[Tensor]) -> None:
    """Overwrite the tensors by the first process's."""
    if count() > 1:
        for tensor in tensors:
            travelling = _travelling(tensor.contiguous())
            dist.broadcast(travelling, 0, group=_State.on_gpus)
            tensor.copy_(travelling)


def by_first(function: Callable) -> Callable:
    """Decorates what the first process alone does; the others wait, and get the value that it returned."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if count() == 1:
            return function(*args, **kwargs)
        value = [function(*args, **kwargs) if is_first() else None]
        dist.broadcast_object_list(value, 0)
        return value[0]

    return wrapped


@contextlib.contextmanager
def first_of_machine_first() -> Iterator[None]:
    """Within, the first process of each machine comes alone, and the others after it: they find what it downloaded."""
    if local_rank() > 0:
        _wait_for_all()
    try:
        yield
    finally:
        if local_rank() == 0:
            _wait_for_all()


def once_per_machine(function: Callable[[], Any]) -> Any:
    """What the function returned in the first process of this machine; the others wait."""
    values = gather_objects(function() if local_rank() == 0 else None)
    return values[rank() - local_rank()]


def gather_objects(value: Any) -> list[Any]:
    """Every process's value, in order of their ranks."""
    if count() == 1:
        return [value]
    values = [None] * count()
    dist.all_gather_object(values, value)
    return values


def largest(number: int) -> int:
    """The largest of the processes' numbers. The host alone is asked, not the device."""
    if count() == 1:
        return number
    numbers = torch.tensor(number)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def _wait_for_all() -> None:
    if count() > 1:
        dist.barrier()


# How they end


def leave(code: int, line: str | None = None) -> None:
    """Tell the others that this process ends with that exit code: with another than 0 they all do, and at once.

    One of several processes is ended here, if the code is not 0. Alone, it goes on.

    Args:
        line: to stderr, from the first that has something to say, and from it alone.
    """
    lifeline = _State.lifeline
    if lifeline is not None:
        lifeline.ends_this.acquire()  # or the listener has it, and ends this process now
        _State.lifeline = None
        for signum in (signal.SIGTERM, signal.SIGINT):  # torchrun sends them as soon as the first of them is gone
            signal.signal(signum, signal.SIG_IGN)
    if line is not None:
        _say_once(line)
    if lifeline is not None:
        lifeline.cut(code)
        if code:
            _leave_the_store()
            _end(code)
        lifeline.listener.join(60)  # a thread that still waits for another process would abort the interpreter's end


def _leave_the_store() -> None:
    """Ask the store no more. The first process holds it, and it tells the others whether their line was said.

    So the first ends last, but waits for seconds at the most: one that was killed does not tell that it is gone.
    """
    with contextlib.suppress(RuntimeError):  # it went with its process
        _State.store.add("gone", 1)
    deadline = time.monotonic() + 3
    while is_first() and _State.store.add("gone", 0) < count() and time.monotonic() < deadline:
        time.sleep(0.01)


def _end(code: int) -> NoReturn:
    """Without the interpreter's own end, which waits for threads that wait for other processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _say_once(line: str) -> None:
    if _is_the_first_to_speak():
        print(line, file=sys.stderr, flush=True)


def _is_the_first_to_speak() -> bool:
    if not launched():
        return True
    if _State.store is None:  # what went wrong before they met, a flag for example, went wrong in all of a machine
        return os.environ["LOCAL_RANK"] == "0"
    try:
        return _State.store.add("spoken", 1) == 1
    except RuntimeError:  # the store went with its process
        return True


class _Lifeline:
    """Each process listens to the next one, in a ring: for the code with which it ends, or for its silent death.

    Whoever waits in a collective for one that is gone would wait for long. The connection of a dead process breaks at
    once, killed or not, and its listener ends itself, which in turn ends the one that listens to it.
    """

    def __init__(self) -> None:
        self.group = dist.new_group(backend="gloo", timeout=FOREVER)
        self.next, self.previous = (rank() + 1) % count(), (rank() - 1) % count()
        largest(0)  # all of them are there
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.ends_this = threading.Lock()  # taken for good by whoever ends this process: it, or its listener

    def start(self) -> None:
        """From now on nobody ends alone."""
        self.listener.start()
        atexit.register(leave, 1)  # an unforeseen error: who ends as foreseen has left before
        sys.excepthook = self._after_the_listener(sys.excepthook)
        threading.Thread(target=self._watch, args=(os.getppid(),), daemon=True).start()

    def cut(self, code: int) -> None:
        """Pass the code on to whoever listens."""
        with contextlib.suppress(RuntimeError):  # nobody listens any more
            dist.send(torch.tensor(code), self.previous, group=self.group)

    def _listen(self) -> None:
        code, died = torch.tensor(0), False
        try:
            dist.recv(code, self.next, group=self.group)
        except RuntimeError:
            code, died = torch.tensor(1), True
        if int(code) and self.ends_this.acquire(blocking=False):
            if died:
                _say_once(
                    f"error: process {self.next} of {count()} died: the same command goes on from the last checkpoint"
                )
            self.cut(int(code))
            if not died:  # a dead one would not be counted as gone
                _leave_the_store()
            _end(int(code))

    def _after_the_listener(self, print_traceback: Callable) -> Callable:
        """Another's death makes this one's collectives fail, too: the listener says so, and ends this process."""

        def hook(*error: Any) -> None:
            self.listener.join(1)
            print_traceback(*error)

        return hook

    def _watch(self, launcher: int) -> None:
        """torchrun's own death, by kill -9, would leave its processes running: they stop as if it had asked them to."""
        while os.getppid() == launcher:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
