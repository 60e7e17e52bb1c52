"""The batches of the training images of `small.dataset`."""

from functools import partial

import jax

from experiments.data import batches

NUM_IMAGES, BATCH_SIZE = 23, 5

batch_indices = jax.jit(
    partial(batches.batch_indices, size=NUM_IMAGES, batch_size=BATCH_SIZE),
    static_argnames="num_steps",
)
