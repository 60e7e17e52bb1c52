"""Every estimator at the parameters of a run, measured once and kept in a directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config, tasks
from experiments.data import batches
from experiments.errors import UserError
from experiments.files import read_arrays, read_json, replacing
from experiments.settings import Settings
from experiments.tasks import functional
from experiments.training import records, rundir
from experiments.training.dynamic import dynamic_of
from experiments.training.loading import Trained
from experiments.training.provenance import ORIGIN, origin, provenance
from gumbel import Objective, estimators, lab
from gumbel.types import Batch, Params

NUMBERS, TRUTH, TABLE, PICTURE = "lab.json", "truth.npz", "lab.txt", "lab.png"
_NUMBER = float | None  # null where it was not finite
SHAPE = {
    "request": {"config": dict},
    "reference": str,
    "rows": [
        {
            "estimator": str,
            "temperature": float | None,
            "group": str,
            "unbiased": bool,
            "bias_interval": [_NUMBER],
            "passes": int,
            **dict.fromkeys(
                ("bias", "variance", "error", "cosine", "norm", "milliseconds"), _NUMBER
            ),
        }
    ],
    "skipped": {str: str},
}


class Request(NamedTuple):
    """What to measure.

    Attributes:
      estimators: their names; None for all that apply to the run.
      temperatures: temperatures for those that read one.
      num_draws: number of estimates of each.
      num_warmup: number of surrogates before, in which learned coefficients settle.
      reference_draws: number of estimates in the long run that stands in for the true gradient.
      batch_size: number of training images.
      max_passes: estimators that take more passes are left out.
    """

    estimators: tuple[str, ...] | None
    temperatures: tuple[float, ...]
    num_draws: int
    num_warmup: int
    reference_draws: int
    batch_size: int
    max_passes: int


def problem_of(run: Trained, batch_size: int) -> tuple[Objective, Params, Batch]:
    """The objective of a run, its parameters, and its first training images.

    What the cost takes from a schedule is that of the checkpoint's step.

    Raises:
      UserError: its cost is one of relaxed samples, or there are fewer training images.
    """
    settings, step, model, dataset = run
    if batch_size > len(dataset.train):
        raise UserError(
            f"--images={batch_size}: {dataset.name} has {len(dataset.train)} training images: give "
            "no more"
        )
    if settings.flat().get("kl") == "relaxed":
        raise UserError(
            "the run has --config.kl=relaxed, whose cost has no meaning at discrete samples: train "
            "with kl=sample or kl=analytic to compare gradients"
        )
    annealed = tasks.load(settings.task).annealed(settings, dynamic_of(settings), step)
    # No cost but that of kl=relaxed has a temperature.
    objective = functional.objective(model, temperature=1.0, **annealed)
    images = jnp.asarray(dataset.train.images[:batch_size])
    shown = batches.pixels(
        images,
        dataset.max_value,
        jax.random.key(0),
        dynamic_binarization=settings.dynamic_binarization,
    )
    return objective, functional.params_of(model), model.batch(shown)


def request_record(settings: Settings, step: int, request: Request) -> Any:
    """A request of a run at a step, as `lab.json` says that it was measured."""
    return records.plain({"step": step, "config": settings.flat(), **request._asdict()})


def same_request(kept: Mapping[str, Any], requested: Mapping[str, Any]) -> bool:
    """Whether two records are of one request; keys that are new in a config have their defaults."""
    return not config.differing(kept["config"], requested["config"]) and all(
        kept.get(key) == value for key, value in requested.items() if key != "config"
    )


def measure(run: Trained, request: Request, output: Path, progress: lab.Progress) -> lab.Comparison:
    """Measures what is not in `output` yet; every estimator that is done is kept there at once.

    Args:
      run: a run, finished or not.
      request: what to measure.
      output: a directory, made if absent.
      progress: see `gumbel.lab.compare`.

    Raises:
      UserError: as `problem_of` does; or the directory is of another request, another step, another
        kind of device, or another number of cores, or in use by another process.
    """
    with rundir.locked(output, flag="output"):
        return _measure(run, request, output, progress)


def _measure(
    run: Trained, request: Request, output: Path, progress: lab.Progress
) -> lab.Comparison:
    here = provenance()
    objective, params, batch = problem_of(run, request.batch_size)
    requested = request_record(run.settings, run.step, request)
    kept = _kept(output, requested, here)
    known = lab.Comparison.from_dict(kept) if kept else None
    origins = {_name(row): row.get("from", origin(kept)) for row in kept["rows"]} if kept else {}
    key, family = jax.random.key(0), run.settings.family

    def keep(found: lab.Comparison) -> None:
        numbers = found.as_dict()
        rows = [
            {"from": origins.get(_name(row), origin(here))} | row for row in numbers.pop("rows")
        ]
        records.write_json(
            output / NUMBERS, {"request": requested, "rows": rows, **numbers, **here}
        )

    truth = _truth(output) if known else None
    if truth is None:
        truth = lab.true_gradient(
            objective,
            params,
            batch,
            key,
            family=family,
            num_draws=request.reference_draws,
            progress=progress,
        )
        arrays: dict[str, Any] = {"said": truth.source, **truth.blocks}
        with replacing(output / TRUTH) as file:
            np.savez(file, **arrays)
        known = lab.Comparison(truth.source, (), {})
        keep(known)
    found = lab.compare(
        objective,
        params,
        batch,
        key,
        family=family,
        estimators=request.estimators,
        options={name: centered(name) for name in estimators.names()},
        temperatures=request.temperatures,
        num_draws=request.num_draws,
        num_warmup=request.num_warmup,
        max_passes=request.max_passes,
        truth=truth,
        known=known,
        on_result=keep,
        progress=progress,
    )
    keep(found)
    return found


def centered(name: str) -> dict[str, bool]:
    """The options of an estimator by which its signal is centered if it can be, as in the tables.

    Example:
      >>> centered("sf"), centered("st")
      ({'centering': True}, {})
    """
    return {"centering": True} if "centering" in estimators.spec(name).options else {}


def _name(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What names a row of a comparison."""
    return row["estimator"], row["temperature"], row["group"]


def _kept(output: Path, requested: Any, here: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the file of a comparison that is to be completed has; None if there is no file."""
    path = output / NUMBERS
    if not path.exists():
        return None
    kept: dict[str, Any] = read_json(path, {**SHAPE, **ORIGIN}, "delete it, to measure again")
    fix = "delete it, or choose another directory"
    if not same_request(kept["request"], requested):
        raise UserError(f"{output} holds a comparison of another request or step: {fix}")
    for part in ("kind", "cores"):  # on which the times depend
        theirs, ours = kept["device"].get(part), here["device"][part]
        if theirs is not None and theirs != ours:
            raise UserError(f"{output} was measured with device {part} {theirs}, not {ours}: {fix}")
    return kept


def _truth(output: Path) -> lab.Truth | None:
    path = output / TRUTH
    if not path.exists():
        return None
    fix = f"delete {output}, to measure again"
    arrays = read_arrays(path, fix)
    if "said" not in arrays:
        raise UserError(f"{path} is damaged (it does not say its source): {fix}")
    said = str(arrays.pop("said"))
    return lab.Truth(arrays, said)
