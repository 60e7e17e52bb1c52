"""Puts mistakes into a copy of the code, one at a time, and sees whether the tests notice.

  python -m scripts.mutate [--only=TEXT] [--mutations=scripts/mutations.toml]

A mutation names a file, a text that stands in it exactly once, what replaces it, the tests that
should fail, and why it matters. It is killed if one of the tests fails, and has survived if all
pass; one that no test can kill says why under `survives`. With `--only`, the mutations whose file
or reason has this text are tried. The exit status is 1 if a mutation survived without saying why,
or was killed although it says that it survives.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments import command
from experiments.errors import UserError
from experiments.files import ROOT

# What a test may read of the tree.
COPIED = ("gumbel", "experiments", "configs", "scripts", "tests", "results", "pyproject.toml")


class Mutation(NamedTuple):
    """A mistake, and the tests that should notice it.

    Attributes:
      why: why the mistake matters.
      file: its path, relative to the root.
      old: what it replaces; stands in the file exactly once.
      new: what stands there instead.
      tests: their names, as pytest takes them.
      survives: why no test can kill it; empty if one should.
    """

    why: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    survives: str = ""

    def applied(self, root: Path) -> str:
        """The text of its file with the mistake in it.

        Raises:
          UserError: the old text does not stand there exactly once, or nothing would change.
        """
        path = root / self.file
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if (count := text.count(self.old)) != 1 or self.old == self.new:
            found = "is replaced by itself" if count == 1 else f"stands there {count} times"
            raise UserError(f"{self.file}: {self.old!r} {found}: change the mutation")
        return text.replace(self.old, self.new)


def read(path: Path) -> list[Mutation]:
    """The mutations of a TOML file.

    Raises:
      UserError: it cannot be read, or an entry has other keys than a mutation.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["mutation"]
        return [Mutation(**entry | {"tests": tuple(entry["tests"])}) for entry in entries]
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        fix = "give [[mutation]] tables, as scripts/mutate.py says"
        raise UserError(f"{path}: {error}: {fix}") from error


def run_tests(root: Path, tests: Sequence[str]) -> int:
    """The status of pytest in a tree: 0 if all tests pass, 1 if one fails."""
    options = ["-x", "-q", "-p", "no:cacheprovider"]
    variables = {
        # A file as long as before, and changed within the second, looks unchanged to Python.
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # for speed
        # Programs without the mistake are compiled once for all.
        "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=root,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode > 1:
        said = " ".join((done.stdout + done.stderr).splitlines()[-3:])
        raise UserError(f"pytest cannot run {' '.join(tests)}: status {done.returncode}: {said}")
    return done.returncode


def is_killed(mutation: Mutation, root: Path) -> bool:
    """Whether a test fails in the tree with the mistake in it, which is taken out again."""
    path, mutated = root / mutation.file, mutation.applied(root)
    before = path.read_bytes()
    path.write_text(mutated, encoding="utf-8")
    try:
        return run_tests(root, mutation.tests) == 1
    finally:
        path.write_bytes(before)


def trial(mutations: Sequence[Mutation], root: Path) -> int:
    """Tries the mutations in a tree, printing a line each; how many went unexpectedly."""
    tests = sorted({test for mutation in mutations for test in mutation.tests})
    if run_tests(root, tests):
        raise UserError("a test fails without any mutation: make the tests pass first")
    killed = unexpected = 0
    for mutation in mutations:
        dead = is_killed(mutation, root)
        killed += dead
        unexpected += dead == bool(mutation.survives)
        said = "killed  " if dead else "survived"
        reason = f" ({mutation.survives})" if mutation.survives else ""
        print(f"{said} {mutation.file}: {mutation.why}{reason}", flush=True)
    print(f"{killed} of {len(mutations)} killed")
    return unexpected


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    default = "scripts/mutations.toml"
    flags.DEFINE_string("mutations", default, "the file of mutations", flag_values=values)
    flags.DEFINE_string("only", "", "text in the file's name or the reason", flag_values=values)


def main(given: Mapping[str, Any]) -> int:
    """Tries the mutations in a temporary copy of the tree."""
    mutations = read(Path(given["mutations"]))
    for mutation in mutations:
        mutation.applied(ROOT)
    mutations = [each for each in mutations if given["only"] in f"{each.file} {each.why}"]
    if not mutations:
        raise UserError(f"--only={given['only']}: no mutation has this text")
    with tempfile.TemporaryDirectory(prefix="mutations-") as directory:
        root = Path(directory)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, root / name)
        return int(trial(mutations, root) > 0)


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags))
