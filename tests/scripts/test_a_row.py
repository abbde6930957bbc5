"""From a MoCo checkpoint to the table: a row runs for real, is killed, continues, is collected and plotted."""

import os
import signal
import subprocess
import sys
import time

import timm
import torch

import convert_moco_to_pretrained as converter
from scripts import collect_results
from tests.conftest import ROOT, read_rows

SMALL = (
    "-d Digits -a test_resnet --train-resizing native --val-resizing native --bottleneck-dim 16 --epochs 4 "
    "--iters-per-epoch 2 --batch-size 8 --workers 0 --device cpu"
).split()


def make_backbone(folder):
    model = timm.create_model("test_resnet", num_classes=0)
    state = {f"module.encoder_q.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, folder / "moco.pth.tar")
    names = ("moco.pth.tar", "moco_v2_800ep_backbone.pth", "fc.pth")
    converter.main(converter.parse_args([str(folder / name) for name in names]))
    return folder / names[1]


def test_a_row_is_killed_continued_collected_and_plotted(tmp_path, capsys):
    python = tmp_path / "python"  # notes its process before it becomes Python
    python.write_text(f'#!/usr/bin/env bash\necho $$ >>{tmp_path / "pids"}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    logs = tmp_path / "logs"
    environment = os.environ | {"PYTHON": str(python), "LOGS": str(logs), "OMP_NUM_THREADS": "1"}
    command = ["bash", "scripts/fixmatch.sh", "moco", "DTD", "Caltech101", "--", *SMALL]
    command += ["--pretrained-backbone", str(make_backbone(tmp_path))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": environment}

    second = logs / "fixmatch_moco_pretrain" / "caltech_4_labels_per_class"
    with subprocess.Popen(command, **pipes) as process:
        while not (second / "metrics.jsonl").exists() or not read_rows(second):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        os.kill(int((tmp_path / "pids").read_text().split()[-1]), signal.SIGKILL)
        out, err = process.communicate()
    assert process.returncode == 1
    assert out.endswith("\n1 of 2 cells are finished\n")
    assert "exit code 137: " in err
    assert not (second / "result.json").exists()

    again = subprocess.run(command, check=True, **pipes)
    assert again.stdout.endswith("\n2 of 2 cells are finished\n")
    first_cell, second_cell = again.stdout.split("== 2/2: ")
    assert "finished: top-1" in first_cell
    assert "epoch 1/4" not in first_cell
    assert f"resuming '{second}' at step " in second_cell

    capsys.readouterr()
    collect_results.main(collect_results.parse_args([str(logs)]))
    out, err = capsys.readouterr()
    assert err == ""
    for number, threshold in (("[1]", "0.7"), ("[2]", "0.9")):
        assert f"test_resnet, moco_v2_800ep_backbone  fixmatch {number}  4 per class  1 " in out
        assert f"\n{number} threshold {threshold}\n" in out
    assert {path.name for path in logs.glob("*.png")} >= {"accuracy.png"}
