import copy

import pytest
from ml_collections import config_dict

from configs import anneal, sbn, vae
from experiments.config import read
from experiments.errors import UserError
from experiments.settings import SCHEDULES
from experiments.sweeps import grids


@pytest.fixture(name="config")
def fixture_config():
    return vae.get_config()


def test_a_text_names_the_product(config):
    grid = grids.parse("learning_rate=1e-4,1e-3; seed=0..2", config)
    assert grid == [
        {"learning_rate": rate, "seed": seed} for rate in (1e-4, 1e-3) for seed in (0, 1, 2)
    ]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=3", [3]),
        ("seed=2..2,7", [2, 7]),
        ("learning_rate=1", [1.0]),
        ("learning_rate=1e-3,0.001,1e-2", [1e-3, 1e-2]),
        ("layers=(200,),(100, 50)", [(200,), (100, 50)]),
        ("decoder=None,(60,)", [None, (60,)]),
        ("estimator.name=sf,st", ["sf", "st"]),
        ("estimator.centering=true,false", [True, False]),
        ("estimator.decay=0.9,1", [0.9, 1.0]),
        ("kl=sample;", ["sample"]),
    ],
)
def test_values_have_the_type_of_the_config(config, text, values):
    [key] = {key for trial in grids.parse(text, config) for key in trial}
    parsed = [trial[key] for trial in grids.parse(text, config)]
    assert parsed == values
    assert [type(value) for value in parsed] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--grid: no key is named: as in --grid 'learning_rate="),
        (" ; ", "--grid: no key is named"),
        ("learning_rate", "--grid: 'learning_rate' is not KEY=VALUE"),
        ("learning_rate=1e-3,seed=1", "has two '=': separate keys by ';', as in --grid"),
        ("learning_rate=", "--grid: learning_rate= has an empty value"),
        ("seed=1,,2", "--grid: seed=1,,2 has an empty value"),
        ("seed=1;seed=2", "--grid: seed is given twice"),
        ("learing_rate=1", "--grid: unknown config key learing_rate (learing_rate=1): did"),
        ("estimator=sf", "--grid: estimator=sf: estimator is a group of keys: give one of them"),
        ("seed=1.5", "--grid: seed=1.5: seed takes an integer, such as 0"),
        ("learning_rate=fast", "--grid: learning_rate=fast: learning_rate takes a number"),
        ("seed=4..0", "--grid: seed=4..0 is empty: give the smaller number first"),
        ("seed=0..999999999", "more than 10000 values"),
        ("seed=0..100;batch_size=1..100", "10100 runs are more than 10000"),
    ],
)
def test_wrong_texts(config, text, message):
    with pytest.raises(UserError) as error:
        grids.parse(text, config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        ([], "get_sweep() of a.py returns no run"),
        ({"seed": [1]}, "must return a list of {'dotted.key': value}"),
        (None, "must return a list"),
        ([("seed", 1)], "must return a list"),
        ([{"seed": 1}, {0: 1}], "must return a list of {'dotted.key': value}"),
        ([{"sed": 1}], "get_sweep() of a.py: unknown config key sed (sed=1): did you mean seed?"),
        ([{"seed": "x"}], "get_sweep() of a.py: seed=x: seed takes an integer"),
    ],
)
def test_wrong_sweeps_of_a_config_file(config, trials, message):
    with pytest.raises(UserError) as error:
        grids.checked(trials, config, "get_sweep() of a.py")
    assert message in str(error.value)


def test_a_sweep_of_a_config_file_is_typed_and_without_repeats(config):
    trials = [{"seed": 1, "learning_rate": 1}, {"learning_rate": 1.0, "seed": 1}, {}]
    assert grids.checked(trials, config, "") == [{"seed": 1, "learning_rate": 1.0}, {}]


def test_names_are_stable_and_tell_runs_apart(config):
    grid = grids.parse("learning_rate=1e-4,1e-3;seed=0..4;layers=(200,),(100,)", config)
    assert len({grids.name(trial) for trial in grid}) == 20
    shuffled = [dict(sorted(trial.items(), reverse=True)) for trial in grid]
    assert [grids.name(trial) for trial in shuffled] == [grids.name(trial) for trial in grid]
    # Renaming them would orphan the runs of sweeps that are under way.
    assert grids.name({"learning_rate": 1e-3, "seed": 0}) == "150a403aa7"


def test_the_config_of_a_trial_is_a_copy(config):
    before = copy.deepcopy(config)
    changed = grids.config_at(config, {"decoder": (30,), "temperature.rate": 1e-3})
    assert changed.decoder == (30,)
    assert changed.temperature.rate == 1e-3
    assert changed.is_locked
    assert config == before


def test_the_ready_grids_are_valid():
    for module, size in ((sbn, 6), (vae, 24), (anneal, 36)):
        config = module.get_config()
        grid = grids.checked(module.get_sweep(), config, module.__name__)
        assert len(grid) == size
        for trial in grid:
            read(grids.config_at(config, trial))
    assert read(anneal.get_config("sbn")).task == "structured_prediction"
    names = {trial["temperature.name"] for trial in anneal.get_sweep()}
    assert names == set(SCHEDULES)


def test_a_program_key_leaves_out_the_dynamic_hyperparameters_alone(config):
    traced = grids.parse(
        "learning_rate=1,2;momentum=0.1;seed=1;temperature.rate=1;temperature.interval=7", config
    )
    other = grids.parse("batch_size=7,8;temperature.name=linear,cosine;num_steps=1000", config)
    keys = {read(grids.config_at(config, trial)).program_key() for trial in traced}
    assert keys == {read(config).program_key()}
    keys = {read(grids.config_at(config, trial)).program_key() for trial in other}
    assert len(keys) == 4
    assert read(config).program_key() not in keys


def test_a_float_option_of_the_estimator_is_dynamic_once_it_is_set(config):
    config.estimator.name = "nvil"
    trials = grids.parse("estimator.decay=0.5,0.9", config)
    keys = {read(grids.config_at(config, trial)).program_key() for trial in trials}
    assert len(keys) == 1
    assert read(config).program_key() not in keys
    assert config.estimator.get_type("decay") is float
    assert isinstance(config.estimator.get_ref("decay"), config_dict.FieldReference)


def test_a_trial_may_unset_a_key(config):
    trials = grids.checked([{"decoder": (30,)}, {"decoder": None}], config, "get_sweep()")
    made = [read(grids.config_at(config, trial)).options.decoder for trial in trials]
    assert made == [(30,), None]
