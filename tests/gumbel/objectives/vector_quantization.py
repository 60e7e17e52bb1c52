"""A VQ-like autoencoder in Flax NNX: a code for each of 64 positions, BatchNorm in the decoder.

BatchNorm after the samples couples the examples, so the cost is a scalar. Its statistics come in
with the batch and leave as `aux`. After van den Oord, Vinyals and Kavukcuoglu (2017).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from gumbel import CATEGORICAL
from tests.gumbel.objectives.case import Case

POSITIONS, CODES, PATCH, WIDTH = 64, 512, 4, 8


class Autoencoder(nnx.Module):
    """Encoder, codebook and decoder."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.encoder = nnx.Linear(PATCH, WIDTH, rngs=rngs)
        self.codebook = nnx.Param(jax.random.normal(rngs.params(), (CODES, WIDTH)))
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)
        self.decoder = nnx.Linear(WIDTH, PATCH, rngs=rngs)

    def __call__(self, patches, sample):
        logits = self.encoder(patches) @ self.codebook[...].T  # [B, 64, 512]
        codes = sample("codes", logits) @ self.codebook[...]
        return self.decoder(nnx.relu(self.norm(codes)))


GRAPH, PARAMS, STATISTICS = nnx.split(Autoencoder(nnx.Rngs(0)), nnx.Param, nnx.BatchStat)


def objective(params, batch, key, sample):
    """The squared error, one for the whole batch, and the new statistics."""
    model = nnx.merge(GRAPH, params, batch["statistics"], copy=True)
    reconstruction = model(batch["patches"], sample)
    error = jnp.sum((reconstruction - batch["patches"]) ** 2, axis=(-2, -1))
    return jnp.mean(error), nnx.state(model, nnx.BatchStat)


def case() -> Case:
    """Four images of 64 patches."""
    patches = jax.random.normal(jax.random.key(2), (4, POSITIONS, PATCH))
    return Case(
        objective,
        PARAMS,
        {"patches": patches, "statistics": STATISTICS},
        CATEGORICAL,
        # 512 to the power of 64 * 4, as the examples are coupled.
        refused={"marginalization": r"enumeration needs about 10\^694 joint values \(codes:"},
        options={"nvil": {"features": lambda batch: batch["patches"].reshape(4, -1)}},
        enumerable=False,
    )
