"""The time of a training step under every estimator, for the survey: `reproduce step_times`.

On each row the estimators take turns with `gumbel_softmax`, some steps each. A machine whose speed
drifts slows both sides, so what is kept is the ratio, and the time of `gumbel_softmax` itself.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from experiments.files import read_json
from experiments.reproduce import measurements
from experiments.reproduce.timing import TimedSteps
from experiments.settings import Settings
from experiments.training.provenance import num_cores, provenance

NAME, BESIDE = "step_times", "gumbel_softmax"
ROUNDS, STEPS = 5, 100
_SIZES = ("task", "dataset", "layers", "num_classes", "batch_size", "steps_per_call")
_SHAPE = {
    "setting": dict,
    "device": {"platform": str},
    "rows": [
        {"row": str, "estimator": str, "milliseconds": float, "ratio": float, "beside": float}
    ],
}


class StepTimes(NamedTuple):
    """What `write` has measured.

    Attributes:
      seconds: seconds per step, by row and estimator.
      cores: cores of the process, on a CPU; None on an accelerator, or if nothing is measured.
    """

    seconds: Mapping[tuple[str, str], float]
    cores: int | None


class Side(TimedSteps):
    """Some steps of an estimator, compiled."""

    def __init__(self, settings: Settings, num_steps: int) -> None:
        super().__init__(settings, num_steps)
        self.seconds(1)  # compiles

    def milliseconds(self) -> float:
        """The time of a step, over one call."""
        return 1000 * self.seconds(1) / self.num_steps


def write(
    path: Path,
    settings_of: Callable[[str, str], Settings],
    rows: Sequence[str],
    names: Callable[[str], Sequence[str]],
    *,
    rounds: int = ROUNDS,
    num_steps: int = STEPS,
) -> list[dict[str, Any]]:
    """Measures what the file does not have yet; returns its rows.

    Args:
      path: path of the JSON, which is written after each estimator.
      settings_of: maps a row and an estimator to their settings.
      rows: rows of Table 1.
      names: maps a row to the names of its estimators.
      rounds: number of turns of each side.
      num_steps: steps of a turn.

    Raises:
      UserError: the file has times of other turns, models of another size, another device, or
        another number of cores.
    """
    here = provenance()
    with measurements.locked(path):
        setting = {
            "setting": {"rounds": rounds, "num_steps": num_steps, "cores": num_cores()},
            "program": _program(settings_of(rows[0], BESIDE)),
            "device": here["device"],
        }

        def left(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
            known = {(each["row"], each["estimator"]) for each in found}
            return [(row, name) for row in rows for name in names(row) if (row, name) not in known]

        found = measurements.resume(path, _SHAPE, setting, lambda found: not left(found))
        pairs = left(found)
        beside: dict[str, Side] = {}
        for row, name in tqdm(pairs, desc="step times", unit="estimator", disable=None):
            if row not in beside:
                beside = {row: Side(settings_of(row, BESIDE), num_steps)}
            measured = measure(beside[row], Side(settings_of(row, name), num_steps), rounds)
            found = [*found, {"row": row, "estimator": name, **measured}]
            found = measurements.write(path, here, setting, found)
        return found


def _program(settings: Settings) -> dict[str, Any]:
    """The sizes that the times depend on, as the models of all rows have them."""
    flat = settings.flat()
    return {key: flat[key] for key in _SIZES}


def measure(beside: Side, side: Side, rounds: int) -> dict[str, float]:
    """The time of a step, and its ratio to that of `gumbel_softmax`: medians over the rounds."""
    turns = [(side.milliseconds(), beside.milliseconds()) for _ in range(rounds)]
    return {
        "milliseconds": statistics.median(own for own, _ in turns),
        "ratio": statistics.median(own / other for own, other in turns),
        "beside": statistics.median(other for _, other in turns),
    }


def read(results: Path) -> StepTimes:
    """Seconds of a step, from the ratios; none if nothing is measured.

    The ratio of `gumbel_softmax` to itself is 1, whatever noise was measured.
    """
    path = results / f"{NAME}.json"
    if not path.exists():
        return StepTimes({}, None)
    measured = read_json(path, _SHAPE)
    rows = measured["rows"]
    times: dict[str, list[float]] = {}
    for each in rows:
        times.setdefault(each["row"], []).append(each["beside"])
    own = {row: statistics.median(values) for row, values in times.items()}
    seconds = {}
    for each in rows:
        ratio = 1.0 if each["estimator"] == BESIDE else each["ratio"]
        seconds[each["row"], each["estimator"]] = ratio * own[each["row"]] / 1000
    on_cpu = measured["device"]["platform"] == "cpu"
    return StepTimes(seconds, measured["setting"].get("cores") if on_cpu else None)
