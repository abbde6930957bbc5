"""What a script of one's own may give to a run: any names, several optimizers, another network to test."""

import copy

import pytest
import torch
from torch.optim import SGD

import erm
from common import datasets
from common.datasets import splits
from common.errors import UserError
from common.networks.classifier import ImageClassifier
from common.run import Run
from tests.conftest import SMALL, contents, final_state, read_rows
from tests.helpers import steps


class Images(list):
    """Batches of fixed images that stand in for both kinds of loaders."""

    device = torch.device("cpu")
    order = torch.arange(12)
    number = 12

    def __init__(self):
        g = torch.Generator().manual_seed(0)
        super().__init__([(torch.randn(12, 3, 4, 4, generator=g), torch.arange(12) % 10)])

    def sample(self, number: int) -> tuple[dict, list[int]]:
        return {"labeled 1: weak": torch.zeros(number, 3, 4, 4, dtype=torch.uint8)}, [0] * number

    def batches(self, step: int):
        while True:
            yield self[0]


def train(log, *flags: str, lr: float = 0.5, seed_of_weights: int = 0):
    """A script whose tested network is a running average of the weights, with an optimizer for each half."""
    args = erm.parse_args([*SMALL, "--epochs", "3", *flags, "--log", str(log)])
    run = Run("mine", args)
    if run.finished:
        return run.show()
    data = datasets.load("Digits", ".")
    run.describe(data, splits.split(data.train.labels, data.classes, 4, 0)[0])
    torch.manual_seed(seed_of_weights)
    network = ImageClassifier(steps.Backbone(), len(data.classes), 8)
    average = copy.deepcopy(network).requires_grad_(False)
    lower, upper = SGD(network.backbone.parameters(), lr), SGD(network.head.parameters(), 2 * lr)
    state = {"network": network, "average": average, "lower": lower, "upper": upper}
    run.start(state, evaluated=average)
    if args.phase == "test":
        return run.test(Images())
    for _ in run.epochs():
        network.train()
        for ((x, labels),) in run.steps(Images()):
            loss = torch.nn.functional.cross_entropy(network(x), labels)
            for optimizer in (lower, upper):
                optimizer.zero_grad()
            loss.backward()
            lower.step()
            upper.step()
            for a, b in zip(average.parameters(), network.parameters(), strict=True):
                a.data.lerp_(b.data, 0.3)
            run.update({"loss": loss})
        run.end_epoch(run.evaluate(Images()))
    return run.finish()


def test_what_is_tested_is_what_is_kept_and_tested_again(tmp_path):
    """Another network than the trained one: the same scores in training, from best.pth and from latest.pth."""
    result = train(tmp_path / "run")
    rows, state = read_rows(tmp_path / "run"), final_state(tmp_path / "run")
    best = max(rows, key=lambda row: row["top1"])
    assert train(tmp_path / "run", "--phase", "test", seed_of_weights=1)["test_loss"] == best["test_loss"]
    latest = train(tmp_path / "run", "--phase", "test", "--checkpoint", "latest", seed_of_weights=1)
    assert latest["test_loss"] == rows[-1]["test_loss"]
    assert latest["top1"] == result["last_top1"]

    kept = torch.load(tmp_path / "run" / "checkpoints" / "best.pth", weights_only=True)["model"]
    if best is rows[-1]:
        assert all(torch.equal(kept[key], state["average"][key]) for key in kept)
    assert not torch.equal(kept["head.weight"], state["network"]["head.weight"])


def test_the_rates_of_all_optimizers_are_named(tmp_path):
    with pytest.raises(UserError, match=r"loss not finite at step \d: .*\(learning rates 1e\+30, 2e\+30\)"):
        train(tmp_path / "run", lr=1e30)


def test_testing_neither_begins_nor_resumes(tmp_path):
    train(tmp_path / "run")
    before = contents(tmp_path / "run")
    train(tmp_path / "run", "--phase", "test")
    assert contents(tmp_path / "run") == before


def test_a_run_knows_how_long_it_is_and_has_all_its_attributes_from_the_beginning(tmp_path):
    args = erm.parse_args([*SMALL, "--log", str(tmp_path / "run")])
    run = Run("mine", args, rounds=3)
    assert run.total_epochs == 6
    before = set(vars(run))
    for name, call in (("data", "describe"), ("evaluation", "describe"), ("network", "start"), ("evaluated", "start")):
        with pytest.raises(RuntimeError, match=f"call run.{call}"):
            getattr(run, name)
    data = datasets.load("Digits", ".")
    run.describe(data, splits.split(data.train.labels, data.classes, 4, 0)[0])
    network = ImageClassifier(steps.Backbone(), len(data.classes), 8)
    run.start({"network": network, "optimizer": SGD(network.parameters(), 0.1)}, evaluated=network)
    assert run.network is run.evaluated is network
    assert set(vars(run)) == before
