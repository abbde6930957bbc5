"""Where a run trains, with as many GPUs as a test says there are."""

import pytest
import torch

from common.errors import UserError
from common.system import processes
from common.system.devices import find_device


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_several_processes_without_a_gpu_are_refused_in_a_line(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "local_rank", lambda: 1)
    with pytest.raises(UserError, match=r"--device cuda cannot be used \(.+\): try --device cpu"):
        find_device("cuda")


@pytest.mark.parametrize(
    ("name", "number", "taken"), [("cuda", 2, "cuda:1"), ("cuda:2", 2, "cuda:2"), ("cuda", 1, None)]
)
def test_the_gpu_that_is_chosen_becomes_the_current_one_before_it_is_used(monkeypatch, name, number, taken):
    done = []
    monkeypatch.setattr(processes, "count", lambda: number)
    monkeypatch.setattr(processes, "local_rank", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(str(device)))
    monkeypatch.setattr(torch, "ones", lambda *args, device, **kwargs: (done.append("used"), torch.zeros(1))[1])
    assert str(find_device(name)) == (taken or name)
    assert done == ([taken] if taken else []) + ["used"]


@pytest.mark.parametrize(("is_there", "taken"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_taken_where_there_is_one_and_its_lack_is_reported(monkeypatch, log, is_there, taken):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    monkeypatch.setattr(torch, "ones", lambda *args, **kwargs: torch.zeros(1))
    assert str(find_device(None)) == taken
    assert any("no CUDA device found" in message for message in log.messages) is not is_there
