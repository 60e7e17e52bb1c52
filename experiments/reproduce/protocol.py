"""What Table 1 is: its cells, the settings each may pick from, and how long everything trains.

Every estimator gets the same: the same learning rates, steps and seeds, and centering wherever there
is a score function. Picked with the learning rate is variance normalization, on or off, where the
estimator has it (unless the preset has it on for all): it divides the signal by up to some tens, so
the best learning rate depends on it. MuProp, whose estimate has a signal and a correction, may have
both normalized or the signal alone, which runs of the final length decide. Picked, too, is whether
inputs are standardized, which suits some estimators and not others. Picked after that is the
temperature's schedule, where the estimator reads a temperature that is annealed and the preset has
several.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments import grids, overrides
from experiments.grids import LEARNING_RATES, Grid
from experiments.overrides import Overrides
from experiments.reproduce.runs import CONFIGS, PAPER
from gumbel import estimators

_PAPER = PAPER["table1"]
ROWS: tuple[str, ...] = tuple(_PAPER["rows"])
COLUMNS: tuple[str, ...] = tuple(_PAPER["columns"])
# Described in the paper but left out of its table; VIMCO has an objective of its own.
EXTRA_COLUMNS = ("nvil", "vimco")


class Cell(NamedTuple):
    """One cell of the table."""

    row: str
    estimator: str

    @property
    def name(self) -> str:
        """`row-estimator`, for file names."""
        return f"{self.row}-{self.estimator}"

    @property
    def model(self) -> str:
        """`sbn` or `vae`."""
        return self.row.split("_")[0]

    @property
    def paper(self) -> float | None:
        """The paper's number, in nats, or None where it has none."""
        if self.estimator not in COLUMNS:
            return None
        return float(_PAPER["rows"][self.row][COLUMNS.index(self.estimator)])


class Preset(NamedTuple):
    """How much to do.

    Attributes:
      name: of the preset.
      learning_rates: to pick from.
      schedules: of an annealed temperature, to pick from at the learning rate picked.
      pick_steps: optimizer steps of a picking run.
      final_steps: of a final run.
      seeds: how many final runs; picking uses a seed that these do not.
      pick_samples: m of the bounds of picking runs.
      changes: to the config, for all runs.
      columns, extra_columns: the estimators.
      rows: of the table.
      rows_at_once: how many rows train in one wave.
      slope_rate: of slope-annealed straight-through.
      variance_normalization: to pick from, for the estimators that have it.
      standardize: to pick from, for every estimator, by model.
    """

    name: str
    learning_rates: tuple[float, ...]
    schedules: Grid
    pick_steps: int
    final_steps: int
    seeds: int
    pick_samples: int
    changes: Overrides
    columns: tuple[str, ...] = COLUMNS
    extra_columns: tuple[str, ...] = EXTRA_COLUMNS
    rows: tuple[str, ...] = ROWS
    rows_at_once: int = 1
    slope_rate: float = 1e-5
    variance_normalization: tuple[bool, ...] = (True, False)
    standardize: Mapping[str, tuple[bool, ...]] = {"sbn": (True, False), "vae": (True, False)}


_SCHEDULES = grids.product(
    {"temperature.rate": (1e-5, 1e-4), "temperature.interval": (500, 1000)},
)
# A tenth of the steps, so learning rates that begin where the paper's grid ends, and fall to 0 lest
# the numbers show their noise; and the faster of the paper's rates for the temperature.
_SHORT_CHANGES: Overrides = {
    "learning_rate_schedule": "cosine",
    "temperature.rate": 1e-4,
    "eval_valid_samples": 20,
}
PRESETS = {
    "full": Preset("full", LEARNING_RATES, _SCHEDULES, 100_000, 500_000, 3, 100, {}),
    "short": Preset(
        "short",
        (1e-2, 3e-2, 1e-1),
        [],
        10_000,
        50_000,
        3,
        20,
        _SHORT_CHANGES,
        rows_at_once=2,
        slope_rate=2e-5,
        variance_normalization=(True,),
    ),
    "smoke": Preset(
        "smoke",
        (3e-3,),
        _SCHEDULES[:2],
        200,
        200,
        2,
        5,
        {
            "dataset": "digits",
            "batch_size": 20,
            "num_classes": 5,
            "log_every": 100,
            "eval_every": 100,
            "checkpoint_every": 200,
            "eval_samples": 5,
        },
        ("sf", "gumbel_softmax"),
        (),
        ("sbn_bernoulli", "vae_categorical"),
        2,
        standardize={"sbn": (True,), "vae": (True,)},
    ),
}
_SMOKE_LAYERS = {"sbn": (20, 20), "vae": (20,)}
_PICK_SEED = 1000
VARIANCE_NORMALIZATION, STANDARDIZE = "estimator.variance_normalization", "standardize"
SCALE_CORRECTION = "estimator.scale_correction"
# The keys that are picked.
PICKED = (
    "learning_rate",
    VARIANCE_NORMALIZATION,
    SCALE_CORRECTION,
    STANDARDIZE,
    "temperature.rate",
    "temperature.interval",
)


def cells(preset: Preset) -> list[Cell]:
    """The cells of a preset, row by row."""
    columns = (*preset.columns, *preset.extra_columns)
    return [Cell(row, estimator) for row in preset.rows for estimator in columns]


def base_config(cell: Cell, preset: Preset, *, picking: bool = False) -> ConfigDict:
    """The config of a cell before anything is picked.

    If `picking`, what is annealed and not itself picked is annealed faster, so that it goes through
    as much of its course in a picking run as in a final one.
    """
    model, latent = cell.row.split("_")
    config = overrides.load(str(CONFIGS / f"{model}.py"))
    changes = preset.changes | {"latent": latent, "estimator.name": cell.estimator}
    if preset.changes.get("dataset") == "digits":
        changes["layers"] = _SMOKE_LAYERS[model]
    config = grids.config_at(config, changes)
    faster = preset.final_steps / preset.pick_steps if picking else 1.0
    if cell.estimator == "slope_annealed_st":
        config.estimator.slope_rate = preset.slope_rate * faster
    if config.temperature.name == "exponential" and not preset.schedules:
        config.temperature.rate *= faster
        config.temperature.interval = max(1, round(config.temperature.interval / faster))
    if picking and config.eval_valid_samples is not None:
        config.eval_valid_samples = preset.pick_samples
    return config


def first_points(cell: Cell, preset: Preset) -> Grid:
    """The runs that the learning rate is picked from, and what goes with it.

    Inputs that are not standardized learn more slowly: they go without the smallest learning rate.
    """
    points: Grid = []
    for standardize in preset.standardize[cell.model]:
        skipped = 0 if standardize else int(len(preset.learning_rates) > 1)
        changed = {} if standardize else {STANDARDIZE: False}
        points += [
            {"learning_rate": rate} | normalization | changed
            for rate in preset.learning_rates[skipped:]
            for normalization in _normalizations(cell, preset)
        ]
    return [point | _picking(preset) for point in points]


def _normalizations(cell: Cell, preset: Preset) -> Grid:
    """The ways to normalize the variance of the signal that are picked from."""
    options = estimators.spec(cell.estimator).options
    if "variance_normalization" not in options:
        return [{}]
    ways: Grid = [{VARIANCE_NORMALIZATION: on} for on in preset.variance_normalization]
    if "scale_correction" in options and True in preset.variance_normalization:
        ways.append({VARIANCE_NORMALIZATION: True, SCALE_CORRECTION: False})
    return ways


def biased(point: Mapping[str, Any]) -> bool:
    """Whether a run is of MuProp with its signal alone normalized, which is biased."""
    return point.get(SCALE_CORRECTION) is False


def finalist_points(preset: Preset, settings: Sequence[Overrides]) -> Grid:
    """The runs, as long as final ones, that choose between MuProp with a bias and without.

    Short runs would not do: what an estimator gains by less variance shows early, what it loses by
    its bias late.

    Args:
      preset: of the table.
      settings: the best with a bias and the best without.
    """
    length = {"num_steps": preset.final_steps}
    return [setting | _picking(preset) | length for setting in settings]


def schedule_points(cell: Cell, preset: Preset, setting: Overrides) -> Grid:
    """The runs that the temperature's schedule is picked from, none where it is not annealed.

    Args:
      cell, preset: of the table.
      setting: what was picked before.
    """
    annealed = base_config(cell, preset).temperature.name == "exponential"
    if not annealed or not estimators.spec(cell.estimator).relaxes:
        return []
    return [setting | schedule | _picking(preset) for schedule in preset.schedules]


def final_point(cell: Cell, preset: Preset, setting: Overrides, seed: int) -> Overrides:
    """The final run of a cell at a picked setting and a seed."""
    return setting | {"seed": seed, "num_steps": preset.final_steps}


def _picking(preset: Preset) -> Overrides:
    return {
        "seed": _PICK_SEED,
        "num_steps": preset.pick_steps,
        "eval_samples": preset.pick_samples,
    }
