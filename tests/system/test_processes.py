"""One run on several processes is the run of one, up to rounding: steps, BatchNorm, loaders, state, and how it ends."""

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

import fixmatch
from common.errors import UserError
from common.loading.loaders import Batch, TestLoader, TrainLoader
from common.networks import batch_norm
from common.system import checkpoint, processes
from common.system.processes import groups, lifeline
from common.training import evaluate
from common.training.meters import Meters
from tests.conftest import (
    ROOT,
    SMALL,
    assert_equal_states,
    assert_same_run,
    final_state,
    read_rows,
    resolved,
    train_small,
)
from tests.helpers import steps
from tests.helpers.few_images import few_images
from tests.helpers.several import Several, exact, launch
from tests.helpers.stops import stop_in_step
from tests.loading.test_loaders import TEST, image_set, options, take, train_loader
from tests.methods import test_parity
from tests.methods.test_methods import METHODS

COUNTS = (2, 4)
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
FIRST = [case for case in test_parity.CASES if "," not in case]  # one of each method
SIZE = 8  # of a batch of `steps`
# Before a BatchNorm a bias would have rounding errors for a gradient, which AdamW makes into steps.
VIT = "-a test_vit --optimizer adamw --lr 0.01 --bottleneck-dim 1024 --no-bottleneck"
COMPLETE = "fixmatch"  # of WHOLE, what an interrupted run is compared with; the others are shorter
WHOLE = {  # name -> flags, of whole runs of the method that the name begins with
    **METHODS,
    "fixmatch --val-per-class --init-from": (
        f"{METHODS['fixmatch']} --val-per-class 1 --balanced-batches --init-from @erm"
    ),
    "fixmatch --adapter": f"{METHODS['fixmatch']} {VIT} --adapter 4",
    "erm --lora": f"{VIT} --lora 2",
}


class Shares(steps.Epochs):
    """This process's share of each batch, in one type of numbers."""

    def __init__(self, method: str, dtype: torch.dtype):
        super().__init__(method, test_parity.LENGTHS)
        self.dtype = dtype

    def steps(self, *loaders):
        own = processes.share(SIZE)
        for data in super().steps(*loaders):
            yield tuple(
                Batch(tuple(view[own].to(self.dtype) for view in b.views), b.labels[own], b.indices[own]) for b in data
            )


def five_steps(case: str, dtype: torch.dtype) -> tuple[list[dict], dict]:
    """The parity tests' steps without dropout, over an epoch's end: each step's metrics, and all state."""
    method, flags = test_parity.CASES[case]
    args, setup, scheduler, _ = test_parity.scripts(method, flags)
    for network in (setup.model, *setup.state):
        network.to(dtype)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    if processes.count() > 1:
        setup.optimizer.register_step_pre_hook(processes.average_gradients)
    with mock.patch.object(torch.Tensor, "float", lambda tensor: tensor.to(dtype)):  # logits are float32 otherwise
        trained = Shares(method, dtype).train(setup, args, scheduler)
    rows = []
    for step, metrics in enumerate(trained):
        meters = Meters(torch.device("cpu"))
        meters.update(metrics, step + 1)
        rows.append(meters.averages())
    return rows, steps.everything(setup)


def all_steps() -> dict:
    """All cases in float64, by one process and by two, and FIRST in float32. By four, FIRST in float64."""
    processes.join()
    keys = [(case, torch.float64) for case in (FIRST if processes.count() == 4 else test_parity.CASES)]
    keys += [(case, torch.float32) for case in FIRST if processes.count() < 4]
    return {key: five_steps(*key) for key in keys}


NORMS = {
    "1d": (lambda: nn.BatchNorm1d(3), (SIZE, 3)),
    "2d": (lambda: nn.BatchNorm2d(3, momentum=0.3), (SIZE, 3, 5, 2)),
    "2d without weights, cumulative": (lambda: nn.BatchNorm2d(3, affine=False, momentum=None), (SIZE, 3, 5, 2)),
    "with activation": (lambda: BatchNormAct2d(3), (SIZE, 3, 5, 2)),
}


def normalized(name: str, dtype: torch.dtype, channels_last: bool = False) -> list[torch.Tensor]:
    """Two passes of a batch far from zero: outputs and gradients of the whole batch, weights' gradients, buffers."""
    make, shape = NORMS[name]
    model = nn.Sequential(make()).to(dtype)
    g = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g).to(dtype)
    batch_norm.over_processes(model)
    found = []
    for _ in range(2):
        x, weight = (torch.randn(shape, generator=g).to(dtype) for _ in range(2))
        if channels_last:
            x = x.to(memory_format=torch.channels_last)
        x = (2 + x)[processes.share(SIZE)].requires_grad_()
        y = model(x)
        if channels_last:
            assert y.is_contiguous(memory_format=torch.channels_last)
        (y * weight[processes.share(SIZE)]).sum().backward()
        found += [processes.gather(y.detach()), processes.gather(x.grad)]
    found += [processes.sum(p.grad) for p in model.parameters()]
    return [*found, *model.state_dict().values(), model.eval()(x.detach())[:0]]


def all_norms() -> dict:
    processes.join()
    found = {(name, dtype): normalized(name, dtype) for name in NORMS for dtype in TOLERANCES}
    return found | {("channels last", torch.float32): normalized("2d", torch.float32, channels_last=True)}


def all_batches() -> tuple[list[Batch], list[torch.Tensor], dict]:
    """Of training, across the end of a pass, and of testing; and a network's scores."""
    processes.join()
    trained = take(train_loader(batch_size=8, number=30), 5, start=1)
    loader = TestLoader(image_set(21), TEST, **options(cache=1), batch_size=4)
    tested = [images for _ in range(2) for images, _ in loader]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    network(tested[0])
    return trained, tested, evaluate.evaluate(network, loader, 5)


@pytest.fixture(scope="module")
def alone():
    return SimpleNamespace(steps=all_steps(), norms=all_norms(), batches=all_batches())


@pytest.fixture(scope="module")
def found_by():
    """count -> what each of so many processes found, by rank."""

    @functools.cache
    def found(count: int) -> list[SimpleNamespace]:
        results = Several(count, lambda: (all_steps(), all_norms(), all_batches())).results()
        return [SimpleNamespace(steps=own[0], norms=own[1], batches=own[2]) for own in results]

    return found


@pytest.fixture(params=COUNTS)
def several(request, found_by):
    """What each of two and of four processes found, by rank; they are asked once, whatever the order of the tests."""
    return found_by(request.param)


def assert_near(actual, expected, tolerance: float, what: str) -> None:
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), what
        for name in expected:
            assert_near(actual[name], expected[name], tolerance, f"{what} {name}")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), what
        for number, (x, y) in enumerate(zip(actual, expected, strict=True)):
            assert_near(x, y, tolerance, f"{what} {number}")
    elif isinstance(expected, torch.Tensor | float | int) and not isinstance(expected, bool):
        actual, expected = torch.as_tensor(actual).double(), torch.as_tensor(expected).double()
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, msg=lambda s: f"{what}: {s}")
    else:
        assert actual == expected, what


def test_five_steps_are_those_of_one_process(alone, several):
    for own in several:
        for (case, dtype), found in own.steps.items():
            assert_near(found, alone.steps[case, dtype], TOLERANCES[dtype], f"{case} in {dtype}: metrics or state")


def test_masks_are_neither_empty_nor_full(alone):
    for (case, _), (rows, _) in alone.steps.items():
        ratios = [row["pseudo_label_ratio"] for row in rows if "pseudo_label_ratio" in row]
        assert not ratios or any(0 < ratio < 100 for ratio in ratios) or case == "flexmatch, warm-up", case


def test_all_processes_hold_the_same_bits(several):
    first, *others = [own.steps for own in several]
    for other in others:
        for key in first:
            assert_near(other[key][1], first[key][1], 0.0, str(key))


def test_batch_norm_is_that_of_the_whole_batch(alone, several):
    for own in several:
        for key, expected in alone.norms.items():
            assert_near(own.norms[key], expected, TOLERANCES[key[1]], str(key))


def test_a_batch_norm_of_another_kind_is_refused():
    class Own(nn.BatchNorm2d):
        pass

    with mock.patch.object(processes, "count", return_value=2), pytest.raises(UserError, match="Own '1' cannot"):
        batch_norm.over_processes(nn.Sequential(nn.ReLU(), Own(3)))


def test_shares_make_up_the_batches_of_one_process(alone, several):
    trained, tested, scores = alone.batches
    for step, whole in enumerate(trained):
        shares = [own.batches[0][step] for own in several]
        for number, view in enumerate(whole.views):
            assert torch.equal(torch.cat([share.views[number] for share in shares]), view)
        assert torch.equal(torch.cat([share.indices for share in shares]), whole.indices)
        assert torch.equal(torch.cat([share.labels for share in shares]), whole.labels)
    found = [images for own in several for images in own.batches[1]]
    assert sorted(map(hash_of, found)) == sorted(map(hash_of, tested))  # none twice, none padded
    for own in several:
        assert_near(own.batches[2], scores, 1e-10, "scores")


def hash_of(images: torch.Tensor) -> bytes:
    return images.numpy().tobytes()


# Whole runs


def arguments(method: str, log, *flags: str) -> list[str]:
    return [*SMALL, *resolved(METHODS[method].split()), *flags, "--log", str(log)]


def exact_run(method: str, log, *flags: str) -> None:
    with exact():
        launch(method, arguments(method, log, *flags))


def assert_near_runs(a, b, tolerance: float = 1e-9) -> None:
    states = [final_state(folder) for folder in (a, b)]
    for state in states:
        for name in ("rng", "args", "seconds", "sessions"):
            del state[name]
    assert_near(states[0], states[1], tolerance, "state")
    assert_near(read_rows(a), read_rows(b), tolerance, "metrics")


SHARED = 70  # test images: two batches, one for each process


def all_runs(folder) -> None:
    for name, flags in WHOLE.items():
        if "--lora" not in flags or find_spec("peft"):
            words = resolved(flags.split())  # the runs that vote are made by one process, and as they are
            words += [] if name == COMPLETE else ["--iters-per-epoch", "2"]
            with exact(), few_images(test=SHARED):
                train_small(name.split()[0], *words, log=folder / name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders with the runs of WHOLE, by one process and by two, and what the two of them printed."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    all_runs(one)
    both = Several(2, lambda: all_runs(two))
    both.results(1200)
    return SimpleNamespace(one=one, two=two, stdout=both.stdout)


@pytest.mark.parametrize("name", WHOLE)
def test_a_run_of_two_is_that_of_one(name, runs):
    if "--lora" in name:
        pytest.importorskip("peft")
    one, two = runs.one / name, runs.two / name
    assert_near_runs(two, one)
    more = ["held_out.csv"] if "--val-per-class" in name else []
    for file in ("labeled.json", "views.png", "per_class.csv", "report.png", *more):
        assert (two / file).read_bytes() == (one / file).read_bytes()
    assert json.loads((two / "result.json").read_text())["processes"] == 2


def test_the_first_of_two_speaks_alone(runs):
    assert runs.stdout.count("finished:") == len(list(runs.two.iterdir()))


def interrupted_run(folder: Path, method: str, *flags: str) -> dict:
    """A run undisturbed and one interrupted; what this process held at the end of the latter."""
    held, snapshot = [], checkpoint.snapshot
    train_small(method, *flags, log=folder / "whole")
    stop_in_step(2, method, *flags, log=folder / "parts")
    with mock.patch.object(checkpoint, "snapshot", lambda state: (held.append(state), snapshot(state))[1]):
        train_small(method, *flags, log=folder / "parts")
    return snapshot(held[-1])


def test_in_bfloat16_it_continues_to_the_same_bits_in_all_processes(tmp_path):
    """From one process it differs by more than rounding in float32 would: sums of other parts are rounded early."""
    flags = *METHODS["fixmatch"].split(), "--precision", "bf16", "--epochs", "1"
    first, second = Several(2, lambda: interrupted_run(tmp_path, "fixmatch", *flags)).results()
    assert_equal_states(first, second)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path):
    run = Several(2, lambda: launch("fixmatch", arguments("fixmatch", tmp_path, "--unlabeled-batch-size", "7")))
    assert run.wait() == [2, 2]
    assert run.stderr == (
        "error: unlabeled batches of 7 images cannot be divided among 2 processes: take 6 or 8, or fewer processes\n"
    )


def test_an_error_before_they_meet_is_said_once_on_each_machine(tmp_path):
    def work():
        os.environ["LOCAL_RANK"] = str(int(os.environ["RANK"]) % 2)  # two machines with two each
        launch("fixmatch", arguments("fixmatch", tmp_path, "--lr", "-1"))

    run = Several(4, work)
    assert run.wait() == [2, 2, 2, 2]
    assert run.stderr.count("must be a finite number above 0, got '-1'") == run.stderr.count("\n") == 2


# How they end


def in_step(number: int, rank: int, action: Callable[[], None]) -> None:
    """Have that process do something in its `number`-th step, of fixmatch."""
    train_step, taken = fixmatch.train_step, []

    def step(*args):
        taken.append(1)
        if len(taken) == number and processes.rank() == rank:
            action()
        return train_step(*args)

    fixmatch.train_step = step


def stopped(log, rank: int, number: int, action: Callable[[], None], *flags: str) -> Several:
    """Two processes, in one of which something happens."""

    def work():
        in_step(number, rank, action)
        exact_run("fixmatch", log, *flags)

    return Several(2, work)


def refuse() -> None:
    raise UserError("image 'x.png' is broken: remove it")


def send(signum: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signum)


def test_a_signal_to_one_stops_both_after_the_same_step_and_they_continue(tmp_path, runs):
    with few_images(test=SHARED):  # as the run that it is compared with
        run = stopped(tmp_path, 1, 2, send(signal.SIGTERM))
        assert run.wait() == [143, 143], run.stderr
        assert run.stderr.count("stopped by SIGTERM after step 2, and saved") == run.stderr.count("\n") == 1
        assert final_state(tmp_path)["step"] == 2

        run = stopped(tmp_path, 0, 3, send(signal.SIGINT))  # of its life: the fifth of the run
        assert run.wait() == [130, 130], run.stderr
        assert final_state(tmp_path)["step"] == 5

        with exact():
            train_small("fixmatch", *METHODS["fixmatch"].split(), log=tmp_path)
        assert "the checkpoint is of 2 processes, and these are 1" in (tmp_path / "log.txt").read_text()
    assert_near_runs(tmp_path, runs.one / COMPLETE)


def test_a_killed_one_ends_both_and_they_resume_to_the_same_bits(tmp_path):
    """With dropout: each process draws its own."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert Several(2, lambda: launch("fixmatch", arguments("fixmatch", whole))).wait() == [0, 0]

    def work():
        in_step(5, 1, send(signal.SIGKILL))
        launch("fixmatch", arguments("fixmatch", parts))

    begin = time.monotonic()
    run = Several(2, work)
    assert run.wait(60) == [1, -9], run.stderr
    assert time.monotonic() - begin < 30
    assert run.stderr == "error: process 1 of 2 died: the same command goes on from the last checkpoint\n"
    assert final_state(parts)["step"] == 3
    assert Several(2, lambda: launch("fixmatch", arguments("fixmatch", parts))).wait() == [0, 0]
    assert_same_run(whole, parts)
    assert len(final_state(whole)["rng"]["others"]) == 1


def test_a_death_is_reported_in_a_line_where_the_error_that_it_makes_comes_first():
    def work():
        processes.join()
        if processes.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        say = lifeline._say_once
        lifeline._say_once = lambda line: (time.sleep(0.3), say(line))
        processes.maximum(0)

    run = Several(2, work)
    assert run.wait(60) == [1, -9]
    assert run.stderr == "error: process 1 of 2 died: the same command goes on from the last checkpoint\n"


def test_a_death_while_another_gives_its_gpu_back_ends_that_one():
    def work():
        processes.join()
        groups._State.nccl_group = dist.new_group(backend="gloo")
        if processes.rank() == 1:
            groups.store().wait(["leaving"])
            os.kill(os.getpid(), signal.SIGKILL)
        dist.destroy_process_group = lambda group: (groups.store().set("leaving", "yes"), time.sleep(60))

    run = Several(2, work)
    assert run.wait(30) == [1, -9]
    assert run.stderr == "error: process 1 of 2 died: the same command goes on from the last checkpoint\n"


def test_an_unforeseen_error_keeps_its_traceback_and_ends_both():
    def work():
        processes.join()
        return processes.maximum(0) if processes.rank() else {}["nothing"]

    run = Several(2, work)
    assert run.wait(60) == [1, 1]
    assert run.stderr.count("KeyError: 'nothing'") == run.stderr.count("Traceback") == 1, run.stderr


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_in_one_is_one_line_and_ends_both(rank, tmp_path):
    run = stopped(tmp_path, rank, 2, refuse)
    assert run.wait(60) == [2, 2], run.stderr
    assert run.stderr == "error: image 'x.png' is broken: remove it\n"


def test_a_loader_that_fails_in_one_saves_the_steps_before_and_ends_both(tmp_path):
    def work():
        batches = TrainLoader.batches

        def failing(loader, step):
            yield from itertools.islice(batches(loader, step), 2)
            raise UserError("no shared memory: use -j 0")

        if os.environ["RANK"] == "1":
            TrainLoader.batches = failing
        exact_run("fixmatch", tmp_path)

    run = Several(2, work)
    assert run.wait(60) == [2, 2], run.stderr
    assert run.stderr == "error: no shared memory: use -j 0; step 2 is saved: the same command continues\n"
    assert final_state(tmp_path)["step"] == 2


def test_a_slow_one_does_not_say_again_what_the_first_said(tmp_path):
    """Both stop for the same reason, and the first, whose store knows what was said, waits for the other."""

    def work():
        say = lifeline._say_once
        lifeline._say_once = lambda line: (time.sleep(processes.rank()), say(line))
        in_step(2, 0, send(signal.SIGTERM))
        exact_run("fixmatch", tmp_path)

    run = Several(2, work)
    assert run.wait(60) == [143, 143], run.stderr
    assert run.stderr.count("stopped by SIGTERM") == run.stderr.count("\n") == 1, run.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_torchrun_passes_a_signal_on_and_leaves_no_process(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--"]
    command += ["fixmatch.py", *arguments("fixmatch", tmp_path, "--iters-per-epoch", "5000")]
    with open(tmp_path / "printed", "w") as printed:
        launcher = subprocess.Popen(command, cwd=ROOT, stdout=printed, stderr=printed, start_new_session=True)
    log, deadline = tmp_path / "log.txt", time.monotonic() + 120
    while not (log.is_file() and " step " in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    launcher.terminate()
    assert launcher.wait(60) != 0
    said = (tmp_path / "printed").read_text()
    assert said.count("stopped by SIGTERM after step ") == 1, said
    assert f"after step {final_state(tmp_path)['step']}, and saved" in said
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and str(tmp_path) in command_line(pid)]


def command_line(pid: str) -> str:
    try:
        return Path("/proc", pid, "cmdline").read_text()
    except OSError:  # gone by now
        return ""
