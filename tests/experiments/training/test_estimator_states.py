"""What estimators learn, through a checkpoint: a resumed sequence is the uninterrupted one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training.checkpoints import Checkpoints
from gumbel import BERNOULLI, estimators
from tests.gumbel.nets import two_layer
from tests.gumbel.walks import walk

NUM_STEPS, SAVED_AT = 8, 5
SWITCHES = ("centering", "variance_normalization")  # without them the state only keeps statistics


def same_bits(one, other):
    leaves = [jax.tree.leaves(tree) for tree in (one, other)]
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(*leaves, strict=True)
    )


@pytest.mark.parametrize("name", walk(quick=("double_cv", "muprop", "nvil")))
def test_a_sequence_resumed_from_a_checkpoint_is_the_same_to_the_bit(name, tmp_path):
    """Steps of SGD: the parameters, the state, and what each step says."""
    net = two_layer(BERNOULLI)
    known = estimators.spec(name).options
    estimator = estimators.make(name, BERNOULLI, **{it: True for it in SWITCHES if it in known})
    differentiated = jax.value_and_grad(estimator.surrogate, argnums=1, has_aux=True)

    def start(key):
        return net.params, estimator.init(net.objective, net.params, net.batch, key)

    @jax.jit
    def step(key, carry):
        params, state = carry
        arguments = (net.objective, params, net.batch, key, jnp.float32(0.7), state)
        (value, (state, info)), gradient = differentiated(*arguments)
        params = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, params, gradient)
        return (params, state), (value, info, gradient)

    def run(carry, keys):
        said = []
        for key in keys:
            carry, one = step(key, carry)
            said.append(one)
        return carry, said

    keys = jax.random.split(jax.random.key(3), NUM_STEPS)
    first = jax.jit(start)(jax.random.key(1))
    half, _ = run(first, keys[:SAVED_AT])
    expected = run(half, keys[SAVED_AT:])

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(SAVED_AT, half)
    with Checkpoints(tmp_path) as checkpoints:
        at, restored = checkpoints.restore(like=jax.eval_shape(start, jax.random.key(0)))
    assert at == SAVED_AT
    assert jax.tree.structure(restored) == jax.tree.structure(half)
    assert same_bits(restored, half)
    assert same_bits(run(restored, keys[SAVED_AT:]), expected)
    # And the state that is restored matters, where there is one.
    (params, learned), (_, fresh) = half, first
    forgotten = run((params, fresh), keys[SAVED_AT:])
    assert same_bits(forgotten, expected) == (not jax.tree.leaves(learned))
