"""Figure 5a: steps per second against the number of classes, with and without marginalization.

The labels are random, as in the paper: the images of MNIST under labels of any number of classes.
Compiling is left out. For each number of classes, the estimators are timed in turn, a few steps
each, so that other load on the machine affects all of them alike; a speed is that of the median
turn.

Next to the measured ratio is that of the floating-point operations of the two compiled programs, as
the compiler counts them. It counts the body of a loop once, so the program of marginalization that
is counted has all joint values at once.

A compiled call takes one step on a CPU, where convolutions in a loop are slow, and a hundred
elsewhere, where the call itself would take longer than the step.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import config
from experiments.config import Overrides
from experiments.files import read_json
from experiments.reproduce import measurements
from experiments.reproduce.table import CONFIGS, PAPER
from experiments.reproduce.timing import TimedSteps
from experiments.settings import Settings
from experiments.sweeps import grids
from experiments.training import backend
from experiments.training.compiled import Compiled
from experiments.training.provenance import num_cores, provenance
from gumbel import estimators

ESTIMATORS = ("marginalization", "gumbel_softmax", "st_gumbel_softmax")
CLASSES = (5, 10, 20, 50, 100, 200)


_SHAPE = {
    "program": dict,
    "cores": int | None,
    "device": {"platform": str, "kind": str},
    "rows": [{"num_classes": int, "estimator": str, "steps_per_second": float, "flops": float}],
    "ratios": [{"num_classes": int, "speedup": float, "flop_ratio": float, "paper": float | None}],
}


class CountedSteps(TimedSteps):
    """A compiled program with a state to step from, its operations and its memory.

    Args:
      settings: settings of the run.
      counted: settings of a run that does the same without a loop, whose operations are counted;
        by default, those of the run itself.
    """

    def __init__(self, settings: Settings, counted: Settings | None = None) -> None:
        super().__init__(settings, 1 if backend.local_devices()[0].platform == "cpu" else 100)
        indices, first, moving = self.arguments

        def program(run: Any, num_steps: int) -> Any:
            rows = indices[:, :num_steps]
            return run.lower(self.dynamic, self.images, self.state, rows, first, moving).compile()

        training = self.run
        self.run = once = program(training, self.num_steps)
        if counted is not None or self.num_steps > 1:
            once = program(Compiled(counted).run if counted else training, 1)
        cost: Any = once.cost_analysis()
        memory: Any = self.run.memory_analysis()
        self.flops = float(cost["flops"])
        self.bytes = int(memory.temp_size_in_bytes)


def measure(
    changes: Overrides, num_classes: int, *, turns: int = 3, turn_seconds: float = 1
) -> list[dict[str, Any]]:
    """Times the estimators at one number of classes; the rows of the JSON of figure 5a.

    Args:
      changes: changes to the config.
      num_classes: K.
      turns: number of turns of each side.
      turn_seconds: about how long a turn lasts.
    """
    base = config.load(str(CONFIGS / "semi_supervised.py"))
    trial = {"labels": "random", "num_classes": num_classes, "num_labels": num_classes * 10}

    def settings(**changed: Any) -> Settings:
        return config.read(grids.config_at(base, {**changes, **trial, **changed}))

    sides = {}
    for name in ESTIMATORS:
        named, counted = {"estimator.name": name}, None
        if estimators.spec(name).enumerates:
            counted = settings(**named, **{"estimator.chunk_size": num_classes})
        sides[name] = CountedSteps(settings(**named), counted)
    calls = {name: _calls(side, turn_seconds) for name, side in sides.items()}
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            steps = calls[name] * side.num_steps
            speeds[name].append(steps / side.seconds(calls[name]))
    return [
        {
            "num_classes": num_classes,
            "estimator": name,
            "steps_per_second": statistics.median(speeds[name]),
            "turns": speeds[name],
            "flops": side.flops,
            "temporary_bytes": side.bytes,
        }
        for name, side in sides.items()
    ]


def _calls(side: CountedSteps, turn_seconds: float) -> int:
    """How many calls last about that long; the first one warms the caches."""
    side.seconds(1)
    return max(1, round(turn_seconds / side.seconds(1)))


def _ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gumbel-Softmax over marginalization: measured, by arithmetic alone, and the paper's."""
    found = {(row["num_classes"], row["estimator"]): row for row in rows}
    ratios = []
    for count in dict.fromkeys(row["num_classes"] for row in rows):
        exact, sampled = found[count, "marginalization"], found[count, "gumbel_softmax"]
        ratios.append(
            {
                "num_classes": count,
                "speedup": sampled["steps_per_second"] / exact["steps_per_second"],
                "flop_ratio": exact["flops"] / sampled["flops"],
                "paper": PAPER["figure5a"]["speedup"].get(str(count)),
            }
        )
    return ratios


def write(
    path: Path, changes: Overrides, classes: Sequence[int] = CLASSES, **options: Any
) -> dict[str, Any]:
    """Measures, and writes the JSON file after each number of classes.

    Args:
      path: path of the file; what it holds is not measured again.
      changes: changes to the config.
      classes: the numbers of classes.
      options: options of `measure`.

    Raises:
      UserError: another process measures, or the file is damaged or of another program, device, or
        number of cores.
    """
    with measurements.locked(path):
        return _write(path, changes, classes, **options)


def _write(
    path: Path, changes: Overrides, classes: Sequence[int], **options: Any
) -> dict[str, Any]:
    here = provenance()
    setting = {"program": _program(changes), "cores": num_cores(), "device": here["device"]}

    def is_complete(rows: Sequence[Mapping[str, Any]]) -> bool:
        return set(classes) <= {row["num_classes"] for row in rows}

    rows = measurements.resume(path, _SHAPE, setting, is_complete)
    for count in tqdm(classes, desc="figure 5a", unit="K", disable=None):
        if any(row["num_classes"] == count for row in rows):
            continue
        rows = sorted(
            [*rows, *measure(changes, count, **options)], key=lambda row: row["num_classes"]
        )
        rows = measurements.write(path, here, setting, rows, ratios=_ratios(rows))
    return read(path)


def read(path: Path) -> dict[str, Any]:
    """What the file holds."""
    measured: dict[str, Any] = read_json(path, _SHAPE)
    return measured


def _program(changes: Overrides) -> dict[str, Any]:
    """What the speed depends on, other than the estimator and the number of classes."""
    base = config.load(str(CONFIGS / "semi_supervised.py"))
    settings = config.read(grids.config_at(base, changes))
    program: dict[str, Any] = json.loads(settings.program_key())
    varied = ("estimator.name", "labels", "num_classes", "num_labels", "num_steps")
    return {key: value for key, value in program.items() if key not in varied}
