"""The semi-supervised model: its cost term by term, its labels, a run from end to end."""

import dataclasses
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from configs import semi_supervised
from experiments import config, train
from experiments.config import cli
from experiments.data import Split, batches, load
from experiments.errors import UserError
from experiments.files import read_json
from experiments.tasks import functional, labels, style
from experiments.tasks import semi_supervised as task
from experiments.tasks.layers import depth_to_space
from experiments.tasks.semi_supervised import SemiSupervised
from experiments.training import evaluation, lengthening, memory, records
from experiments.training.dynamic import dynamic_of
from experiments.training.program import Program
from gumbel import CATEGORICAL, estimators, exact, samplers
from scripts import class_gradients
from tests.experiments import small

pytestmark = pytest.mark.usefixtures("shared_programs")

NUM_CLASSES, STYLE_DIM = 3, 2
KEY = jax.random.key(3)
QUICK = "marginalization"  # compiling the others takes a minute


@pytest.fixture(name="images", scope="module")
def fixture_images():
    return jnp.asarray(load("digits").binarized().test.images[:4], jnp.float32)


def test_the_initial_weights_let_the_decoder_use_the_style():
    """He's before a ReLU; small before the pixels; a style that is more signal than noise."""
    options = task.Options(encoder=(32, 32, 32), decoder=(32, 32, 32), head=128)
    model = SemiSupervised(jnp.full((8, 8), 0.5), 10, options, rngs=nnx.Rngs(0))
    gains = {
        model.style_encoder.layers[2]: 2.0,
        model.class_encoder.layers[1]: 2.0,
        model.style_from_image: 2.0,
        model.decoder.linear: 2.0,
        model.decoder.same: 2.0,
        model.decoder.double: 2.0,
        model.decoder.last: 0.01,
    }
    for layer, gain in gains.items():
        kernel = np.asarray(layer.kernel[...])
        fan_in = kernel[..., 0].size
        # The variance of n weights of a truncated normal has a standard error below sqrt(2/n).
        assert abs(kernel.var() * fan_in / gain - 1) < 5 * math.sqrt(2 / kernel.size)
    _, log_scale = model.style(jnp.full((4, 8, 8), 0.5), jnp.eye(10)[:4])
    assert abs(np.mean(log_scale) + 2) < 0.2


@pytest.fixture(name="model", scope="module")
def fixture_model(images):
    """A model whose layers are no longer small or zero, as some start: that would hide mistakes."""
    mean = jnp.mean(images, axis=0)

    def make(key):
        model = SemiSupervised(
            mean,
            NUM_CLASSES,
            task.Options(style_dim=STYLE_DIM, encoder=(3, 4, 5), decoder=(4, 3, 2), head=6),
            rngs=nnx.Rngs(0),
        )
        flat, unravel = ravel_pytree(functional.params_of(model))
        made.append(model)
        return unravel(flat + 0.3 * jax.random.normal(key, flat.shape))

    made = []
    params = small.quick_jit(make)(jax.random.key(7))
    return functional.with_params(made[0], params)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@cache
def jitted(model):
    """`style`, `decode` and the expected cost, `(images, key, annealed)`, of a model."""
    params = functional.params_of(model)

    def expected_cost(images, key, annealed):
        objective = functional.objective(model, **annealed)
        return exact.expected_cost(objective, params, images, key, CATEGORICAL)

    return tuple(map(jax.jit, (model.style, model.decode, expected_cost)))


def one_image(model, image, noise, label, beta=1.0):
    """`-log p(x | y, z) + beta KL(q(z | x, y) || p(z))` of an image and class, pixel by pixel."""
    y = np.eye(NUM_CLASSES, dtype=np.float32)[[label]]
    style, decode, _ = jitted(model)
    mean, log_scale = (np.asarray(a[0], np.float64) for a in style(image[None], y))
    z = [m + math.exp(s) * float(e) for m, s, e in zip(mean, log_scale, noise, strict=True)]
    logits = np.asarray(decode(y, jnp.asarray([z], jnp.float32))[0], np.float64)
    cost = 0.0
    for pixel, logit in zip(np.asarray(image).ravel(), logits.ravel(), strict=True):
        cost -= math.log(sigmoid(logit) if pixel else sigmoid(-logit))
    for m, s in zip(mean, log_scale, strict=True):
        cost += beta * 0.5 * (m * m + math.exp(2 * s) - 1 - 2 * s)
    return cost


def class_probabilities(model, images):
    logits = np.asarray(model.class_logits(images), np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_the_unlabeled_cost_is_the_bound_written_out(model, images, beta):
    """sum_y q(y) [-log p(x|y,z) - log p(y) + beta KL_z] - H(q(y|x)), in plain loops."""
    objective_key, _ = jax.random.split(KEY)  # as the library's passes hand it on
    noise = np.asarray(jax.random.normal(objective_key, (len(images), STYLE_DIM)))
    q = class_probabilities(model, images)
    bounds = []
    for index, image in enumerate(images):
        bound, entropy = 0.0, 0.0
        for label in range(NUM_CLASSES):
            joint = one_image(model, image, noise[index], label, beta) + math.log(NUM_CLASSES)
            bound += q[index, label] * joint
            entropy -= q[index, label] * math.log(q[index, label])
        bounds.append(bound - entropy)
    assert np.ptp(q) > 0.1
    found = jitted(model)[2](images, KEY, {"style_beta": beta})
    np.testing.assert_allclose(found, bounds, rtol=1e-5)


def test_the_labeled_cost_is_the_bound_written_out(model, images):
    noise = np.asarray(jax.random.normal(KEY, (len(images), STYLE_DIM)))
    q, classes = class_probabilities(model, images), np.array([0, 2, 1, 2])
    costs = [
        0.5 * (one_image(model, image, noise[index], classes[index], 3.0) + math.log(NUM_CLASSES))
        - 7.0 * math.log(q[index, classes[index]])
        for index, image in enumerate(images)
    ]
    found = model.labeled_cost(
        images, jnp.asarray(classes), KEY, bound_weight=0.5, label_weight=7.0, style_beta=3.0
    )
    np.testing.assert_allclose(found, costs, rtol=1e-5)


def test_the_hard_cost_has_the_bound_for_its_mean(model, images):
    """At discrete classes and with both KL terms at the sample; |z| < 4.5 is 1 error in 150,000."""
    image, num_samples = images[:1], 20_000
    objective = functional.objective(model, hard=True)
    params, expected = functional.params_of(model), jitted(model)[2]

    def draw(key):
        made = samplers.trace(objective, params, image, key, CATEGORICAL, samplers.hard_draw)
        return made.cost[0]

    def bound(key):
        return expected(image, key, {})[0]

    keys = jax.random.split(KEY, num_samples)
    hard, exact_cost = (np.asarray(jax.jit(jax.vmap(f))(keys), np.float64) for f in (draw, bound))
    error = math.hypot(hard.std(), exact_cost.std()) / math.sqrt(num_samples)
    assert abs(hard.mean() - exact_cost.mean()) < 4.5 * error
    assert error < 0.01 * exact_cost.mean()  # so a missing term of a few percent would show


def test_the_kl_of_a_sample_is_that_of_the_style_too(model, images):
    """So that a training cost is the log weight of its sample, which VIMCO needs."""
    at_draw = nnx.merge(*nnx.split(model))
    at_draw.kl = "sample"

    def cost(model, **options):
        params = functional.params_of(model)
        objective = functional.objective(model, **options)
        return samplers.trace(objective, params, images, KEY, CATEGORICAL, samplers.hard_draw).cost

    np.testing.assert_allclose(cost(at_draw, temperature=0.5), cost(model, hard=True), rtol=1e-5)


def test_marginalization_takes_what_does_not_depend_on_the_class_once(model, images):
    params, objective = functional.params_of(model), functional.objective(model)

    def flops(name):
        estimator = estimators.make(name, CATEGORICAL)

        def value(params):
            return estimator.surrogate(objective, params, images, KEY, 1.0, ())[0]

        return jax.jit(value).lower(params).compile().cost_analysis()["flops"]

    decoder = jax.jit(model.decode).lower(jnp.ones((4, NUM_CLASSES)), jnp.ones((4, STYLE_DIM)))
    decoder = decoder.compile().cost_analysis()["flops"]
    # Two more classes cost two more decoders and little else: no encoder.
    more = flops("marginalization") - flops("gumbel_softmax")
    assert 1.5 * decoder < more < 3.5 * decoder


def test_class_gradients_are_those_of_the_costs(model, images):
    """Held against finite differences, along the way from one class to another."""
    true, slopes = small.quick_jit(lambda i, k: class_gradients.differences(model, i, k))(
        images, KEY
    )
    classes = np.eye(NUM_CLASSES)
    cost = small.quick_jit(lambda y: class_gradients.mean_cost(model, images, y, KEY))

    def costs(rows):
        return np.asarray(cost(jnp.asarray(rows, jnp.float32)), np.float64)

    everything = np.stack([costs(np.tile(row, (len(images), 1))) for row in classes], axis=1)
    preferred = np.argmax(model.class_logits(images), axis=-1)
    rows = np.arange(len(images))
    others = everything.copy()
    others[rows, preferred] = np.inf
    other = others.argmin(axis=1)
    np.testing.assert_allclose(
        true, everything[rows, other] - everything[rows, preferred], rtol=1e-3, atol=1e-3
    )
    step = 1e-2
    way = classes[other] - classes[preferred]
    for place, slope in zip(class_gradients.PLACES, slopes, strict=True):
        here = classes[preferred] + place * way
        difference = costs(here + step * way) - costs(here - step * way)
        np.testing.assert_allclose(slope, difference / (2 * step), rtol=0.05, atol=0.05)


def test_analogies_are_a_row_a_style_and_a_column_a_class(model, images):
    pictures = model.pictures(images, KEY)
    assert list(pictures) == ["style 1", "style 2", "style 3", "style 4"]
    for image, row in zip(images, pictures.values(), strict=True):
        assert row.shape == (1 + NUM_CLASSES, 8, 8)
        np.testing.assert_array_equal(row[0], image)
        assert np.ptp(np.asarray(row[1:]), axis=0).max() > 0.01  # the classes differ


def test_depth_to_space_keeps_every_value():
    maps = jnp.arange(2 * 3 * 2 * 8.0).reshape(2, 3, 2, 8)
    spread = depth_to_space(maps)
    assert spread.shape == (2, 6, 4, 2)
    np.testing.assert_array_equal(np.sort(spread.ravel()), np.sort(maps.ravel()))
    np.testing.assert_array_equal(spread[1, 3, 1], maps[1, 1, 0, 6:])  # odd row, odd column


# Labels


def test_labels_are_as_many_of_each_class_and_the_seeds_alone():
    classes = jnp.asarray(np.random.default_rng(0).integers(0, 4, 300))

    def draw(seed):
        key = jax.random.key(seed)
        return np.asarray(labels.labeled(key, classes, num_labels=20, num_classes=4))

    first, again, other = draw(0), draw(0), draw(1)
    assert len(set(first.tolist())) == 20
    assert np.bincount(np.asarray(classes)[first]).tolist() == [5] * 4
    np.testing.assert_array_equal(first, again)
    assert len(set(first) & set(other)) < 10


def settings_of(**changes):
    made = semi_supervised.get_config()
    made.update_from_flattened_dict(small.SEMI_SUPERVISED | changes)
    return config.read(made)


@pytest.fixture(name="program", scope="module")
def fixture_program():
    settings = settings_of()
    dataset = labels.prepare(settings, load("digits"))
    return Program.make(settings, dataset), dynamic_of(settings), dataset


def made_of(settings):
    """The program of the settings, its hyperparameters, and the training images of digits."""
    dataset = labels.prepare(settings, load("digits"))
    program, dynamic = Program.make(settings, dataset), dynamic_of(settings)
    images = jnp.asarray(dataset.train.images)
    return program, dynamic, images


def test_a_steps_images_do_not_depend_on_where_calls_begin(program):
    indices = jax.jit(program[0].indices, static_argnames="num_steps")
    whole = np.asarray(indices(0, 0, num_steps=30))
    assert whole.shape == (30, 20)
    np.testing.assert_array_equal(whole[13:20], indices(0, 13, num_steps=7))


def test_only_the_labeled_images_show_their_labels(program):
    indices = np.asarray(program[0].indices(0, 0, num_steps=40))[:, 10:]
    read, times = np.unique(indices, return_counts=True)
    assert len(read) == 100
    assert times.tolist() == [4] * 100  # four epochs of ten steps
    assert np.bincount(program[2].train.labels[read]).tolist() == [10] * 10


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name != QUICK else [])
        for name in estimators.names()
    ],
)
def test_estimators_train_every_parameter(name):
    # VIMCO weighs samples by their log weights, so it needs the KL at the sample.
    kl = "sample" if name == "vimco" else "analytic"
    settings = settings_of(**{"estimator.name": name, "kl": kl})
    program, dynamic, images = made_of(settings)

    @small.quick_jit
    def run(dynamic, images):
        start = program.init(dynamic, images)
        return start, *program.run(dynamic, images, start, program.indices(0, 0, num_steps=4))

    start, state, trace = run(dynamic, images)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, trace)))
    assert trace.metrics["labeled_cost"].shape == (4,)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), start.params, state.params)
    assert min(jax.tree.leaves(moved)) > 0, moved


def test_alpha_weighs_the_labels_alone_and_is_dynamic(program):
    program, dynamic, dataset = program
    images = jnp.asarray(dataset.train.images)

    @small.quick_jit
    def costs(dynamic):
        start = program.init(dynamic, images)
        trace = program.run(dynamic, images, start, program.indices(0, 0, num_steps=1))[1]
        return trace.cost[0], trace.metrics["labeled_cost"][0]

    def at(alpha, weight):
        return costs(dynamic | {"alpha": jnp.asarray(alpha), "labeled_weight": jnp.asarray(weight)})

    (free, without), (same, some), (_, more) = (at(alpha, 1.0) for alpha in (0.0, 0.1, 0.2))
    assert float(free) == float(same)
    # At weight 1 every image counts once in the bound, which at first is about the same for all.
    assert float(without / free) == pytest.approx(100 / len(images), rel=0.2)
    cross_entropy = (some - without) / (0.1 * len(images) / 100)
    assert float(cross_entropy) == pytest.approx(math.log(10), rel=0.1)  # before training
    assert float(more - some) == pytest.approx(float(some - without), rel=1e-3)
    assert float(at(0.0, 2.0)[1]) == pytest.approx(2 * float(without), rel=1e-5)


def test_random_labels_are_of_the_same_images():
    digits = load("digits")
    found = labels.prepare(settings_of(labels="random"), digits)
    for split in ("train", "validation", "test"):
        true, random = getattr(digits, split), getattr(found, split)
        np.testing.assert_array_equal(random.images, true.images)
        assert np.mean(random.labels == true.labels) < 0.2  # a tenth of them by chance


def test_beta_falls_to_one_over_its_share_of_the_steps():
    settings = settings_of(style_beta=4.0, style_beta_share=0.5)  # 10 of 20 steps
    dynamic = dynamic_of(settings)
    steps = (0, 5, 10, 20)
    found = [float(style.annealed(settings, dynamic, step)["style_beta"]) for step in steps]
    assert found == [4.0, 2.5, 1.0, 1.0]


def test_beta_is_one_from_the_first_step_if_its_share_is_0():
    settings = settings_of(style_beta=4.0, style_beta_share=0.0)
    dynamic = dynamic_of(settings)
    found = [float(style.annealed(settings, dynamic, step)["style_beta"]) for step in (0, 1, 20)]
    assert found == [1.0, 1.0, 1.0]


def test_a_run_whose_beta_falls_cannot_be_made_longer():
    def reason(**values):
        settings = settings_of(learning_rate_schedule="constant", **values)
        return lengthening.depends_on_num_steps(settings)

    assert reason(style_beta=4.0, style_beta_share=0.5) == "style_beta_share=0.5"
    assert reason(style_beta=1.0) is None
    assert reason(style_beta_share=0.0) is None


# Evaluation, and whole runs


def test_confusion_counts_images_by_class_and_guess():
    truth = np.array([0, 1, 2, 2, 1], np.int32)
    guess = np.array([0, 2, 2, 2, 1])
    split = Split(guess.astype(np.uint8).reshape(-1, 1, 1), truth)  # the image is the guess

    def logits(_params, images, _keys):
        return jax.nn.one_hot(images[:, 0, 0], 3)[None]

    keys = jax.random.split(KEY, 1)
    [outputs] = evaluation.dataset_outputs(logits, {}, split.images, keys, batch_size=2)
    found = labels.classification(outputs, split)
    assert found["confusion"].tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 2]]
    assert found["accuracy"] == pytest.approx(80.0)


def launch(workdir, *changes):
    flags = [f"--config.{key}={value}" for key, value in small.SEMI_SUPERVISED.items()]
    file = f"--config={semi_supervised.__file__}"
    return cli.run(train.main, [file, f"--workdir={workdir}", *flags, *changes])


def test_a_run_leaves_accuracy_confusion_and_analogies(tmp_path, capsys):
    assert launch(tmp_path / "run") == 0
    assert "accuracy: test " in capsys.readouterr().out
    result = read_json(tmp_path / "run" / "result.json")
    for name in ("validation", "test"):  # whose classes are not equally many
        confusion = np.asarray(result[f"{name}_confusion"])
        classes = np.bincount(getattr(load("digits"), name).labels)
        assert confusion.sum(axis=1).tolist() == classes.tolist()
        accuracy = 100 * np.trace(confusion) / confusion.sum()
        assert result[f"{name}_accuracy"] == pytest.approx(accuracy)
    metrics = records.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert all("validation_accuracy" in row for row in metrics)
    with np.load(tmp_path / "run" / "pictures.npz") as pictures:
        assert pictures["style 1"].shape == (11, 8, 8)
        assert pictures.files == [f"style {row}" for row in range(1, 11)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["num_labels=5"], "config.num_labels=5: give at least one label for each of 10 classes"),
        (["num_labels=105"], "config.num_labels=105: give a multiple of 10 classes: 100 or 110"),
        (["num_labels=1190"], "digits has a class of"),
        (["labeled_batch_size=101"], "give a number from 1 to 100"),
        (["alpha=-0.1"], "config.alpha=-0.1: give a finite number of at least 0"),
        (["alpha=nan"], "config.alpha=nan: give a finite number of at least 0"),
        (["labeled_weight=-1.0"], "config.labeled_weight=-1.0: give a finite number of at least"),
        (["style_beta=0.0"], "config.style_beta=0.0: give a finite number over 0"),
        (["style_beta_share=1.5"], "config.style_beta_share=1.5: give a number in [0, 1]"),
        (["labels=fake"], "choose one of true, random"),
        (["num_classes=20"], "digits has 10 classes; give that number, or config.labels=random"),
        (["latent=bernoulli"], "the class of semi_supervised is categorical"),
        (["style_dim=0"], "config.style_dim=0: give an integer from 1"),
        (["encoder=(16, 32)"], "give three integers of at least 1"),
        (["dataset=binarized_mnist"], "it has no labels; use mnist or digits"),
    ],
)
def test_an_error_is_one_line_that_names_the_fix(tmp_path, capsys, monkeypatch, changes, said):
    binarized = load("digits").binarized()
    unlabeled = type(binarized)(
        "binarized_mnist", *(Split(s.images) for s in (binarized.train,) * 3), max_value=1
    )
    real = load
    monkeypatch.setattr(
        "experiments.training.compiled.load",
        lambda name: unlabeled if name == "binarized_mnist" else real(name),
    )
    assert launch(tmp_path / "run", *(f"--config.{change}" for change in changes)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


def test_more_classes_than_memory_holds_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "device_memory", lambda *_: 1 << 16)
    assert launch(tmp_path / "run", "--config.estimator.name=marginalization") == 2
    said = capsys.readouterr().err
    assert "a step needs" in said
    assert "config.num_classes" in said


def test_beta_of_the_step_weighs_the_style_of_both_costs_while_training():
    """A huge one dwarfs all else, until it is 1 from step 10 of 20 on."""
    settings = settings_of(
        **{"estimator.name": QUICK, "alpha": 0.0, "style_beta": 1e5, "learning_rate": 1e-30}
    )
    program, dynamic, images = made_of(settings)

    @small.quick_jit
    def run(dynamic, images):
        start = program.init(dynamic, images)
        return program.run(dynamic, images, start, program.indices(0, 0, num_steps=20))[1]

    trace = run(dynamic, images)
    for costs in (trace.cost, trace.metrics["labeled_cost"]):
        assert costs[0] > 1.5 * costs[5] > 10 * costs[10]
        assert np.ptp(costs[10:]) < 0.5 * np.mean(costs[10:])


def test_the_pixels_of_labeled_images_are_drawn_anew_at_each_step(program, monkeypatch):
    program, dynamic, dataset = program
    seen, pixels = [], batches.pixels

    def noted(images, max_value, key, **options):
        seen.append((jax.random.key_data(key).tolist(), max_value, options))
        return pixels(images, max_value, key, **options)

    monkeypatch.setattr(batches, "pixels", noted)
    images, params = jnp.asarray(dataset.train.images), functional.params_of(program.model)
    for step in (0, 1):
        program.extra.cost(dynamic, images, params, step, jnp.arange(4))
    keys, _, _ = zip(*seen, strict=True)
    assert [rest for _, *rest in seen] == [[16, {"dynamic_binarization": True}]] * 2
    assert keys[0] != keys[1]


def test_images_that_the_decoder_cannot_make_are_refused():
    digits = load("digits")
    splits = {
        name: dataclasses.replace(split, images=split.images[:, :7])
        for name in ("train", "validation", "test")
        if (split := getattr(digits, name))
    }
    with pytest.raises(UserError, match=r"digits: its images have 7 x 8 pixels, .* multiples of 4"):
        task.TASK.prepare(settings_of(), dataclasses.replace(digits, **splits))
