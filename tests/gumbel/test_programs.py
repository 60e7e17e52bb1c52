"""Programs of other shapes that a researcher may write, inside the objective and around it.

Each works, or is refused by the name of the site. What concerns types alone is only traced.
"""

import flax.linen as nn
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

import gumbel
from gumbel import BERNOULLI, estimators, samplers
from tests.gumbel.walks import walk

KEY = jax.random.key(0)
every_estimator = pytest.mark.parametrize("name", walk())
# One of each way to a gradient: these are run, not only traced.
of_each_kind = pytest.mark.parametrize(
    "name", ["gumbel_softmax", "nvil", "muprop", "marginalization"]
)


def gradient_of(name, objective, params, batch, *, checked=False):
    """In one program; `checked` is for an `init` before it, which looks at values."""
    estimator = estimators.make(name, BERNOULLI)
    state = estimator.init(objective, params, batch, KEY) if checked else None

    @jax.jit
    def found(params):
        start = state if checked else estimator.init(objective, params, batch, KEY)
        gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
        return gradient(objective, params, batch, KEY, 0.7, start)

    return found(params)


def assert_finite(tree):
    leaves = [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(tree)]
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert any((leaf != 0).any() for leaf in leaves)


# Inside the objective.


@jax.custom_vjp
def clipped(x):
    """The identity, whose gradient is clipped."""
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))


@every_estimator
def test_a_custom_vjp(name):
    """It has a reverse mode only; the parameters reach the cost through it and the sample alone."""

    def objective(params, batch, key, sample):
        z = sample("z", clipped(params + batch))
        return jnp.square(clipped(z) - 0.3) @ jnp.array([1.0, 2.0])

    gradient, (_, info) = gradient_of(name, objective, jnp.ones(2), jnp.zeros((3, 2)), checked=True)
    assert np.isfinite(info.cost).all()
    assert np.isfinite(gradient).all()
    assert (gradient != 0).any()


@of_each_kind
def test_bfloat16_logits_of_a_float32_model(name):
    def objective(params, batch, key, sample):
        z = sample("z", (params + batch).astype(jnp.bfloat16))
        assert z.dtype == jnp.bfloat16
        return jnp.square(z.astype(jnp.float32) @ jnp.array([1.0, -2.0])) + batch[:, 0]

    gradient, (_, info) = gradient_of(name, objective, jnp.ones(2), jnp.zeros((3, 2)))
    assert gradient.dtype == info.cost.dtype == jnp.float32
    assert_finite(gradient)


@of_each_kind
def test_inputs_that_are_integers_only(name):
    def objective(params, batch, key, sample):
        z = sample("z", params["table"][batch["word"]])
        return (z.sum(axis=-1) - batch["label"]) ** 2.0

    params = {"table": jnp.linspace(-1.0, 1.0, 10).reshape(5, 2)}
    batch = {"word": jnp.array([0, 3, 4]), "label": jnp.array([0, 1, 2], jnp.uint8)}
    assert_finite(gradient_of(name, objective, params, batch)[0])


SPEC = PartitionSpec("data")


def mesh():
    return Mesh(np.array(jax.devices()[:1]), ("data",))


def with_custom_vjp(draw, x):
    function = jax.custom_vjp(draw)
    function.defvjp(lambda x: (draw(x), None), lambda _, g: (g,))
    return function(x)


class Drawing(nn.Module):
    draw: object

    def __call__(self, x):
        return self.draw(x)


@pytest.mark.parametrize(
    "transform",
    [
        with_custom_vjp,
        lambda draw, x: jax.pmap(draw)(x[None])[0],
        lambda draw, x: jax.linearize(draw, x)[0],
        lambda draw, x: jax.shard_map(draw, mesh=mesh(), in_specs=SPEC, out_specs=SPEC)(x),
        lambda draw, x: nnx.jit(draw)(x),
        lambda draw, x: nnx.vmap(draw)(x),
        lambda draw, x: nnx.scan(
            lambda carry, row: (carry, draw(row)), in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0)
        )(0.0, x)[1],
        lambda draw, x: nn.vmap(Drawing, variable_axes={}, split_rngs={}, in_axes=0, out_axes=0)(
            draw
        ).apply({}, x),
    ],
    ids=[
        "custom_vjp",
        "pmap",
        "linearize",
        "shard_map",
        "nnx.jit",
        "nnx.vmap",
        "nnx.scan",
        "nn.vmap",
    ],
)
def test_further_transformations_around_a_site_are_refused(transform):
    def objective(params, batch, key, sample):
        return transform(lambda x: sample("edge", x), params).sum(-1)

    estimator = estimators.make("sf", BERNOULLI)
    value = lambda p: estimator.surrogate(objective, p, p, KEY, 1.0, ())[0]  # noqa: E731
    with pytest.raises(ValueError, match=r"site 'edge' is sampled inside a JAX transformation"):
        jax.grad(value)(jnp.zeros((4, 2)))


@pytest.mark.slow  # as `test_loops.test_a_loop_may_have_no_step`
@of_each_kind
def test_a_loop_of_no_steps(name):
    """As an empty site does, it adds nothing."""

    def objective(params, batch, key, sample):
        def body(total, x):
            return total + sample("none", params + x)[:, 0], None

        total, _ = sample.scan(body, batch[:, 0], jnp.zeros((0, 3, 2)))
        return total + sample("z", params + batch).sum(axis=-1) ** 2

    gradient, (_, info) = gradient_of(name, objective, jnp.ones(2), jnp.zeros((3, 2)))
    assert info.cost.shape == (3,)
    assert_finite(gradient)


# Around the estimator.


def simple(params, batch, key, sample):
    z = sample("z", params["logits"] + batch)
    return jnp.square(z @ params["out"] - 0.5)


PARAMS = {"logits": jnp.array([0.3, -0.5]), "out": jnp.array([1.0, 2.0])}
BATCH = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)


@every_estimator
def test_training_is_a_scan_with_optax(name):
    """The state keeps its types, weak or not, or it could not be carried."""
    estimator, optimizer = estimators.make(name, BERNOULLI), optax.adam(0.1)

    def step(carry, key):
        params, state, opt_state = carry
        gradient, (state, info) = jax.grad(estimator.surrogate, argnums=1, has_aux=True)(
            simple, params, BATCH, key, 0.7, state
        )
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), state, opt_state), info.cost.mean()

    def train(params):
        carry = params, estimator.init(simple, params, BATCH, KEY), optimizer.init(params)
        return jax.lax.scan(step, carry, jax.random.split(KEY, 3))

    (params, _, _), costs = jax.eval_shape(train, PARAMS)
    assert costs.shape == (3,)
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)


@pytest.mark.parametrize("name", walk(n for n in estimators.names() if estimators.spec(n).relaxes))
def test_a_temperature_that_is_learned_is_a_parameter(name):
    estimator = estimators.make(name, BERNOULLI)
    state = estimator.init(simple, PARAMS, BATCH, KEY)

    def value(params):
        temperature = {"z": jnp.exp(params["log_temperature"])}
        return estimator.surrogate(simple, params, BATCH, KEY, temperature, state)[0]

    params = {**PARAMS, "log_temperature": jnp.array(-0.3)}
    gradient = jax.jit(jax.grad(value))(params)
    assert_finite(gradient["log_temperature"])
    step = 1e-3
    both = [value({**params, "log_temperature": -0.3 + sign * step}) for sign in (1, -1)]
    if name == "gumbel_softmax":  # the other one's forward pass does not depend on it
        np.testing.assert_allclose(
            gradient["log_temperature"], (both[0] - both[1]) / (2 * step), rtol=0.02
        )


@every_estimator
def test_examples_may_be_sharded_over_devices(name):
    """`shard_map` outside, a sum of the shards' gradients inside: each shard draws for itself."""
    estimator = estimators.make(name, BERNOULLI)

    def shard(params, batch):
        key = jax.random.fold_in(KEY, jax.lax.axis_index("data"))
        state = estimator.init(simple, params, batch, key)
        gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)(
            simple, params, batch, key, 0.7, state
        )[0]
        return jax.lax.pmean(gradient, "data")

    sharded = jax.shard_map(
        shard,
        mesh=mesh(),
        in_specs=(PartitionSpec(), SPEC),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    found = jax.eval_shape(sharded, PARAMS, BATCH)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, PARAMS)


def test_a_model_that_holds_integers_and_keys_can_be_checked():
    params = {**PARAMS, "steps": jnp.array(3), "key": KEY}
    report = gumbel.check_objective(simple, params, BATCH, KEY, BERNOULLI)
    assert report.ok


def test_a_sampler_may_be_made_inside_a_vmap_over_keys():
    run = jax.vmap(lambda key: simple(PARAMS, BATCH, KEY, samplers.hard(key, BERNOULLI)))
    costs = run(jax.random.split(KEY, 50))
    assert costs.shape == (50, 4)
    assert len(np.unique(np.asarray(costs)[:, 0])) > 1
