"""The shell files run their commands to the end, with a stand-in for Python."""

import os
import re
import signal
import subprocess
import time

import pytest

from scripts.cells import jobs
from scripts.cells.tables import DATASETS
from tests.conftest import ROOT
from tests.helpers.shell import EPOCHS, shell


@pytest.fixture
def stand_in(tmp_path):
    """A `python` that notes its script, dataset and GPU in `calls`, takes a while, and fails with DTD."""
    path, calls = tmp_path / "python", tmp_path / "calls"
    path.write_text(
        f"""#!/usr/bin/env bash
        echo "$1 $4 ${{CUDA_VISIBLE_DEVICES-unset}}" >>{calls}
        trap 'echo "$1 $4 saved" >>{calls}; exit 143' TERM
        for _ in {{1..5}}; do sleep 0.05; done
        if [ "$4" = DTD ]; then echo "error: no such folder" >&2; exit 2; fi
        """
    )
    path.chmod(0o755)
    calls.touch()
    return path, calls


def test_a_failing_cell_does_not_stop_the_others(stand_in):
    python, calls = stand_in
    done = shell("uda", "moco Aircraft DTD Caltech101", PYTHON=str(python))
    assert done.returncode == 1
    assert calls.read_text().splitlines() == [f"uda.py {name} unset" for name in ("Aircraft", "DTD", "Caltech101")]
    assert done.stdout.endswith("\n2 of 3 cells are finished\n")
    assert re.fullmatch(r"error: no such folder\nexit code 2: \S+ uda.py data/dtd -d DTD .*\n", done.stderr)


def test_a_python_without_torch_is_one_line_and_not_one_for_each_cell(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/usr/bin/env bash\n[ "$1" = -c ] && exit 9\necho "Traceback" >&2\nexit 1\n')
    python.chmod(0o755)
    done = shell("digits", PYTHON=str(python))
    expected = f"Traceback\nerror: '{python}' has no torch: run `. .venv/bin/activate`, or name another with PYTHON\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_success_is_exit_code_0(stand_in):
    done = shell("uda", "moco Aircraft", PYTHON=str(stand_in[0]))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n1 of 1 cells are finished\n")


@pytest.mark.parametrize(("jobs", "gpus", "used"), [("3", "2,5", {"2", "5"}), ("2", "", {""}), ("1", "4,6", {"4,6"})])
def test_jobs_run_at_once_on_the_visible_gpus(stand_in, jobs, gpus, used):
    python, calls = stand_in
    done = shell("dst", "moco", PYTHON=str(python), JOBS=jobs, CUDA_VISIBLE_DEVICES=gpus)
    assert done.returncode == 1
    assert "10 of 11 cells are finished" in done.stdout
    assert "error: no such folder\n" in done.stderr
    seen = [line.split(" ") for line in calls.read_text().splitlines()]
    assert sorted(dataset for _, dataset, _ in seen) == sorted(DATASETS)
    assert {gpu for *_, gpu in seen} == used


def test_a_cell_of_several_processes_has_as_many_gpus(stand_in):
    """Three cells at a time, of two processes each, on five GPUs: the last of them shares the first one's."""
    python, calls = stand_in
    python.write_text(python.read_text().replace("$1 $4", "$7 ${10}"))  # -m torch.distributed.run and its flags
    shell("dst", "moco", PYTHON=str(python), JOBS="3", NPROC="2", CUDA_VISIBLE_DEVICES="4,5,6,7,8")
    seen = [line.split(" ") for line in calls.read_text().splitlines()]
    assert sorted(dataset for _, dataset, _ in seen) == sorted(DATASETS)
    assert {gpu for *_, gpu in seen} == {"4,5", "6,7", "8,4"}


def test_no_run_and_a_variable_that_would_be_ignored_are_refused(stand_in):
    python, calls = stand_in
    for name, words, variables, line in (
        ("digits", "", {"SEEDS": " "}, "no run is selected: see SEEDS, METHODS and ROWS"),
        (
            "uda",
            "moco DTD",
            {"STEPS": "9"},
            "STEPS is for scratch.sh, fashion.sh, finetune.sh and which_method.sh: ",
        ),
        ("fashion", "", {"METHODS": "fixmatch"}, "METHODS is for all.sh, digits.sh, ingredients.sh and "),
        ("fixmatch", "moco DTD", {"METHODS": "uda"}, "METHODS is for all.sh: this file has one method"),
        ("foundation", "", {"METHODS": "fixmatch"}, "METHODS is for other files: name the methods as words here"),
        ("digits", "", {"SEEDS": "0,1"}, "SEEDS takes whole numbers, not '0,1'"),
        ("all", "", {"METHODS": "erm all"}, "METHODS takes methods whose shell file has cells of the table, not 'all'"),
        ("all", "", {"METHODS": "oracle"}, "METHODS takes methods whose shell file has cells of the table, not 'ora"),
    ):
        done = shell(name, words, PYTHON=str(python), **variables)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith(f"error: {line}")
    assert not calls.read_text()


def test_a_folder_beyond_ascii_is_named_as_it_is_also_in_the_c_locale(stand_in, tmp_path):
    python, calls = stand_in
    python.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$@" >>{calls}\n')
    shell("digits", SEEDS="0", METHODS="uda", PYTHON=str(python), LOGS=f"{tmp_path}/Läufe $1", LC_ALL="C")
    assert f"{tmp_path}/Läufe $1/uda_seed0" in calls.read_text(encoding="utf-8").splitlines()


def test_digits_runs_as_many_at_a_time_as_jobs_says(stand_in, tmp_path):
    """Each begins before the first has ended; those that fail are named, and what there is is collected."""
    python, calls = stand_in
    python.write_text(python.read_text() + f'echo "$1 ended" >>{calls}\n')
    done = shell("digits", PYTHON=str(python), JOBS="2", METHODS="erm uda", SEEDS="0", LOGS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = calls.read_text().splitlines()
    assert sorted(lines[:2]) == ["erm.py Digits unset", "uda.py Digits unset"]
    assert lines[-2:] == ["scripts/collect_results.py  unset", "scripts/collect_results.py ended"]
    assert "2 of 2 cells are finished" in done.stdout


def test_a_signal_reaches_the_scripts_and_begins_no_other_cell(stand_in):
    python, calls = stand_in
    environment = os.environ | {"PYTHON": str(python), "JOBS": "2", "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", "scripts/uda.sh", "moco", "Aircraft", "CIFAR10", "CIFAR100", "SUN397"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while len(calls.read_text().splitlines()) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        others = process.stderr.read().splitlines()
    assert process.returncode == 130
    assert sorted(calls.read_text().splitlines())[1::2] == ["uda.py CIFAR10 saved", "uda.py CIFAR100 saved"]
    assert [line.split(":")[0] for line in others] == ["exit code 143", "exit code 143", "not run", "not run"]


def test_a_killed_shell_file_leaves_nobody_who_begins_other_cells(stand_in):
    python, calls = stand_in
    command = ["bash", "scripts/uda.sh", "moco", "Aircraft", "CIFAR10"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHON": str(python)}) as process:
        while not calls.read_text():
            time.sleep(0.01)
        process.kill()
    time.sleep(1)
    assert calls.read_text().splitlines() == ["uda.py CIFAR10 unset"]


def test_the_printed_commands_run_through_xargs(stand_in):
    """As the README does it: one shell for each printed line."""
    python, calls = stand_in
    printed = shell("all", "supervised CIFAR10", DRY_RUN="1", PYTHON=str(python), DATA="data sets").stdout
    command = "tr '\\n' '\\0' | xargs -0 -n 1 -P 4 bash -c"
    subprocess.run(["bash", "-c", command], input=printed, cwd=ROOT, text=True, check=True)
    seen = [line.split(" ")[0] for line in calls.read_text().splitlines()]
    assert sorted(seen) == sorted([f"{method}.py" for method in EPOCHS] + ["erm.py"] * 2)


def test_the_line_for_slurm_hands_the_jobs_signal_to_the_script(stand_in, tmp_path):
    """SLURM's batch script is the shell itself. If that died of the signal, all others would be killed at once."""
    python, calls = stand_in
    wrapped = re.search(r"--wrap \\\n +'(.*)'", (ROOT / "docs" / "reproducing.md").read_text())[1]
    printed = shell("uda", "moco Aircraft", DRY_RUN="1", PYTHON=str(python)).stdout
    (tmp_path / "commands.txt").write_text(printed)
    (tmp_path / "batch.sh").write_text(f"#!/bin/sh\n{wrapped}\n")
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "1"}
    with subprocess.Popen(["sh", "batch.sh"], cwd=tmp_path, env=environment) as process:
        while not calls.read_text():
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
    assert (process.returncode, calls.read_text().splitlines()[1:]) == (143, ["uda.py Aircraft saved"])


BORDER = "=" * 60


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (["starting", "error: no such folder", "Traceback (of torchrun)", BORDER], ["error: no such folder"]),
        (["starting", "Traceback (most recent call last):", "  File x", "RuntimeError: y", ""], 4),
        (["starting", "Killed"], ["Killed"]),
        ([], []),
    ],
)
def test_side_by_side_the_reason_of_a_failure_is_shown_and_not_what_comes_after_it(tmp_path, said, shown):
    """torchrun ends with a report of its own, and an error of CUDA with an empty line."""
    python = tmp_path / "python"
    python.write_text("#!/usr/bin/env bash\ncat <<'END'\n" + "".join(f"{line}\n" for line in said) + "END\nexit 2\n")
    python.chmod(0o755)
    done = shell("uda", "moco Aircraft", PYTHON=str(python), JOBS="2")
    expected = said[-shown:] if isinstance(shown, int) else shown
    assert done.stderr.splitlines()[: len(expected) + 1][:-1] == expected
    assert done.stderr.splitlines()[len(expected)].startswith("exit code 2: ")


def test_jobs_are_spread_over_the_gpus_of_the_machine(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in ("CUDA_VISIBLE_DEVICES", "NPROC"):
        monkeypatch.delenv(name, raising=False)
    assert jobs._spread_gpus(3) == ["0", "1", "0"]
    program.write_text("#!/bin/sh\nexit 9\n")  # no driver
    assert jobs._spread_gpus(3) == [None] * 3
