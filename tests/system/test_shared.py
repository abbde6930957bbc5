"""What processes exchange: a gather with gradients, weights, and random numbers. By hand, and two against one."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from common.system import checkpoint, processes, seeding
from common.system.devices import find_device
from common.system.processes import collectives
from tests.helpers.gpu.stand_in import gpu
from tests.helpers.several import Several

SIZE = 8  # of the whole batch


def gathered() -> SimpleNamespace:
    """The gather of [0, 1, 2, 3], and the gradient of the share, where process p weighs it by (1, 2, 3, 4) + 10 p."""
    processes.join()
    x = torch.arange(4.0)[processes.share(4)].requires_grad_()
    whole = processes.gather_with_gradients(x)
    (whole * (torch.arange(1.0, 5) + 10 * processes.rank())).sum().backward()
    return SimpleNamespace(whole=whole.detach(), grad=x.grad)


def trained() -> list[torch.Tensor]:
    """Three steps of a loss that mixes images and compares each with all others: weights, gradients, what was drawn."""
    processes.join()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    if processes.count() > 1:
        optimizer.register_step_pre_hook(processes.average_gradients)
    mixing, found = seeding.SharedRandom(3, "mixing"), []
    own, everything = processes.share(SIZE), torch.randn(3, SIZE, 5, dtype=torch.float64)
    for batch in everything:
        x = batch[own]
        coefficient, order = mixing.beta(0.75), mixing.permutation(SIZE)
        mixed = coefficient * x + (1 - coefficient) * processes.gather(x)[order[own]]
        queries = model(mixed)
        similarities = queries @ processes.gather_with_gradients(queries).T + mixing.uniform(SIZE, SIZE)[own]
        loss = F.cross_entropy(similarities, order[own])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found += [coefficient, order, processes.mean(loss.detach()), *(p.grad.clone() for p in model.parameters())]
    return [*found, *(p.detach() for p in model.parameters())]


@pytest.fixture(scope="module")
def both():
    return Several(2, lambda: (gathered(), trained())).results()


def test_a_gather_and_its_gradient_by_hand(both):
    first, second = (own[0] for own in both)
    assert first.whole.tolist() == second.whole.tolist() == [0, 1, 2, 3]
    assert first.grad.tolist() == [1 + 11, 2 + 12]
    assert second.grad.tolist() == [3 + 13, 4 + 14]


def test_alone_a_gather_is_the_tensor_itself():
    x = torch.arange(3.0)
    assert processes.gather_with_gradients(x) is x


def test_two_processes_that_mix_and_compare_are_one(both):
    expected = trained()
    for _, found in both:
        for tensor, other in zip(found, expected, strict=True):
            torch.testing.assert_close(tensor, other, rtol=1e-12, atol=1e-12)


# The first process's weights, and GPUs


def taken() -> list[list]:
    """What each process holds after it took the first one's: numbers, a tensor of another layout, counts."""
    processes.join()
    rank = processes.rank()
    image = torch.full((2, 3, 2, 2), rank + 0.5).to(memory_format=torch.channels_last)
    tensors = [torch.arange(3.0) + 10 * rank, image, torch.tensor(7 + rank)]
    processes.broadcast(tensors)
    return [tensor.tolist() for tensor in tensors]


def test_all_take_the_weights_of_the_first():
    expected = [[0, 1, 2], torch.full((2, 3, 2, 2), 0.5).tolist(), 7]
    assert Several(2, taken).results() == [expected, expected]


def on_one_gpu() -> list:
    """Two processes that share a GPU: no NCCL, which would refuse that, and what they exchange ends on the GPU."""
    processes.join()
    with gpu():
        device = find_device("cuda")
        processes.choose_group(device)
        assert processes.nccl_group() is None
        x = torch.arange(4.0, device=device)[processes.share(4)]
        found = [processes.gather(x), processes.sum(x), processes.mean(x)]
        processes.broadcast([x])
        assert all(tensor.is_cuda for tensor in found)
        return [tensor.tolist() for tensor in (*found, x)]


def on_own_gpus() -> None:
    """Over NCCL the tensors of the GPUs travel, and none of the host; the hosts agree over gloo."""
    processes.join()
    with gpu(processes.rank(), number=2):
        device = find_device("cuda")
        processes.choose_group(device)
        assert processes.gather(torch.ones(1, device=device)).is_cuda
        assert processes.maximum(processes.rank()) == 1
        with pytest.raises(RuntimeError, match="a tensor of the host over NCCL"):
            dist.all_reduce(torch.ones(1), group=processes.nccl_group())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_two_processes_on_one_gpu_talk_through_the_host():
    expected = [[0, 1, 2, 3], [2, 4], [1, 2], [0, 1]]
    assert Several(2, on_one_gpu).results() == [expected, expected]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_the_gpus_alone_talk_over_nccl():
    Several(2, on_own_gpus).results()


# Random numbers


def test_they_are_of_their_seed_stream_and_number():
    drawn = seeding.SharedRandom(5, "mixing")
    generators = [np.random.default_rng(seeding.derive(5, "mixing", number)) for number in (1, 2, 3, 4)]
    assert drawn.permutation(9).tolist() == generators[0].permutation(9).tolist()
    assert drawn.beta(0.75, 2).tolist() == generators[1].beta(0.75, 0.75, 2).astype(np.float32).tolist()
    assert drawn.uniform(2, 3).tolist() == generators[2].random((2, 3), dtype=np.float32).tolist()
    assert drawn.normal(2, 3).tolist() == generators[3].standard_normal((2, 3), dtype=np.float32).tolist()
    draws = [seeding.SharedRandom(*key).uniform().item() for key in ((5, "mixing"), (6, "mixing"), (5, "other"))]
    assert len(set(draws)) == 3


def test_their_distributions():
    drawn = seeding.SharedRandom(0, "mixing")
    assert sorted(drawn.permutation(50).tolist()) == list(range(50))
    uniform, beta, normal = drawn.uniform(10_000), drawn.beta(2.0, 10_000), drawn.normal(10_000)
    assert uniform.dtype == beta.dtype == normal.dtype == torch.float32
    assert normal.mean().item() == pytest.approx(0, abs=0.05)
    assert normal.var().item() == pytest.approx(1, abs=0.05)
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    assert uniform.var().item() == pytest.approx(1 / 12, abs=0.003)
    assert beta.mean().item() == pytest.approx(0.5, abs=0.01)
    assert beta.var().item() == pytest.approx(1 / 20, abs=0.003)


def test_they_go_on_from_a_checkpoint_and_leave_the_generators_alone(tmp_path):
    drawn, state = seeding.SharedRandom(0, "mixing"), (random.getstate(), torch.get_rng_state().tolist())
    drawn.uniform(3)
    checkpoint.save(tmp_path / "latest.pth", checkpoint.snapshot({"mixing": drawn}))
    expected = [drawn.uniform(3).tolist(), drawn.permutation(5).tolist()]
    resumed = seeding.SharedRandom(0, "mixing")
    checkpoint.restore({"mixing": resumed}, checkpoint.load(tmp_path / "latest.pth"), tmp_path)
    assert [resumed.uniform(3).tolist(), resumed.permutation(5).tolist()] == expected
    assert (random.getstate(), torch.get_rng_state().tolist()) == state


def test_they_are_where_the_methods_state_is():
    drawn = seeding.SharedRandom(0, "mixing").to("meta")
    assert {drawn.permutation(3).device.type, drawn.uniform().device.type, drawn.beta(1.0).device.type} == {"meta"}
    assert drawn.normal(2).device.type == "meta"


def test_a_stream_begins_on_the_gpus_as_on_the_host(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    seeding.seed_all(3, "training", 1)
    assert seeded == [torch.initial_seed()]


def test_each_machine_has_the_value_of_its_own_first_process(monkeypatch):
    """Two machines with two processes each."""
    called = []
    monkeypatch.setattr(collectives, "gather_objects", lambda value: ["a", None, "b", None])
    for rank, expected in enumerate("aabb"):
        monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(collectives, "local_rank", lambda rank=rank: rank % 2)
        assert processes.once_per_machine(lambda rank=rank: called.append(rank)) == expected
    assert called == [0, 2]
