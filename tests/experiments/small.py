"""Small settings and a small dataset, for tests of a run's parts in seconds."""

from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import sbn, vae
from experiments.config import read
from experiments.data import Dataset, Split
from experiments.settings import Settings

SHAPE = (4, 3)

# Of the smallest semi-supervised run.
SEMI_SUPERVISED = {
    "dataset": "digits",
    "batch_size": 10,
    "labeled_batch_size": 10,
    "encoder": (2, 2, 2),
    "decoder": (2, 2, 2),
    "head": 4,
    "style_dim": 2,
    "num_steps": 20,
    "log_every": 10,
    "eval_every": 10,
    "checkpoint_every": 10,
    "eval_batch_size": 150,
}

# Compiles in half the time, for tests that do not ask for the bits that training gives.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


def dataset(*, max_value: int = 1, sizes: tuple[int, int, int] = (23, 11, 7)) -> Dataset:
    """Images of 4 x 3 pixels whose rows resemble each other, so that there is something to learn.

    The sizes are no multiples of any batch size that the tests use.
    """
    random = np.random.default_rng(0)

    def split(size: int) -> Split:
        row = random.integers(0, max_value + 1, (size, 1, SHAPE[1]))
        noise = random.integers(0, max_value + 1, (size, *SHAPE))
        keep = random.random((size, *SHAPE)) < 0.8
        return Split(np.where(keep, row, noise).astype(np.uint8))

    return Dataset("small", *map(split, sizes), max_value=max_value)


def config(model: str = "sbn", **overrides: Any) -> ConfigDict:
    """A valid config of a small model on `digits`; keys of a group are given as `group__key`."""
    values = {
        "dataset": "digits",
        "layers": (6,) if model == "vae" else (6, 4),
        "num_classes": 2,
        "batch_size": 5,
        "num_steps": 60,
        "log_every": 20,
        "eval_every": 20,
        "checkpoint_every": 20,
        "steps_per_call": 20,
        "test_num_samples": 5,
        "eval_batch_size": 150,
    } | {key.replace("__", "."): value for key, value in overrides.items()}
    made = {"sbn": sbn, "vae": vae}[model].get_config()
    if model == "vae":
        values = {"decoder": (4,)} | values
    made.update_from_flattened_dict(values)
    read(made)
    return made


def settings(model: str = "sbn", **overrides: Any) -> Settings:
    """The settings of `config`."""
    return read(config(model, **overrides))
