"""Whatever goes wrong in a loader outside of an image is one line, within seconds."""

import itertools
import multiprocessing
import os
import resource
import signal
import threading
import time

import pytest
import torch

from common.errors import UserError
from common.loading import loaders, workers
from common.loading.augment import Transform
from common.loading.loaders import TestLoader, TrainLoader
from tests.loading.test_loaders import WEAK, image_set, options

SECONDS = 20  # without the mend, these wait without end or for a minute


@pytest.fixture(autouse=True)
def _ends():
    """A test that hangs is interrupted."""

    def expire(signum, frame):
        pytest.fail(f"not done after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def loader(view=WEAK, workers: int = 2) -> TrainLoader:
    return TrainLoader(image_set(23), [view], 4, "unlabeled", 0, **options(workers))


def failure(batches) -> str:
    with pytest.raises(UserError) as error:
        list(itertools.islice(batches, 10))
    message = str(error.value.with_traceback(None))
    assert "\n" not in message
    return message


def slow(pixels):
    time.sleep(60)
    return pixels


def test_a_folder_for_sockets_with_too_long_a_path(tmp_path, monkeypatch):
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", str(folder))
    assert "set TMPDIR to a shorter one, or use -j 0" in failure(loader().batches(0))


def test_too_little_shared_memory(monkeypatch):
    def full(samples):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(loaders, "default_collate", full)
    for batches in (loader().batches(0), iter(TestLoader(image_set(9), WEAK, **options(1)))):
        message = failure(batches)
        assert "start the container with --ipc=host" in message
        assert message.endswith(" or use -j 0")  # nothing of images


def test_too_few_open_files():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    batches, taken = loader().batches(0), os.dup(0)
    os.close(taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 4, limits[1]))
    try:
        message = failure(batches)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert message == workers.TOO_MANY_FILES


def one_of(batches) -> int:
    """The process id of one of the workers that make the batches."""
    before = set(multiprocessing.active_children())
    next(batches)
    return next(child.pid for child in multiprocessing.active_children() if child not in before)


def test_a_worker_killed_between_two_batches():
    batches = loader().batches(0)
    os.kill(one_of(batches), signal.SIGKILL)
    time.sleep(0.2)  # a step: PyTorch's own handler would end it half-way
    assert failure(batches).startswith(
        "a loader process was killed by SIGKILL, as the kernel does when memory runs out: "
    )


class Ending:
    """A killed process whose files are closed, and whose exit code is there as soon as somebody waits for it."""

    exitcode = None

    def __init__(self):
        self.sentinel, other = os.pipe()
        os.close(other)

    def join(self, timeout: float) -> None:
        self.exitcode = -signal.SIGKILL


def test_a_killed_workers_exit_code_is_waited_for():
    reader, ending = workers.Reader(None), Ending()
    reader.processes = [ending]

    def reset():
        raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises(UserError, match="killed by SIGKILL"):
        reader._explained(reset)
    os.close(ending.sentinel)


def test_a_worker_killed_while_its_batch_is_awaited():
    batches = loader(Transform("slow", [slow])).batches(0)
    before = set(multiprocessing.active_children())

    killed = []

    def kill():
        while not (begun := [child for child in multiprocessing.active_children() if child not in before]):
            time.sleep(0.05)  # on a busy machine
        time.sleep(0.5)
        os.kill(begun[0].pid, signal.SIGKILL)
        killed.append(time.monotonic())

    threading.Thread(target=kill, daemon=True).start()
    assert "killed by SIGKILL" in failure(batches)
    assert time.monotonic() - killed[0] < 15  # five of them for the other one to be asked and terminated


@pytest.mark.parametrize("signum", [signal.SIGBUS, signal.SIGSEGV])
def test_a_worker_that_kills_itself(signum):
    def die(pixels):
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    message = failure(loader(Transform("dying", [die])).batches(0))
    assert message == workers.NO_SHARED_MEMORY if signum == signal.SIGBUS else "killed by SIGSEGV:" in message


def test_a_worker_that_may_start_no_thread(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    batches = loader().batches(0)
    begin = workers.begin

    def without_threads(worker):
        monkeypatch.setattr(threading.Thread, "start", start)
        begin(worker)

    monkeypatch.setattr(loaders, "begin", without_threads)
    assert failure(batches) == workers.TOO_MANY_PROCESSES


@pytest.mark.parametrize("count", [0, 1])
def test_a_programming_error_keeps_its_traceback(count):
    def wrong(pixels):
        raise RuntimeError("Too many open files in a view")

    with pytest.raises(RuntimeError, match="Too many open files in a view"):
        next(loader(Transform("wrong", [wrong]), count).batches(0))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("AF_UNIX path too long"), workers.LONG_PATH),
        (OSError(24, "Too many open files"), workers.TOO_MANY_FILES),
        (RuntimeError("received 0 items of ancdata"), workers.TOO_MANY_FILES),
        (
            RuntimeError("unable to open shared memory object </torch_1>: Too many open files (24)"),
            workers.TOO_MANY_FILES,
        ),
        (RuntimeError("unable to mmap 9 bytes from file </torch_1>: Cannot allocate memory (12)"), workers.NO_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), workers.NO_MEMORY),
        (MemoryError(), workers.NO_MEMORY),
        (BlockingIOError(11, "Resource temporarily unavailable"), workers.TOO_MANY_PROCESSES),
        (RuntimeError("stack expects each tensor to be equal size"), None),
    ],
    ids=str,
)
def test_causes_are_told_apart(error, line):
    assert workers.explain(error) == line


def test_an_unknown_cause_is_reported_in_its_own_words():
    assert "([Errno 30] Read-only file system: '/dev/shm/x')" in workers.explain(
        OSError(30, "Read-only file system", "/dev/shm/x")
    )
    assert "(EOFError)" in workers.explain(EOFError())


def test_pytorchs_handler_is_not_left_behind():
    """It would raise in the middle of a step."""
    before = signal.getsignal(signal.SIGCHLD)
    next(loader().batches(0))
    assert signal.getsignal(signal.SIGCHLD) == before


def test_a_parcel_is_pinned_throughout(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    (views, errors), other = workers.Parcel(((torch.zeros(2), {0: "x"}), None)).pin_memory()
    assert torch.equal(views, torch.ones(2))
    assert (errors, other) == ({0: "x"}, None)
