"""A writer of run folders."""

import json
from collections.abc import Callable

import pytest

import fixmatch
from tests.helpers.written_runs import SETTINGS


@pytest.fixture
def write_run(tmp_path):
    """`write_run("name", 60.0, 62.5)`: a finished run whose last and best top-1 are these, in tmp_path/name."""

    def write(
        name: str,
        last: float,
        best: float,
        *flags: str,
        dataset: str = "CIFAR10",
        pretraining: str = "supervised",
        method: str = "fixmatch",
        finished: bool = True,
        parse_args: Callable = fixmatch.parse_args,
    ):
        argv = ["data", "-d", dataset, "--finetune", *SETTINGS.get((pretraining, dataset), ()), *flags]
        args = vars(parse_args(argv))
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "args.json").write_text(json.dumps({"method": method, "args": args | {"log": name}}))
        history = [{"epoch": 1, "top1": best, "pseudo_label_accuracy": None, "pseudo_label_ratio": 0.0}]
        history += [{"epoch": 2, "top1": last, "pseudo_label_accuracy": 90.0, "pseudo_label_ratio": 50.0}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
        keys = ("arch", "num_samples_per_class", "seed", "split_seed", "epochs", "iters_per_epoch")
        result = {key: args[key] for key in keys} | {"method": method, "dataset": dataset}
        result["oracle"] = args.get("oracle", False)
        result["pretraining"] = {"moco": "moco_v2_800ep_backbone"}.get(pretraining, pretraining)
        result |= {"pretraining_sha256": None, "precision": "float32", "official_split": True, "seconds": 10.0}
        result |= {"last_top1": last, "best_top1": best}
        if finished:
            (folder / "result.json").write_text(json.dumps(result))
        return folder

    return write
