"""How often the sign of a class's gradient predicts whether another class would cost less.

  python -m scripts.class_gradients WORKDIR [WORKDIR ...] [--output=results/class_gradients.json]

Each WORKDIR holds a finished run of `configs/semi_supervised.py`. For an image of the validation
set let a be the class that q(y | x) prefers, and b the best of the others. What b would cost more
than a,

    L(x, b) - L(x, a),

is known by trying both. An estimator that goes by gradients has only the derivative

    (e_b - e_a) . dL(x, y)/dy   at   y = (1 - t) e_a + t e_b.

A straight-through estimator takes it at a one-hot sample, t = 0; Gumbel-Softmax in between. Shown
is the share of images at which the two have the same sign, for several t: of those whose b costs
more, and of those whose b costs less.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Bool, Float, Int

from experiments import command
from experiments.data import batches
from experiments.errors import UserError
from experiments.tasks.semi_supervised import SemiSupervised
from experiments.training import loading, records
from experiments.training.loading import Trained
from experiments.training.provenance import provenance
from gumbel.types import PRNGKey

PLACES = (0.0, 0.1, 0.25, 0.5)
_STYLES = 8  # draws that a cost and a derivative are the mean of

Images = Float[Array, "N H W"]
Classes = Float[Array, "N K"]


class Differences(NamedTuple):
    """By image: the true difference of the costs, and the derivative at each place."""

    true: Float[Array, " N"]
    slopes: Float[Array, "places N"]


def mean_cost(model: Any, images: Images, y: Classes, key: PRNGKey) -> Float[Array, " N"]:
    """L(x, y) and what does not depend on y, of each image, over draws of the style."""

    def of(style_key: PRNGKey) -> Float[Array, " N"]:
        return model.cost(
            images, style_key, lambda _site, _logits: y[:, None], temperature=1.0, hard=False
        )

    return jnp.mean(jax.lax.map(of, jax.random.split(key, _STYLES)), axis=0)


def differences(model: Any, images: Images, key: PRNGKey) -> Differences:
    """The differences between the class that q prefers and the best of the others.

    Args:
      model: a `SemiSupervised` whose KL of y is analytic, and so the same for every y.
      images: binarized.
      key: of the style, whose draws are the same everywhere.
    """
    count, classes = len(images), model.num_classes

    def cost(y: Classes) -> Float[Array, " N"]:
        return mean_cost(model, images, y, key)

    def of_class(index: Int[Array, ""]) -> Float[Array, " N"]:
        return cost(jnp.tile(jax.nn.one_hot(index, classes), (count, 1)))

    costs = jax.lax.map(of_class, jnp.arange(classes)).T
    preferred = jax.nn.one_hot(jnp.argmax(model.class_logits(images), axis=-1), classes)
    other = jax.nn.one_hot(jnp.argmin(jnp.where(preferred > 0, jnp.inf, costs), axis=-1), classes)
    direction = other - preferred

    def slope(place: Float[Array, ""]) -> Float[Array, " N"]:
        return jax.jvp(cost, (preferred + place * direction,), (direction,))[1]

    true = jnp.sum(direction * costs, axis=-1)
    return Differences(true, jax.lax.map(slope, jnp.asarray(PLACES)))


def load(workdir: Path) -> Trained:
    """A run of the model.

    Raises:
      UserError: it is none, or has no checkpoint.
    """
    run = loading.load(workdir)
    if not isinstance(run.model, SemiSupervised) or run.settings.options.kl != "analytic":
        raise UserError(f"{workdir}: give a run of configs/semi_supervised.py with kl=analytic")
    return run


def measure(run: Trained, num_images: int) -> dict[str, Any]:
    """What the JSON says of a run."""
    settings, step, model, dataset = run
    split = dataset.validation
    assert split.labels is not None  # else it could not have been trained
    images, labels = split.images[:num_images], split.labels[:num_images]
    pixel_key, style_key = jax.random.split(jax.random.key(0))
    pixels = batches.pixels(
        jnp.asarray(images), dataset.max_value, pixel_key, dynamic_binarization=True
    )
    found = jax.jit(lambda pixels, key: differences(model, pixels, key))(pixels, style_key)
    right = np.sign(found.slopes) == np.sign(found.true)
    costlier = np.asarray(found.true > 0)
    predicted = np.argmax(model.class_logits(pixels), axis=-1)
    return {
        "estimator": settings.estimator.name,
        "seed": settings.seed,
        "steps": step,
        "images": len(images),
        "accuracy": 100 * float(np.mean(predicted == labels)),
        "costlier": 100 * float(np.mean(costlier)),
        "true_difference": float(np.mean(found.true)),
        "sign_is_right": {
            str(place): {"costlier": _percent(row[costlier]), "cheaper": _percent(row[~costlier])}
            for place, row in zip(PLACES, right, strict=True)
        },
    }


def _percent(which: Bool[np.ndarray, " N"]) -> float | None:
    return 100 * float(np.mean(which)) if len(which) else None


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_integer("images", 2000, "validation images", lower_bound=1, **define)
    flags.DEFINE_string("output", None, "JSON file to write", **define)


def main(given: Mapping[str, Any], workdirs: Sequence[str]) -> int:
    """Measures the runs named on the command line."""
    output = command.output_file(given["output"])
    here = provenance()
    rows = []
    for run in [load(Path(workdir)) for workdir in workdirs]:  # mistakes first
        row = measure(run, given["images"])
        print(json.dumps(row))
        rows.append(row)
    if output:
        records.write_json(output, {"runs": rows, **here})
    return 0


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags, takes="WORKDIR [WORKDIR ...]"))
