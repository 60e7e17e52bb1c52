"""What `scripts.benchmark_pytorch` times of ours: training, and a step's products alone."""

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from configs import sbn, semi_supervised, vae
from experiments import config
from experiments.data import Dataset, Split
from experiments.settings import Settings
from experiments.tasks.layers import depth_to_space
from experiments.training.dynamic import dynamic_of
from experiments.training.program import Program

Turn = Callable[[], float]
Weights = list[Float[Array, "..."]]


class Benchmarked(NamedTuple):
    """A model of the benchmark.

    Attributes:
      configured: returns its config.
      steps: number of steps in a turn.
      widths: widths of its layers, if all are linear.
    """

    configured: Callable[[], ConfigDict]
    steps: int
    widths: tuple[int, ...] | None


MODELS = {
    "sbn": Benchmarked(sbn.get_config, 500, (392, 200, 200, 392)),
    "vae": Benchmarked(vae.get_config, 500, (784, 200, 200, 784)),
    "semi_supervised": Benchmarked(semi_supervised.get_config, 20, None),
}


def random_dataset(model: str) -> Dataset:
    """Images of MNIST's size and density: the speed does not depend on what they show.

    They are gray, with labels, for the semi-supervised model, and binary for the others.
    """
    random, gray = np.random.default_rng(0), MODELS[model].widths is None
    images = (random.random((50_000, 28, 28)) < 0.13).astype(np.uint8)
    labels = random.integers(10, size=len(images), dtype=np.int32)
    split = Split(images * 255 if gray else images, labels)
    return Dataset("random", split, split, split, max_value=255 if gray else 1, num_classes=10)


def settings_of(model: str) -> Settings:
    """The settings that it is trained with here: those of its config."""
    return config.read(MODELS[model].configured())


def jax_turn(model: str, steps: int) -> Turn:
    """Our own training program: optimizer steps, as many in a call as in training, timed."""
    settings, dataset = settings_of(model), random_dataset(model)
    program, dynamic = Program.make(settings, dataset), dynamic_of(settings)
    images = jnp.asarray(dataset.train.images)
    per_call = min(settings.steps_per_call, steps)
    indices = jax.jit(program.indices, static_argnames="num_steps")(0, 0, num_steps=steps)
    calls = [indices[at : at + per_call] for at in range(0, steps - per_call + 1, per_call)]
    run = jax.jit(program.run, donate_argnums=2)
    state, _ = run(dynamic, images, jax.jit(program.init)(dynamic, images), calls[0])

    def turn() -> float:
        nonlocal state
        jax.block_until_ready(state)
        began = time.process_time()
        for rows in calls:
            state, _ = run(dynamic, images, state, rows)
        jax.block_until_ready(state)
        return per_call * len(calls) / (time.process_time() - began)

    return turn


def products_turn(model: str, steps: int) -> Turn:
    """The matrix products and convolutions of a step, forward and back, and the update by them.

    Of a model of linear layers in one call, in a loop; of convolutions a call a step, as they are
    slow in loops on a CPU.
    """
    widths = MODELS[model].widths
    weights, linear_cost = convolutions() if widths is None else chain(widths)

    def step(weights: Weights, _: None = None) -> tuple[Weights, Array]:
        value, gradient = jax.value_and_grad(linear_cost)(weights)
        return jax.tree.map(lambda w, g: w - 1e-9 * g, weights, gradient), value

    many = jax.jit(lambda weights: jax.lax.scan(step, weights, length=steps))
    once = jax.jit(step)

    def run() -> Any:
        if widths is not None:
            return many(weights)
        moved = weights
        for _ in range(steps):
            moved, _ = once(moved)
        return moved

    jax.block_until_ready(run())

    def turn() -> float:
        began = time.process_time()
        jax.block_until_ready(run())
        return steps / (time.process_time() - began)

    return turn


def chain(widths: tuple[int, ...]) -> tuple[Weights, Callable[[Weights], Array]]:
    """Weights of linear layers, and a cost whose gradient takes their products alone."""
    random = _normals()
    weights = [0.05 * random(shape) for shape in itertools.pairwise(widths)]
    below, above = random((100, widths[0])), random((100, widths[-1]))

    def linear_cost(weights: Weights) -> Array:
        hidden = below
        for weight in weights:
            hidden = hidden @ weight
        return jnp.vdot(hidden, above)

    return weights, linear_cost


def convolutions() -> tuple[Weights, Callable[[Weights], Array]]:
    """The same of the semi-supervised model: of 100 images and of 20 with labels."""
    random, options = _normals(), settings_of("semi_supervised").options
    first, second, third = options.decoder
    features = 16 * options.encoder[-1]
    encoder = [(3, 3, *pair) for pair in itertools.pairwise((1, *options.encoder))]
    shapes = [
        *(*encoder, (features, 10)),
        *(*encoder, (features, options.head), (10, options.head)),
        (options.head, 2 * options.style_dim),
        (10 + options.style_dim, 49 * first),
        *((3, 3, first, second), (3, 3, second, 4 * third), (3, 3, third, 4)),
    ]
    weights = [0.05 * random(shape) for shape in shapes]
    batches = [(random((n, 28, 28, 1)), random((n, 28, 28, 1))) for n in (100, 20)]

    def linear_cost(weights: Weights) -> Array:
        return sum((_linear(weights, *batch) for batch in batches), jnp.zeros(()))

    return weights, linear_cost


def _linear(
    weights: Weights, images: Float[Array, "B H W 1"], above: Float[Array, "B H W 1"]
) -> Array:
    """The model without anything but its products: a number that is linear in each weight."""
    left = iter(weights)

    def encoded() -> Float[Array, "B F"]:
        maps = images
        for _ in range(3):
            maps = _convolution(maps, next(left), stride=2)
        return maps.reshape(len(maps), -1)

    y = encoded() @ next(left)
    hidden = encoded() @ next(left) + y @ next(left)
    mean, log_scale = jnp.split(hidden @ next(left), 2, axis=-1)
    maps = (jnp.concatenate([y, mean + log_scale], axis=-1) @ next(left)).reshape(len(y), 7, 7, -1)
    maps = _convolution(maps, next(left))
    maps = depth_to_space(_convolution(maps, next(left)))
    return jnp.vdot(depth_to_space(_convolution(maps, next(left))), above)


def _convolution(maps: Array, kernel: Array, *, stride: int = 1) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        maps, kernel, (stride, stride), "SAME", dimension_numbers=numbers
    )


def _normals() -> Callable[[tuple[int, ...]], Array]:
    random = np.random.default_rng(0)
    return lambda shape: jnp.asarray(random.standard_normal(shape), jnp.float32)
