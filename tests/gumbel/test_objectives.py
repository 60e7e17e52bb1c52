"""Objectives that a new user would write, under every estimator: right, or refused in a sentence.

The mean of the unbiased estimates is held against enumeration, with a family-wise error rate of
1e-4 for each objective and estimator; a biased one is told from it, which shows the test's power.
"""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import gumbel
from gumbel import estimators, exact
from tests.gumbel.objectives import CASES, Case
from tests.gumbel.test_estimators import critical_z, largest_z
from tests.gumbel.walks import walk

pytestmark = pytest.mark.usefixtures("full_precision")

KEY = jax.random.key(20)
NUM_ESTIMATES = 4000
UNBIASED = ("sf", "nvil", "muprop")
ENUMERABLE = [name for name, case in CASES.items() if case().enumerable]


def made(case: Case, name: str, **options):
    return estimators.make(name, case.family, **{**case.options.get(name, {}), **options})


def flat(tree):
    return jax.flatten_util.ravel_pytree(tree)[0]


# The refusals of one kind are of one check, whose every name the report holds.
REFUSING = {"episodes": ("st", "darn", "rebar")}
RUN = {"vector_quantization", "decoder", "experts"}


def traced_for(name):
    """Some for all objectives, the others in turn, so that each is traced for one at least."""
    turn = list(CASES).index(name)
    return {"gumbel_softmax", "vimco", *estimators.names()[turn :: len(CASES)]}


@pytest.mark.parametrize("name", CASES)
def test_every_estimator_serves_it_or_refuses_in_one_sentence(name):
    case = CASES[name]()
    arguments = (case.objective, case.params, case.batch, KEY)
    report = gumbel.check_objective(*arguments, case.family)
    assert report.ok, str(report)
    assert bool(report.notes) == ("st" in case.refused), str(report)
    with_defaults = set(estimators.names()) - set(case.refused)
    if "features" in case.options.get("nvil", {}):  # by default it would read all of the batch
        with_defaults -= {"nvil"}
    assert set(report.applicable()) == with_defaults, str(report)
    for estimator in REFUSING.get(name, case.refused):
        with pytest.raises(ValueError, match=case.refused[estimator]) as refusal:
            made(case, estimator).init(*arguments)
        assert "\n" not in str(refusal.value)
        assert ". " not in str(refusal.value)


def estimate_of(case: Case, estimator):
    """A gradient and its `Info`, `init` included."""

    def run(params, key):
        state = estimator.init(case.objective, params, case.batch, KEY)
        gradient, (_, info) = jax.grad(estimator.surrogate, argnums=1, has_aux=True)(
            case.objective, params, case.batch, key, case.temperature, state
        )
        return flat(gradient), info

    return run


def assert_finite(case: Case, name: str):
    gradient, info = jax.jit(estimate_of(case, made(case, name)))(case.params, KEY)
    assert np.isfinite(info.cost).all(), name
    assert np.isfinite(gradient).all(), name
    assert np.any(gradient != 0), name
    return info


@pytest.mark.parametrize("name", CASES)
def test_every_estimator_that_serves_it_runs(name):
    """Traced; where it is large or has layers of its own also run."""
    case = CASES[name]()
    size = flat(case.params).shape
    for estimator in traced_for(name) - set(case.refused):
        run = estimate_of(case, made(case, estimator))
        assert jax.eval_shape(run, case.params, KEY)[0].shape == size, estimator
    if name in RUN:
        assert_finite(case, "gumbel_softmax")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_gradient_is_finite(name):
    case = CASES[name]()
    for estimator in set(estimators.names()) - set(case.refused):
        assert_finite(case, estimator)


def compared(case: Case, made_estimators, objective, family):
    """The largest |z| of each estimator against the exact gradient of `objective`: one program."""

    def moments(estimator, params, keys):
        state = estimator.init(case.objective, params, case.batch, KEY)

        def estimate(key):
            gradient, _ = jax.grad(estimator.surrogate, argnums=1, has_aux=True)(
                case.objective, params, case.batch, key, case.temperature, state
            )
            return flat(gradient)

        found = jax.vmap(estimate)(keys)
        return found.mean(axis=0), found.std(axis=0) / jnp.sqrt(len(keys))

    @jax.jit
    def run(params, keys):
        expected = exact.value_and_grad(objective, params, case.batch, KEY, family)[1]
        return flat(expected), [moments(one, params, keys) for one in made_estimators]

    expected, found = run(case.params, jax.random.split(KEY, NUM_ESTIMATES))
    expected = np.asarray(expected, np.float64)
    assert np.any(expected != 0)
    distances = [
        largest_z(*(np.asarray(moment, np.float64) for moment in pair), expected) for pair in found
    ]
    return distances, critical_z(len(expected))


@pytest.mark.parametrize("name", walk(ENUMERABLE, quick=["attention", "episodes", "markov"]))
def test_unbiased_estimators_match_enumeration(name):
    case = CASES[name]()
    # Straight-through comes along where it is known to be biased.
    names = (*UNBIASED, *(["st"] if name == "attention" else []))
    distances, limit = compared(
        case, [made(case, one) for one in names], case.objective, case.family
    )
    by_name = dict(zip(names, distances, strict=True))
    assert by_name.pop("st", np.inf) > 2 * limit
    assert max(by_name.values()) < limit, by_name


class Renamed:
    """A sampler whose sites have a suffix, so that one pass can run an objective twice."""

    def __init__(self, sample, suffix):
        self._sample, self._suffix = sample, suffix
        self.scan = sample.scan

    def __call__(self, site, logits, **options):
        return self._sample(site + self._suffix, logits, **options)


@pytest.mark.parametrize("name", walk(["markov", "contrastive", "features"], quick=["contrastive"]))
def test_vimco_matches_enumeration_of_its_bound(name):
    case = CASES[name]()

    def bound(params, batch, key, sample):
        costs = [case.objective(params, batch, key, Renamed(sample, s)) for s in "ab"]
        return jnp.log(2.0) - jax.nn.logsumexp(-jnp.stack(costs), axis=0)

    family = case.family
    if isinstance(family, dict):
        family = {site + suffix: one for site, one in family.items() for suffix in "ab"}
    [distance], limit = compared(case, [made(case, "vimco", num_samples=2)], bound, family)
    assert distance < limit


def test_statistics_leave_the_objective_as_aux():
    """Those of BatchNorm have moved toward the batch's; one pass gives them, by each estimator."""
    case = CASES["vector_quantization"]()
    for name in ("st", "muprop"):
        info = assert_finite(case, name)
        before, after = (flat(tree) for tree in (case.batch["statistics"], info.aux))
        assert before.shape == after.shape
        assert np.isfinite(after).all()
        assert np.all(before != after)
        assert jax.tree.structure(info.aux) == jax.tree.structure(case.batch["statistics"])
