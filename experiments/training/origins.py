"""Which processes trained a run: jax version, device, cores, and commit of each, from a step on.

A run that stops may resume on another machine or at another commit, and its result names them all.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.files import read_json
from experiments.training import records
from experiments.training.provenance import origin
from experiments.training.rundir import ORIGINS

_SHAPE = [{"from_step": int, "jax": str, "device": str, "git": ({"commit": str}, None)}]


def read(workdir: Path) -> list[dict[str, Any]]:
    """The origins so far, none if there is no file."""
    path = workdir / ORIGINS
    found: list[dict[str, Any]] = read_json(path, _SHAPE, "delete it") if path.exists() else []
    return found


def note(workdir: Path, step: int, here: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Adds this process, which resumes from `step`, and removes those whose steps it repeats.

    Args:
      workdir: the run's directory.
      step: step of the checkpoint that the run resumes from, or 0.
      here: what `provenance` gives in this process.

    Returns:
      The origins, of which no two in a row differ in `from_step` alone.
    """
    path, ours = workdir / ORIGINS, {**origin(here), "cores": here["device"]["cores"]}
    found = read(workdir) if step else []
    kept = [each for each in found if each["from_step"] < step]
    if not kept or kept[-1] != {"from_step": kept[-1]["from_step"], **ours}:
        kept.append({"from_step": step, **ours})
    records.write_json(path, kept)
    return kept
