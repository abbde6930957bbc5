"""The architecture: `common/` is a ladder, whose rungs its docstring lists, and a script keeps its form."""

import ast
import functools
import re
from pathlib import Path

import pytest

import common
from tests.conftest import ROOT
from tests.methods.test_methods import METHODS

RUNGS = re.findall(r"^(\w+)/? {2,}\S", common.__doc__, re.MULTILINE)  # from the top to the bottom
LONGEST_MAIN = dict.fromkeys(METHODS, 24) | {"mean_teacher": 28, "self_tuning": 26, "noisy_student": 34, "v_pet": 34}


def modules() -> list[Path]:
    """All of `common/` but the program `python -m common.datasets`, which may use the command line as scripts do."""
    return [path for path in sorted((ROOT / "common").rglob("*.py")) if path.name != "__main__.py"]


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def rung(dotted: str) -> str | None:
    """`common.system.files` stands on the rung `system`."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "common" and len(parts) > 1 else None


def imported(path: Path) -> set[str]:
    """The rungs of `common` that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {rung(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            inner = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "common" else [node.module]
            )
            found |= set(map(rung, inner))
    return found - {None}


def test_the_docstring_lists_what_is_there():
    there = {
        path.stem for path in (ROOT / "common").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(RUNGS) == sorted(there - {"__init__"})
    assert len(RUNGS) <= 12


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_below_it(path):
    own = path.relative_to(ROOT / "common").parts[0].removesuffix(".py")
    if own == "__init__":
        assert not imported(path)
        return
    below = RUNGS[RUNGS.index(own) :]  # a folder's modules may import each other
    assert imported(path) <= set(below)


def test_no_circle_within_a_folder():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in modules()}
    arrows = {
        name: {other for other in names if other != name and imports(path, other)} for name, path in names.items()
    }
    while arrows:
        free = [name for name, others in arrows.items() if not others & arrows.keys()]
        assert free, f"these import each other in a circle: {sorted(arrows)}"
        for name in free:
            del arrows[name]


def imports(path: Path, module: str) -> bool:
    parent, _, name = module.rpartition(".")
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (
            node.module == module or (node.module == parent and name in {alias.name for alias in node.names})
        ):
            return True
        if isinstance(node, ast.Import) and module in {alias.name for alias in node.names}:
            return True
    return False


@pytest.mark.parametrize("folder", [rung for rung in RUNGS if (ROOT / "common" / rung).is_dir()])
def test_each_folder_says_what_belongs_there(folder):
    assert ast.get_docstring(ast.parse((ROOT / "common" / folder / "__init__.py").read_text()))


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)]


def lines(path: Path, node: ast.FunctionDef) -> int:
    """Without blank ones."""
    return sum(bool(line.strip()) for line in path.read_text().splitlines()[node.lineno - 1 : node.end_lineno])


@pytest.mark.parametrize("method", METHODS)
def test_main_is_short(method):
    path = ROOT / f"{method}.py"
    (main,) = [node for node in functions(path) if node.name == "main"]
    assert lines(path, main) <= LONGEST_MAIN[method]


def test_no_function_is_long():
    scripts = [ROOT / f"{method}.py" for method in METHODS]
    limits = dict.fromkeys(scripts, 40) | dict.fromkeys((*modules(), *(ROOT / "scripts").rglob("*.py")), 60)
    long = [f"{path}: {f.name}" for path, limit in limits.items() for f in functions(path) if lines(path, f) > limit]
    assert not long


def test_only_build_and_run_read_the_arguments():
    """Everything else in `common/` has explicit parameters; the command line makes the arguments."""
    readers = {
        path.relative_to(ROOT / "common").as_posix()
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "args"
    }
    assert {name for name in readers if not name.startswith("cli")} <= {"build.py", "run.py", "trained.py"}
