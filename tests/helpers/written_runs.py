"""Folders of finished runs, written by hand, for the programs that compare runs."""

import json
from pathlib import Path
from unittest import mock

from scripts import collect_results

MOCO = ("--lr-scheduler", "cos", "--pretrained-backbone", "checkpoints/moco_v2_800ep_backbone.pth")
SETTINGS = {  # as scripts/fixmatch.sh has them
    ("supervised", "CIFAR10"): ("--lr", "0.003", "--threshold", "0.7"),
    ("supervised", "DTD"): ("--lr", "0.001", "--threshold", "0.95"),
    ("moco", "CIFAR10"): ("--lr", "0.001", "--threshold", "0.95", *MOCO),
}
DIGITS = {"dataset": "Digits", "pretraining": "scratch"}
SIX_SETTINGS = [
    ("--lr", "0.01"),
    ("--lr", "0.03", "--threshold", "0.9", "--trade-off-self-training", "2.5", "--trade-off-cls-strong", "0.25"),
    ("--lr", "0.03", "--optimizer", "adamw", "--layer-decay", "0.65", "--lr-warm-up-steps", "100"),
    ("--lr", "0.03", "--auto-augment", "rand-m10-n2-mstd2-p0.5-inc1"),
    ("--lr", "0.03", "--bottleneck-dim", "256", "--seed", "1", "--split-seed", "3"),
    ("--lr", "0.03", "--epochs", "30"),
]


def collect(*argv, plots: bool = False) -> None:
    draw = collect_results.draw if plots else lambda *args: None  # they take seconds
    with mock.patch.object(collect_results, "draw", draw):
        collect_results.main(collect_results.parse_args([str(word) for word in argv]))


def change(folder: Path, **facts) -> None:
    """Change what a run's result says."""
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | facts))
