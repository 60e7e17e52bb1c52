"""Imports go one way, scripts -> experiments -> gumbel, and only the models know flax."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gumbel", "experiments", "configs", "scripts")

# The library is pure functions: nothing that reads files, configures, plots or trains.
LIBRARY_MAY_IMPORT = {"gumbel", "jax", "jaxtyping", "numpy", "optax", *sys.stdlib_module_names}
FORBIDDEN = {
    "experiments": {"scripts", "configs"},
    "configs": {"scripts"},
}


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
                    or (top == "flax" and not name.startswith("experiments/models/"))
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
        ("experiments/models/a.py", "from flax import nnx\nfrom gumbel import gumbel_softmax"),
        ("scripts/a.py", "from experiments import train"),
        ("configs/a.py", "from configs import base\nfrom ml_collections import ConfigDict"),
    ],
)
def test_a_right_import_is_let_through(tmp_path, file, text):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert violations(tmp_path) == []
