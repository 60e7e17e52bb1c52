"""Sums in chunks, and the programs that they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gumbel import BERNOULLI, CATEGORICAL, estimators, exact, sums
from gumbel.programs import canonical_convolutions, hoist

KEY = jax.random.key(0)
KERNELS = 0.3 * jax.random.normal(KEY, (3, 3, 3, 2))
IMAGES = jax.random.normal(KEY, (4, 5, 5))


def convolve(maps, kernel, stride=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(maps, kernel, strides, "SAME", dimension_numbers=numbers)


def objective(params, batch, key, sample):
    """Convolutions of an image and a class of 5, with noise of its own."""
    features = jnp.tanh(convolve(batch[..., None], params["image"]))
    y = sample("y", features.reshape(len(batch), -1)[:, None, :5])[:, 0]
    planes = jnp.concatenate(
        [
            features,
            jnp.broadcast_to((y @ params["class"])[:, None, None], (*features.shape[:3], 1)),
        ],
        axis=-1,
    )
    out = jax.nn.relu(convolve(planes, params["joint"], stride=2))
    noise = jax.random.normal(key, out.shape)
    return jnp.sum((out + 0.1 * noise - 1) ** 2, axis=(1, 2, 3)), {"mean": out.mean()}


PARAMS = {
    "image": KERNELS[:, :, :1],
    "class": jnp.arange(5.0)[:, None] / 5,
    "joint": KERNELS,
}


def mean_cost(params, chunk_size):
    return exact.mean_cost(objective, params, IMAGES, KEY, CATEGORICAL, chunk_size=chunk_size)


def flat(tree):
    return jax.flatten_util.ravel_pytree(tree)[0]


@pytest.mark.parametrize("chunk_size", [1, 2, 4])
def test_chunks_change_neither_value_nor_gradient(chunk_size):
    """5 values by 1, 2 and 4, of which the last chunk is not full."""
    gradients = [
        jax.jit(jax.value_and_grad(mean_cost, has_aux=True), static_argnums=1)(PARAMS, size)
        for size in (5, chunk_size)
    ]
    (whole, slopes), (chunked, chunked_slopes) = gradients
    np.testing.assert_allclose(flat(chunked), flat(whole), rtol=1e-5)
    assert np.abs(flat(slopes)).min() > 0
    np.testing.assert_allclose(flat(chunked_slopes), flat(slopes), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [2, 5])
def test_the_costs_beside_the_mean_are_constants(chunk_size):
    def first(params):
        return exact.mean_cost(objective, params, IMAGES, KEY, CATEGORICAL, chunk_size=chunk_size)[
            1
        ][0]

    assert not any(leaf.any() for leaf in jax.tree.leaves(jax.jit(jax.grad(first))(PARAMS)))


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_a_chunk_has_one_term_at_least(chunk_size):
    for function in (exact.mean_cost, exact.expected_cost):
        with pytest.raises(ValueError, match="chunk_size must be an integer, 1 or more"):
            function(objective, PARAMS, IMAGES, KEY, CATEGORICAL, chunk_size=chunk_size)


def test_the_default_holds_what_fits_the_cache(monkeypatch):
    def number_of_loops():
        text = str(jax.make_jaxpr(lambda p: mean_cost(p, None)[0])(PARAMS))
        return text.count("scan[")

    assert number_of_loops() == 0
    monkeypatch.setattr(sums, "CACHE_BYTES", 1)
    assert number_of_loops() == 1


def test_second_derivatives_in_chunks():
    """Along a direction, of the forward and the reverse kind, against those all at once."""

    def along(t, chunk_size):
        moved = jax.tree.map(lambda leaf: leaf * t, PARAMS)
        return mean_cost(moved, chunk_size)[0]

    twice = [
        jax.grad(jax.grad(along)),
        jax.jacfwd(jax.grad(along)),
    ]
    for second in twice:
        expected, found = (jax.jit(second, static_argnums=1)(1.0, size) for size in (5, 2))
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_coupled_examples_and_masks_in_chunks():
    """A cost shared by 2 examples of 2 variables, one of them masked: 16 values by 3."""
    where = jnp.array([[True, False], [True, True]])

    def coupled(params, batch, key, sample):
        z = sample("z", params, where=where)
        return jnp.sum(z * batch) ** 2 + jnp.sum(z[0] * z[1])

    def value_and_grad(params, chunk_size):
        return exact.value_and_grad(
            coupled, params, IMAGES[:2, 0, :2], KEY, BERNOULLI, chunk_size=chunk_size
        )

    params, compiled = (
        jnp.array([[0.3, -1.0], [1.0, 0.2]]),
        jax.jit(value_and_grad, static_argnums=1),
    )
    expected, found = (compiled(params, size) for size in (16, 3))
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-4, atol=1e-6)


def test_the_estimator_keeps_costs_and_aux_in_chunks():
    """Also where runs are vmapped."""

    def step(scale, chunk_size):
        estimator = estimators.make("marginalization", CATEGORICAL, chunk_size=chunk_size)
        params = jax.tree.map(lambda leaf: leaf * scale, PARAMS)
        slopes, (_, info) = jax.grad(estimator.surrogate, argnums=1, has_aux=True)(
            objective, params, IMAGES, KEY, 1.0, ()
        )
        return slopes, info.cost, info.aux["mean"]

    scales = jnp.array([0.5, 1.0])
    whole, chunked = (
        jax.jit(jax.vmap(lambda s, size=size: step(s, size)))(scales) for size in (5, 2)
    )
    np.testing.assert_allclose(flat(chunked), flat(whole), rtol=1e-4, atol=1e-5)


def test_what_does_not_depend_on_the_number_runs_once():
    """The convolution of the image stays out of the loop, forward and back."""
    program = jax.make_jaxpr(jax.grad(lambda p: mean_cost(p, 1)[0]))(PARAMS)
    [loop] = [eqn for eqn in program.eqns if eqn.primitive.name == "scan"]
    convolutions = [str(jaxpr).count("conv_general_dilated[") for jaxpr in (loop, program)]
    assert convolutions == [3, 5]  # each once, and its gradients but for that of the images


def test_hoisting_follows_functions_jitted_inside():
    inner = jax.jit(lambda x, y: jnp.exp(y).sum() + x)
    arrays, rest = hoist(lambda x: inner(x, jnp.ones(3)) * 2, jnp.float32(0))
    assert [array.shape for array in arrays] == [()]
    np.testing.assert_allclose(rest(arrays, jnp.float32(1)), 2 * (3 * np.e + 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("numbers", "stride"),
    [
        (("NHWC", "HWIO", "NHWC"), 2),
        (("NCHW", "OIHW", "NCHW"), 1),
        (("CWNH", "WIHO", "HNCW"), 1),
        (("CWNH", "WIHO", "HNCW"), 2),
    ],
)
def test_canonical_convolutions_are_the_same_ones(numbers, stride):
    """With their gradients, in layouts of all kinds."""
    sizes = {"N": 2, "H": 5, "W": 6, "C": 3, "I": 3, "O": 4}
    lhs = jax.random.normal(KEY, [sizes[axis] for axis in numbers[0]])
    rhs = jax.random.normal(KEY, [3 if axis in "HW" else sizes[axis] for axis in numbers[1]])

    def cost(lhs, rhs):
        out = jax.lax.conv_general_dilated(
            lhs, rhs, (stride, stride), "SAME", dimension_numbers=numbers
        )
        return jnp.sum(jnp.sin(out)), out

    both = jax.value_and_grad(cost, argnums=(0, 1), has_aux=True)
    expected, found = jax.jit(both)(lhs, rhs), jax.jit(canonical_convolutions(both))(lhs, rhs)
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def squares(params, batch, key, sample):
    z = sample("z", params + batch)
    return (z * jnp.array([1.0, 2.0, 3.0])).sum(axis=-1) ** 2


@pytest.mark.parametrize(
    "around",
    [
        jax.jit,
        jax.checkpoint,
        lambda loss: lambda p: jax.lax.scan(lambda c, _: (c + loss(p), None), 0.0, length=1)[0],
    ],
    ids=["jit", "checkpoint", "scan"],
)
def test_chunks_may_be_inside_of_what_is_differentiated(around):
    """The rule of the derivative runs after the trace of what is around it has ended."""

    def loss(params, chunk_size=3):
        batch = jnp.zeros((2, 3))
        return exact.mean_cost(squares, params, batch, KEY, BERNOULLI, chunk_size=chunk_size)[0]

    params = jnp.array([0.5, -1.0, 0.2])
    whole = jax.grad(lambda params: loss(params, None))(params)
    np.testing.assert_allclose(jax.grad(around(loss))(params), whole, rtol=1e-5)


def test_what_is_shared_by_chunks_may_be_complex():
    def blurred(params, batch, key, sample):
        z = sample("z", params["logits"] + batch)
        seen = jnp.fft.ifft(jnp.fft.fft(z) * jnp.fft.fft(params["kernel"])).real
        return jnp.square(seen - 0.3).sum(-1)

    def loss(params, chunk_size):
        batch = jnp.zeros((2, 3))
        return exact.mean_cost(blurred, params, batch, KEY, BERNOULLI, chunk_size=chunk_size)[0]

    params = {"logits": jnp.array([0.5, -1.0, 0.2]), "kernel": jnp.array([1.0, -2.0, 0.5])}
    whole, found = (jax.jit(jax.grad(loss), static_argnums=1)(params, size) for size in (8, 3))
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-5), found, whole)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 16])
def test_chunks_of_16_bits_are_added_in_float32(dtype, chunk_size):
    """2048 joint values, each of which adds 1/4096 or 0: in bfloat16, a sum over 1/8 keeps none."""

    def dot(params, batch, key, sample):
        z = sample("z", jnp.zeros((2, 11)))
        return (z.astype(params.dtype) * params).sum(-1)

    params = jnp.ones(11, dtype)
    arguments = params, None, KEY, BERNOULLI
    value, slope = exact.value_and_grad(dot, *arguments, chunk_size=chunk_size)
    assert slope.dtype == dtype
    np.testing.assert_allclose(np.asarray([value, *slope], float), [5.5, *[0.5] * 11], rtol=0.01)

    def mean(params):
        return exact.expected_cost(dot, params, *arguments[1:], chunk_size=chunk_size).mean()

    np.testing.assert_allclose(np.asarray(jax.grad(mean)(params), float), 0.5, rtol=0.01)
