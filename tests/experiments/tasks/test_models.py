"""The models' costs against the same written out in numpy, at values of the variables given."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import tasks
from experiments.tasks import functional
from experiments.tasks.generative import VAE
from experiments.tasks.layers import PixelLikelihood, layer_input
from experiments.tasks.structured_prediction import SBN
from gumbel import BERNOULLI, CATEGORICAL, exact
from gumbel.layouts import layout
from tests.experiments import small

FAMILIES = (BERNOULLI, CATEGORICAL)
NUM_CLASSES = 3
TEMPERATURE = 0.7
HEIGHT, WIDTH = small.SHAPE
MEAN = jnp.asarray(small.dataset().train_mean())
IMAGES = jnp.asarray(small.dataset().test.images[:2], jnp.float32)
KEY = jax.random.key(5)


def make_sbn(family, seed=0, standardize=False):
    return SBN(
        MEAN,
        family,
        layers=(3, 2),
        num_classes=NUM_CLASSES,
        standardize=standardize,
        rngs=nnx.Rngs(seed),
    )


def make_vae(family, kl="sample", seed=0, standardize=False):
    model = VAE(
        MEAN,
        family,
        num_variables=3,
        num_classes=NUM_CLASSES,
        decoder=(4,),
        kl=kl,
        standardize=standardize,
        rngs=nnx.Rngs(seed),
    )
    # It starts at zero, where much cancels.
    model.prior[...] = jax.random.normal(jax.random.key(seed + 9), model.prior.shape)
    return model


def forced(family, relaxed, seen):
    """A sampler of fixed pseudo-random values, discrete or not, that notes the logits by site."""
    random = np.random.default_rng(1)

    def sample(site, logits):
        seen[site] = np.asarray(logits, np.float64)
        if family is BERNOULLI:
            z = random.random(logits.shape)
            z = z if relaxed else np.round(z)
        else:
            z = random.dirichlet(np.ones(logits.shape[-1]), logits.shape[:-1])
            z = z if relaxed else np.eye(logits.shape[-1])[z.argmax(axis=-1)]
        seen[f"{site} z"] = z
        return jnp.asarray(z, logits.dtype)

    return sample


# The same in numpy, one number at a time.


def affine(layer, inputs):
    kernel, bias = (np.asarray(layer[name], np.float64) for name in ("kernel", "bias"))
    rows = [
        [sum(x * w for x, w in zip(row, column, strict=True)) for column in kernel.T]
        for row in inputs
    ]
    return np.array(rows) + bias


def flat_input(family, z, standardize):
    classes = 2 if family is BERNOULLI else z.shape[-1]
    mean, spread = 1 / classes, math.sqrt(1 / classes * (1 - 1 / classes))
    if not standardize:
        mean, spread = 0, 1
    return np.array([[(value - mean) / spread for value in row.ravel()] for row in z])


def pixel_cost(logits, pixels):
    def surprise(logit, pixel):
        p = 1 / (1 + math.exp(-logit))
        return -math.log(p if pixel else 1 - p)

    rows = zip(logits, np.asarray(pixels), strict=True)
    return [sum(map(surprise, *row)) for row in rows]


def probabilities(family, logits):
    """`[..., K]` of each variable; a Bernoulli one has the values 0 and 1."""
    if family is BERNOULLI:
        logits = np.stack([np.zeros_like(logits), logits], axis=-1)
    weights = np.exp(logits)
    return weights / weights.sum(axis=-1, keepdims=True)


def one_hot(family, z):
    return np.stack([1 - z, z], axis=-1) if family is BERNOULLI else z


def log_density(p, z):
    """Of the Gumbel-Softmax at `z`, in its first K - 1 coordinates (Appendix B)."""
    classes, tau = len(p), TEMPERATURE
    value = math.gamma(classes) * tau ** (classes - 1)
    value *= sum(pi / zi**tau for pi, zi in zip(p, z, strict=True)) ** -classes
    return math.log(value * math.prod(pi / zi ** (tau + 1) for pi, zi in zip(p, z, strict=True)))


def kl_cost(kl, family, logits, prior, z):
    def of_variable(q, p, z):
        if kl == "analytic":
            return sum(qi * math.log(qi / pi) for qi, pi in zip(q, p, strict=True))
        if kl == "relaxed":
            return log_density(q, z) - log_density(p, z)
        return sum(zi * math.log(qi / pi) for zi, qi, pi in zip(z, q, p, strict=True))

    rows = zip(probabilities(family, logits), one_hot(family, z), strict=True)
    prior = probabilities(family, np.asarray(prior, np.float64))
    return [sum(map(of_variable, q, prior, z)) for q, z in rows]


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("relaxed", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_sbn_cost(family, relaxed, standardize):
    model, seen = make_sbn(family, standardize=standardize), {}
    params = functional.params_of(model)
    batch = model.batch(IMAGES)
    cost = functional.objective(model)(params, batch, KEY, forced(family, relaxed, seen))
    assert list(seen) == ["h1", "h1 z", "h2", "h2 z"]

    flat = np.asarray(IMAGES).reshape(2, -1)
    half = HEIGHT // 2 * WIDTH
    hidden = flat[:, :half] - (np.asarray(MEAN).ravel()[:half] if standardize else 0)
    for index, site in enumerate(("h1", "h2")):
        logits = affine(params["hidden"][index], hidden)
        np.testing.assert_allclose(seen[site].reshape(2, -1), logits, rtol=1e-5, atol=1e-6)
        hidden = flat_input(family, seen[f"{site} z"], standardize)
    expected = pixel_cost(affine(params["likelihood"]["linear"], hidden), flat[:, half:])
    np.testing.assert_allclose(cost, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("kl", "relaxed", "hard"),
    [
        ("sample", False, False),
        ("sample", True, False),
        ("analytic", False, False),
        ("analytic", True, False),
        ("relaxed", True, False),
        ("relaxed", False, True),  # evaluation is the same whatever was trained
    ],
)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_vae_cost(family, kl, relaxed, hard):
    standardize = kl == "sample"
    model, seen = make_vae(family, kl, standardize=standardize), {}
    params = functional.params_of(model)
    objective = functional.objective(model, temperature=TEMPERATURE, hard=hard)
    cost = objective(params, model.batch(IMAGES), KEY, forced(family, relaxed, seen))

    flat = np.asarray(IMAGES).reshape(2, -1)
    logits = affine(params["encoder"], flat - (np.asarray(MEAN).ravel() if standardize else 0))
    np.testing.assert_allclose(seen["z"].reshape(2, -1), logits, rtol=1e-5, atol=1e-6)
    z = seen["z z"]
    hidden = np.tanh(affine(params["decoder"][0], flat_input(family, z, standardize)))
    expected = np.array(pixel_cost(affine(params["likelihood"]["linear"], hidden), flat))
    kl = "sample" if hard else kl
    expected += kl_cost(kl, family, seen["z"], params["prior"], z)
    np.testing.assert_allclose(cost, expected, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_sampled_kl_has_the_analytic_one_as_its_mean(family):
    """Summed over every discrete value; at relaxed ones the densities' ratio is another number."""
    costs = []
    for kl in ("sample", "analytic"):
        model = make_vae(family, kl)
        objective = functional.objective(model)

        @small.quick_jit
        def expected(params, batch, objective=objective):
            return exact.expected_cost(objective, params, batch, KEY, family)

        batch = model.batch(IMAGES)
        costs.append(expected(functional.params_of(model), batch))
    np.testing.assert_allclose(*costs, rtol=1e-5)

    model, seen = make_vae(family, "analytic"), {}
    sampler = forced(family, False, seen)
    one_draw = functional.objective(model)(functional.params_of(model), batch, KEY, sampler)
    assert np.abs(one_draw - costs[0]).min() > 0.01, "one draw would do"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_inputs_of_a_layer(family):
    """Flat; and, if standardized, with mean 0 and variance 1 over all values."""
    event = (2,) if family is BERNOULLI else (2, 5)
    support = family.support(event)
    flat = np.asarray(layer_input(family, support, standardize=False))
    np.testing.assert_array_equal(flat, np.asarray(support).reshape(len(support), -1))
    flat = np.asarray(layer_input(family, support, standardize=True))
    assert flat.shape == ((4, 2) if family is BERNOULLI else (25, 10))
    np.testing.assert_allclose(flat.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(flat.var(axis=0), 1, rtol=1e-5)


def test_biases_start_at_the_pixel_means():
    mean = jnp.array([0.0, 0.3, 1.0])
    likelihood = PixelLikelihood(4, mean, rngs=nnx.Rngs(0))
    found = likelihood.mean(jnp.zeros((1, 4)))[0]
    np.testing.assert_allclose(found, [0.01, 0.3, 0.99], rtol=1e-5)


def test_a_cost_does_not_read_its_model_s_own_parameters():
    one, other = make_vae(BERNOULLI, seed=0), make_vae(BERNOULLI, seed=1)
    params = functional.params_of(other)
    costs = [
        functional.objective(model)(params, model.batch(IMAGES), KEY, forced(BERNOULLI, False, {}))
        for model in (one, other)
    ]
    np.testing.assert_array_equal(*costs)
    own = functional.objective(one)(
        functional.params_of(one), one.batch(IMAGES), KEY, forced(BERNOULLI, False, {})
    )
    assert np.abs(own - costs[0]).min() > 1e-3


def test_with_params_is_a_copy():
    one, other = make_sbn(BERNOULLI, seed=0), make_sbn(BERNOULLI, seed=1)
    before = jax.tree.map(np.array, functional.params_of(one))
    copy = functional.with_params(one, functional.params_of(other))
    jax.tree.map(
        np.testing.assert_array_equal, functional.params_of(copy), functional.params_of(other)
    )
    jax.tree.map(np.testing.assert_array_equal, functional.params_of(one), before)
    # The mean image is no parameter, and stays.
    assert sum(leaf.size for leaf in jax.tree.leaves(before)) == 6 * 3 + 3 + 3 * 2 + 2 + 2 * 6 + 6
    np.testing.assert_array_equal(copy.upper_mean[...], one.upper_mean[...])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_sbn_pictures(family):
    pictures = make_sbn(family).pictures(IMAGES, KEY)
    assert list(pictures) == ["digit", "completion 1", "completion 2", "completion 3"]
    np.testing.assert_array_equal(pictures["digit"], IMAGES)
    completions = [np.asarray(pictures[f"completion {n}"]) for n in (1, 2, 3)]
    for completion in completions:
        assert completion.shape == IMAGES.shape
        np.testing.assert_array_equal(completion[:, : HEIGHT // 2], IMAGES[:, : HEIGHT // 2])
        lower = completion[:, HEIGHT // 2 :]
        assert np.all((lower > 0) & (lower < 1))
    assert not np.array_equal(completions[0], completions[1])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_vae_pictures(family):
    pictures = make_vae(family).pictures(IMAGES, KEY)
    samples = ["prior sample 1", "prior sample 2", "prior sample 3"]
    assert list(pictures) == ["digit", "reconstruction", *samples]
    np.testing.assert_array_equal(pictures["digit"], IMAGES)
    for name in ("reconstruction", *samples):
        row = np.asarray(pictures[name])
        assert row.shape == IMAGES.shape
        assert np.all((row > 0) & (row < 1))
    assert not np.array_equal(pictures[samples[0]], pictures[samples[1]])


@pytest.mark.parametrize(
    ("model", "latent", "shapes"),
    [
        ("sbn", "bernoulli", [(392, 200), (200, 200), (200, 392)]),
        ("sbn", "categorical", [(392, 200), (200, 200), (200, 392)]),
        ("vae", "bernoulli", [(784, 200), (200, 784)]),
        ("vae", "categorical", [(784, 200), (200, 200), (200, 784)]),
    ],
)
def test_the_architectures_of_the_paper(model, latent, shapes):
    units = (200,) if model == "vae" else (200, 200)
    unset = {"decoder": None} if model == "vae" else {}
    settings = small.settings(model, latent=latent, layers=units, num_classes=10, **unset)
    build = tasks.load(settings.task).build
    mean = jnp.full((28, 28), 0.5)
    made = jax.eval_shape(
        lambda key: functional.params_of(build(settings, mean, key)), jax.random.key(0)
    )
    kernels = [leaf.shape for leaf in jax.tree.leaves(made) if leaf.ndim == 2]
    event = (200,) if latent == "bernoulli" else (20, 10)
    if model == "vae":
        assert made["prior"].shape == event
        kernels = [shape for shape in kernels if shape != event]
    assert sorted(kernels) == sorted(shapes)
    built = build(settings, mean, jax.random.key(0))
    plan = layout(
        functional.objective(built),
        functional.params_of(built),
        built.batch(jnp.zeros((1, 28, 28))),
        KEY,
        built.family,
    )
    shapes = [record.logits.shape for record in plan.records.values()]
    assert shapes == [(1, *event)] * len(units)
