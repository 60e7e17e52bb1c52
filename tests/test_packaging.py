"""What the distribution asks for and holds, and what its lock files pin."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Which extras each lock file is made from.
LOCKS = {
    "requirements.txt": ["experiments"],
    "requirements-dev.txt": ["dev"],
    "requirements-docs.txt": ["docs"],
}
# Import names of what only the experiments, their tests, and the documentation need (but filelock:
# jax imports it for its compilation cache where it is installed).
NOT_IN_THE_LIBRARY = [
    "PIL",
    "array_record",
    "flax",
    "importlib_resources",
    "matplotlib",
    "ml_collections",
    "orbax",
    "pooch",
    "pytest",
    "ray",
    "requests",
    "sklearn",
    "sphinx",
    "tensorboardX",
    "tensorflow_datasets",
    "tqdm",
]


def normalized(requirement: str) -> str:
    """The name in a requirement, as the package index compares it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def pins(lock: str) -> list[str]:
    """The entries of a lock file, each with its marker and hashes on one line."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def versions(lock: str) -> dict[str, set[str]]:
    """The pinned versions of each package; they can differ between Pythons."""
    found: dict[str, set[str]] = {}
    for pin in pins(lock):
        found.setdefault(normalized(pin), set()).add(re.match(r"[\w.-]+==(\S+)", pin)[1])
    return found


def test_the_library_asks_for_five_packages():
    asked = sorted(normalized(text) for text in PROJECT["dependencies"])
    assert asked == ["jax", "jaxlib", "jaxtyping", "numpy", "optax"]


def test_importing_the_library_imports_none_of_the_experiments_packages():
    program = "import sys, gumbel; print(*{name.partition('.')[0] for name in sys.modules})"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(ran.stdout.split())
    assert {"gumbel", "jax", "optax"} <= loaded
    assert loaded.isdisjoint(NOT_IN_THE_LIBRARY), loaded & set(NOT_IN_THE_LIBRARY)


def test_citation_has_the_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == PROJECT["version"]


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_file_pins_what_is_asked_for(lock):
    extras = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + [text for extra in LOCKS[lock] for text in extras[extra]]
    missing = {normalized(text) for text in wanted} - {normalized(pin) for pin in pins(lock)}
    assert not missing, f"{lock} lacks {missing}: run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_file_pins_versions_and_hashes_and_names_no_host(lock):
    for pin in pins(lock):
        assert re.match(r"[\w.-]+==\S+", pin), pin
        assert "--hash=sha256:" in pin, pin
    assert "://" not in (ROOT / lock).read_text(encoding="utf-8")


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_files_agree(lock):
    """What is installed on top of requirements.txt must not replace a package of it."""
    ours, running = versions(lock), versions("requirements.txt")
    for name in ours.keys() & running.keys():
        assert ours[name] <= running[name], name


def test_lock_file_has_a_right_jax_for_each_python():
    """jax 0.9.1 to 0.10.2 compute wrong sums on CPU; Python 3.11 can have nothing newer."""
    found = [pin.partition("--hash")[0].strip() for pin in pins("requirements.txt")]
    jax = [pin for pin in found if re.match(r"jax(lib)?==", pin)]
    assert not any(re.search(r"==0\.(9\.[12]|10\.)", pin) for pin in jax), jax
    assert any(re.match(r"jax==0\.9\.0.*python_full_version < '3\.12'", pin) for pin in jax), jax
