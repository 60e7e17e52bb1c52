"""Imports go one way, only tasks know Flax, and nothing general names a task or an estimator."""

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments import tasks
from gumbel import estimators

ROOT = Path(__file__).parents[1]
PACKAGES = ("gumbel", "experiments", "configs", "scripts")

# The library is pure functions: nothing that reads files, configures, plots or trains.
LIBRARY_MAY_IMPORT = {"gumbel", "jax", "jaxtyping", "numpy", "optax", *sys.stdlib_module_names}
FORBIDDEN = {
    "experiments": {"scripts", "configs"},
    "configs": {"scripts"},
}

# The rooms of experiments, lowest first: each imports only itself and those before it.
ROOMS = (
    "errors",
    "files",
    "command",
    "data",
    "settings",
    "tasks",
    "config",
    "training",
    "train",
    "lab",
    "sweeps",
    "sweep",
    "reproduce",
)


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """The line and the full name of each module that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""


def violations(root: Path) -> list[str]:
    """Each import below `root` that goes the wrong way, as `file:line imports module`."""
    found = []
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            name = file.relative_to(root).as_posix()
            for line, module in imports(file):
                top = module.partition(".")[0]
                wrong = (
                    (package == "gumbel" and top not in LIBRARY_MAY_IMPORT)
                    or top in FORBIDDEN.get(package, ())
                    or (top == "flax" and not name.startswith("experiments/tasks/"))
                )
                if wrong:
                    found.append(f"{name}:{line} imports {module}")
    return found


def test_imports_go_one_way():
    assert violations(ROOT) == []


def test_every_package_is_looked_at():
    for package in PACKAGES:
        assert list((ROOT / package).rglob("*.py")), package


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("gumbel/a.py", "from flax import nnx"),
        ("gumbel/sub/a.py", "import ml_collections"),
        ("gumbel/a.py", "def f():\n    from experiments import data"),
        ("gumbel/a.py", "import configs.base"),
        ("gumbel/a.py", "import matplotlib.pyplot as plt"),
        ("experiments/a.py", "import scripts.figures"),
        ("experiments/a.py", "from configs import base"),
        ("experiments/train.py", "from flax import nnx"),
        ("scripts/a.py", "import flax.nnx"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, file, text):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("gumbel/a.py", "import math\nimport jax.numpy as jnp\nimport optax\nfrom gumbel import b"),
        ("experiments/tasks/a.py", "from flax import nnx\nfrom gumbel import gumbel_softmax"),
        ("scripts/a.py", "from experiments import train"),
        ("configs/a.py", "from configs import base\nfrom ml_collections import ConfigDict"),
    ],
)
def test_a_right_import_is_let_through(tmp_path, file, text):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert violations(tmp_path) == []


def room_of(module: str) -> str:
    """The room of a module of experiments, by its full name."""
    return module.split(".")[1] if "." in module else ""


def climbing(root: Path) -> list[str]:
    """Each import of a room further up, as `file:line imports module`."""
    found = []
    for file in sorted((root / "experiments").rglob("*.py")):
        here = file.relative_to(root / "experiments").parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "experiments":
                modules = [f"experiments.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                room = room_of(module) if module.startswith("experiments.") else ""
                if room and ROOMS.index(room) > ROOMS.index(here):
                    found.append(f"{file.name}:{node.lineno} imports {module}")
    return found


def test_rooms_import_only_those_below_them():
    assert climbing(ROOT) == []
    below = {path.stem for path in (ROOT / "experiments").glob("[!_]*")}
    assert below == set(ROOMS), "a room that the test does not know"


@pytest.mark.parametrize(
    "text", ["from experiments import sweeps", "from experiments.sweeps import grids"]
)
def test_a_climbing_import_is_found(tmp_path, text):
    (tmp_path / "experiments" / "training").mkdir(parents=True)
    (tmp_path / "experiments" / "training" / "a.py").write_text(text)
    assert len(climbing(tmp_path)) == 1


def named(root: Path) -> list[str]:
    """Where code that is for all tasks and estimators has one's name, but as a default.

    Their own files, tables and figures of the paper are not for all; a default is an argument of
    `setting(...)` or the value in a dictionary display.
    """
    names = {*tasks.names(), *estimators.names()}
    found = []
    for room in ("command", "data", "config", "training", "sweeps"):
        for file in sorted((root / "experiments" / room).rglob("*.py")):
            found += _named_in(file, names)
    for name in ("errors.py", "settings.py", "train.py", "sweep.py"):
        if (root / "experiments" / name).exists():
            found += _named_in(root / "experiments" / name, names)
    return found


def _named_in(file: Path, names: set[str]) -> list[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    defaults = {
        id(value) for node in ast.walk(tree) if isinstance(node, ast.Dict) for value in node.values
    }
    return [
        f"{file.name}:{node.lineno} {node.value!r}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in names and id(node) not in defaults
    ]


def test_nothing_general_names_a_task_or_an_estimator():
    assert named(ROOT) == []


@pytest.mark.parametrize("text", ['if name == "vimco": pass', 'x = {"semi_supervised": 1}'])
def test_a_name_is_found(tmp_path, text):
    (tmp_path / "experiments" / "training").mkdir(parents=True)
    (tmp_path / "experiments" / "training" / "a.py").write_text(text)
    assert len(named(tmp_path)) == 1


def test_sizes():
    """Modules of at most 250 lines or so, functions of at most 60, five files at the top."""
    assert len(list((ROOT / "experiments").glob("*.py"))) <= 5
    for file in (ROOT / "experiments").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 260, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, (file, node.name)


# Those since 2017, as the contract for them counts: MuProp, NVIL and the others of 2016 are older.
SINCE_2017 = (
    *("arm", "arms", "decoupled_st", "disarm", "double_cv", "gapped_st", "gumbel_rao", "indecater"),
    *("rebar", "reinmax", "relax", "rloo", "rodeo", "unordered_set", "zgr"),
)


@pytest.mark.parametrize("name", SINCE_2017)
def test_an_estimator_is_a_file_of_fewer_than_120_lines(name):
    factory = inspect.unwrap(estimators.spec(name).factory)
    file = Path(inspect.getfile(factory))
    assert file.parent == ROOT / "gumbel" / "estimators"
    assert len(file.read_text(encoding="utf-8").splitlines()) < 120
