"""Check the installed distribution: what it holds, what it brings along, and its doctests.

`make package` runs this with the interpreter of an environment that holds the wheel alone.
"""

import doctest
import importlib
import importlib.util
import pkgutil
import re
import sys
from importlib import metadata
from pathlib import Path

import gumbel

NAME = "gumbel-jax"
MAY_BRING = 2  # packages besides those that jax and optax ask for


def normalized(name: str) -> str:
    """`name` as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(name: str) -> set[str]:
    """The installed distributions that `name` asks for, directly or not, with itself."""
    found: set[str] = set()
    pending = [normalized(name)]
    while pending:
        name = pending.pop()
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another Python or platform
        if name not in found:
            found.add(name)
            plain = [text for text in requires if not re.search(r"\bextra\s*==", text)]
            pending += [normalized(re.split(r"[^\w.-]", text, maxsplit=1)[0]) for text in plain]
    return found


def check_contents() -> None:
    """Exit unless the wheel holds the library alone, and the imported library is the wheel's."""
    files = metadata.files(NAME) or []
    tops = {file.parts[0] for file in files if not file.parts[0].endswith(".dist-info")}
    if tops != {"gumbel"}:
        sys.exit(f"error: the wheel should hold `gumbel` alone, but holds {sorted(tops)}")
    if not Path(gumbel.__file__).is_relative_to(sys.prefix):
        sys.exit(f"error: `gumbel` was imported from {gumbel.__file__}, not from {sys.prefix}")
    if not any(file.match("gumbel/py.typed") for file in files):
        sys.exit("error: the wheel lacks gumbel/py.typed: see package-data in pyproject.toml")


def check_dependencies() -> None:
    """Exit if the library brings more packages than it may."""
    brought = sorted(closure(NAME) - closure("jax") - closure("optax") - {NAME})
    print(f"{NAME} brings {len(brought)} packages besides those of jax and optax: {brought}")
    if len(brought) > MAY_BRING:
        sys.exit(f"error: at most {MAY_BRING} are wanted: see `dependencies` in pyproject.toml")
    others = [name for name in ("flax", "pytest") if importlib.util.find_spec(name)]
    if others:
        sys.exit(f"error: the environment should hold the wheel alone, but has {others}")


def run_doctests() -> tuple[int, int]:
    """The numbers of docstrings whose examples passed and failed."""
    names = [module.name for module in pkgutil.walk_packages(gumbel.__path__, "gumbel.")]
    failed = passed = 0
    for name in ["gumbel", *names]:
        for test in doctest.DocTestFinder().find(importlib.import_module(name)):
            if test.examples:
                runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
                wrong = runner.run(test).failed > 0
                failed, passed = failed + wrong, passed + (not wrong)
    return passed, failed


def main() -> None:
    """Run all checks."""
    check_contents()
    check_dependencies()
    passed, failed = run_doctests()
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0 or passed == 0)


if __name__ == "__main__":
    main()
