"""What runs recorded, times aside, and where that differs between two directories."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.files import read_json
from experiments.training import events, records
from experiments.training.rundir import METRICS, RESULT, RESULT_SHAPE, TENSORBOARD

# Times, and where the runs trained: somebody may commit meanwhile.
_TIMES = {"train_seconds", "eval_seconds", "steps_per_second", "git", "origins"}
_TOLERANCE = 1e-5


def numbers(workdir: Path) -> dict[str, Any]:
    """All that the runs below a directory recorded but their times, by directory."""
    return {
        str(path.parent.relative_to(workdir)): {
            "result": _timeless(read_json(path, RESULT_SHAPE)),
            "metrics": [_timeless(row) for row in records.read_metrics(path.with_name(METRICS))],
            "events": scalars(path.parent),
        }
        for path in sorted(workdir.rglob(RESULT))
    }


def scalars(workdir: Path) -> list[tuple[int, str, float]]:
    """The TensorBoard events of a run but its speed: step, name and value."""
    return [
        (event.step, value.tag, value.simple_value)
        for file in sorted((workdir / TENSORBOARD).iterdir())
        for event in events.read(file)
        for value in event.summary.value
        if value.tag != "steps_per_second"
    ]


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Where the numbers of runs differ, in words: one line for each run and file.

    Example:
      >>> run = {"result": {"trained_together": 1}, "metrics": [{"step": 1}], "events": []}
      >>> differences({"a": run}, {"a": run})
      []
      >>> differences({"a": run}, {"a": run | {"metrics": []}})
      ['a: metrics differ']
    """
    wrong = [f"{name}: no result" for name in expected.keys() - found.keys()]
    wrong += [f"{name}: not expected" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        ours, theirs = dict(expected[name]), dict(found[name])
        pair = [dict(each.pop("result")) for each in (ours, theirs)]
        together = [result.pop("trained_together", 1) for result in pair]
        same = _equal if together[0] == together[1] else _close
        wrong += [] if same(*pair) else [f"{name}: results differ"]
        wrong += [f"{name}: {key} differ" for key in ours if not same(ours[key], theirs[key])]
    return sorted(wrong)


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other)


def _close(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal up to rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_close, one, other))
    return bool(one == other)


def _timeless(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in _TIMES}
