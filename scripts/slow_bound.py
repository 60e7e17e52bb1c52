"""The bounds of trained models, computed again by a second program that shares no code with them.

  python -m scripts.slow_bound WORKDIR [...] [--images=500] [--samples=100] [--output=F.json]

Each WORKDIR is of a run. The second program reads the trained arrays and nothing of the run's code:
it is written from the definitions, in NumPy and float64, with another random generator. Both
programs bound the same test images. Printed are the means over them, and the difference with its
standard error. The exit status is 1 if a difference is more than four standard errors.

The images of a run that draws its pixels anew in every step are drawn once, for both programs.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Float, UInt8
from tqdm import tqdm

from experiments import command
from experiments.errors import UserError
from experiments.tasks.functional import params_of
from experiments.training import evaluation, loading, records
from experiments.training.loading import Trained
from experiments.training.program import Program
from experiments.training.provenance import provenance
from scripts import slow_models
from scripts.slow_models import Model

_AT_ONCE = 50  # images
_ERRORS = 4.0
_MODELS: dict[str, Callable[..., Model]] = {
    "structured_prediction": slow_models.Sbn,
    "generative": slow_models.Vae,
    "semi_supervised": slow_models.SemiSupervised,
}


class Bounds(NamedTuple):
    """The mean bounds in nats, the standard error of their difference, and the number of images."""

    ours: float
    slow: float
    error: float
    images: int

    def agree(self) -> bool:
        """Whether the difference is within the noise."""
        return abs(self.ours - self.slow) <= _ERRORS * self.error


def bounds(run: Trained, num_images: int, num_samples: int) -> Bounds:
    """The bounds of test images by both programs.

    Args:
      run: a trained model.
      num_images: the first ones of the test set, or all if it has fewer.
      num_samples: m.

    Raises:
      UserError: a task that the second program does not know.
    """
    settings, _, model, dataset = run
    if settings.task not in _MODELS:
        raise UserError(
            f"task {settings.task!r}: there is a second program for {', '.join(_MODELS)}"
        )
    random = np.random.default_rng(0)
    gray = dataset.test.images[:num_images] / dataset.max_value
    shown = (random.random(gray.shape) < gray).astype(np.uint8)
    arrays = jax.tree.map(lambda array: np.asarray(array, np.float64), params_of(model))
    mean = np.asarray(dataset.train.images.mean(axis=0) / dataset.max_value)
    second = _MODELS[settings.task](arrays, mean, settings.flat())
    slow = np.concatenate(
        [
            slow_bounds(second, part, num_samples, random)
            for part in tqdm(_parts(shown), desc="second program", disable=None)
        ]
    )
    costs = evaluation.image_costs(Program.make(settings, dataset), num_samples)
    key = jax.random.key(0)
    ours = np.concatenate(
        [
            # Pixels that are on have the largest value, as in the dataset.
            costs(
                params_of(model), jnp.asarray(part * dataset.max_value), jax.random.fold_in(key, i)
            )
            for i, part in enumerate(_parts(shown))
        ]
    ).astype(np.float64)
    error = float(np.std(ours - slow, ddof=1) / math.sqrt(len(ours)))
    return Bounds(float(ours.mean()), float(slow.mean()), error, len(shown))


def slow_bounds(
    model: Model, images: UInt8[np.ndarray, "N H W"], num_samples: int, random: np.random.Generator
) -> Float[np.ndarray, " N"]:
    """`-log (1/m) sum_i w_i` of each image, by the second program."""
    weights = [model.log_weights(images.astype(float), random) for _ in range(num_samples)]
    return math.log(num_samples) - np.logaddexp.reduce(np.stack(weights), axis=0)


def _parts(images: UInt8[np.ndarray, "N H W"]) -> list[UInt8[np.ndarray, "n H W"]]:
    return [images[first : first + _AT_ONCE] for first in range(0, len(images), _AT_ONCE)]


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_integer("images", 500, "test images, at most", lower_bound=2, **define)
    flags.DEFINE_integer("samples", 100, "samples of the bounds", lower_bound=1, **define)
    flags.DEFINE_string("output", None, "JSON file to write the numbers to", **define)


def main(given: Mapping[str, Any], workdirs: Sequence[str]) -> int:
    """Computes the bounds of trained models again, by a second program."""
    rows, num_images, num_samples = [], given["images"], given["samples"]
    output = command.output_file(given["output"])
    here = provenance()
    for workdir, run in [(workdir, loading.load(workdir)) for workdir in workdirs]:
        found = bounds(run, num_images, num_samples)
        print(
            f"{workdir}: {found.ours:.3f} nats, second program {found.slow:.3f}: "
            f"{found.ours - found.slow:+.3f} with a standard error of {found.error:.3f}; "
            f"they {'agree' if found.agree() else 'DIFFER'}"
        )
        settings = {"task": run.settings.task, "latent": run.settings.latent, "step": run.step}
        rows.append(settings | found._asdict() | {"agree": found.agree()})
    if output:
        records.write_json(output, {"samples": num_samples, "rows": rows, **here})
    return int(not all(row["agree"] for row in rows))


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags, takes="WORKDIR [WORKDIR ...]"))
