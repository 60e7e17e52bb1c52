"""The laboratory on the models of Table 1 while they train: `reproduce lab`.

Each model trains under `gumbel_softmax` at a constant learning rate and is measured before
training and after 1,000, 10,000, and 50,000 steps: which estimator is best changes as it learns.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from experiments import config
from experiments.config import Overrides
from experiments.errors import UserError
from experiments.files import read_json
from experiments.lab import measure
from experiments.lab.measure import NUMBERS, Request
from experiments.reproduce import step_times
from experiments.reproduce.step_times import StepTimes
from experiments.reproduce.table import CONFIGS
from experiments.reproduce.table1_presets import ROWS, Cell
from experiments.settings import Settings
from experiments.sweeps import grids
from experiments.training import loading, records, run
from gumbel import estimators
from gumbel.lab import Comparison, Progress, Row


class Preset(NamedTuple):
    """How much to measure.

    Attributes:
      rows: rows of Table 1.
      steps: steps of training at which to measure.
      changes: changes to the config.
      request: what to measure.
    """

    rows: tuple[str, ...]
    steps: tuple[int, ...]
    changes: Overrides
    request: Request


_TRAINED_WITH = "gumbel_softmax"
# The paper's largest rate. The bounds of these runs are not reported, so they take few samples.
_CHANGES: Overrides = {"learning_rate": 3e-3, "eval_every": 10_000, "test_num_samples": 1}
_FULL = Preset(
    rows=ROWS,
    steps=(0, 1000, 10_000, 50_000),
    changes=_CHANGES,
    request=Request(
        estimators=None,
        temperatures=(0.1, 0.5, 1.0),
        num_draws=1000,
        num_warmup=200,
        reference_draws=10_000,
        batch_size=100,
        max_passes=64,
    ),
)
PRESETS = {
    "full": _FULL,
    "short": _FULL,
    "smoke": Preset(
        rows=ROWS[::3],
        steps=(0, 20, 40),
        changes=_CHANGES
        | {
            "dataset": "digits",
            "batch_size": 20,
            "num_classes": 5,
            "log_every": 10,
            "eval_every": 20,
            "checkpoint_every": 20,
        },
        request=Request(
            estimators=("sf", "st", "gumbel_softmax"),
            temperatures=(0.5,),
            num_draws=20,
            num_warmup=2,
            reference_draws=40,
            batch_size=5,
            max_passes=64,
        ),
    ),
}
# Of the smoke preset: so few that the true gradient is enumerated.
_ENUMERABLE_LAYERS = {"sbn": (5, 5), "vae": (5,)}


class Stage(NamedTuple):
    """A model at a step of its training, with the comparison that was made there."""

    row: str
    step: int
    found: Comparison


def stages(preset: Preset, workdir: Path, results: Path, progress: Progress) -> Iterator[Stage]:
    """Trains and measures what is not in `results` yet; a stage is recorded when it is done.

    Args:
      preset: what to measure.
      workdir: directory for the runs, below `lab`: one for each stage.
      results: directory for the records, `lab/ROW-STEP.json`.
      progress: see `gumbel.lab.compare`.

    Raises:
      UserError: a record is damaged, or of another request.
    """
    for row in preset.rows:
        for step in preset.steps:
            path = results / "lab" / f"{row}-{step}.json"
            settings = settings_of(row, preset, max(step, 1))
            yield Stage(row, step, _found(path, settings, step, preset.request, workdir, progress))


def recorded(results: Path) -> dict[str, dict[int, Comparison]]:
    """The stages that are recorded, by row and step, at the times of a training step.

    Files of other names than `lab/ROW-STEP.json` are left out.
    """
    times = step_times.read(results)
    found: dict[str, dict[int, Comparison]] = {}
    for row in ROWS:
        paths = (results / "lab").glob(f"{row}-*.json")
        named = ((re.fullmatch(rf"{row}-(\d+)", path.stem), path) for path in paths)
        by_step = {int(name[1]): path for name, path in named if name}
        for step, path in sorted(by_step.items()):
            comparison = Comparison.from_dict(read_json(path, measure.SHAPE))
            found.setdefault(row, {})[step] = at_step_times(comparison, row, times)
    return found


def at_step_times(comparison: Comparison, row: str, times: StepTimes) -> Comparison:
    """The comparison with the time of a training step for that of an estimate, where it is known.

    The records' own times are those of the commits that measured them, which differ.

    Args:
      comparison: comparison on a row of Table 1.
      row: name of the row.
      times: times of a training step.
    """

    def timed(measured: Row) -> Row:
        seconds = times.seconds.get((row, measured.estimator))
        if seconds is None:
            return measured
        return dataclasses.replace(measured, milliseconds=1000 * seconds)

    return dataclasses.replace(comparison, rows=tuple(map(timed, comparison.rows)))


def settings_of(row: str, preset: Preset, num_steps: int) -> Settings:
    """The settings of the run of a row."""
    cell = Cell(row, _TRAINED_WITH)
    trial: dict[str, Any] = {
        "latent": cell.latent,
        "estimator.name": cell.estimator,
        "num_steps": num_steps,
    }
    if preset.changes.get("dataset") == "digits":
        trial["layers"] = _ENUMERABLE_LAYERS[cell.model]
    base = config.load(str(CONFIGS / f"{cell.model}.py"))
    return config.read(grids.config_at(base, {**preset.changes, **trial}))


def _names(request: Request) -> set[str]:
    return set(request.estimators or estimators.names())


def _found(
    path: Path, settings: Settings, step: int, request: Request, workdir: Path, progress: Progress
) -> Comparison:
    directory = workdir / "lab" / "trained" / path.stem  # its own, so it can be measured again
    requested = measure.request_record(settings, step, request)
    if path.exists():
        kept = read_json(path, measure.SHAPE, "delete it, to measure again")
        if not measure.same_request(kept["request"], requested):
            raise UserError(
                f"{path} is of another request: delete it, or give another --preset or --results"
            )
        if _names(request) <= {row["estimator"] for row in kept["rows"]} | kept["skipped"].keys():
            return Comparison.from_dict(kept)
    if step:
        run.train(settings, directory)
        trained = loading.load(directory)
    else:
        trained = loading.untrained(settings)
    output = workdir / "lab" / "measured" / path.stem
    found = measure.measure(trained, request, output, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    records.write_json(path, json.loads((output / NUMBERS).read_text(encoding="utf-8")))
    return found
