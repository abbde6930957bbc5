"""The benchmark runs, and plain mode does the same work as this project: the comparison is a fair one."""

import copy
import functools
import json
from unittest import mock

import pytest
import torch
from torch.nn import functional as F

import fixmatch
import flexmatch
import self_tuning
from common import datasets
from common.loading import augment
from common.system import seeding
from common.training import optim
from common.training.evaluate import evaluate
from scripts import benchmark
from scripts.bench import measures, plain, processes
from tests.helpers import steps


@pytest.fixture
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_threads")
def test_the_quick_form_runs(tmp_path, capsys):
    file = tmp_path / "result.json"
    argv = ["--quick", "--device", "cpu", "--json", str(file), "--", "--bottleneck-dim", "16"]
    result = benchmark.main(benchmark.parse_args(argv))
    out = capsys.readouterr().out
    names = [row["name"] for row in result["rows"] if "memory" not in row["name"]]  # memory: on Linux alone
    assert len(names) == 9
    assert all(name in out for name in names)
    assert all(row["ours"] > 0 and row["plain"] > 0 for row in result["rows"])
    assert json.loads(file.read_text()) == json.loads(json.dumps(result))
    assert {"date", "command", "device", "cpu", "versions"} <= result.keys()


def test_ideas_are_in_force_one_by_one(monkeypatch, capsys):
    train_step, sgd, seen = fixmatch.train_step, optim.SGD, []

    def compiled(function, mode="default"):
        @functools.wraps(function)
        def wrapper(*args):
            metrics = function(*args)
            seen[-1].add(mode)
            return metrics

        return wrapper

    @functools.wraps(train_step)
    def watched(model, optimizer, *args):
        in_force = {"fused": optimizer.defaults["fused"], "cudnn": torch.backends.cudnn.benchmark}
        seen.append({name for name, on in in_force.items() if on})
        return train_step(model, optimizer, *args)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(fixmatch, "train_step", watched)
    result = benchmark.main(benchmark.parse_args("--quick --sections ideas --device cpu".split()))
    assert seen == 3 * [set(), {"fused"}, {"cudnn"}, {"default"}, {"reduce-overhead"}]  # first, to warm up, and a round
    assert (fixmatch.train_step, optim.SGD, torch.backends.cudnn.benchmark) == (watched, sgd, False)
    out = capsys.readouterr().out
    assert all(name in out and len(seconds) == 2 and min(seconds) > 0 for name, seconds in result["ideas"].items())


def test_adapters_take_turns_with_all_weights(monkeypatch, capsys):
    """In the small ViT: six blocks of 64 units, with a linear head on ten classes."""
    monkeypatch.delitem(benchmark.measures.ADAPTERS, "--lora 4")
    argv = "--quick --sections adapters --device cpu -- -a test_vit --image-size 32".split()
    result = benchmark.main(benchmark.parse_args(argv))["adapters"]
    whole, adapter = result.values()
    assert adapter["trained"] == 6 * (2 * 64 * 16 + 16 + 64) + 64 * 10 + 10
    assert whole["trained"] > 300_000
    assert whole["checkpoint"] > 12 * whole["trained"] > 10 * adapter["checkpoint"]  # with AdamW's two moments
    assert all(len(found["seconds"]) == 1 and found["seconds"][0] > 0 < found["memory"] for found in result.values())
    out = capsys.readouterr().out
    assert all(f"| {name:12} |" in out for name in result)


def test_the_hours_are_those_of_all_cells():
    """At a step a second, and tests that take no time: FixMatch's share is 22 cells of 60 epochs of 500 steps."""
    names = [f"cell: {what}" for what in ("later steps", "first test", "later tests")]
    rows = [
        benchmark.measures.Row(name, "", rate, rate / 2, 2, 2, 2)
        for name, rate in zip(names, (1, 1e12, 1e12), strict=True)
    ]
    alone = {name: [0.0] for name in benchmark.IMAGES} | {"fixmatch": [1.0]}
    with mock.patch.dict("os.environ", {"METHODS": "erm", "STEPS": "100", "NPROC": "2"}):  # change nothing
        assert len(list(benchmark.published_cells())) == 242
    hours = benchmark.hours(rows, alone)
    assert hours["ours"] == pytest.approx(22 * 60 * 500 / 3600, rel=1e-5)
    assert hours["plain"] == pytest.approx(2 * hours["ours"], rel=1e-5)


@pytest.mark.parametrize("threshold", ["0.4", "1"])
def test_plain_fixmatch_is_fixmatch(threshold):
    args = steps.arguments("fixmatch", "--threshold", threshold, "--lr", "0.1")
    ours, other = steps.build("fixmatch", args), steps.build("fixmatch", args)
    other.model.to(memory_format=torch.contiguous_format)
    other.script = plain
    expected = steps.train_step(ours, args)
    batches = [(list(batch.views), batch.labels) for batch in steps.batches("fixmatch")]
    metrics = steps.train_step(other, args, *batches)
    for name, (value, _) in metrics.items():
        metric = expected[name]
        metric = metric[0] / metric[1] if isinstance(metric, tuple) else metric
        assert value == pytest.approx(metric.item(), rel=1e-5), name
    assert ("pseudo_label_accuracy" in metrics) is (expected["pseudo_label_ratio"].item() > 0)
    for name, tensor in other.model.state_dict().items():
        assert torch.allclose(tensor, ours.model.state_dict()[name], rtol=1e-4, atol=1e-6), name


def test_plain_views_are_ours_normalised():
    args = steps.arguments("fixmatch", "--train-resizing", "native", "--val-resizing", "native")
    data = datasets.load("Digits", "data")
    policy = augment.policy(args.auto_augment, args.norm_mean, args.cutout)
    resizing = args.train_resizing, args.val_resizing, args.image_size, policy
    normalizer = augment.Normalizer(args.norm_mean, args.norm_std)
    for ours, other in zip(augment.transforms(data.spec, *resizing), plain.views(args, data.spec), strict=True):
        for index in range(20):
            views = []
            for transform in (ours, other):
                seeding.seed_cpu(index)
                views.append(transform(data.train.load(index)))
            assert torch.equal(normalizer(views[0][None])[0], views[1])


def test_plain_bank_is_flexmatchs():
    """From the empty bank on, over one class alone, to all of them."""
    g = torch.Generator().manual_seed(0)
    ours, other = flexmatch.Curriculum(20, 4), plain.Bank(20, 4, torch.device("cpu"))
    for step in range(30):
        indices = torch.randperm(20, generator=g)[:5]
        pseudo_labels = torch.randint(1 if step < 3 else 4, (5,), generator=g)
        is_confident = torch.rand(5, generator=g) > 0.5
        thresholds = ours.thresholds(0.95, False)[pseudo_labels]
        assert torch.allclose(other.thresholds(pseudo_labels, 0.95), thresholds)
        ours.update(indices, pseudo_labels, is_confident)
        other.update(indices, pseudo_labels, is_confident)
        assert torch.equal(other.labels, ours.bank)


def test_plain_queue_is_self_tunings():
    torch.manual_seed(0)
    C, K, P = 4, 3, 5
    ours, other = self_tuning.Queue(C, K, P), plain.Queue(C, K, P, torch.device("cpu"))
    other.keys.copy_(ours.keys.view(C * K, P).T)
    for _ in range(4):
        queries, keys = (F.normalize(torch.randn(10, P), dim=1) for _ in range(2))
        labels = torch.randint(C, (10,))
        pair = [queries.clone().requires_grad_() for _ in range(2)]
        losses = [q.loss(x, keys, labels, 0.07) for q, x in zip((ours, other), pair, strict=True)]
        for loss in losses:
            loss.backward()
        assert torch.allclose(*losses, rtol=1e-5)
        assert torch.allclose(pair[0].grad, pair[1].grad, rtol=1e-4, atol=1e-6)
        ours.enqueue(keys, labels)
        other.enqueue(keys, labels)
        assert torch.equal(other.keys.T.view(C, K, P), ours.keys)
        assert other.pointers == ours.pointers.tolist()


def test_plain_scores_are_ours():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 6))
    batches = [(torch.randn(7, 3, 2, 2), torch.randint(6, (7,))) for _ in range(3)]

    class Batches(list):
        device = torch.device("cpu")

    ours = evaluate(copy.deepcopy(model), Batches(batches), 6)
    other = plain.evaluate(model, [([x], labels) for x, labels in batches], 6)
    assert other["top1"] == pytest.approx(ours["top1"])
    assert other["top5"] == pytest.approx(ours["top5"])
    assert other["loss"] == pytest.approx(ours["test_loss"])


def test_of_several_processes_each_builds_on_its_own_gpu(monkeypatch):
    done = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", done.append)
    monkeypatch.setattr(measures, "prepared_step", lambda *args: done.append("built"))
    monkeypatch.setattr(measures, "timer", lambda step, repeats: lambda: 1.0)
    monkeypatch.setattr(measures, "own_peak", lambda: 1.0)
    processes.main(1, 1, "data -d Digits".split())
    assert done == [1, "built", "built"]
