"""What every method has to have. A new method is one more entry of METHODS."""

import importlib
import itertools
import os
import re
import shlex
import subprocess

import pytest

from scripts.results import published
from tests.conftest import ROOT, assert_equal_states, final_state, train_small
from tests.helpers.stops import stop_in_step

SCRATCH = "--ema 0.9 --auto-augment classic --labeled-in-unlabeled"  # with every second method
# Flags that let the method's own losses and state matter within six steps.
METHODS = {
    "erm": "",
    "pseudo_label": "--threshold 0.2",
    "pi_model": f"--warm-up-epochs 1 --ramp-up linear --labeled-statistics --one-sided {SCRATCH}",
    "mean_teacher": f"--warm-up-epochs 1 --alpha 0.5 --trade-off-cls-strong 0 --labeled-statistics {SCRATCH}",
    "uda": "--threshold 0.2",
    "fixmatch": "--threshold 0.2",
    "self_tuning": "--K 4 --projection-dim 8 --m 0.5 --milestones 1",
    "flexmatch": f"--threshold 0.2 --joint-passes {SCRATCH}",
    "debiasmatch": "--threshold 0.2 --momentum 0.5",
    "dst": f"--threshold 0.2 --width 8 {SCRATCH}",
    "freematch": f"--momentum 0.5 --joint-passes --trade-off-cls-strong 0 {SCRATCH}",
    "softmatch": f"--momentum 0.5 --joint-passes {SCRATCH}",
    "mixmatch": f"--warm-up-epochs 0 {SCRATCH}",
    "remixmatch": f"--warm-up-epochs 1 --window 2 --momentum 0.5 --strong-views 1 {SCRATCH}",
    "vat": f"--trade-off-con 2 --warm-up-epochs 1 --eps 2 --trade-off-cls-strong 0 --labeled-statistics {SCRATCH}",
    "noisy_student": f"--epochs 1 --rounds 2 {SCRATCH}",
    "adamatch": f"--window 3 --interpolate --warm-up-epochs 1 {SCRATCH}",
    "comatch": f"--threshold 0.2 --graph-threshold 0.1 --window 3 --bank-batches 2 --projection-dim 8 {SCRATCH}",
    "simmatch": "--threshold 0.2 --window 3 --projection-dim 8 --joint-passes",  # whose bank is full in the sixth step
    "v_pet": "--sources @erm @fixmatch --passes 2 --with-labels",
}
VARIANTS = [
    ("v_pet", "--sources @erm --passes 1 --target softmax-counts"),
    ("pseudo_label", f"--threshold 0.2 --labeled-statistics {SCRATCH}"),
    ("fixmatch", "--threshold 0.2 --ema 0.9 --balanced-batches"),
    ("mean_teacher", "--warm-up-epochs 1 --alpha 0.5 --eval-teacher"),
    ("debiasmatch", "--threshold 0.2 --momentum 0.5 --persistent-q-hat"),
    ("dst", "--threshold 0.2 --width 8 --optimizer adamw --no-decay-on-norms --lr-warm-up-steps 4"),
]
STOPS = (2, 3, 5)  # in the middle of the first epoch, between its last step and its test, and in the second


def has_cells(method: str) -> bool:
    """Whether the method has a shell file, with settings for the published table's datasets. A prototype has none."""
    return (ROOT / "scripts" / f"{method}.sh").exists()


def test_every_script_has_an_entry():
    scripts = {path.stem for path in ROOT.glob("*.py") if "def train_step(" in path.read_text()}
    assert scripts == METHODS.keys()


@pytest.mark.parametrize(("method", "flags"), [*METHODS.items(), *VARIANTS])
def test_interrupted_and_continued_it_ends_with_the_same_bits(method, flags, tmp_path):
    whole, parts, flags = tmp_path / "whole", tmp_path / "parts", flags.split()
    result = train_small(method, *flags, log=whole)
    for before, stop in itertools.pairwise((0, *STOPS)):
        stop_in_step(stop - before, method, *flags, log=parts)
        assert final_state(parts)["step"] == stop
    continued = train_small(method, *flags, log=parts)

    states = [final_state(folder) for folder in (whole, parts)]
    for state in states:
        del state["seconds"], state["sessions"], state["args"]  # the latter hold the folder
    assert_equal_states(*states)
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()
    assert result["method"] == method
    assert all(continued[key] == result[key] for key in result if "top1" in key)


@pytest.mark.parametrize("method", [method for method in METHODS if has_cells(method)])
def test_its_shell_file_prints_commands_that_its_script_takes(method):
    command = ["bash", f"scripts/{method}.sh"]
    environment = os.environ | {"DRY_RUN": "1", "PYTHON": "python", "LOGS": "logs"}
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed
    for line in printed.splitlines():
        python, script, *argv = shlex.split(line)
        assert (python, script) == ("python", f"{method}.py")
        args = importlib.import_module(method).parse_args(argv)
        assert re.match(rf"logs/{method}(_moco_pretrain)?/", args.log)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_documented(method):
    shell_file = rf", \[\.sh\]\(scripts/{method}\.sh\)" if has_cells(method) else ""
    assert (f"scripts/{method}.sh" in importlib.import_module(method).__doc__) == has_cells(method)
    row = rf"^\| \[{method}\.py\]\({method}\.py\){shell_file} \| .+ \|"
    assert re.search(row, (ROOT / "README.md").read_text(), re.MULTILINE)


def published_rows(page: str) -> dict[str, list[str]]:
    """By method, its rows in docs/published_table.md: each links the script and the shell file."""
    link = r"\(\[sh\]\(\.\./scripts/{0}\.sh\)\)"
    oracle = r"^\| oracle \(\[erm\]\(\.\./erm\.py\), \[sh\]\(\.\./scripts/erm\.sh\)\) \| (.+) \|$"
    rows = {
        method: re.findall(rf"^\| \[[^]]+\]\(\.\./{method}\.py\) {link.format(method)} \| (.+) \|$", page, re.M)
        for method in METHODS
    }
    return rows | {"oracle": re.findall(oracle, page, re.M)}


def test_the_docs_show_the_published_table():
    """Each figure, and the averages; the README has the averages."""
    found = published_rows((ROOT / "docs" / "published_table.md").read_text())
    readme = (ROOT / "README.md").read_text()
    assert sum(map(len, found.values())) == 22
    for method, rows in found.items():
        check_figures(rows, "erm, 4 labels" if method == "erm" else method)
        averages = " / ".join(row.split(" | ")[-1] for row in rows) or "–"
        assert method == "oracle" or re.search(
            rf"^\| \[{method}\.py\].+ \| {averages} \|( [^|]+ \|){{2}}$", readme, re.M
        )


def check_figures(rows: list[str], name: str) -> None:
    figures = published.accuracies()
    assert len(rows) in (0, 2)  # a new method has none
    for row, pretraining in zip(rows, published.PRETRAININGS.values(), strict=True) if rows else ():
        values = [figures[published.CellKey(d, published.ARCH, pretraining, name)] for d in published.datasets()]
        assert row.split(" | ") == [f"{value:.1f}" for value in [*values, sum(values) / len(values)]]
