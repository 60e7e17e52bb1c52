"""A policy in a grid world: episodes of different lengths, and an environment of integers.

The reward has no derivative in the action, so only estimators that need none can serve it.
"""

import jax
import jax.numpy as jnp

from gumbel import CATEGORICAL
from tests.gumbel.objectives.case import Case
from tests.gumbel.walks import THROUGH_THE_SAMPLE

REWARDS = jnp.array([2.0, 0.0, -1.0, 0.5, 1.0])  # by cell
NUM_STEPS = 3


def objective(params, batch, key, sample):
    """The negative return of each episode."""

    def act(cell, t):
        running = t < batch["length"]  # [B]
        action = sample("action", params["policy"][cell][:, None], where=running[:, None])
        move = jnp.argmax(action[:, 0], axis=-1) - 1  # left, stay, right
        cell = jnp.where(running, jnp.clip(cell + move, 0, len(REWARDS) - 1), cell)
        return cell, jnp.where(running, REWARDS[cell], 0.0)

    _, rewards = sample.scan(act, batch["start"], jnp.arange(NUM_STEPS))
    return -rewards.sum(axis=0)


def case() -> Case:
    """Three steps of three actions: 3^3 joint values."""
    policy = jax.random.normal(jax.random.key(4), (len(REWARDS), 3))
    batch = {"start": jnp.array([2, 1, 3]), "length": jnp.array([3, 1, 2])}
    message = "the cost has no derivative in the samples of site 'action', through which the"
    return Case(
        objective,
        {"policy": policy},
        batch,
        CATEGORICAL,
        refused=dict.fromkeys(THROUGH_THE_SAMPLE, message),
    )
