"""The figures that README and docs give of runs made here are those of the runs' own records, to the last digit."""

import re
import tarfile
from pathlib import Path

import pytest

from scripts.results.runs import Cell, cells, read_runs
from tests.conftest import ROOT

RECORDS = ROOT / "docs" / "records"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """`recorded("digits")`: the cells of an archive, by method or oracle and number of labels."""
    folder = tmp_path_factory.mktemp("records")

    def read(name: str) -> dict[tuple[str, str], Cell]:
        with tarfile.open(RECORDS / f"{name}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        table, notes = cells(read_runs([folder / "logs" / name]))
        assert not notes
        assert all(len(several) == 1 for several in table.values())
        return {name_of(cell): cell for (cell,) in table.values()}

    return read


def name_of(cell: Cell) -> tuple[str, str]:
    result = cell.runs[0].result
    return ("oracle", "all") if result["oracle"] else (result["method"], str(10 * result["num_samples_per_class"]))


def rows(page: Path, header: str) -> list[list[str]]:
    """The rows of a page's table, below its header."""
    lines = page.read_text().partition(f"\n{header}\n")[2].splitlines()[1:]
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([word.strip() for word in line.strip("|").split("|")])
    return found


def method(title: str) -> str:
    """`Pi Model` -> pi_model; what follows a comma says which runs they are."""
    return re.sub(r"[ -]", "_", title.partition(",")[0].lower())


def test_the_digits_of_the_readme(recorded):
    found = recorded("digits")
    shown = {
        (method(title), "all" if title.startswith("oracle") else "40"): (last, best)
        for title, last, best in rows(ROOT / "README.md", "| method | last epoch | best on test |")
    }
    assert shown == {key: (cell.show("last_top1"), cell.show("best_top1")) for key, cell in found.items()}
    assert {tuple(cell.seeds) for cell in found.values()} == {(0, 1, 2)}


def test_fashion_mnist_from_scratch(recorded):
    found = recorded("fashion")
    shown = {
        (method(title), "all" if title.startswith("oracle") else "40"): (seeds, last, best)
        for title, seeds, last, best in rows(
            ROOT / "docs" / "from_scratch.md", "| 40 labels | seeds | last epoch | best on test |"
        )
    }
    expected = {
        key: (str(len(cell.seeds)), cell.show("last_top1"), cell.show("best_top1")) for key, cell in found.items()
    }
    assert shown == expected
