"""The laboratory against a toy of which everything is known."""

import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from gumbel import BERNOULLI, check_objective, estimators, exact, lab
from gumbel.lab.moments import measurer, squared_bias

KEY = jax.random.key(0)
BATCH_SIZE, TARGET, SCALE = 4, 0.2, 3.0
PARAMS = {"logit": jnp.zeros(1), "scale": jnp.asarray(SCALE)}


def objective(params, batch, key, sample):
    """`scale (b - t)^2`, at logit 0: gradients scale/4 (1 - 2 t) and (t^2 + (1 - t)^2) / 2."""
    b = sample("b", params["logit"] + batch)[:, 0]
    return params["scale"] * jnp.square(b - TARGET)


GROUPS = ("all", "logit", "scale")
COSTS = SCALE * np.square(np.array([0.0, 1.0]) - TARGET)
# Of 2000 draws, the estimate has a standard error of 3%. The tolerances below are at least 4.5
# standard errors: a false alarm in 150,000 for each.
SF_VARIANCE = (COSTS * np.array([-0.5, 0.5])).var() / BATCH_SIZE
LOGISTIC = scipy.special.logit((np.arange(20_000) + 0.5) / 20_000)  # noise, by its quantiles


def compare(**options):
    batch = jnp.zeros((BATCH_SIZE, 1))
    return lab.compare(objective, PARAMS, batch, KEY, family=BERNOULLI, **options)


@pytest.fixture(scope="module")
def found():
    names = ["sf", "st", "gumbel_softmax", "vimco", "marginalization"]
    return compare(estimators=names, num_draws=2000, temperatures=(0.5, 2.0))


def row(found, name, group, temperature=None):
    [one] = [
        r for r in found.rows if (r.estimator, r.group, r.temperature) == (name, group, temperature)
    ]
    return one


def test_bias_variance_and_direction_are_what_they_should_be(found):
    assert found.reference == "enumeration of 2 joint values"
    sf = row(found, "sf", "logit")
    assert sf.norm == pytest.approx(SCALE / 4 * (1 - 2 * TARGET), rel=1e-5)
    assert sf.variance == pytest.approx(SF_VARIANCE, rel=0.15)
    assert sf.bias < 4.5 * math.sqrt(SF_VARIANCE / 2000)
    assert sf.bias_interval[0] == 0.0  # 1 key in 40 would give an interval without 0
    assert sf.bias < sf.bias_interval[1] < 0.2 * sf.norm
    assert sf.error == pytest.approx(SF_VARIANCE, rel=0.15)
    # The estimate is below 0 if all coins are 0: the cosine of one coordinate is 1 or -1.
    assert sf.cosine == pytest.approx(1 - 2 * 0.5**BATCH_SIZE, abs=0.05)
    # Straight-through: p (1 - p) f'(b), whose mean is right for a quadratic of one variable.
    slopes = 0.25 * 2 * SCALE * (np.array([0.0, 1.0]) - TARGET)
    st = row(found, "st", "logit")
    assert st.variance == pytest.approx(slopes.var() / BATCH_SIZE, rel=0.15)
    # The scale's gradient is that of the cost at the relaxed sample, which is smaller.
    biased = row(found, "gumbel_softmax", "scale", 2.0)
    assert biased.bias_interval[0] > 0.1
    assert biased.bias_interval[0] < biased.bias < biased.bias_interval[1]
    assert biased.bias > row(found, "gumbel_softmax", "scale", 0.5).bias
    relaxed = np.square(scipy.special.expit(LOGISTIC / 2.0) - TARGET)
    bias = relaxed.mean() - (TARGET**2 + (1 - TARGET) ** 2) / 2
    assert biased.error == pytest.approx(bias**2 + relaxed.var() / BATCH_SIZE, rel=0.15)
    exact = row(found, "marginalization", "all")
    assert (exact.bias, exact.variance) == (pytest.approx(0, abs=1e-5), pytest.approx(0, abs=1e-8))
    assert exact.cosine == pytest.approx(1, abs=1e-5)
    parts = [row(found, "sf", group).variance for group in ("logit", "scale")]
    assert row(found, "sf", "all").variance == pytest.approx(sum(parts), rel=1e-3)


def test_costs_are_counted(found):
    assert row(found, "sf", "all").passes == 2
    assert row(found, "marginalization", "all").passes == 4
    for one in found.rows:
        assert one.milliseconds > 0
    assert row(found, "sf", "logit").variance_per_pass == pytest.approx(2 * SF_VARIANCE, rel=0.15)


def test_the_result_is_plain_data_and_prints_as_a_table(found):
    again = json.loads(json.dumps(found.as_dict()))
    assert len(again["rows"]) == 5 * 3  # two temperatures of one, and three groups
    assert again["skipped"] == {"vimco": "it descends a multi-sample bound"}
    lines = str(found).splitlines()
    assert len(lines) == 2 + 5 + 1
    assert lines[2].startswith("marginalization")  # the smallest error first
    assert lines[-1] == "vimco                skipped: it descends a multi-sample bound"


def test_many_draws_of_a_constant_have_no_bias():
    """Whose sum in float32 is wrong by 1e-5 of itself, always by the same amount."""

    def objective(params, batch, key, sample):
        return sample("h", params["l"] + batch)[:, 0] + 0.3 * params["m"][0]

    params = {"l": jnp.zeros(1), "m": jnp.zeros(1)}
    options = {"family": BERNOULLI, "estimators": ["sf", "marginalization"], "num_draws": 30_000}
    found = lab.compare(objective, params, jnp.zeros((4, 1)), KEY, **options)
    for name in options["estimators"]:
        constant = row(found, name, "m")
        assert constant.bias <= 2e-7 * constant.norm
        assert constant.bias_interval[0] == 0 < constant.bias_interval[1] < 1e-5
    assert row(found, "marginalization", "all").bias_interval[0] == 0
    truth = lab.true_gradient(
        objective, params, jnp.zeros((4, 1)), KEY, family=BERNOULLI, max_values=1, num_draws=30_000
    )
    np.testing.assert_allclose(truth.blocks["m"], 0.3, rtol=2e-7)


def test_rounding_is_no_bias():
    """Of an estimate that differs from the true gradient by two steps of float32, always."""
    [near, far] = [
        lab.compare(
            objective,
            PARAMS,
            jnp.zeros((BATCH_SIZE, 1)),
            KEY,
            family=BERNOULLI,
            estimators=["marginalization"],
            num_draws=10,
            truth=lab.Truth({n: np.full((10, 1 + (n == "all")), at) for n in GROUPS}, "given"),
        )
        for at in (0.45 * (1 + 2.4e-7), 0.45 * (1 + 1e-5))
    ]
    assert row(near, "marginalization", "logit").bias_interval[0] == 0
    assert row(far, "marginalization", "logit").bias_interval[0] > 0


def test_no_program_holds_the_batch_as_a_constant(monkeypatch):
    """Which XLA would fold; but a number of the batch may be the length of a loop."""
    traced = []

    def noted(function):
        def noting(objective, params, batch, *rest, **options):
            traced.append(isinstance(batch["x"], jax.core.Tracer))
            return function(objective, params, batch, *rest, **options)

        return noting

    def counted(params, batch, key, sample):
        z = sample("z", params["l"] + batch["x"])
        return sum(z[:, number] for number in range(batch["count"]))

    made = estimators.sf(BERNOULLI)
    noting = estimators.Estimator(made.init, noted(made.surrogate))
    params, batch = {"l": jnp.zeros(2)}, {"x": np.zeros((4, 2), np.float32), "count": 2}
    zero = {name: np.zeros((1, 2)) for name in ("all", "l")}
    measurer((counted, params, batch), noting, zero, 1)(KEY, 1.0, 2, lambda done: None)
    monkeypatch.setattr(exact, "value_and_grad", noted(exact.value_and_grad))
    truth = lab.true_gradient(counted, params, batch, KEY, family=BERNOULLI)
    np.testing.assert_allclose(truth.blocks["l"], 0.25, rtol=1e-6)
    assert len(traced) >= 3
    assert all(traced)


def test_too_many_values_fall_back_to_a_long_run_and_say_so():
    found = compare(estimators=["st", "muprop"], num_draws=2000, max_values=1, reference_draws=5000)
    said = re.fullmatch(
        r"5000 draws of muprop, standard error (\S+) of its norm "
        r"\(enumeration needs 2 joint values\)",
        found.reference,
    )
    # Of ten blocks, at worst chi-squared with 9 degrees of freedom: 1 seed in 75 is farther off.
    muprop = row(found, "muprop", "all")
    expected = math.sqrt(muprop.variance / 5000) / muprop.norm
    assert expected / 2 < float(said[1]) < 2 * expected
    st = row(found, "st", "logit")
    assert st.norm == pytest.approx(SCALE / 4 * (1 - 2 * TARGET), rel=0.05)
    assert st.bias < 0.1 * st.norm


def test_what_is_known_is_not_measured_again(found):
    kept = lab.Comparison(found.reference, found.rows[:3], {})
    told, blocks = [], []
    again = compare(
        estimators=["sf", "st", "vimco"],
        num_draws=100,
        known=lab.Comparison.from_dict(json.loads(json.dumps(kept.as_dict()))),
        truth=lab.Truth({n: np.zeros((10, 1 + (n == "all"))) for n in GROUPS}, "zero"),
        on_result=lambda so_far: told.append(len(so_far.rows)),
        progress=lambda what, done, total: blocks.append((what, done, total)),
    )
    assert again.rows[:3] == found.rows[:3]  # of sf
    assert again.reference == "zero"
    assert told == [6]
    assert blocks == [("st", number, 20) for number in range(11, 21)]


def test_an_estimate_of_too_many_passes_is_skipped():
    options = {"rloo": {"num_samples": 8}}
    found = compare(estimators=["sf", "rloo"], num_draws=10, options=options, max_passes=15)
    assert found.skipped == {"rloo": "an estimate takes 16 passes, over 15"}


def test_an_estimator_that_an_option_biases_is_not_called_unbiased():
    options = {"sf": {"variance_normalization": True}, "rloo": {"num_samples": 3}}
    found = compare(estimators=["sf", "rloo"], num_draws=10, options=options)
    assert {row.estimator: row.unbiased for row in found.rows} == {"sf": False, "rloo": True}
    assert all(row.unbiased for row in compare(estimators=["sf"], num_draws=10).rows)


def measured(name, bias, variance, milliseconds, *, unbiased=False):
    numbers = (variance, variance + bias**2, 0.5, 2.0, 2, milliseconds)
    interval = (0.0 if unbiased else bias, bias)
    return lab.Row(name, None, "all", unbiased, bias, interval, *numbers)


def test_more_joint_values_than_python_prints_are_counted():
    def objective(params, batch, key, sample):
        return sample("z", params + batch).sum()

    many = jnp.zeros((1, 20_000))
    sizes = {"num_draws": 10, "reference_draws": 10, "estimators": ["sf", "marginalization"]}
    found = lab.compare(objective, jnp.zeros(1), many, KEY, family=BERNOULLI, **sizes)
    assert {row.estimator for row in found.rows} == {"sf"}
    assert "about 10^6021 joint values" in found.skipped["marginalization"]


def test_the_reference_is_the_estimator_that_was_asked_for():
    sizes = {"num_draws": 10, "max_values": 1, "reference_draws": 10}
    assert compare(estimators=["st"], reference="rloo", **sizes).reference.startswith(
        "10 draws of rloo, standard error "
    )


def test_learned_coefficients_settle_before_the_draws():
    """Of `relax`, whose control variate starts at no use: 3% standard errors, as above."""

    def variance(num_warmup):
        options = {"relax": {"control_learning_rate": 0.05}}
        sizes = {"num_draws": 2000, "num_warmup": num_warmup, "temperatures": (0.5,)}
        found = compare(estimators=["relax"], options=options, **sizes)
        return row(found, "relax", "logit", 0.5).variance

    assert variance(300) < 0.7 * variance(0)


def test_the_temperature_of_the_reference_is_checked():
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        lab.true_gradient(objective, PARAMS, jnp.zeros((2, 1)), KEY, temperature=0.0)


@pytest.mark.parametrize("max_values", [1, 4096])  # a long run and enumeration
def test_no_true_gradient_of_examples_that_are_coupled_by_mistake(max_values):
    def coupled(params, batch, key, sample):
        z = sample("z", params["l"] + batch)[:, 0]
        return (z.mean() - 0.4 * jnp.ones(4)) ** 2

    arguments = (coupled, {"l": jnp.zeros(1)}, jnp.zeros((4, 1)), KEY)
    with pytest.raises(ValueError, match="samples of one example at site 'z' change the cost"):
        lab.true_gradient(*arguments, family=BERNOULLI, max_values=max_values, reference="rloo")


def test_a_cost_that_jax_cannot_vmap_is_compared_without_several_samples_at_once():
    def called(params, batch, key, sample):
        z = sample("b", params["logit"] + batch)
        shape = jax.ShapeDtypeStruct(batch.shape[:1], jnp.float32)
        return jax.pure_callback(lambda z: np.square(z[:, 0] - np.float32(TARGET)), shape, z)

    arguments = called, {"logit": jnp.zeros(1)}, jnp.zeros((BATCH_SIZE, 1)), KEY
    names = ["sf", "nvil", "rloo", "unordered_set", "marginalization", "muprop"]
    options = {"family": BERNOULLI, "estimators": names, "num_draws": 100}
    found = lab.compare(*arguments, **options, reference_draws=2000)
    assert re.match(
        r"2000 draws of sf, .* \(enumeration needs a cost that JAX can vmap", found.reference
    )
    assert row(found, "sf", "all").norm == pytest.approx(0.15, rel=0.3)  # 5 standard errors
    reports = check_objective(*arguments, BERNOULLI).estimators
    refused = {each.name: each.reason for each in reports if each.reason and each.name in names}
    assert found.skipped == refused
    assert set(refused) == set(names) - {"sf", "nvil"}
    with pytest.raises(ValueError, match=r"reference 'rloo' runs .* several samples at once"):
        lab.true_gradient(*arguments, family=BERNOULLI, reference="rloo")


def test_an_estimator_that_refuses_the_objective_is_skipped_with_its_reason():
    """For which its own options count."""

    def unbatched(params, batch, key, sample):
        return objective(params, jnp.zeros((BATCH_SIZE, 1)), key, sample)

    found = lab.compare(
        unbatched,
        PARAMS,
        None,
        KEY,
        family=BERNOULLI,
        estimators=["sf", "nvil", "unordered_set", "marginalization"],
        options={"unordered_set": {"num_samples": 4}, "marginalization": {"max_values": 1}},
        num_draws=100,
    )
    assert {row.estimator for row in found.rows} == {"sf"}
    assert "features" in found.skipped["nvil"]
    assert "draws num_samples=4 distinct values" in found.skipped["unordered_set"]
    assert found.skipped["marginalization"] == "2 joint values, over max_values=1"


def test_a_bias_that_is_measured_counts_even_where_none_is_promised():
    """As that of an estimator which is registered as unbiased, and is not."""

    @estimators.register("promising", unbiased=True, relaxes=True)
    def promising(family):
        return estimators.gumbel_softmax(family)

    def square(params, batch, key, sample):
        return jnp.square(sample("z", params["z"] + batch)[:, 0] - 0.4)

    params, batch = {"z": jnp.full(1, 0.5)}, jnp.zeros((2, 1))
    options = {"estimators": ["promising", "sf"], "temperatures": (2.0,), "num_draws": 4000}
    try:
        found = lab.compare(square, params, batch, KEY, family=BERNOULLI, **options)
    finally:
        estimators.unregister("promising")
    biased = row(found, "promising", "all", 2.0)
    assert biased.unbiased
    assert biased.bias_interval[0] > 0.1 * biased.norm
    assert biased.error_at(1e9) > 0.01 * biased.norm**2
    assert row(found, "sf", "all").error_at(1e9) < 1e-6


def test_the_advice_goes_by_the_time_for_a_gradient():
    rows = (
        measured("biased", 1.0, 1.0, 1.0),
        measured("noisy", 0.1, 100.0, 1.0, unbiased=True),
        measured("dear", 0.0, 1.0, 1000.0),
    )
    found = lab.Comparison("", rows, {})
    assert found.budgets() == (1.0, 100.0)
    assert (found.best(1.0).estimator, found.best(200.0).estimator) == ("biased", "noisy")
    assert found.best(200.0).error_at(200.0) == pytest.approx(0.5)
    assert found.advice().startswith(
        "With 1 ms per gradient, use biased; with 100 ms, noisy: their mean squared errors, 0.5 "
        "and 0.25 of the squared norm"
    )


def test_arguments_out_of_range_are_refused():
    for biased in ("st", "vimco"):
        with pytest.raises(ValueError, match=f"reference '{biased}' is not an unbiased estimator"):
            compare(estimators=["st"], reference=biased)
    with pytest.raises(ValueError, match="temperatures are empty: give one or more above 0"):
        compare(temperatures=())
    for temperatures in ((0.0,), (0.5, -1.0), (float("nan"),), (float("inf"),)):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            compare(temperatures=temperatures)
    for temperatures in (0.5, {"b": 0.5}, "0.5"):
        with pytest.raises(TypeError, match=r"temperatures is .*: give a sequence"):
            compare(temperatures=temperatures)
    with pytest.raises(TypeError, match="estimators is 'sf': give a sequence of names"):
        compare(estimators="sf")
    for draws in ("num_draws", "reference_draws"):
        with pytest.raises(ValueError, match=f"{draws} must be an integer, 10 or more, got 9"):
            compare(**{draws: 9})
        with pytest.raises(TypeError, match=f"{draws} must be an integer .*, got 25.0"):
            compare(**{draws: 25.0})
    with pytest.raises(ValueError, match="num_warmup must be an integer, 0 or more, got -1"):
        compare(num_warmup=-1)
    for names in ({"estimators": ["muprob"]}, {"options": {"muprob": {}}}):
        with pytest.raises(ValueError, match="unknown estimator 'muprob': did you mean muprop"):
            compare(**names)
    with pytest.raises(ValueError, match="params has a top-level key 'all'"):
        lab.compare(
            lambda params, batch, key, sample: sample("b", params["all"] + batch)[:, 0],
            {"all": jnp.zeros(1)},
            jnp.zeros((2, 1)),
            KEY,
            family=BERNOULLI,
            estimators=["sf"],
        )


def test_half_of_an_even_number_of_estimates_fit_into_the_small_budget():
    rows = tuple(measured(str(time), 0.0, 1.0, float(time)) for time in (4, 1, 3, 2))
    assert lab.Comparison("", rows, {}).budgets() == (2.0, 200.0)
    assert lab.Comparison("", rows[:2], {}).budgets() == (1.0, 100.0)
    assert lab.Comparison("", rows[:3], {}).budgets() == (3.0, 300.0)


def test_complex_parameters_are_not_measured():
    def objective(params, batch, key, sample):
        return sample("b", jnp.real(params["c"]) + batch)[:, 0]

    params = {"c": jnp.zeros(1, jnp.complex64)}
    with pytest.raises(
        TypeError, match="complex64 at 'c', and complex parameters are not measured"
    ):
        lab.true_gradient(objective, params, jnp.zeros((2, 1)), KEY, family=BERNOULLI)


def test_an_estimator_that_is_not_finite_is_not_advised():
    bad, good = measured("bad", 0.0, math.nan, 1.0), measured("good", 0.0, 2.0, 5.0)
    found = lab.Comparison("", (bad, good), {})
    assert [row.estimator for row in found.of_group()] == ["good", "bad"]
    assert found.budgets() == (5.0, 500.0)
    assert found.best(5.0).estimator == "good"
    assert found.advice().startswith("Not finite: bad.\nWith 5 ms per gradient, use good")
    with pytest.raises(ValueError, match="milliseconds=1: no estimate takes less than 5"):
        found.best(1.0)
    with pytest.raises(ValueError, match="group='al' was not measured: choose all"):
        found.budgets("al")
    none = lab.Comparison("", (bad,), {})
    assert none.advice().startswith("No estimator has a finite error")


def test_the_squared_bias_is_unbiased_and_its_interval_covers():
    rng = np.random.default_rng(1)
    truth = np.full(20, 0.1)  # |truth|^2 = 0.2, in noise of 20 times its size
    found = [squared_bias(truth + 0.5 * rng.normal(size=(10, 20))) for _ in range(2000)]
    means = np.array([mean for mean, _ in found])
    assert abs(means.mean() - 0.2) < 4 * means.std() / np.sqrt(len(means))
    covered = np.mean([low < 0.2 < high for _, (low, high) in found])
    assert 0.94 < covered < 0.996  # more than 0.95 near 0, where the interval is moved up

    truth = np.full(20, 0.5)  # far from 0
    found = [squared_bias(truth + 0.5 * rng.normal(size=(10, 20))) for _ in range(8000)]
    covered = np.mean([low < 5.0 < high for _, (low, high) in found])
    assert 0.94 < covered < 0.965  # a standard error is 0.0024


@pytest.mark.parametrize("size", [1, 2, 10, 1000])
@pytest.mark.parametrize("deviation", [0, 1, 2, 3, 5])
def test_the_interval_of_a_squared_bias_covers_in_any_number_of_dimensions(size, deviation):
    """At a mean of some standard errors in one direction, where the noise may cancel it.

    The noise is 10 times smaller in every other direction. The chance to cover is 96.3% at the
    least (20,000 draws for each case), of which 95% is 4 standard errors below: a false alarm in
    100,000 seeds for each of the cases near that chance.
    """
    rng = np.random.default_rng(3)
    scale = np.where(np.arange(size) % 2, 0.1, 1.0)
    truth = deviation / math.sqrt(10) * np.eye(size)[0]
    num = 4000 if size < 1000 else 1000
    found = [squared_bias(truth + scale * rng.normal(size=(10, size))) for _ in range(num)]
    covered = np.mean([low <= truth @ truth <= high for _, (low, high) in found])
    assert covered > 0.95
    # In standard errors, the upper end of the bias: not much wider than it has to be.
    upper = np.mean([math.sqrt(10 * high) for _, (_, high) in found])
    assert upper < deviation + 1 + 2.4 * np.sum(scale**4) ** 0.25


def test_no_interval_of_a_squared_bias_excludes_all_that_it_can_be():
    rng = np.random.default_rng(2)
    found = [squared_bias(rng.normal(size=(10, 20))) for _ in range(200)]
    assert min(mean for mean, _ in found) < -1  # where the estimate alone is impossible
    assert all(low <= 0 < high for mean, (low, high) in found if mean < 0)


def test_the_objective_s_own_noise_is_the_same_in_the_truth_and_in_all_estimates():
    def noisy(params, batch, key, sample):
        b = sample("b", params["logit"] + batch)[:, 0]
        return jnp.square(b - jax.random.normal(key, b.shape))

    sizes = {"estimators": ["marginalization"], "num_draws": 10}
    found = lab.compare(
        noisy, {"logit": jnp.zeros(1)}, jnp.zeros((4, 1)), KEY, family=BERNOULLI, **sizes
    )
    one = row(found, "marginalization", "logit")
    assert one.norm > 0.01
    assert (one.variance, one.bias) == (pytest.approx(0, abs=1e-8), pytest.approx(0, abs=1e-5))
