"""A trained model, back in Python: from the directory of its run."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config
from experiments.data import Dataset
from experiments.data.batches import RawImages
from experiments.errors import UserError
from experiments.files import path_of
from experiments.settings import Settings
from experiments.tasks.functional import with_params
from experiments.training import backend, rundir
from experiments.training.checkpoints import Checkpoints
from experiments.training.compiled import prepared_dataset
from experiments.training.dynamic import dynamic_of
from experiments.training.program import Program
from experiments.training.run_state import Saved
from experiments.training.rundir import CHECKPOINTS, CONFIG, RESULT


class Trained(NamedTuple):
    """A model and what it was trained on.

    Attributes:
      settings: settings of the run.
      step: step of the checkpoint.
      model: a `Model` that holds the trained parameters.
      dataset: prepared as the run had it.
    """

    settings: Settings
    step: int
    model: Any
    dataset: Dataset


def load(workdir: str | Path) -> Trained:
    """The model of the newest checkpoint in a run's directory, which is only read.

    Args:
      workdir: directory of a run that is finished, stopped or still training.

    Raises:
      UserError: it holds no run or no checkpoint, or one of another version; the dataset is
        unavailable.

    Example:
      >>> load("no/such/run")
      Traceback (most recent call last):
      experiments.errors.UserError: no/such/run has no config.json: name the --workdir of a run
    """
    workdir = path_of(str(workdir), "workdir")
    if not (workdir / CONFIG).is_file():
        raise UserError(f"{workdir} has no {CONFIG}: name the --workdir of a run")
    if not (workdir / CHECKPOINTS).is_dir():
        raise _without_checkpoint(workdir)
    settings = config.from_flat(rundir.read_config(workdir))
    dataset, program, images = _prepared(settings)
    state = jax.eval_shape(program.init, dynamic_of(settings), images)
    with Checkpoints(workdir / CHECKPOINTS, read_only=True) as checkpoints:
        restored = checkpoints.restore(like=Saved(state, np.zeros(())))
    if restored is None:
        raise _without_checkpoint(workdir)
    step, saved = restored
    return Trained(settings, step, with_params(program.model, saved.state.params), dataset)


def untrained(settings: Settings) -> Trained:
    """The model as a run of these settings begins."""
    dataset, program, images = _prepared(settings)
    state = program.init(dynamic_of(settings), images)
    return Trained(settings, 0, with_params(program.model, state.params), dataset)


def _without_checkpoint(workdir: Path) -> UserError:
    if (workdir / RESULT).exists():  # training again would only say that the run is finished
        fix = f"delete {RESULT} and train again, or name another --workdir"
        return UserError(f"{workdir} is finished, but its checkpoints are gone: {fix}")
    return UserError(f"{workdir} has no checkpoint yet: train it first")


def _prepared(settings: Settings) -> tuple[Dataset, Program, RawImages]:
    """The data, the program, and a batch of images."""
    backend.devices()  # says in one line if jax cannot start
    dataset = prepared_dataset(settings)
    images = jnp.asarray(dataset.train.images[: settings.batch_size])
    return dataset, Program.make(settings, dataset), images
