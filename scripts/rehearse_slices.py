"""Rehearses on CPU what a table does on a machine that is lent by the minute.

  python -m scripts.rehearse_slices [--target=table1] [--slice=20] [--workdir=DIR]

The smoke preset is trained once undisturbed. Then it is trained in slices, by turns one that comes
to its end and one that is killed by SIGKILL at a random moment; after each, all files go to another
directory, as to the next machine. At the end the records must be those of the undisturbed table: as
many, with every bound the same to 1e-5.
"""

import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments import command
from experiments.errors import UserError
from experiments.files import ROOT, path_of, read_json, scratch
from experiments.training.signals import TIME_IS_UP

_TOLERANCE = 1e-5
_MOST_SLICES = 500
_ENDED, _KILLED = 0, -9
_BOUNDS = ("validation_bound", "test_bound")


class Count(NamedTuple):
    """How the slices went: those that came to their end, and those that were killed."""

    ended: int
    killed: int


def rehearse(target: str, seconds: float, directory: Path, moments: random.Random) -> Count:
    """Trains the table in slices below `directory/slices`, to its end.

    Raises:
      UserError: a slice failed, or they never come to an end.
    """
    counts = {TIME_IS_UP: 0, _KILLED: 0}
    for index in range(_MOST_SLICES):
        home = directory / f"machine-{index}"
        if index:
            (directory / f"machine-{index - 1}").rename(home)
        killed_after = moments.uniform(0, seconds) if index % 2 else None
        status = _slice(target, seconds, home, killed_after)
        if status == _ENDED:
            home.rename(directory / "slices")
            return Count(counts[TIME_IS_UP] + 1, counts[_KILLED])
        if status not in counts:
            raise UserError(f"a slice ended with status {status}: see {home / 'log'}")
        counts[status] += 1
    raise UserError(f"{target} is not done after {_MOST_SLICES} slices: give a longer --slice")


def _slice(target: str, seconds: float | None, home: Path, killed_after: float | None) -> int:
    """The status of the command; it is killed so long after it started to train, or never."""
    home.mkdir(parents=True, exist_ok=True)
    arguments = [target, "--preset=smoke", "--engine=vmap", f"--workdir={home}"]
    arguments += [] if seconds is None else [f"--slice={seconds}", "--thin"]
    with (home / "log").open("a") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "experiments.reproduce", *arguments],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        if killed_after is not None:
            _wait_until_begun(child, home / "log")
            try:
                return child.wait(killed_after)
            except subprocess.TimeoutExpired:
                child.kill()
        return child.wait()


def _wait_until_begun(child: subprocess.Popen[bytes], log: Path) -> None:
    """Waits for the first line of the command: a kill while it imports would test nothing."""
    before = log.stat().st_size
    while child.poll() is None and log.stat().st_size == before:
        time.sleep(0.05)


def bounds(results: Path) -> dict[str, list[float]]:
    """The steps and bounds in the records below a directory, the final ones last, by file."""
    found = {}
    for path in sorted(results.glob("*/*/*/*.json")):
        record = read_json(path, {"curve": [{"step": int}], **dict.fromkeys(_BOUNDS, float)})
        rows = [(row["step"], row["validation_bound"]) for row in record["curve"]]
        final = [record[name] for name in _BOUNDS]
        found[str(path.relative_to(results))] = [*(n for row in rows for n in row), *final]
    return found


def largest_difference(
    expected: Mapping[str, list[float]], found: Mapping[str, list[float]]
) -> float:
    """The largest relative difference; infinite where a record or a number is missing.

    Example:
      >>> largest_difference({"a": [2.0, 4.0]}, {"a": [2.0, 4.1]})
      0.025
      >>> largest_difference({"a": [2.0]}, {"a": [2.0], "b": [1.0]})
      inf
    """
    if {k: len(v) for k, v in expected.items()} != {k: len(v) for k, v in found.items()}:
        return float("inf")
    each = [
        np.abs(np.subtract(found[name], ours)) / np.maximum(np.abs(ours), 1.0)
        for name, ours in expected.items()
    ]
    return float(np.round(np.max(np.concatenate(each), initial=0.0), 12))


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_enum("target", "table1", ["table1", "table2", "survey"], "the table", **define)
    flags.DEFINE_float("slice", 20.0, "seconds of a slice", lower_bound=0.1, **define)
    flags.DEFINE_integer("seed", 0, "seed of the random moments", **define)
    flags.DEFINE_string("workdir", None, "a new directory for the files, kept", **define)


def main(given: Mapping[str, Any]) -> int:
    """Rehearses a table in slices, some of them killed, and compares its records."""
    if given["workdir"]:
        return _run(given, path_of(given["workdir"], "--workdir").absolute())
    with scratch() as directory:
        return _run(given, directory)


def _run(given: Mapping[str, Any], directory: Path) -> int:
    target, home = given["target"], directory / "undisturbed"
    if home.exists():
        raise UserError(f"--workdir={directory} is in use: name a new directory")
    began = time.monotonic()
    if status := _slice(target, None, home, None):
        raise UserError(f"the undisturbed table ended with status {status}: see {home / 'log'}")
    undisturbed = time.monotonic() - began
    count = rehearse(target, given["slice"], directory, random.Random(given["seed"]))
    expected, found = (bounds(directory / name / "results") for name in ("undisturbed", "slices"))
    if not expected:
        raise UserError(f"the undisturbed table has no record: see {home / 'log'}")
    difference = largest_difference(expected, found)
    print(
        f"{target}: {undisturbed:.0f} s undisturbed; {count.ended} slices of {given['slice']:g} s "
        f"came to their end and {count.killed} were killed: {len(found)} of {len(expected)} "
        f"records, the largest relative difference of a bound is {difference:.2g}"
    )
    return int(not difference <= _TOLERANCE)


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags))
